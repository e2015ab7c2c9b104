#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Sends random frames through two routers, one with MASQUERADE and one with RUSTMASQ, and compares the outcomes.

Usage: tests/tools/packet_fuzz.py COUNT SEED [TRACE]; runs in the guest.

One router has MASQUERADE and the kernel's TFTP helper, the other RUSTMASQ and rustmasq-tftp. Otherwise they are equal
(tests/scenarios/stress/fuzz-packets.sh shows the network). Each of COUNT frames goes to both, from the LAN or from
outside. Frames are made from SEED and from the frames that the routers sent before.

The routers must send the same frames, except for ports that the kernel chose. conntrack's entries and counters must be
the same, too. The kernel's helper may have more expectations, but only because of packets that are no requests. The
fuzzer sends no packets that such an expectation would let in. TRACE is the folder of a trace instance with the module's
events, whose fields must have their form.

Prints the first 10 differences, and a table with the number of frames of each kind and their outcomes. The status is 1
if there are differences.
"""

import collections
import ipaddress
import os
import random
import re
import select
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import (
    CTA_EXPECT_TUPLE,
    CTA_STATUS,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    DELETE,
    EXPECTATION_GONE,
    EXPECTATION_NEW,
    FLOWS,
    HEADER,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    Conntrack,
    Inside,
    attributes,
    number,
)
from frames import (
    ACK_FLAG,
    ARP,
    FIN,
    FRAGMENT,
    GRE,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IGMP,
    IPV4,
    IPV6,
    NO_NEXT,
    OPTIONS,
    PSH,
    REQUEST,
    ROUTING,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    URG,
    VLAN,
    answer_to,
    changed,
    error_about,
    ethernet,
    extensions,
    fragments,
    icmp,
    ip,
    is_error,
    masked,
    packed,
    read,
    sctp,
    show,
    tcp,
    truncated,
    udp,
    with_bad_checksum,
    with_bad_length,
    with_checksums,
    with_hops,
)
from tftp import PORT, is_request

ROUTERS = "masquerade", "rustmasq"
SIDES = "lan", "wan"
# The routers' MAC addresses, by side. Host wire sends and receives the frames.
MAC = {"lan": bytes.fromhex("020000000001"), "wan": bytes.fromhex("020000000002")}
OWN = [packed(address) for address in ("172.18.0.1", "fd00:18::1", "203.0.113.1", "2001:db8:1::1")]
INSIDE = b"\xac\x12", b"\xfd\x00\x00\x18"
CLIENTS = {4: [packed(f"172.18.0.{n}") for n in range(2, 10)], 6: [packed(f"fd00:18::{n}") for n in range(2, 10)]}
SERVERS = {4: [packed(f"203.0.113.{n}") for n in range(2, 40)] + [packed("198.51.100.7")],
           6: [packed(f"2001:db8:1::{n}") for n in range(2, 40)] + [packed("2001:db8:9::7")]}
# Special addresses, such as those of multicast and loopback, and the routers' own.
ODD = {4: [packed(address) for address in (
           "0.0.0.0 255.255.255.255 127.0.0.1 224.0.0.1 239.1.1.1 240.0.0.1 169.254.1.1 172.18.255.255 203.0.113.255 "
           "172.18.0.0 172.18.0.1 203.0.113.1").split()],
       6: [packed(address) for address in (
           ":: ::1 ff02::1 ff02::2 ff0e::1 ff01::1 fe80::1 ::ffff:203.0.113.2 2002::1 fec0::1 fd00:18::1 2001:db8:1::1 "
           "fd00:18:: 2001:db8:1::").split()]}
# The number of frames after which conntrack's entries and counters are compared, and then removed.
EPOCH = 500
SO_RCVBUFFORCE = 33
# The counters of ctnetlink's statistics that do not depend on timing.
GET_STATISTICS, COUNTED = 4, {4: "invalid", 9: "insert_failed", 10: "drop", 11: "early_drop", 12: "error"}


def repeated(weights):
    """Returns a list with each key as often as its weight says."""
    return [key for key, weight in weights.items() for _ in range(weight)]


class Maker:
    """Makes random frames, in pairs: a frame for each router. The two differ where the routers' frames did."""

    def __init__(self):
        self.rng = None
        # Pairs of frames that came out of the routers, by side.
        self.seen = {side: collections.deque(maxlen=128) for side in SIDES}
        self.transports = repeated({"tcp": 5, "udp": 5, "tftp": 5, "icmp": 4, "sctp": 2, "gre": 1, "other": 2})
        # Functions that make a frame unusual or wrong.
        self.wrongs = {"changed": changed, "hops": with_hops, "bad checksum": with_bad_checksum, "truncated": truncated,
                       "bad length": with_bad_length, "fragments": fragments, "odd addresses": self.odd_address,
                       "zero ports": self.zero_ports, "huge": self.huge, "vlan": self.tagged, "icmp error": self.error}
        # If the frames of a pair differ in a random port, use only changes after which that port can still be masked.
        clear = {"hops": 2, "bad checksum": 2, "odd addresses": 4, "zero ports": 1, "huge": 1, "vlan": 1,
                 "icmp error": 5}
        self.clear = repeated(clear)
        self.wrong = repeated({**clear, "changed": 8, "truncated": 3, "bad length": 4, "fragments": 4})

    def next(self, rng):
        """Returns (kind, side, pairs)."""
        self.rng = rng
        chance = rng.random()
        if chance < 0.03:
            return self.no_ip()
        kind, side, pair = self.answer() if chance < 0.45 else self.fresh()
        if rng.random() < 0.55:
            return kind, side, [pair]
        kind = rng.choice(self.wrong if pair[0] == pair[1] else self.clear)
        return kind, side, self.both(self.wrongs[kind], pair)

    def both(self, change, pair):
        """Makes the same change to both frames. Returns a list of pairs."""
        if pair[0] == pair[1]:
            results = [change(pair[0], self.rng)] * 2
        else:
            seed = self.rng.getrandbits(32)
            results = [change(frame, random.Random(seed)) for frame in pair]
        return list(zip(*results)) if isinstance(results[0], list) else [tuple(results)]

    def answer(self):
        """Returns an answer to a frame that came out of the routers."""
        side = self.rng.choice(SIDES)
        if not self.seen[side]:
            return self.fresh()
        pair = self.rng.choice(self.seen[side])
        return f"answer, {side}", side, self.both(answer_to, pair)[0]

    # --- New frames

    def fresh(self):
        kind, version = self.rng.choice(self.transports), self.rng.choice((4, 6))
        side = "lan" if self.rng.random() < 0.8 else "wan"
        source, target = self.rng.choice(CLIENTS[version]), self.rng.choice(SERVERS[version])
        if side == "wan":
            # To a client's own address, or to the router.
            target, source = (source if self.rng.random() < 0.3 else OWN[2 if version == 4 else 3]), target
        protocol, body = getattr(self, kind)(version)
        frame = self.frame(side, version, source, target, protocol, body)
        return kind, side, (frame, frame)

    def frame(self, side, version, source, target, protocol, body):
        more = b""
        if self.rng.random() < 0.1:
            more, protocol = self.options(version, protocol)
        name = self.rng.randrange(1 << 16)
        # Now and then to another MAC address, or to broadcast or multicast.
        mac = MAC[side] if self.rng.random() < 0.98 else self.rng.choice((b"\xff" * 6, b"\x01\0\x5e\0\0\1", bytes(6)))
        packet = ip(source, target, protocol, body, 64, more, name, 0)
        return with_checksums(ethernet(mac, b"\2\0\0\0\0\x63", IPV4 if version == 4 else IPV6, packet))

    def options(self, version, protocol):
        """Returns valid or invalid IPv4 options or IPv6 extension headers, and the number of the next header."""
        rng = self.rng
        if version == 4:
            return rng.choice((b"\1" * 4, b"\x94\4\0\0", b"\7\7\4\0\0\0\0\0", b"\x44\x0c\5\0" + bytes(8), b"\7\3\4\0",
                               b"\x83\7\4\xcb\0\x71\2\0", b"\x89\7\4\xcb\0\x71\2\0", b"\0" * 8, b"\x86\6\0\0\0\1\0\0",
                               b"\x44\5\5\0", rng.randbytes(4 * rng.randint(1, 10)))), protocol
        contents = b"\1\4\0\0\0\0", b"\5\2\0\0\1\0", b"\xc2\4\0\1\0\0", bytes(6), rng.randbytes(14), bytes(6)
        kinds = rng.choices((HOP_BY_HOP, OPTIONS, ROUTING, FRAGMENT, OPTIONS), k=rng.choice((1, 1, 2, 3, 6)))
        contents = [b"\0\0" + rng.randbytes(4) if kind == FRAGMENT else rng.choice(contents) for kind in kinds]
        following = protocol if rng.random() < 0.9 else rng.choice((NO_NEXT, HOP_BY_HOP, 255))
        return extensions(kinds, following, contents), protocol

    def ports(self, *known):
        """Returns source and destination port, from a few, so that flows get the same ones."""
        source = self.rng.choice((40000, 40001, 40002, 500, 1023, 1024, 65535, self.rng.randrange(1, 1 << 16)))
        return source, self.rng.choice((*known, self.rng.randrange(1, 1 << 16)))

    def content(self):
        return self.rng.randbytes(self.rng.choice((0, 1, 4, 18, 64, 64, 300, 1400)))

    def tcp(self, _version):
        flags = self.rng.choice((SYN,) * 6 + (ACK_FLAG, SYN | ACK_FLAG, RST, FIN, 0, 255, URG, PSH | ACK_FLAG,
                                              self.rng.randrange(256)))
        options = self.rng.choice((b"", b"\2\4\5\xb4", b"\2\4\5\xb4\4\2\1\3\3\7\0\0", b"\1" * 4, b"\2\0\0\0",
                                   self.rng.randbytes(4 * self.rng.randint(1, 10))))
        numbers = self.rng.randrange(1 << 32), self.rng.randrange(1 << 32)
        content = b"" if flags == SYN else self.content()
        return TCP, tcp(self.ports(80, 443, 22, 8080), flags, *numbers, content, options)

    def udp(self, _version):
        return UDP, udp(self.ports(53, 123, 5353, 9000), self.content())

    def tftp(self, _version):
        words = [self.rng.choice((b"boot", b"a/b.img", b"x" * 100)),
                 self.rng.choice((b"octet", b"NetASCII", b"octet"))]
        words += self.rng.choice(([], [], [b"blksize", b"1468"], [b"tsize", b"0", b"timeout", b""]))
        content = b"\0" + self.rng.choice((b"\1", b"\2")) + b"".join(word + b"\0" for word in words)
        how = self.rng.random()
        if how < 0.1:
            content = content[: self.rng.randrange(len(content))]
        elif how < 0.3:
            # A request without name, which the kernel's own helper takes for one.
            content = content[:2] + b"\0" + content[2:]
        elif how < 0.35:
            content = b"\0" + bytes([self.rng.randrange(8)]) + content[2:]
        elif how < 0.4:
            content = self.rng.choice((b"\0\1", b"\0\2", b"\0\3\0\1", b"")) + self.content()
        return UDP, udp((self.ports()[0], 69 if self.rng.random() < 0.95 else 70), content)

    def icmp(self, version):
        protocol = ICMP if version == 4 else ICMPV6
        kind = REQUEST[protocol] if self.rng.random() < 0.8 else self.rng.randrange(256)
        return protocol, icmp(kind, 0 if kind == REQUEST[protocol] else self.rng.randrange(4),
                              struct.pack("!HH", self.ports()[0], 1), self.content())

    def sctp(self, _version):
        rng = self.rng
        kind = rng.choice((1, 1, 1, 0, 2, 3, 4, 5, 6, 7, 9, 10, 11, 14, rng.randrange(256)))
        value = rng.randbytes(16) if kind in (1, 2) else rng.randbytes(4 * rng.randrange(5))
        chunk = struct.pack("!BBH", kind, 0, 4 + len(value)) + value
        return SCTP, sctp(self.ports(80, 5000), 0 if kind == 1 else rng.randrange(1 << 32), chunk)

    def gre(self, _version):
        return GRE, self.rng.choice((b"\0\0\x08\0", b"\x30\x01\x88\x0b\0\4\0\7\0\0\0\1", b"\x20\0\x08\0\0\0\0\x09",
                                     self.rng.randbytes(8))) + self.content()

    def other(self, version):
        """Returns a packet of a tunnel, IPsec, UDP-Lite, DCCP, IGMP, an unknown protocol, or the other ICMP."""
        protocol = self.rng.choice((IGMP, 4, 33, 41, 50, 51, 89, 103, 136, 253, 255, self.rng.randrange(256),
                                    ICMPV6 if version == 4 else ICMP))
        return protocol, self.content()

    def no_ip(self):
        """Returns a frame with another ethertype, or with noise in place of an IP packet."""
        kind = self.rng.choice((ARP, 0x8847, 0x8864, 0x88CC, 0x0004, 0x05DC, 0, 0xFFFF, IPV4, IPV6))
        content = self.rng.choice((b"", self.rng.randbytes(self.rng.randrange(100)),
                                   b"\x45" + self.rng.randbytes(self.rng.randrange(60)),
                                   b"\x60" + self.rng.randbytes(self.rng.randrange(80))))
        side = self.rng.choice(SIDES)
        frame = ethernet(MAC[side], b"\2\0\0\0\0\x63", kind, content)
        return "noise" if kind in (IPV4, IPV6) else "other ethertypes", side, [(frame, frame)]

    # --- Changes

    def odd_address(self, frame, rng):
        packet = read(frame)
        if not packet:
            return frame
        frame = bytearray(frame)
        place = packet.at + (12 if packet.version == 4 else 8) + rng.randrange(2) * (4 if packet.version == 4 else 16)
        address = rng.choice(ODD[packet.version] + CLIENTS[packet.version][:2] + SERVERS[packet.version][:2])
        frame[place : place + len(address)] = address
        return with_checksums(frame)

    def zero_ports(self, frame, rng):
        packet = read(frame)
        if not packet or not packet.ports(frame):
            return frame
        frame, which = bytearray(frame), rng.randrange(1, 4)
        for n in range(2):
            if which >> n & 1:
                frame[packet.body + 2 * n : packet.body + 2 * n + 2] = b"\0\0"
        return with_checksums(frame)

    def huge(self, frame, rng):
        """Makes the packet larger than the MTU of the outer device."""
        packet = read(frame)
        if not packet or packet.fragment:
            return frame
        frame = bytearray(frame) + rng.randbytes(rng.choice((1500, 3000, 8000)))
        at, stated = packet.at, len(frame) - packet.at - (0 if packet.version == 4 else 40)
        struct.pack_into("!H", frame, at + (2 if packet.version == 4 else 4), stated)
        if packet.version == 4 and rng.random() < 0.3:
            frame[at + 6] |= 0x40
        if packet.protocol == UDP:
            struct.pack_into("!H", frame, packet.body + 4, len(frame) - packet.body)
        return with_checksums(frame)

    def tagged(self, frame, rng):
        return frame[:12] + struct.pack("!HH", VLAN, rng.choice((0, 1, 0xE000, 4095))) + frame[12:]

    def error(self, frame, rng):
        """Returns an ICMP error about an answer to this frame, so that it takes the same way."""
        packet = read(frame)
        if not packet:
            return frame
        origin = rng.choice(SERVERS[packet.version] + CLIENTS[packet.version][:4] + [packet.source(frame)] * 20)
        return error_about(answer_to(frame, rng), origin, rng)


