#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes flows: sends one UDP packet from each of PORTS source ports to each ADDRESS.

Usage: tests/tools/flows.py [--first-port N] [--from ADDRESS,...] [--to-port N] PORTS ADDRESS...

This makes PORTS flows for each address, whether or not anyone answers. An ADDRESS may contain one range:
10.1.1-200.2 stands for 200 addresses. With --from, the packets are sent from each of these addresses, which must be
local.
"""

import argparse
import re
import socket


def expand(word):
    """Returns the addresses that an argument stands for."""
    found = re.search(r"(\d+)-(\d+)", word)
    if not found:
        return [word]
    return [word[:found.start()] + str(n) + word[found.end():] for n in range(int(found[1]), int(found[2]) + 1)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--first-port", type=int, default=20000)
    parser.add_argument("--from", dest="sources", default="")
    parser.add_argument("--to-port", type=int, default=9)
    parser.add_argument("ports", type=int)
    parser.add_argument("addresses", nargs="+")
    options = parser.parse_args()
    addresses = [address for word in options.addresses for address in expand(word)]
    sources = [address for word in options.sources.split(",") for address in expand(word)]
    family = socket.AF_INET6 if ":" in addresses[0] else socket.AF_INET
    for port in range(options.first_port, options.first_port + options.ports):
        for source in sources:
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.bind((source, port))
                for address in addresses:
                    sender.sendto(b"x", (address, options.to_port))


main()
