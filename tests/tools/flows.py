#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes flows: sends one UDP packet from each of PORTS source ports to each ADDRESS.

Usage: tests/tools/flows.py PORTS ADDRESS...

This makes PORTS flows for each address, whether or not anyone answers. An ADDRESS may contain one range:
10.1.1-200.2 stands for 200 addresses.
"""

import re
import socket
import sys


def expand(word):
    """Returns the addresses that an argument stands for."""
    found = re.search(r"(\d+)-(\d+)", word)
    if not found:
        return [word]
    return [word[:found.start()] + str(n) + word[found.end():] for n in range(int(found[1]), int(found[2]) + 1)]


def main():
    ports, addresses = int(sys.argv[1]), [address for word in sys.argv[2:] for address in expand(word)]
    family = socket.AF_INET6 if ":" in addresses[0] else socket.AF_INET
    for port in range(20000, 20000 + ports):
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.bind(("", port))
            for address in addresses:
                sender.sendto(b"x", (address, 9))


main()