def addresses(data):
    """Returns source, destination and protocol of ctnetlink's tuple.

    It starts with a nest of two addresses; the protocol's number follows.
    """
    end = 20 if data[0] == 20 else 44
    size = end // 2 - 6
    return data[8 : 8 + size], data[end - size : end], data[end + 8]


def untagged(frame):
    """Returns the frame without its VLAN tag."""
    return frame[:12] + frame[16:] if frame[12:14] == struct.pack("!H", VLAN) else frame


class Router:
    """One of the two routers, with sockets at the devices of host wire that it is connected to."""

    def __init__(self, name, poll):
        self.name = name
        self.sockets = {side: self.socket(side) for side in SIDES}
        self.table = Conntrack(name)
        self.watch = Conntrack(name, EXPECTATION_NEW | EXPECTATION_GONE)
        # The frames that came out, by side; the expectations, by source and destination; and whether these changed.
        self.came = {side: [] for side in SIDES}
        self.expected, self.changed = collections.Counter(), False
        # The socket and the function that takes its data, by file descriptor.
        self.receivers = {sock.fileno(): (sock, self.came[side].append) for side, sock in self.sockets.items()}
        self.receivers[self.watch.sock.fileno()] = self.watch.sock, self.update_expectations
        for file in self.receivers:
            poll.register(file, select.POLLIN)

    def socket(self, side):
        with Inside("wire"):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
            sock.bind((f"{self.name[0]}-{side}", 3))
        return sock

    def send(self, side, frame):
        """Sends a frame. Returns whether the kernel accepts it for sending."""
        try:
            self.sockets[side].send(frame)
        except OSError:
            return False
        return True

    def update_expectations(self, data):
        """Handles ctnetlink's events about expectations."""
        self.changed = True
        while data:
            length, kind = struct.unpack_from("=IH", data)
            ends = addresses(attributes(data[HEADER.size:length])[CTA_EXPECT_TUPLE])[:2]
            self.expected[ends] += -1 if kind & 0xFF == DELETE else 1
            data = data[length + 3 & ~3:]

    # --- Its state

    def flows(self):
        """Returns all flows without ports and identifiers, which may be random."""
        return collections.Counter(
            (addresses(nest[CTA_TUPLE_ORIG]), addresses(nest[CTA_TUPLE_REPLY]), number(nest[CTA_STATUS]))
            for nest in self.table.dump(FLOWS))

    def counted(self):
        """Returns the counters of conntrack, IP and ICMP, except those that the router's own multicast changes."""
        found = collections.Counter()
        self.table.request(FLOWS, GET_STATISTICS, NLM_F_DUMP)
        done = False
        while not done:
            for kind, data in self.table.messages():
                done = done or kind in (NLMSG_DONE, NLMSG_ERROR)
                for what, value in ({} if done else attributes(data)).items():
                    if what in COUNTED:
                        found[COUNTED[what]] += number(value)
        with Inside(self.name):
            with open("/proc/thread-self/net/snmp", encoding="ascii") as file:
                lines = [line.split() for line in file]
            with open("/proc/thread-self/net/snmp6", encoding="ascii") as file:
                found.update({name: int(value) for name, value in map(str.split, file)})
        for names, values in zip(lines[::2], lines[1::2]):
            found.update({names[0] + name: int(value) for name, value in zip(names[1:], values[1:])})
        own = re.compile("MLD|Mcast|Group|OutRequests|OutTransmits")
        return {name: value for name, value in found.items() if not own.search(name)}


