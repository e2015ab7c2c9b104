#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Sends malformed TFTP requests through a helper and compares its expectations with a model; runs in the guest.

Usage: tests/tools/tftp_hostile.py HELPER COUNT SEED

Sends COUNT packets, made at random from SEED, from host lan to port 69 of host server, through the routers r1 and r2,
whose helper is HELPER. All packets must arrive, the routers must expect answers to requests only, and our helper must
count all others. A request has one of two opcodes and a name, within the length that the UDP header says; the kernel's
own helper looks at the opcode alone. Prints the first 10 differences, and at the end a line with the numbers. The
status is 1 if there are differences.
"""

import ipaddress
import os
import random
import select
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import Conntrack, Inside
from peers import checksum
from tftp import PORT, READ, WRITE, is_request

# The addresses of client and server, by IP version, in the network of tests/lib/helpers.sh.
ENDS = {4: ("172.18.0.2", "203.0.113.2"), 6: ("fd00:18::2", "2001:db8:1::2")}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ROUTERS = ["r1", "r2"]
OURS = "rustmasq-tftp"
# Cases sent at a time: the table holds at most nf_conntrack_expect_max expectations.
BATCH = 100
PORTS = range(10000, 60000)
SO_RCVBUFFORCE = 33


class Case:
    """A packet: its content, its headers, and the expected outcome."""

    def __init__(self, kind, content, **wrapping):
        self.kind, self.content = kind, content
        # The number of octets in the payload, according to the UDP header.
        self.length = wrapping.get("length", len(content))
        # The checksum: good, bad, or none.
        self.sum = wrapping.get("sum", "good")
        # The length of fragments, whether they come in reverse order, and whether the last one is missing.
        self.cut = wrapping.get("cut")
        self.reverse = wrapping.get("reverse", False)
        self.incomplete = wrapping.get("incomplete", False)
        # Whether there are options between the IP header and UDP.
        self.options = wrapping.get("options", False)
        self.version = self.source = self.target = self.port = None

    def send_from(self, version, port):
        self.version, self.port = version, port
        self.source, self.target = [ipaddress.ip_address(address).packed for address in ENDS[version]]

    def checksum(self, segment):
        return checksum(self.source + self.target + struct.pack("!II", len(segment), socket.IPPROTO_UDP) + segment)

    def segment(self):
        """Returns the UDP header and the payload."""
        header = struct.pack("!HHH", self.port, PORT, 8 + self.length & 0xFFFF)
        total = 0
        if self.sum != "none":
            total = self.checksum(header + b"\0\0" + self.content[:max(self.length, 0)]) or 0xFFFF
        if self.sum == "bad":
            total ^= 0x0100
        return header + struct.pack("!H", total) + self.content

    def tracked(self):
        """Returns whether conntrack accepts it as UDP. conntrack's checksum covers the whole IP payload."""
        segment = self.segment()
        claimed, total = struct.unpack_from("!HH", segment, 4)
        return 8 <= claimed <= len(segment) and (not total or not self.checksum(segment))

    def is_request(self):
        return is_request(self.content[:max(self.length, 0)])

    def opens(self, helper):
        """Returns whether this helper should expect an answer. The kernel's own helper looks at the opcode only."""
        if self.incomplete or not self.tracked():
            return False
        return self.content[:2] in (b"\0\1", b"\0\2") if helper == "tftp" else self.is_request()

    def packets(self):
        """Returns the IP packet, or its fragments, as a list."""
        segment, protocol = self.segment(), socket.IPPROTO_UDP
        if self.options and self.version == 6:
            # A header with destination options, which contains padding only.
            segment, protocol = struct.pack("!BBBBI", protocol, 0, 1, 4, 0) + segment, socket.IPPROTO_DSTOPTS
        cut = self.cut or len(segment)
        made = [self.packet(segment[offset:offset + cut], protocol, offset, offset + cut < len(segment))
                for offset in range(0, len(segment), cut)]
        if self.incomplete:
            del made[-1]
        return made[::-1] if self.reverse else made

    def packet(self, piece, protocol, offset, more):
        if self.version == 4:
            # Four no-operation options. The kernel fills in the length and the checksum.
            options = b"\1" * 4 if self.options else b""
            return struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 0, self.port, more << 13 | offset // 8, 64,
                               protocol, 0) + self.source + self.target + options + piece
        if offset or more:
            piece = struct.pack("!BBHI", protocol, 0, offset | more, self.port) + piece
            protocol = socket.IPPROTO_FRAGMENT
        return struct.pack("!IHBB", 6 << 28, len(piece), protocol, 64) + self.source + self.target + piece

    def __str__(self):
        shown = self.content[:500].hex() + ("..." if len(self.content) > 500 else "")
        return f"{self.kind}: IPv{self.version}, port {self.port}, {len(self.content)} octets: {shown}"


