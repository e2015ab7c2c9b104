#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Sends odd TFTP requests to real servers, and compares the answers on the servers' wire with those that the client
hears; runs in the guest.

Usage: tests/tools/tftp_servers.py listed|requests|mutated COUNT SEED FIRST_PORT SERVER=ADDRESS...

Sends requests from host lan to port 69 of each ADDRESS, which host server has, through the routers r1 and r2: the
first COUNT of the list in this file, the first COUNT of those that open something, or COUNT that are mutated at random
from SEED. The servers are the model: the first answer that leaves host server for a request must reach the client.
Requests that open nothing (another opcode, or no name) are exempt; the client must hear nothing of those. The client's
ports begin at FIRST_PORT. They must be new ones: servers repeat an answer of an earlier run that nobody heard.

Prints a line for each server, with the numbers of requests, answers, and answers heard, then the requests whose answer
is missing. The status is 1 if there are some.
"""

import os
import random
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import Inside
from peers import SLOW
from tftp import PORT, READ, WRITE, is_request

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
# Requests in flight at a time. dnsmasq serves 50 clients at most.
BATCH = 40
# The time limits for the answers of a batch, and for one that left its server to reach the client, in seconds.
ANSWERED, HEARD = 5 * SLOW, 5 * SLOW
# The time without an answer after which no more is expected of a batch, once the servers answer the last request.
QUIET = 0.5 * SLOW
STOP = b"\0\5\0\0stop\0"


def request(*fields, opcode=READ):
    return struct.pack("!H", opcode) + b"".join(field + b"\0" for field in fields)


def options(count):
    return [word for number in range(count) for word in (b"phone_OPTION_%d" % number, b"value number %d" % number)]


PLAIN = request(b"boot", b"octet")
# Name and datagram of each request. `boot` is there, `absent` is not.
LISTED = [
    ("a plain request", PLAIN),
    ("netascii", request(b"boot", b"netascii")),
    ("capitals in the mode", request(b"boot", b"OCTET")),
    ("mixed letters in the mode", request(b"boot", b"nEtAsCiI")),
    ("no last NUL", PLAIN[:-1]),
    ("no mode", request(b"boot")),
    ("no NUL behind the name", b"\0\1boot"),
    ("a name of one letter", b"\0\1b"),
    ("an empty mode", request(b"boot", b"")),
    ("a cut mode", b"\0\1boot\0oct"),
    ("an unknown mode", request(b"boot", b"image")),
    ("a mode with a blank", request(b"boot", b"octet ")),
    ("a mode with a line end", request(b"boot", b"octet\r\n")),
    ("a mode of 300 letters", request(b"boot", b"o" * 300)),
    ("mail to read", request(b"boot", b"mail")),
    ("mail to write", request(b"user", b"mail", opcode=WRITE)),
    ("one more NUL", PLAIN + b"\0"),
    ("two more NULs", PLAIN + b"\0\0"),
    ("padded with 100 NULs", PLAIN + bytes(100)),
    ("padded to 512 octets", PLAIN.ljust(512, b"\0")),
    ("padded to 516 octets", PLAIN.ljust(516, b"\0")),
    ("padded to 1,400 octets", PLAIN.ljust(1400, b"\0")),
    ("padded with 0xff", PLAIN + b"\xff" * 20),
    ("garbage behind the last NUL", PLAIN + b"garbage"),
    ("an option without value", request(b"boot", b"octet", b"blksize")),
    ("an option without value and NUL", request(b"boot", b"octet", b"blksize")[:-1]),
    ("an option with an empty value", request(b"boot", b"octet", b"blksize", b"")),
    ("an option without name", request(b"boot", b"octet", b"", b"1468")),
    ("an option's value without NUL", request(b"boot", b"octet", b"blksize", b"1468")[:-1]),
    ("blksize", request(b"boot", b"octet", b"blksize", b"1468")),
    ("blksize in capitals", request(b"boot", b"octet", b"BLKSIZE", b"1024")),
    ("blksize of 0", request(b"boot", b"octet", b"blksize", b"0")),
    ("blksize of 7", request(b"boot", b"octet", b"blksize", b"7")),
    ("blksize of a word", request(b"boot", b"octet", b"blksize", b"large")),
    ("blksize below 0", request(b"boot", b"octet", b"blksize", b"-1")),
    ("blksize of 30 digits", request(b"boot", b"octet", b"blksize", b"9" * 30)),
    ("tsize", request(b"boot", b"octet", b"tsize", b"0")),
    ("tsize and blksize, twice", request(b"boot", b"octet", *[b"tsize", b"0", b"blksize", b"512"] * 2)),
    ("timeout", request(b"boot", b"octet", b"timeout", b"5")),
    ("timeout of 0", request(b"boot", b"octet", b"timeout", b"0")),
    ("windowsize", request(b"boot", b"octet", b"windowsize", b"4")),
    ("multicast", request(b"boot", b"octet", b"multicast", b"")),
    ("an unknown option", request(b"boot", b"octet", b"colour", b"red")),
    ("options of 508 octets", request(b"boot", b"octet", *options(15))),
    ("options of 1,000 octets", request(b"boot", b"octet", *options(30))),
    ("a file that is not there", request(b"absent", b"octet")),
    ("a folder's name", request(b".", b"octet")),
    ("a name with a slash in front", request(b"/boot", b"octet")),
    ("a name with a backslash", request(b"\\boot", b"octet")),
    ("a name above the root", request(b"../../etc/passwd", b"octet")),
    ("a name with 0xff behind it", request(b"boot\xff", b"octet")),
    ("a name with a line end", request(b"boot\n", b"octet")),
    ("a name with a blank", request(b"boot file", b"octet")),
    ("a name of control characters", request(b"\1\2\3", b"octet")),
    ("a name of 255 letters", request(b"n" * 255, b"octet")),
    ("a name of 500 letters", request(b"n" * 500, b"octet")),
    ("a name of 1,300 letters", request(b"n" * 1300, b"octet")),
    ("a name without end, 512 octets", b"\0\1" + b"n" * 510),
    ("UTF-8 in the name", request("bütt".encode(), b"octet")),
    ("a write request", request(b"new", b"octet", opcode=WRITE)),
    ("a write request without mode", request(b"new", opcode=WRITE)),
    ("a write request, padded", request(b"new", b"octet", opcode=WRITE) + bytes(40)),
    ("no name", request(b"", b"octet")),
    ("nothing but the opcode", b"\0\1"),
    ("nothing", b""),
    ("opcode 0", request(b"boot", b"octet", opcode=0)),
    ("opcode 6", request(b"boot", b"octet", opcode=6)),
    ("opcode 0x0101", request(b"boot", b"octet", opcode=0x0101)),
    ("data", b"\0\3\0\1data"),
    ("an error", b"\0\5\0\1error\0"),
]


def mutated(rng):
    """Returns a request of the list with one to three changes."""
    datagram = bytearray(rng.choice(LISTED)[1])
    for _ in range(rng.randint(1, 3)):
        where = rng.randrange(len(datagram) + 1)
        how = rng.randrange(5)
        if how == 0:
            datagram[where:where] = bytes([rng.choice([0, rng.randrange(256)])])
        elif how == 1:
            datagram[where:where + 1] = bytes([rng.choice([0, rng.randrange(256)])])
        elif how == 2:
            del datagram[where:where + rng.randint(1, 8)]
        elif how == 3:
            del datagram[where:]
        else:
            datagram += datagram[where:where + rng.randint(1, 200)]
    return f"mutated {bytes(datagram[:40]).hex()}", bytes(datagram[:1400])


class Tester:
    """Sends requests, records what the servers send, and what the client receives."""

    def __init__(self, servers, port):
        self.servers = servers
        with Inside("server"):
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
            self.wire.bind(("eth0", ETH_P_ALL))
        self.wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        self.wire.setblocking(False)
        self.port = port
        self.requests = dict.fromkeys(servers, 0)
        self.answered = dict.fromkeys(servers, 0)
        self.heard = dict.fromkeys(servers, 0)
        self.missing = []
        self.ignored = 0

    def read_wire(self, answers):
        """Notes the first payload that a server sent to each port, in `answers`."""
        while True:
            try:
                packet, place = self.wire.recvfrom(65535)
            except BlockingIOError:
                return
            if place[2] != socket.PACKET_OUTGOING or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_UDP:
                continue
            header = (packet[0] & 15) * 4
            source, (target, length) = socket.inet_ntoa(packet[12:16]), struct.unpack_from("!HH", packet, header + 2)
            answers.setdefault((source, target), packet[header + 8:header + length])

    def ask(self, cases):
        """Sends a batch of (server, name, datagram), and the servers' answers to them."""
        sockets, answers, got = {}, {}, {}
        # The last request to each server is a plain one, from a port of its own: a server that has answered it has
        # seen those before it.
        last = [(server, None, PLAIN) for server in dict.fromkeys(server for server, _, _ in cases)]
        places = []
        for server, name, datagram in [*cases, *last]:
            self.port += 1
            with Inside("lan"):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("", self.port))
            sock.sendto(datagram, (self.servers[server], PORT))
            sockets[sock] = place = self.servers[server], self.port
            places.append((place, server, name, datagram))

        def receive(patience):
            """Notes what arrives, and ends the transfer that it begins. Returns whether a packet came."""
            ready = select.select([self.wire, *sockets], [], [], patience)[0]
            for sock in ready:
                if sock is not self.wire:
                    payload, peer = sock.recvfrom(65535)
                    got.setdefault(sockets[sock], payload)
                    sock.sendto(STOP, peer)
            self.read_wire(answers)
            return bool(ready)

        answered = {place for place, _, name, _ in places if name is None}
        wait(ANSWERED, lambda: answered <= answers.keys(), receive)
        while receive(QUIET):
            pass
        due = {place for place, _, _, datagram in places if place in answers and is_request(datagram)}
        wait(HEARD, lambda: due <= got.keys(), receive)
        for sock in sockets:
            sock.close()
        for place, server, name, datagram in places:
            self.judge(server, name or "the last plain request", datagram, answers.get(place), got.get(place))

    def judge(self, server, name, datagram, answer, heard):
        self.requests[server] += 1
        self.answered[server] += answer is not None
        self.heard[server] += heard is not None
        if not is_request(datagram):
            self.ignored += 1
            if heard is not None:
                self.missing.append(f"{server}, {name}: the client hears {heard[:40]!r}, although it opens nothing")
        elif answer != heard:
            self.missing.append(f"{server}, {name}: the server answers {answer and answer[:40]!r}, "
                                f"the client hears {heard and heard[:40]!r}")