class Comparison:
    """Sends pairs of frames and compares the outcomes."""

    def __init__(self):
        self.poll = select.poll()
        self.routers = [Router(name, self.poll) for name in ROUTERS]
        self.receivers = {file: both for router in self.routers for file, both in router.receivers.items()}
        self.maker = Maker()
        self.fates = collections.defaultdict(collections.Counter)
        self.notes = collections.Counter()
        self.wrong = 0
        self.forget()

    def forget(self):
        """Removes all flows and expectations, and everything remembered about them."""
        for router in self.routers:
            router.table.forget()
        self.receive()
        for router in self.routers:
            router.expected.clear()
        self.expecting = set()
        # The source and destination of each expectation that only the kernel's helper has.
        self.tainted = set()
        # The source ports of frames that came out, by side: of each router, and in pairs.
        self.ports, self.pairs = {side: (set(), set()) for side in SIDES}, {side: set() for side in SIDES}
        # The pairs of ports of the frames that were sent, which may answer frames of an earlier epoch.
        self.made = set()
        self.before = [router.counted() for router in self.routers]

    def receive(self, timeout=0):
        """Receives everything that comes, until nothing comes for `timeout` ms."""
        while ready := self.poll.poll(timeout):
            for file, _ in ready:
                sock, take = self.receivers[file]
                take(sock.recv(1 << 17))

    def complain(self, what, *lines):
        self.wrong += 1
        if self.wrong <= 10:
            print(what, *lines, sep="\n    ", flush=True)

    def run(self, kind, side, pairs, what):
        """Sends pairs and counts their outcomes."""
        for pair in pairs:
            if self.may_differ(side, pair):
                self.fates[kind]["not sent"] += 1
            # Send both frames, even if the kernel refuses the first one. The generator that ruff wants would stop.
            elif not all([router.send(side, frame) for router, frame in zip(self.routers, pair)]):  # noqa: C419
                self.fates[kind]["no frame"] += 1
            else:
                self.fates[kind][self.fate(side, pair, f"{what}, {kind}")] += 1

    def fate(self, side, pair, what):
        """Returns the outcome of the pair that was just sent, and compares the routers."""
        for router in self.routers:
            for frames in router.came.values():
                frames.clear()
            router.changed = False
        self.made.update(zip(*(each or () for each in self.ends(map(untagged, pair)))))
        # send() mostly returns after the frame has passed the router. If the routers differ, wait before complaining.
        self.receive()
        came = [router.came for router in self.routers]
        if any(len(came[0][out]) != len(came[1][out]) for out in SIDES):
            self.receive(100)
        fate = self.compare(side, came, pair, what)
        if self.routers[0].changed or self.routers[1].changed:
            self.compare_expectations(side, pair, what)
        return fate

    def may_differ(self, side, pair):
        """Returns whether the routers may treat the pair differently.

        They may if only the kernel's helper expects it, or if its destination port is one that only one of the routers
        chose.
        """
        pair = [untagged(frame) for frame in pair]
        packet = read(pair[0])
        if not packet or packet.protocol not in (TCP, UDP, SCTP):
            return False
        if packet.protocol == UDP and (packet.source(pair[0]), packet.target(pair[0])) in self.tainted:
            return True
        ends = self.ends(pair)
        if None in ends:
            return False
        ports = tuple(end[1] for end in ends)
        return ports not in self.pairs[side] and any(port in used for port, used in zip(ports, self.ports[side]))

    def ends(self, pair):
        """Returns the ports of both frames, None for a frame without ports."""
        return [packet and packet.ports(frame) for packet, frame in ((read(frame), frame) for frame in pair)]

    def compare(self, side, came, pair, what):
        """Compares the frames that came out. Returns the outcome."""
        for out in SIDES:
            frames = [each[out] for each in came]
            if len(frames[0]) != len(frames[1]):
                self.complain(f"{what}: {len(frames[0])} frames came out, and {len(frames[1])}, to the {out}, for",
                              *map(show, pair), "these:", *map(show, frames[0] + frames[1]))
                continue
            for two in zip(*frames):
                ends = self.ends(two)
                if two[0] != two[1]:
                    self.notes["frames that differ in random fields"] += 1
                    if masked(two[0]) != masked(two[1]) or not self.same_target(ends):
                        self.complain(f"{what}: out to the {out} came different frames, for", *map(show, pair),
                                      "these:", *map(show, two))
                self.remember(out, two, ends)
        passed, back = [bool(came[0][out]) for out in (SIDES[side == "lan"], side)]
        if passed and side == "lan" and any(self.from_inside(frame) for frame in came[0]["wan"]):
            return "passed as it was"
        return {(0, 0): "vanished", (0, 1): "answered", (1, 0): "passed", (1, 1): "both"}[passed, back]

    def same_target(self, ends):
        """Returns whether two frames go to the same port, or to ports that the routers chose for the same flow."""
        if None in ends or ends[0][1] == ends[1][1]:
            return True
        return any((ends[0][1], ends[1][1]) in pairs for pairs in (*self.pairs.values(), self.made))

    def from_inside(self, frame):
        packet = read(frame)
        return packet and packet.source(frame).startswith(INSIDE)

    def remember(self, out, pair, ends):
        """Remembers a pair that came out, for answers to it, and its source ports."""
        packet = read(pair[0])
        # Not fragments or ICMP errors that differ: the random fields of answers to them could not be masked.
        if pair[0] == pair[1] or (packet and not packet.fragment and (
                None not in ends or not is_error(packet, pair[0]))):
            self.maker.seen[out].append(pair)
        if None not in ends:
            self.pairs[out].add((ends[0][0], ends[1][0]))
            for used, end in zip(self.ports[out], ends):
                used.add(end[0])

    def compare_expectations(self, side, pair, what):
        """Compares expectations: the kernel's helper must have those of rustmasq-tftp, which must follow requests."""
        kernels, ours = [router.expected for router in self.routers]
        if ours - kernels:
            self.complain(f"{what}: RUSTMASQ alone expects something, after {show(pair[1])}")
        packet = read(pair[1])
        # A fragment does not show whether the whole packet is a request.
        clear = packet and packet.protocol == UDP and not packet.fragment
        if clear and set(+ours) - self.expecting and not self.is_request(pair[1], packet):
            self.complain(f"{what}: RUSTMASQ expects something, but this is no request: {show(pair[1])}")
        self.expecting = set(+ours)
        for ends in kernels - ours:
            if ends not in self.tainted:
                self.tainted.add(ends)
                self.notes["hosts that the kernel's helper alone expects answers from"] += 1
                # With source port 69, this may be a packet in the reply direction.
                if clear and side == "lan" and packet.ports(pair[1])[0] != PORT and self.is_request(pair[1], packet):
                    self.complain(f"{what}: RUSTMASQ does not expect what it should, after {show(pair[1])}")

    def is_request(self, frame, packet):
        """Returns whether it is a request to a server, for which rustmasq-tftp should expect an answer."""
        ports = packet.ports(frame)
        if not ports or ports[1] != PORT or len(frame) < packet.body + 8:
            return False
        (length,) = struct.unpack_from("!H", frame, packet.body + 4)
        return is_request(frame[packet.body + 8 : packet.body + length])

    def sent(self, router, side, frame):
        """Sends a frame to one router. Returns the frames that come out, by side."""
        for frames in router.came.values():
            frames.clear()
        router.send(side, frame)
        self.receive(20)
        return router.came

    def compare_conntrack(self, what):
        """Compares the routers' flows and counters, and removes the flows."""
        flows = [router.flows() for router in self.routers]
        if flows[0] != flows[1]:
            self.complain(f"{what}: other flows: {list((flows[0] - flows[1]).items())[:5]} and "
                          f"{list((flows[1] - flows[0]).items())[:5]}")
        self.notes["flows"] += sum(flows[1].values())
        counted = [collections.Counter(router.counted()) for router in self.routers]
        for count, before in zip(counted, self.before):
            count.subtract(before)
        for name in counted[0]:
            if counted[0][name] != counted[1][name]:
                self.complain(f"{what}: {name} is {counted[0][name]} and {counted[1][name]}")
        for name in COUNTED.values():
            self.notes[f"conntrack's {name}"] += counted[1][name]
        self.forget()


