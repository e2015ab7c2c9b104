#!/usr/bin/env -S python3 -I
# SPDX-License-Identifier: GPL-2.0
"""Sends commands PORT and PASV without end, and transfers nothing; runs in the guest.

Usage: tests/tools/ftp_flood.py COUNT ADDRESS PORT

Each control connection to the server sends COUNT of both, and waits for each reply; then the next connection follows.
"""

import ftplib
import sys

# Seconds.
TIMEOUT = 20


def main():
    count, address, server_port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    while True:
        with ftplib.FTP(timeout=TIMEOUT) as ftp:
            ftp.connect(address, server_port)
            ftp.login()
            for _ in range(count):
                try:
                    with ftp.makeport():
                        ftp.makepasv()
                except ftplib.Error:
                    # Without the helper the server refuses the address.
                    pass


if __name__ == "__main__":
    main()
