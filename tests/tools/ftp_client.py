#!/usr/bin/env -S python3 -I
# SPDX-License-Identifier: GPL-2.0
"""Transfers files by Python's ftplib; runs in the guest.

Usage: tests/tools/ftp_client.py ABORTED SIZE,... SESSION...

A SESSION is TAG,ADDRESS,PORT,MODE; MODE is active or passive. In each session one control connection lists the server's
files into got-TAG-list, reads of-SIZE into got-TAG-SIZE and writes it as up/put-TAG-SIZE, for each SIZE, and reads of-1
until it has made twenty transfers. It begins to read ABORTED, aborts that, and reads of-1 once more. Then a new
connection reads of-1. Prints a line "TAG DONE..." for each session, with what it did; the last word is the error, if
there was one.
"""

import ftplib
import sys

TRANSFERS = 20
# Seconds.
TIMEOUT = 20


class Session:
    """A control connection, and the number of transfers that it made."""

    def __init__(self, address, port, mode):
        self.transfers = 0
        self.ftp = ftplib.FTP(timeout=TIMEOUT)
        self.ftp.connect(address, int(port))
        self.ftp.login()
        self.ftp.set_pasv(mode == "passive")

    def names(self, file):
        with open(file, "w", encoding="ascii") as opened:
            self.ftp.retrlines("NLST", lambda line: print(line, file=opened))
        self.transfers += 1

    def get(self, remote, file):
        with open(file, "wb") as opened:
            self.ftp.retrbinary(f"RETR {remote}", opened.write)
        self.transfers += 1

    def put(self, file, remote):
        with open(file, "rb") as opened:
            self.ftp.storbinary(f"STOR {remote}", opened)
        self.transfers += 1

    def reads_one(self):
        """Returns whether a transfer of of-1 brings its one octet."""
        content = []
        self.ftp.retrbinary("RETR of-1", content.append)
        self.transfers += 1
        return len(b"".join(content)) == 1

    def abort(self, remote):
        """Begins to read a file and aborts. Servers answer ABOR with one reply or two: NOOP's follows them."""
        data = self.ftp.transfercmd(f"RETR {remote}")
        data.recv(1000)
        data.close()
        self.ftp.putcmd("ABOR")
        self.ftp.putcmd("NOOP")
        while not self.ftp.getmultiline().startswith("200"):
            pass


def transfer(tag, address, port, mode, aborted, sizes):
    """Yields what it has done."""
    session = Session(address, port, mode)
    session.names(f"got-{tag}-list")
    for size in sizes:
        session.get(f"of-{size}", f"got-{tag}-{size}")
        session.put(f"of-{size}", f"up/put-{tag}-{size}")
    while session.transfers < TRANSFERS and session.reads_one():
        pass
    yield f"{session.transfers}-transfers"
    session.abort(aborted)
    if session.reads_one():
        yield "abort"
    session.ftp.quit()
    if Session(address, port, mode).reads_one():
        yield "reconnect"


def main():
    aborted, sizes, *sessions = sys.argv[1:]
    for session in sessions:
        tag, address, port, mode = session.split(",")
        done = [tag]
        try:
            done.extend(transfer(tag, address, port, mode, aborted, sizes.split(",")))
        except (OSError, EOFError, ftplib.Error) as error:
            done.append(repr(error))
        print(*done, flush=True)


if __name__ == "__main__":
    main()