def flows_pass(comparison):
    """Checks that a flow of each family and protocol still works: it is masqueraded, and an answer comes back."""
    rng = random.Random(0)
    for version in (4, 6):
        ping = ICMP if version == 4 else ICMPV6
        for protocol, body in ((UDP, udp((40000, 53), b"question")), (TCP, tcp((40000, 80), SYN)),
                               (ping, icmp(REQUEST[ping], 0, struct.pack("!HH", 40000, 1), b"ping"))):
            packet = ip(CLIENTS[version][0], SERVERS[version][0], protocol, body)
            frame = with_checksums(ethernet(MAC["lan"], bytes(6), IPV4 if version == 4 else IPV6, packet))
            for router in comparison.routers:
                out = comparison.sent(router, "lan", frame)["wan"]
                if len(out) != 1 or read(out[0]).source(out[0]) != OWN[2 if version == 4 else 3]:
                    comparison.complain(f"{router.name}: for {show(frame)} came out {[show(each) for each in out]}")
                    continue
                back = comparison.sent(router, "wan", answer_to(out[0], rng))["lan"]
                if len(back) != 1 or read(back[0]).target(back[0]) != CLIENTS[version][0]:
                    comparison.complain(f"{router.name}: as answer came back {[show(each) for each in back]}")


# --- The module's events