def wait(limit, done, receive):
    """Receives until `done`, for `limit` seconds at most."""
    end = time.monotonic() + limit
    while not done() and (left := end - time.monotonic()) > 0:
        receive(left)


def main():
    if len(sys.argv) < 6 or sys.argv[1] not in ("listed", "requests", "mutated"):
        sys.exit(__doc__.strip())
    count, rng = int(sys.argv[2]), random.Random(int(sys.argv[3]))
    servers = dict(word.split("=", 1) for word in sys.argv[5:])
    tester = Tester(servers, int(sys.argv[4]))
    if sys.argv[1] == "mutated":
        cases = [(rng.choice(list(servers)), *mutated(rng)) for _ in range(count)]
    else:
        chosen = [case for case in LISTED if sys.argv[1] == "listed" or is_request(case[1])]
        cases = [(server, *case) for case in chosen[:count] for server in servers]
    for start in range(0, len(cases), BATCH):
        tester.ask(cases[start:start + BATCH])
    for server in servers:
        print(f"{server}: {tester.requests[server]} requests, {tester.answered[server]} answered, "
              f"{tester.heard[server]} heard")
    print(f"{tester.ignored} open nothing")
    print("\n".join(tester.missing[:20]))
    return 1 if tester.missing else 0


if __name__ == "__main__":
    sys.exit(main())
