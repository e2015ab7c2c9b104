#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Sends and answers packets that socat and ping cannot; runs in the guest.

Usage: tests/tools/packets.py COMMAND ADDRESS PROTOCOL|PORT [HEADER] [--patience SECONDS] [--size BYTES] [--hops N]
                              [--from-port PORT] [--reverse]

ADDRESS may be of IPv4 or IPv6. Servers print "ready" and run until they are ended:

  answer ADDRESS PROTOCOL        returns each raw packet of an IP protocol, followed by the source
                                 address that it came from
  echo ADDRESS PORT              returns each UDP datagram, after a line with the address and port
                                 that it came from
  tell ADDRESS PORT              answers each UDP datagram with the address and port that it came
                                 from, in the form of socat
  who ADDRESS PORT               sends each TCP client its address

Clients print one line. It is empty if no answer comes for --patience seconds:

  ask ADDRESS PROTOCOL [HEADER]  sends a raw packet that begins with HEADER (hexadecimal) to an
                                 `answer` server, and prints the address in the reply
  send ADDRESS PORT              sends a datagram of --size bytes to an `echo` server, compares the
                                 reply, and prints the address and port in it
  provoke ADDRESS PORT           sends a datagram of --size bytes that must not be fragmented, and
                                 prints the ICMP error that it causes: ORIGIN TYPE CODE INFO

With --reverse, echo and send make fragments themselves and send the last one first.
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
from peers import SLOW, checksum, enable_errors, family, next_error

MARK = b"\nrustmasq\n"
# Numbers of Linux that the module socket does not define.
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO = 23, 2


def raw_socket(address, protocol):
    return socket.socket(family(address), socket.SOCK_RAW, protocol)


def body(sock, packet):
    """Returns the part after the IP header. Raw sockets receive that header only for IPv4."""
    return packet if sock.family == socket.AF_INET6 else packet[(packet[0] & 15) * 4:]


def readable(sock, patience):
    return select.select([sock], [], [], patience)[0]


def ready():
    print("ready", flush=True)


def try_to(function, *arguments):
    """Calls the function and ignores its error: a server goes on if it cannot reach one client."""
    with contextlib.suppress(OSError):
        function(*arguments)


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
    # A connected socket receives from that address only.
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
    """Returns a UDP header with its checksum, and the payload."""
    packed = [ipaddress.ip_address(address).packed for address in (source[0], target[0])]
    length = 8 + len(payload)
    pseudo = b"".join(packed) + struct.pack("!II", length, socket.IPPROTO_UDP)
    header = struct.pack("!HHHH", source[1], target[1], length, 0)
    total = checksum(pseudo + header + payload) or 0xFFFF
    return header[:6] + struct.pack("!H", total) + payload


def fragments(source, target, protocol, data, size=1400):
    """Yields IP packets with pieces of `data` of `size` bytes, a multiple of 8."""
    parsed = ipaddress.ip_address(source)
    addresses = parsed.packed + ipaddress.ip_address(target).packed
    name = random.randrange(1, 1 << 16)
    for offset in range(0, len(data), size):
        piece = data[offset:offset + size]
        more = offset + size < len(data)
        if parsed.version == 4:
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
    # socat cannot do this: while one of its children waits for the next packet of its client, it may
    # receive the packet of another client, which is lost then.
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
    enable_errors(sock)
    sock.bind(("", args.from_port))
    sock.connect((args.address, args.port))
    # The local device or a known path MTU may refuse the datagram. The error queue contains that error, too.
    with contextlib.suppress(OSError):
        sock.send(bytes(args.size))
    poll = select.poll()
    poll.register(sock, 0)
    if not poll.poll(args.patience * 1000):
        return ""
    return " ".join(map(str, next_error(sock) or ()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS,
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
