#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Holds the packets of an NFQUEUE; runs in the guest.

Usage: tests/tools/nfqueue.py NUMBER

Prints "ready" when it listens, and a line "held ADDRESS:PORT->ADDRESS:PORT" for each packet that it holds. At SIGUSR1
it accepts all held packets. The kernel drops those that are still held when the tool ends.
"""

import ipaddress
import signal
import socket
import struct
import sys

# linux/netfilter/nfnetlink.h and nfnetlink_queue.h
NETLINK_NETFILTER, SUBSYSTEM = 12, 3
PACKET, VERDICT, CONFIG = range(3)
CFG_CMD, CFG_PARAMS = 1, 2
CMD_BIND, COPY_PACKET, ACCEPT = 1, 2, 1
PACKET_HDR, VERDICT_HDR, PAYLOAD = 1, 2, 10
REQUEST, ACK = 1, 4
NLMSG_ERROR = 2


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[length + 3 & ~3:]


def message(kind, flags, queue, content):
    """Returns a message: struct nlmsghdr, struct nfgenmsg, and the attributes."""
    return struct.pack("=IHHII", 20 + len(content), SUBSYSTEM << 8 | kind, flags, 0, 0) + \
        struct.pack("!BBH", socket.AF_UNSPEC, 0, queue) + content


def messages(data):
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[length + 3 & ~3:]


def configure(sock, queue, content):
    sock.send(message(CONFIG, REQUEST | ACK, queue, content))
    for kind, body in messages(sock.recv(65536)):
        error, = struct.unpack_from("=i", body)
        if kind == NLMSG_ERROR and error:
            raise OSError(-error, f"queue {queue} cannot be configured")


def endpoints(packet):
    """Returns ADDRESS:PORT->ADDRESS:PORT of an IP packet with ports."""
    if packet[0] >> 4 == 4:
        addresses, ports, shown = (packet[12:16], packet[16:20]), (packet[0] & 15) * 4, "{}:{}"
    else:
        addresses, ports, shown = (packet[8:24], packet[24:40]), 40, "[{}]:{}"
    return "->".join(shown.format(ipaddress.ip_address(address), port)
                     for address, port in zip(addresses, struct.unpack_from("!HH", packet, ports)))


def main():
    queue = int(sys.argv[1])
    held = []
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    sock.bind((0, 0))
    configure(sock, queue, attribute(CFG_CMD, struct.pack("!BxH", CMD_BIND, 0)))
    configure(sock, queue, attribute(CFG_PARAMS, struct.pack("!IB", 128, COPY_PACKET)))

    def release(*_):
        while held:
            verdict = attribute(VERDICT_HDR, struct.pack("!II", ACCEPT, held.pop(0)))
            sock.send(message(VERDICT, REQUEST, queue, verdict))

    signal.signal(signal.SIGUSR1, release)
    print("ready", flush=True)
    while True:
        for kind, body in messages(sock.recv(65536)):
            if kind == SUBSYSTEM << 8 | PACKET:
                found = dict(attributes(body[4:]))
                held.append(*struct.unpack_from("!I", found[PACKET_HDR]))
                print("held", endpoints(found[PAYLOAD]), flush=True)


if __name__ == "__main__":
    main()