class Maker:
    """Makes random cases. The same seed makes the same cases."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def octets(self, least, most, alphabet=b"abcdefghijklmnopqrstuvwxyz0123456789./-_"):
        if self.rng.random() < 0.1:
            alphabet = range(1, 256)
        return bytes(self.rng.choices(alphabet, k=self.rng.randint(least, most)))

    def mode(self):
        mode = self.rng.choice([b"octet", b"netascii"])
        return mode if self.rng.random() < 0.5 else bytes(self.rng.choice([c, c ^ 0x20]) for c in mode)

    def options(self, most=4):
        known = [b"blksize", b"tsize", b"timeout", b"windowsize", b"BlkSize", b"rollover"]
        return [field for _ in range(self.rng.randint(0, most))
                for field in (self.rng.choice([*known, self.octets(1, 12)]), self.octets(0, 6, b"0123456789"))]

    def join(self, *fields):
        return struct.pack("!H", self.rng.choice([READ, WRITE])) + b"".join(field + b"\0" for field in fields)

    def whole(self):
        return self.join(self.octets(1, 40), self.mode(), *self.options())

    def mixed(self):
        """Returns a request or, less often, a truncated one."""
        whole = self.whole()
        return whole if self.rng.random() < 0.6 else whole[:self.rng.randrange(len(whole))]

    # --- Kinds of cases

    def request(self):
        return Case("a request", self.whole())

    def truncated(self):
        whole = self.whole()
        return Case("truncated", whole[:self.rng.randrange(len(whole))])

    def unterminated(self):
        return Case("without its last NUL", self.whole()[:-1])

    def opcode(self):
        opcodes = [0, 3, 4, 5, 6, 7, 9, 255, 0x0100, 0x0200, 0x0101, 0x0201, 0x8001, 0xFFFF]
        opcode = self.rng.choice([*opcodes, self.rng.randrange(0x10000)])
        return Case("another opcode", struct.pack("!H", opcode) + self.whole()[2:])

    def unnamed(self):
        return Case("no file name", self.join(b"", self.mode(), *self.options()))

    def other_mode(self):
        modes = [b"", b"octe", b"octets", b"octet ", b" octet", b"netasci", b"netascii\r", b"image", b"binary", b"mail",
                 b"MAIL", b"oct\xc5t", self.octets(1, 9)]
        return Case("another mode", self.join(self.octets(1, 40), self.rng.choice(modes), *self.options()))

    def odd_option(self):
        return Case("an option without value",
                    self.join(self.octets(1, 40), self.mode(), *self.options(), self.octets(1, 8)))

    def unnamed_option(self):
        return Case("an option without name",
                    self.join(self.octets(1, 40), self.mode(), *self.options(), b"", self.octets(0, 4),
                              *self.options()))

    def trailing(self):
        return Case("more than a request",
                    self.whole() + self.rng.choice([b"\0", b"\0\0", b"\0" * 7, b"\n", self.octets(1, 30)]))

    def long(self):
        """Makes a request of about 512 octets, the most that RFC 2347 allows, or of more, up to several packets."""
        fields = [b"", self.mode(), *self.options(2)]
        size = self.rng.choice([510, 511, 512, 512, 513, 513, 514, 600, 1024, 1400, 1472, 2000, 4000])
        missing = size - len(self.join(*fields))
        # The file name or an option's value fills the rest.
        if len(fields) > 2 and self.rng.random() < 0.5:
            fields[0], missing = b"boot", missing - 4
            fields[3] += self.octets(missing, missing)
        else:
            fields[0] = self.octets(missing, missing)
        return Case(f"{size} octets", self.join(*fields), cut=1400 if size > 1400 else None)

    def changed(self):
        whole = bytearray(self.whole())
        for _ in range(self.rng.randint(1, 3)):
            where, how = self.rng.randrange(len(whole)), self.rng.randrange(4)
            if how == 0:
                whole[where] ^= 1 << self.rng.randrange(8)
            elif how == 1:
                whole.insert(where, self.rng.choice([0, self.rng.randrange(256)]))
            elif how == 2:
                del whole[where]
            else:
                whole[where] = 0
        return Case("changed", bytes(whole))

    def noise(self):
        return Case("noise", self.rng.choice([b"", b"\0\1", b"\0\2"]) +
                    bytes(self.rng.choices(self.rng.choice([range(256), b"\0octet"]), k=self.rng.randint(0, 60))))

    def bad_sum(self):
        return Case("a bad checksum", self.whole(), sum="bad")

    def no_sum(self):
        return Case("no checksum", self.mixed(), sum="none")

    def other_length(self):
        """Makes a packet with a wrong length in the UDP header: too short, too long, or less than the header itself."""
        whole, more = self.whole(), self.rng.choice([b"", b"\0" * 4, self.octets(1, 20)])
        length = self.rng.choice([len(whole), len(whole) - 1, self.rng.randrange(len(whole)), 0, -1, -8,
                                  len(whole) + len(more) + 1, 0xFFFF - 8])
        # Mostly without a checksum: with one, conntrack would rarely accept the packet.
        return Case("another length in the UDP header", whole + more, length=length,
                    sum=self.rng.choice(["none", "none", "none", "good"]))

    def fragments(self):
        return Case("fragments", self.mixed(), cut=self.rng.choice([8, 16, 24, 48]),
                    reverse=self.rng.random() < 0.5)

    def incomplete(self):
        return Case("a fragment is missing", self.join(self.octets(20, 40), self.mode()),
                    cut=self.rng.choice([8, 16]), incomplete=True)

    def ip_options(self):
        return Case("options in the IP packet", self.mixed(), options=True)

    def cases(self, count):
        """Yields a request truncated at every length, then cases of all kinds."""
        whole = b"\0\1boot/vmlinuz\0oCtEt\0tsize\0000\0blksize\0001468\0"
        for length in range(min(count, len(whole) + 1)):
            yield Case("truncated", whole[:length])
        kinds = [self.truncated, self.unterminated, self.opcode, self.unnamed, self.other_mode, self.odd_option,
                 self.unnamed_option, self.trailing, self.long, self.changed, self.noise, self.bad_sum, self.no_sum,
                 self.other_length, self.fragments, self.incomplete, self.ip_options] + [self.request] * 3
        for _ in range(len(whole) + 1, count):
            yield self.rng.choice(kinds)()


class Tester:
    """Sends cases, and compares the outcome with the model."""

    def __init__(self, helper):
        self.helper = helper
        with Inside("lan"):
            self.senders = {version: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
                            for version, kind in FAMILIES.items()}
        # Raw sockets receive packets that UDP would drop. The UDP socket prevents ICMP errors.
        with Inside("server"):
            self.sinks = {version: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_UDP)
                          for version, kind in FAMILIES.items()}
            self.udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self.udp.bind(("::", PORT))
        for sink in self.sinks.values():
            sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        self.tables = {router: Conntrack(router) for router in ROUTERS}
        self.wrong = 0

    def complain(self, text):
        self.wrong += 1
        if self.wrong <= 10:
            print(text)

    def arrivals(self, count):
        """Returns the UDP segments that arrive, by IP version and source port.

        Waits for `count` of them, and does not wait for more.
        """
        found = {}
        received = 0
        while True:
            ready = select.select(list(self.sinks.values()), [], [], 5 if received < count else 0)[0]
            if not ready:
                return found
            for version, sink in self.sinks.items():
                if sink in ready:
                    packet = sink.recv(65535)
                    segment = packet if version == 6 else packet[(packet[0] & 15) * 4:]
                    found.setdefault((version, struct.unpack_from("!H", segment)[0]), []).append(segment)
                    received += 1

    def run(self, cases):
        ignored = self.helper == OURS and read_ignored()
        for case in cases:
            for packet in case.packets():
                self.senders[case.version].sendto(packet, (ENDS[case.version][1], 0))
        arrived = self.arrivals(sum(not case.incomplete for case in cases))
        for case in cases:
            got = arrived.pop((case.version, case.port), [])
            if got != ([] if case.incomplete else [case.segment()]):
                self.complain(f"{len(got)} arrived, or not as sent, of {case}")
        for router, table in self.tables.items():
            expected = table.expected()
            for case in cases:
                here = expected.count((ENDS[case.version][0], case.port))
                if here != case.opens(self.helper):
                    self.complain(f"{router} expects {here} answers to {case}")
            if len(expected) != sum(case.opens(self.helper) for case in cases):
                self.complain(f"{router} expects {len(expected)} answers in all")
            table.forget()
        if self.helper == OURS:
            counted = read_ignored() - ignored
            expected = len(ROUTERS) * sum(case.tracked() and not case.incomplete and not case.is_request()
                                          for case in cases)
            if counted != expected:
                self.complain(f"{counted} packets are counted as ignored, not {expected}")


def read_ignored():
    """Returns how many packets our helper has ignored, in all namespaces."""
    with open("/sys/module/rustmasq/parameters/tftp_ignored", encoding="ascii") as file:
        return int(file.read())


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__.strip())
    helper, count, maker = sys.argv[1], int(sys.argv[2]), Maker(int(sys.argv[3]))
    tester, batch = Tester(helper), []
    requests = opened = wrongly_opened = 0
    for n, case in enumerate(maker.cases(count)):
        case.send_from(maker.rng.choice([4, 6]), PORTS[n % len(PORTS)])
        requests += case.is_request()
        opened += case.opens(helper)
        wrongly_opened += case.opens(helper) and not case.is_request()
        batch.append(case)
        if len(batch) == BATCH or n == count - 1:
            tester.run(batch)
            batch = []
    print(f"{count} packets, seed {sys.argv[3]}: {requests} are requests; answers were expected to {opened}, "
          f"{wrongly_opened} of these are none; {tester.wrong} differences")
    return 1 if tester.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
