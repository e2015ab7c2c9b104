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

# This runs hundreds of times. Loading argparse, re and socket would take three times as long as all the rest.
import _socket as socket
import struct
import sys
import time

# Numbers of Linux that the module socket does not define.
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_SEND_QUEUE, TCP_REPAIR_OFF_NO_WP = 2, -1
IPPROTO_SCTP = 132
# The options, with the values that they have otherwise.
OPTIONS = {"protocol": "udp", "first-port": 20000, "from": "", "to-port": 9, "sequence": 0, "pause": 0.0}
DIGITS = "0123456789"


def expand(word):
    """Returns the addresses that an argument stands for."""
    before, dash, after = word.partition("-")
    if not dash:
        return [word]
    begin, end = before.rstrip(DIGITS), after.lstrip(DIGITS)
    first, last = before[len(begin):], after[:len(after) - len(end)]
    return [begin + str(n) + end for n in range(int(first), int(last) + 1)]


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
    sender = socket.socket(family, socket.SOCK_DGRAM, protocol)
    sender.bind(source)
    for target in targets:
        sender.sendto(payload, target)
    sender.close()


def begin_connections(family, source, targets, protocol, sequence):
    """Begins a connection to each target, and forgets it at once."""
    for target in targets:
        client = socket.socket(family, socket.SOCK_STREAM, protocol)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(source)
        if sequence:
            set_sequence(client, sequence)
        client.setblocking(False)
        client.connect_ex(target)
        client.close()


def read_words(words):
    """Returns the values of all options, and the words that are no options."""
    options, others, words = dict(OPTIONS), [], iter(words)
    for word in words:
        if word.startswith("--"):
            name = word[2:]
            options[name] = type(OPTIONS[name])(next(words))
        else:
            others.append(word)
    return options, others


def main():
    options, (ports, *addresses) = read_words(sys.argv[1:])
    targets = [(address, options["to-port"]) for word in addresses for address in expand(word)]
    sources = [address for word in options["from"].split(",") for address in expand(word)]
    family = socket.AF_INET6 if ":" in targets[0][0] else socket.AF_INET
    protocol, first = options["protocol"], options["first-port"]
    streams = {"tcp": socket.IPPROTO_TCP, "sctp": IPPROTO_SCTP}
    if protocol not in (*streams, "udp", "icmp"):
        sys.exit(f"flows.py: there is no protocol {protocol}")
    for port in range(first, first + int(ports)):
        for source in sources:
            if protocol in streams:
                begin_connections(family, (source, port), targets, streams[protocol], options["sequence"])
            else:
                send_datagrams(family, (source, port), targets, protocol == "icmp")
            if options["pause"]:
                time.sleep(options["pause"])


if __name__ == "__main__":
    main()
