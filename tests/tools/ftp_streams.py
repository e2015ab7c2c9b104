#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Sends hostile streams over FTP's control connection, and compares what the helper expects with the model.

Usage: tests/tools/ftp_streams.py COUNT SEED

Each stream of ftp_model.py has a connection of its own, from the host lan through r1, where the helper is, to the
server's port 21. It goes in its pieces: each is received before the next one is sent. After each, r1 has to expect
what the model says, and nothing else, and the other end has to receive the same octets. The server greets before most
streams of clients; what comes without a greeting opens nothing.

Prints what differs, and ends with status 1 then; else the number of streams and of ports that were expected.
"""

import os
import random
import select
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import EXPECTATION_NEW, Conntrack, Inside
from ftp_model import Maker, expected

PORT = 21
GREETING = b"220 ready\r\n"
ADDRESSES = {socket.AF_INET: {"client": "172.18.0.2", "server": "203.0.113.2"},
             socket.AF_INET6: {"client": "fd00:18::2", "server": "2001:db8:1::2"}}
PATIENCE = 20


class StreamError(Exception):
    """A stream did not go as it should; the text says why, in one line."""


def receive(sock, count):
    """Receives so many octets, or those that come in time."""
    data = b""
    while len(data) < count and select.select([sock], [], [], PATIENCE)[0]:
        more = sock.recv(count - len(data))
        if not more:
            break
        data += more
    return data


class Network:
    """The two hosts, and the events of r1."""

    def __init__(self):
        self.events = Conntrack("r1", EXPECTATION_NEW)
        self.entries = Conntrack("r1")
        self.listeners = {}
        with Inside("server"):
            for family in ADDRESSES:
                listener = socket.socket(family)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((ADDRESSES[family]["server"], PORT))
                listener.listen()
                listener.settimeout(PATIENCE)
                self.listeners[family] = listener

    def connect(self, family):
        """Returns the ends of a new connection, by name."""
        with Inside("lan"):
            client = socket.socket(family)
        client.settimeout(PATIENCE)
        client.connect((ADDRESSES[family]["server"], PORT))
        ends = {"client": client, "server": self.listeners[family].accept()[0]}
        for sock in ends.values():
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # It ends at once.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return ends

    def pass_on(self, sender, receiver, piece):
        """Sends a piece. Returns what r1 expects then."""
        sender.sendall(piece)
        got = receive(receiver, len(piece))
        if got != piece:
            raise StreamError(f"{piece!r} arrives as {got!r}")
        return self.events.events()

    def run(self, direction, family, greeted, pieces):
        """Sends a stream. Returns how many ports were expected."""
        other = {"client": "server", "server": "client"}[direction]
        ends = self.connect(family)
        count = 0
        try:
            if greeted:
                self.pass_on(ends["server"], ends["client"], GREETING)
            own = ADDRESSES[family][direction]
            for piece, known in zip(pieces, expected(direction, own, pieces)):
                wanted = wanted_event(ADDRESSES[family], direction, greeted, known)
                got = self.pass_on(ends[direction], ends[other], piece)
                if len(got) != len(wanted) or any(want not in event for want, event in zip(wanted, got)):
                    raise StreamError(f"after {piece!r} r1 expects {got}, and the model says {wanted}")
                count += len(wanted)
        finally:
            for sock in ends.values():
                sock.close()
            self.entries.forget()
            self.events.events()
        return count


def wanted_event(addresses, direction, greeted, known):
    """Returns a part of the line of each expectation that the model knows of after a piece."""
    is_client = direction == "client"
    readable = greeted and known["ftp"] if is_client else known["greeted"] and not known["tls"]
    if not known["announced"] or not readable:
        return []
    address, port = addresses[direction], known["announced"]["port"]
    return [f"[{address}]:{port}" if ":" in address else f"{address}:{port}"]


def main():
    count, seed = map(int, sys.argv[1:])
    rng, maker, network = random.Random(seed), Maker(seed), Network()
    ports = faults = 0
    for n in range(count):
        family, direction = rng.choice(list(ADDRESSES)), rng.choice(["client", "server"])
        pieces = [piece for piece in maker.stream(direction, ADDRESSES[family][direction]) if piece]
        greeted = direction == "client" and rng.random() < 0.9
        try:
            ports += network.run(direction, family, greeted, pieces)
        except (StreamError, OSError) as error:
            faults += 1
            print(f"stream {n}, the {direction}'s, {pieces}: {error}")
    print(f"{count} streams, {ports} ports were expected")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
