#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""tests/tools/packets.py COMMAND ...: sends and answers what socat and ping do not; runs in the guest.

An address says by its form whether IPv4 or IPv6 is meant. What serves prints "ready" and goes on
until it is ended. What asks prints one line and is patient for a while (--patience SECONDS): an empty
line means that nothing was heard.

  answer ADDRESS PROTOCOL        raw packets of an IP protocol: each is sent back, and the source
                                 address that was seen with it
  ask ADDRESS PROTOCOL [HEADER]  sends such a packet, which begins with HEADER (hexadecimal), and
                                 prints the address that came back
  echo ADDRESS PORT              UDP datagrams: each is sent back as it is, after the address and
                                 port that were seen
  send ADDRESS PORT              sends a datagram of --size bytes, compares what comes back, and
                                 prints the address and port in it
  tell ADDRESS PORT              a UDP server that tells each client its address and port, as socat
                                 writes them
  who ADDRESS PORT               a TCP server that tells each client its address
  provoke ADDRESS PORT           sends a datagram of --size bytes, which may not be fragmented, and
                                 prints the ICMP error that it met: ORIGIN TYPE CODE INFO

With --reverse, echo and send make fragments of their own and send the last one first.
"""

import argparse
import contextlib
import ipaddress
import os
import random
import select
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from peers import SLOW, checksum, family, hear_errors, met_error

MARK = b"\nrustmasq\n"
# Linux's numbers that the module socket has no names for.
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO = 23, 2


def raw_socket(address, protocol):
    return socket.socket(family(address), socket.SOCK_RAW, protocol)


def body(sock, packet):
    """What follows the IP header, which the kernel shows in IPv4 alone."""
    return packet if sock.family == socket.AF_INET6 else packet[(packet[0] & 15) * 4:]


def readable(sock, patience):
    return select.select([sock], [], [], patience)[0]


def ready():
    print("ready", flush=True)


def try_to(answer_with, *what):
    """One who cannot be answered is none of a server's trouble."""
    with contextlib.suppress(OSError):
        answer_with(*what)


# --- Raw protocols


def answer(args):
    sock = raw_socket(args.address, args.protocol)
    sock.bind((args.address, 0))
    ready()
    while True:
        packet, peer = sock.recvfrom(65535)
        try_to(sock.sendto, body(sock, packet) + peer[0].encode(), (peer[0], 0))


def ask(args):
    sock = raw_socket(args.address, args.protocol)
    # Connected: it hears that address alone.
    sock.connect((args.address, 0))
    question = bytes.fromhex(args.header) + MARK
    sock.send(question)
    while readable(sock, args.patience):
        said = body(sock, sock.recv(65535))
        if said.startswith(question) and said != question:
            return said[len(question):].decode()
    return ""


# --- Datagrams and fragments


def udp(source, target, payload):
    """A UDP header with its checksum, and the payload."""
    packed = [ipaddress.ip_address(address).packed for address in (source[0], target[0])]
    length = 8 + len(payload)
    pseudo = b"".join(packed) + struct.pack("!II", length, socket.IPPROTO_UDP)
    header = struct.pack("!HHHH", source[1], target[1], length, 0)
    total = checksum(pseudo + header + payload) or 0xFFFF
    return header[:6] + struct.pack("!H", total) + payload


def fragments(source, target, protocol, data, size=1400):
    """IP packets that hold pieces of `data` of `size` bytes, a multiple of 8."""
    version = ipaddress.ip_address(source)
    addresses = version.packed + ipaddress.ip_address(target).packed
    name = random.randrange(1, 1 << 16)
    for offset in range(0, len(data), size):
        piece = data[offset:offset + size]
        more = offset + size < len(data)
        if version.version == 4:
            # The kernel fills in the length and the checksum.
            yield struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(piece), name, more << 13 | offset // 8, 64,
                              protocol, 0) + addresses + piece
        else:
            yield struct.pack("!IHBB", 6 << 28, 8 + len(piece), socket.IPPROTO_FRAGMENT, 64) + addresses + \
                struct.pack("!BBHI", protocol, 0, offset | more, name) + piece


