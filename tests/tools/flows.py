#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Makes flows: sends one packet from each of PORTS source ports to each ADDRESS.

Usage: tests/tools/flows.py [--protocol udp|tcp|sctp|icmp] [--first-port N] [--from ADDRESS,...] [--to-port N]
                            [--sequence N] [--pause SECONDS] PORTS ADDRESS...

This makes PORTS flows for each address, whether or not anyone answers. An ADDRESS may contain one range:
10.1.1-200.2 stands for 200 addresses. With --from, the packets are sent from each of these addresses, which must be
local. The packet is a datagram, a SYN, an INIT or an echo request, whose identifier is the source port then; TCP and
SCTP do not repeat it. --sequence is the initial sequence number of TCP, --pause the time between two source addresses.
"""

import argparse
import re
import socket
import struct
import time

# Numbers of Linux that the module socket does not define.
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_SEND_QUEUE, TCP_REPAIR_OFF_NO_WP = 2, -1
IPPROTO_SCTP = 132


def expand(word):
    """Returns the addresses that an argument stands for."""
    found = re.search(r"(\d+)-(\d+)", word)
    if not found:
        return [word]
    return [word[:found.start()] + str(n) + word[found.end():] for n in range(int(found[1]), int(found[2]) + 1)]


def set_sequence(sock, number):
    """Sets TCP's initial sequence number, before the socket is connected."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", number))
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)


def send_datagrams(family, source, targets, echo):
    """Sends a datagram to each target, or an echo request, of which the kernel fills in identifier and checksum."""
    protocol, payload = 0, b"x"
    if echo:
        protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        payload = struct.pack("!BBHHH", 8 if family == socket.AF_INET else 128, 0, 0, 0, 1)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as sender:
        sender.bind(source)
        for target in targets:
            sender.sendto(payload, target)


def begin_connections(family, source, targets, protocol, sequence):
    """Begins a connection to each target, and forgets it at once."""
    for target in targets:
        with socket.socket(family, socket.SOCK_STREAM, protocol) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(source)
            if sequence:
                set_sequence(client, sequence)
            client.setblocking(False)
            client.connect_ex(target)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--protocol", choices=["udp", "tcp", "sctp", "icmp"], default="udp")
    parser.add_argument("--first-port", type=int, default=20000)
    parser.add_argument("--from", dest="sources", default="")
    parser.add_argument("--to-port", type=int, default=9)
    parser.add_argument("--sequence", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("ports", type=int)
    parser.add_argument("addresses", nargs="+")
    options = parser.parse_args()
    targets = [(address, options.to_port) for word in options.addresses for address in expand(word)]
    sources = [address for word in options.sources.split(",") for address in expand(word)]
    family = socket.AF_INET6 if ":" in targets[0][0] else socket.AF_INET
    for port in range(options.first_port, options.first_port + options.ports):
        for source in sources:
            if options.protocol in ("udp", "icmp"):
                send_datagrams(family, (source, port), targets, options.protocol == "icmp")
            else:
                protocol = IPPROTO_SCTP if options.protocol == "sctp" else socket.IPPROTO_TCP
                begin_connections(family, (source, port), targets, protocol, options.sequence)
            if options.pause:
                time.sleep(options.pause)


if __name__ == "__main__":
    main()