# The fields of each event that are tuples.
TUPLES = {"flow_new": ["original"], "flow_confirm": ["original", "reply", "untranslated"], "packet": ["tuple"]}


def parse_tuple(text):
    """Parses ADDRESS:PORT->ADDRESS:PORT. Raises ValueError if it is none."""
    ends = [end.rpartition(":") for end in text.split("->")]
    return [(ipaddress.ip_address(address.strip("[]")), int(port)) for address, _, port in ends]


def parse_event(line):
    """Parses a line of a trace pipe. Returns the event's name, or None if it is no event of the module.

    Raises ValueError or KeyError if the event cannot be parsed.
    """
    found = re.search(r": (flow_new|flow_confirm|packet): (.*)", line)
    if not found:
        return None
    fields = dict(word.split("=", 1) for word in found[2].split(" "))
    for name in TUPLES[found[1]]:
        parse_tuple(fields[name])
    for name in "netns", "id":
        int(fields[name])
    return found[1]


class Events:
    """Reads and parses some of the recorded events after each epoch. When the buffer is full, events are lost."""

    def __init__(self, comparison, folder):
        self.comparison = comparison
        self.pipe = os.open(f"{folder}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK)

    def read(self, what):
        try:
            data = os.read(self.pipe, 1 << 12)
        except BlockingIOError:
            return
        for line in data.decode("utf-8", "backslashreplace").split("\n")[:-1]:
            try:
                name = parse_event(line)
            except (ValueError, KeyError) as error:
                self.comparison.complain(f"{what}: {error}: {line}")
                continue
            if name:
                self.comparison.notes[f"lines of the event {name}"] += 1


def report(comparison):
    columns = "passed", "passed as it was", "answered", "both", "vanished", "no frame", "not sent"
    print(f"{'':18}{'frames':>8}", *(f"{column:>16}" for column in columns))
    total = collections.Counter()
    for kind, fates in sorted(comparison.fates.items()):
        total.update(fates)
        print(f"{kind:18}{sum(fates.values()):8}", *(f"{fates[column]:16}" for column in columns))
    print(f"{'all':18}{sum(total.values()):8}", *(f"{total[column]:16}" for column in columns))
    for name, value in sorted(comparison.notes.items()):
        print(f"{name}: {value}")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__.strip())
    count, seed = int(sys.argv[1]), sys.argv[2]
    # With one CPU, a frame has mostly passed the router before send() returns.
    os.sched_setaffinity(0, {0})
    comparison = Comparison()
    events = Events(comparison, sys.argv[3]) if sys.argv[3:] else None
    sent = epoch = 0
    while sent < count:
        rng, end = random.Random(f"{seed} {epoch}"), min(count, sent + EPOCH)
        while sent < end:
            kind, side, pairs = comparison.maker.next(rng)
            comparison.run(kind, side, pairs, f"epoch {epoch}, frame {sent % EPOCH}")
            sent += len(pairs)
        comparison.compare_conntrack(f"epoch {epoch}")
        if events:
            events.read(f"epoch {epoch}")
        epoch += 1
    flows_pass(comparison)
    report(comparison)
    print(f"{sent} frames, seed {seed}: {comparison.wrong} differences")
    return 1 if comparison.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