def send_reversed(source, target, payload):
    sock = raw_socket(target[0], socket.IPPROTO_RAW)
    packets = list(fragments(source[0], target[0], socket.IPPROTO_UDP, udp(source, target, payload)))
    for packet in reversed(packets):
        sock.sendto(packet, (target[0], 0))


def datagram(sock, payload, target, reverse):
    if reverse:
        send_reversed(sock.getsockname(), target, payload)
    else:
        sock.sendto(payload, target)


def echo(args):
    sock = socket.socket(family(args.address), socket.SOCK_DGRAM)
    sock.bind((args.address, args.port))
    ready()
    while True:
        payload, peer = sock.recvfrom(65535)
        seen = f"{peer[0]} {peer[1]}\n".encode()
        try_to(datagram, sock, seen + payload, peer[:2], args.reverse)


def send(args):
    sock = socket.socket(family(args.address), socket.SOCK_DGRAM)
    sock.connect((args.address, args.port))
    payload = os.urandom(args.size)
    if args.reverse:
        send_reversed(sock.getsockname(), (args.address, args.port), payload)
    else:
        sock.send(payload)
    if not readable(sock, args.patience):
        return ""
    seen, _, back = sock.recv(65535).partition(b"\n")
    return seen.decode() if back == payload else f"{len(back)} bytes came back, and not the same"


def tell(args):
    # Not by socat: while one of its children still waits for the next packet of a client, a packet
    # of another client may reach it, and is lost.
    with socket.socket(family(args.address), socket.SOCK_DGRAM) as sock:
        sock.bind((args.address, args.port))
        ready()
        while True:
            _, peer = sock.recvfrom(65535)
            address = ipaddress.ip_address(peer[0])
            shown = address.exploded if address.version == 4 else f"[{address.exploded}]"
            try_to(sock.sendto, f"{shown}:{peer[1]}\n".encode(), peer)


def who(args):
    with socket.create_server((args.address, args.port), family=family(args.address),
                              dualstack_ipv6=args.address == "::") as server:
        ready()
        while True:
            client, peer = server.accept()
            with client:
                try_to(client.sendall, peer[0].removeprefix("::ffff:").encode() + b"\n")


# --- ICMP errors


def provoke(args):
    sock = socket.socket(family(args.address), socket.SOCK_DGRAM)
    if sock.family == socket.AF_INET6:
        level, options = socket.IPPROTO_IPV6, [(IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)]
        options += [(socket.IPV6_UNICAST_HOPS, args.hops)]
    else:
        level, options = socket.IPPROTO_IP, [(IP_MTU_DISCOVER, IP_PMTUDISC_DO)]
        options += [(socket.IP_TTL, args.hops)]
    for option, value in options:
        sock.setsockopt(level, option, value)
    hear_errors(sock)
    sock.bind(("", args.from_port))
    sock.connect((args.address, args.port))
    # Our own device or a path MTU that is known already may refuse it: the error queue says it.
    with contextlib.suppress(OSError):
        sock.send(bytes(args.size))
    poll = select.poll()
    poll.register(sock, 0)
    if not poll.poll(args.patience * 1000):
        return ""
    return " ".join(map(str, met_error(sock) or ()))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["answer", "ask", "echo", "send", "tell", "who", "provoke"])
    parser.add_argument("address")
    parser.add_argument("number", type=int, help="the protocol or the port")
    parser.add_argument("header", nargs="?", default="")
    parser.add_argument("--patience", type=float, default=5 * SLOW)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--hops", type=int, default=64)
    parser.add_argument("--from-port", type=int, default=0)
    parser.add_argument("--reverse", action="store_true")
    args = parser.parse_args()
    args.protocol = args.port = args.number
    said = globals()[args.command](args)
    print(said)
    return 0 if said else 1


if __name__ == "__main__":
    sys.exit(main())
