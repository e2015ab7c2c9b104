#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""tests/tools/packet_fuzz.py COUNT SEED [TRACE]: frames of any shape through two routers; runs in the guest.

The routers are alike, but that one has MASQUERADE and the kernel's TFTP helper and the other RUSTMASQ and ours
(tests/scenarios/stress/fuzz-packets.sh draws them). Each of COUNT frames, made by SEED and from what came out before,
is sent to both, from within or from outside. What comes out must be the same, but for what is chance: ports that the
kernel chose. So must be what conntrack has and counts. What the kernel's helper expects and ours does not must be due
to what is no request; nothing is sent from where it would be let in then. TRACE is the folder of a trace buffer that
the watch's events go to: the watch's reader must understand them.

Prints differences, and then how many frames there were of each kind and what became of them.
"""

import collections
import importlib.machinery
import importlib.util
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
    sealed,
    show,
    tcp,
    truncated,
    turned,
    udp,
    with_bad_length,
    with_bad_sum,
    with_hops,
)
from tftp import PORT, is_request

ROUTERS = "masquerade", "rustmasq"
SIDES = "lan", "wan"
# A frame's home is a device of host wire, by router and side; its way is to one of these.
MAC = {"lan": bytes.fromhex("020000000001"), "wan": bytes.fromhex("020000000002")}
OWN = [packed(address) for address in ("172.18.0.1", "fd00:18::1", "203.0.113.1", "2001:db8:1::1")]
INSIDE = b"\xac\x12", b"\xfd\x00\x00\x18"
CLIENTS = {4: [packed(f"172.18.0.{n}") for n in range(2, 10)], 6: [packed(f"fd00:18::{n}") for n in range(2, 10)]}
SERVERS = {4: [packed(f"203.0.113.{n}") for n in range(2, 40)] + [packed("198.51.100.7")],
           6: [packed(f"2001:db8:1::{n}") for n in range(2, 40)] + [packed("2001:db8:9::7")]}
# From the edges of the address space.
ODD = {4: [packed(address) for address in (
           "0.0.0.0 255.255.255.255 127.0.0.1 224.0.0.1 239.1.1.1 240.0.0.1 169.254.1.1 172.18.255.255 203.0.113.255 "
           "172.18.0.0 172.18.0.1 203.0.113.1").split()],
       6: [packed(address) for address in (
           ":: ::1 ff02::1 ff02::2 ff0e::1 ff01::1 fe80::1 ::ffff:203.0.113.2 2002::1 fec0::1 fd00:18::1 2001:db8:1::1 "
           "fd00:18:: 2001:db8:1::").split()]}
# Frames between two looks at all that conntrack knows.
EPOCH = 500
SO_RCVBUFFORCE = 33
# Those of ctnetlink's statistics that are not chance.
GET_STATISTICS, COUNTED = 4, {4: "invalid", 9: "insert_failed", 10: "drop", 11: "early_drop", 12: "error"}


def often(weights):
    """A list that has each key so often."""
    return [key for key, weight in weights.items() for _ in range(weight)]


class Maker:
    """Makes frames at random. A pair is a frame for each router: they differ where the routers did."""

    def __init__(self):
        self.dice = None
        # What came out, by side, as pairs.
        self.seen = {side: collections.deque(maxlen=128) for side in SIDES}
        self.transports = often({"tcp": 5, "udp": 5, "tftp": 5, "icmp": 4, "sctp": 2, "gre": 1, "other": 2})
        # How one goes wrong.
        self.wrongs = {"changed": changed, "hops": with_hops, "bad checksum": with_bad_sum, "truncated": truncated,
                       "bad length": with_bad_length, "fragments": fragments, "odd addresses": self.odd_address,
                       "zero ports": self.zero_ports, "huge": self.huge, "vlan": self.tagged, "icmp error": self.error}
        # Where a port is chance it must be clear where it is, or nobody could tell what else differs.
        clear = {"hops": 2, "bad checksum": 2, "odd addresses": 4, "zero ports": 1, "huge": 1, "vlan": 1,
                 "icmp error": 5}
        self.clear = often(clear)
        self.wrong = often({**clear, "changed": 8, "truncated": 3, "bad length": 4, "fragments": 4})

    def next(self, dice):
        """(kind, side, pairs)"""
        self.dice = dice
        chance = dice.random()
        if chance < 0.03:
            return self.no_ip()
        kind, side, pair = self.answer() if chance < 0.45 else self.fresh()
        if dice.random() < 0.55:
            return kind, side, [pair]
        kind = dice.choice(self.wrong if pair[0] == pair[1] else self.clear)
        return kind, side, self.both(self.wrongs[kind], pair)

    def both(self, change, pair):
        """The same change of both frames: pairs."""
        if pair[0] == pair[1]:
            results = [change(pair[0], self.dice)] * 2
        else:
            seed = self.dice.getrandbits(32)
            results = [change(frame, random.Random(seed)) for frame in pair]
        return list(zip(*results)) if isinstance(results[0], list) else [tuple(results)]

    def answer(self):
        """To what came out of the routers."""
        side = self.dice.choice(SIDES)
        if not self.seen[side]:
            return self.fresh()
        pair = self.dice.choice(self.seen[side])
        return f"answer, {side}", side, self.both(turned, pair)[0]

    # --- Fresh ones

    def fresh(self):
        kind, version = self.dice.choice(self.transports), self.dice.choice((4, 6))
        side = "lan" if self.dice.random() < 0.8 else "wan"
        source, target = self.dice.choice(CLIENTS[version]), self.dice.choice(SERVERS[version])
        if side == "wan":
            # To the router, or straight to a client.
            target, source = (source if self.dice.random() < 0.3 else OWN[2 if version == 4 else 3]), target
        protocol, body = getattr(self, kind)(version)
        frame = self.frame(side, version, source, target, protocol, body)
        return kind, side, (frame, frame)

    def frame(self, side, version, source, target, protocol, body):
        more = b""
        if self.dice.random() < 0.1:
            more, protocol = self.options(version, protocol)
        name = self.dice.randrange(1 << 16)
        # To somebody else, or all, now and then.
        mac = MAC[side] if self.dice.random() < 0.98 else self.dice.choice((b"\xff" * 6, b"\x01\0\x5e\0\0\1", bytes(6)))
        packet = ip(source, target, protocol, body, 64, more, name, 0)
        return sealed(ethernet(mac, b"\2\0\0\0\0\x63", IPV4 if version == 4 else IPV6, packet))

    def options(self, version, protocol):
        """IPv4's options, or IPv6's extension headers, good and bad; and the protocol that is said to follow."""
        dice = self.dice
        if version == 4:
            return dice.choice((b"\1" * 4, b"\x94\4\0\0", b"\7\7\4\0\0\0\0\0", b"\x44\x0c\5\0" + bytes(8), b"\7\3\4\0",
                                b"\x83\7\4\xcb\0\x71\2\0", b"\x89\7\4\xcb\0\x71\2\0", b"\0" * 8, b"\x86\6\0\0\0\1\0\0",
                                b"\x44\5\5\0", dice.randbytes(4 * dice.randint(1, 10)))), protocol
        contents = b"\1\4\0\0\0\0", b"\5\2\0\0\1\0", b"\xc2\4\0\1\0\0", bytes(6), dice.randbytes(14), bytes(6)
        kinds = dice.choices((HOP_BY_HOP, OPTIONS, ROUTING, FRAGMENT, OPTIONS), k=dice.choice((1, 1, 2, 3, 6)))
        contents = [b"\0\0" + dice.randbytes(4) if kind == FRAGMENT else dice.choice(contents) for kind in kinds]
        following = protocol if dice.random() < 0.9 else dice.choice((NO_NEXT, HOP_BY_HOP, 255))
        return extensions(kinds, following, contents), protocol

    def ports(self, *known):
        """Few, so that flows meet."""
        source = self.dice.choice((40000, 40001, 40002, 500, 1023, 1024, 65535, self.dice.randrange(1, 1 << 16)))
        return source, self.dice.choice((*known, self.dice.randrange(1, 1 << 16)))

    def content(self):
        return self.dice.randbytes(self.dice.choice((0, 1, 4, 18, 64, 64, 300, 1400)))

    def tcp(self, _version):
        flags = self.dice.choice((SYN,) * 6 + (ACK_FLAG, SYN | ACK_FLAG, RST, FIN, 0, 255, URG, PSH | ACK_FLAG,
                                               self.dice.randrange(256)))
        options = self.dice.choice((b"", b"\2\4\5\xb4", b"\2\4\5\xb4\4\2\1\3\3\7\0\0", b"\1" * 4, b"\2\0\0\0",
                                    self.dice.randbytes(4 * self.dice.randint(1, 10))))
        numbers = self.dice.randrange(1 << 32), self.dice.randrange(1 << 32)
        content = b"" if flags == SYN else self.content()
        return TCP, tcp(self.ports(80, 443, 22, 8080), flags, *numbers, content, options)

    def udp(self, _version):
        return UDP, udp(self.ports(53, 123, 5353, 9000), self.content())

    def tftp(self, _version):
        words = [self.dice.choice((b"boot", b"a/b.img", b"x" * 100)),
                 self.dice.choice((b"octet", b"NetASCII", b"octet"))]
        words += self.dice.choice(([], [], [b"blksize", b"1468"], [b"tsize", b"0", b"timeout", b""]))
        content = b"\0" + self.dice.choice((b"\1", b"\2")) + b"".join(word + b"\0" for word in words)
        how = self.dice.random()
        if how < 0.1:
            content = content[: self.dice.randrange(len(content))]
        elif how < 0.15:
            content = b"\0" + bytes([self.dice.randrange(8)]) + content[2:]
        elif how < 0.2:
            content = self.dice.choice((b"\0\1", b"\0\2", b"\0\3\0\1", b"")) + self.content()
        return UDP, udp((self.ports()[0], 69 if self.dice.random() < 0.95 else 70), content)

    def icmp(self, version):
        protocol = ICMP if version == 4 else ICMPV6
        kind = REQUEST[protocol] if self.dice.random() < 0.8 else self.dice.randrange(256)
        return protocol, icmp(kind, 0 if kind == REQUEST[protocol] else self.dice.randrange(4),
                              struct.pack("!HH", self.ports()[0], 1), self.content())

    def sctp(self, _version):
        dice = self.dice
        kind = dice.choice((1, 1, 1, 0, 2, 3, 4, 5, 6, 7, 9, 10, 11, 14, dice.randrange(256)))
        value = dice.randbytes(16) if kind in (1, 2) else dice.randbytes(4 * dice.randrange(5))
        chunk = struct.pack("!BBH", kind, 0, 4 + len(value)) + value
        return SCTP, sctp(self.ports(80, 5000), 0 if kind == 1 else dice.randrange(1 << 32), chunk)

    def gre(self, _version):
        return GRE, self.dice.choice((b"\0\0\x08\0", b"\x30\x01\x88\x0b\0\4\0\7\0\0\0\1", b"\x20\0\x08\0\0\0\0\x09",
                                      self.dice.randbytes(8))) + self.content()

    def other(self, version):
        """Tunnels, IPsec, UDP-Lite, DCCP, IGMP, what has no name, and the other family's ICMP."""
        protocol = self.dice.choice((IGMP, 4, 33, 41, 50, 51, 89, 103, 136, 253, 255, self.dice.randrange(256),
                                     ICMPV6 if version == 4 else ICMP))
        return protocol, self.content()

    def no_ip(self):
        """Frames of other kinds, and noise in frames of IP."""
        kind = self.dice.choice((ARP, 0x8847, 0x8864, 0x88CC, 0x0004, 0x05DC, 0, 0xFFFF, IPV4, IPV6))
        content = self.dice.choice((b"", self.dice.randbytes(self.dice.randrange(100)),
                                    b"\x45" + self.dice.randbytes(self.dice.randrange(60)),
                                    b"\x60" + self.dice.randbytes(self.dice.randrange(80))))
        side = self.dice.choice(SIDES)
        frame = ethernet(MAC[side], b"\2\0\0\0\0\x63", kind, content)
        return "noise" if kind in (IPV4, IPV6) else "other ethertypes", side, [(frame, frame)]

    # --- What is wrong with one

    def odd_address(self, frame, dice):
        packet = read(frame)
        if not packet:
            return frame
        frame = bytearray(frame)
        place = packet.at + (12 if packet.version == 4 else 8) + dice.randrange(2) * (4 if packet.version == 4 else 16)
        address = dice.choice(ODD[packet.version] + CLIENTS[packet.version][:2] + SERVERS[packet.version][:2])
        frame[place : place + len(address)] = address
        return sealed(frame)

    def zero_ports(self, frame, dice):
        packet = read(frame)
        if not packet or not packet.ports(frame):
            return frame
        frame, which = bytearray(frame), dice.randrange(1, 4)
        for n in range(2):
            if which >> n & 1:
                frame[packet.body + 2 * n : packet.body + 2 * n + 2] = b"\0\0"
        return sealed(frame)

    def huge(self, frame, dice):
        """More than fits through the outer device."""
        packet = read(frame)
        if not packet or packet.fragment:
            return frame
        frame = bytearray(frame) + dice.randbytes(dice.choice((1500, 3000, 8000)))
        at, stated = packet.at, len(frame) - packet.at - (0 if packet.version == 4 else 40)
        struct.pack_into("!H", frame, at + (2 if packet.version == 4 else 4), stated)
        if packet.version == 4 and dice.random() < 0.3:
            frame[at + 6] |= 0x40
        if packet.protocol == UDP:
            struct.pack_into("!H", frame, packet.body + 4, len(frame) - packet.body)
        return sealed(frame)

    def tagged(self, frame, dice):
        return frame[:12] + struct.pack("!HH", VLAN, dice.choice((0, 1, 0xE000, 4095))) + frame[12:]

    def error(self, frame, dice):
        """About the last answer to this one: so that it goes where this one went."""
        packet = read(frame)
        if not packet:
            return frame
        origin = dice.choice(SERVERS[packet.version] + CLIENTS[packet.version][:4] + [packet.source(frame)] * 20)
        return error_about(turned(frame, dice), origin, dice)


def addresses(data):
    """Source, target and protocol of a tuple of ctnetlink's: a nest of two addresses comes first, the number next."""
    end = 20 if data[0] == 20 else 44
    size = end // 2 - 6
    return data[8 : 8 + size], data[end - size : end], data[end + 8]


def untagged(frame):
    """The same without a VLAN's tag."""
    return frame[:12] + frame[16:] if frame[12:14] == struct.pack("!H", VLAN) else frame


class Router:
    """One of the two, with the devices of host wire that it is connected to."""

    def __init__(self, name, poll):
        self.name = name
        self.sockets = {side: self.socket(side) for side in SIDES}
        self.table = Conntrack(name)
        self.watch = Conntrack(name, EXPECTATION_NEW | EXPECTATION_GONE)
        # What has come out, by side; from where to where something is expected; and whether that is news.
        self.came = {side: [] for side in SIDES}
        self.expected, self.news = collections.Counter(), False
        self.hear = {sock.fileno(): (sock, self.came[side].append) for side, sock in self.sockets.items()}
        self.hear[self.watch.sock.fileno()] = self.watch.sock, self.learn
        for file in self.hear:
            poll.register(file, select.POLLIN)

    def socket(self, side):
        with Inside("wire"):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
            sock.bind((f"{self.name[0]}-{side}", 3))
        return sock

    def send(self, side, frame):
        """Whether the sender's own kernel takes the frame."""
        try:
            self.sockets[side].send(frame)
        except OSError:
            return False
        return True

    def learn(self, data):
        """What became of an expectation."""
        self.news = True
        while data:
            length, kind = struct.unpack_from("=IH", data)
            ends = addresses(attributes(data[HEADER.size:length])[CTA_EXPECT_TUPLE])[:2]
            self.expected[ends] += -1 if kind & 0xFF == DELETE else 1
            data = data[length + 3 & ~3:]

    # --- What it knows

    def flows(self):
        """All flows, but for ports and identifiers: they may be chance."""
        return collections.Counter(
            (addresses(nest[CTA_TUPLE_ORIG]), addresses(nest[CTA_TUPLE_REPLY]), number(nest[CTA_STATUS]))
            for nest in self.table.dump(FLOWS))

    def counted(self):
        """Statistics of conntrack, and of IP and ICMP, but for what a multicast router says of its own accord."""
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


class Battle:
    """Sends pairs, and compares."""

    def __init__(self):
        self.poll = select.poll()
        self.routers = [Router(name, self.poll) for name in ROUTERS]
        self.hear = {file: what for router in self.routers for file, what in router.hear.items()}
        self.maker = Maker()
        self.fates = collections.defaultdict(collections.Counter)
        self.notes = collections.Counter()
        self.wrong = 0
        self.forget()

    def forget(self):
        """Begins anew."""
        for router in self.routers:
            router.table.forget()
        self.listen()
        for router in self.routers:
            router.expected.clear()
        self.expecting = set()
        # From where to where the kernel's helper alone waits for something; and the ports that frames came from, by
        # side, of each router, and in pairs; and the pairs of ports of what was sent, which may be older than all that.
        self.tainted = set()
        self.ports, self.pairs = {side: (set(), set()) for side in SIDES}, {side: set() for side in SIDES}
        self.made = set()
        self.before = [router.counted() for router in self.routers]

    def listen(self, patience=0):
        """To all that there is to hear now; with patience, until there is nothing."""
        while ready := self.poll.poll(patience):
            for file, _ in ready:
                sock, hear = self.hear[file]
                hear(sock.recv(1 << 17))

    def complain(self, what, *lines):
        self.wrong += 1
        if self.wrong <= 10:
            print(what, *lines, sep="\n    ", flush=True)

    def fight(self, kind, side, pairs, what):
        for pair in pairs:
            if self.unequal(side, pair):
                self.fates[kind]["not sent"] += 1
            # Both frames are sent, even if the first one is none. ruff would have a generator, which stops there.
            elif not all([router.send(side, frame) for router, frame in zip(self.routers, pair)]):  # noqa: C419
                self.fates[kind]["no frame"] += 1
            else:
                self.fates[kind][self.fate(side, pair, f"{what}, {kind}")] += 1

    def fate(self, side, pair, what):
        """What became of it; and compares that."""
        for router in self.routers:
            for frames in router.came.values():
                frames.clear()
            router.news = False
        self.made.update(zip(*(each or () for each in self.ends(map(untagged, pair)))))
        # A frame has mostly gone its way when it is sent. If not, nothing is said of it yet.
        self.listen()
        came = [router.came for router in self.routers]
        if any(len(came[0][out]) != len(came[1][out]) for out in SIDES):
            self.listen(100)
        fate = self.compare(side, came, pair, what)
        if self.routers[0].news or self.routers[1].news:
            self.compare_expectations(side, pair, what)
        return fate

    def unequal(self, side, pair):
        """Whether the routers need not treat them alike: they go to an answer that the kernel's helper alone waits for,
        or to a port that one router alone has put in place of another."""
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
        """The ports of both, None for what has none."""
        return [packet and packet.ports(frame) for packet, frame in ((read(frame), frame) for frame in pair)]

    def compare(self, side, came, pair, what):
        """Says what became of it."""
        for out in SIDES:
            frames = [each[out] for each in came]
            if len(frames[0]) != len(frames[1]):
                self.complain(f"{what}: {len(frames[0])} frames came out, and {len(frames[1])}, to the {out}, for",
                              *map(show, pair), "these:", *map(show, frames[0] + frames[1]))
                continue
            for two in zip(*frames):
                ends = self.ends(two)
                if two[0] != two[1]:
                    self.notes["frames that differ by chance"] += 1
                    if masked(two[0]) != masked(two[1]) or not self.same_target(ends):
                        self.complain(f"{what}: out to the {out} came different frames, for", *map(show, pair),
                                      "these:", *map(show, two))
                self.learn(out, two, ends)
        passed, back = [bool(came[0][out]) for out in (SIDES[side == "lan"], side)]
        if passed and side == "lan" and any(self.from_inside(frame) for frame in came[0]["wan"]):
            return "passed as it was"
        return {(0, 0): "vanished", (0, 1): "answered", (1, 0): "passed", (1, 1): "both"}[passed, back]

    def same_target(self, ends):
        """Whether two frames go to the same port, by what each router has put in place of others, now or when what was
        sent was made."""
        if None in ends or ends[0][1] == ends[1][1]:
            return True
        return any((ends[0][1], ends[1][1]) in pairs for pairs in (*self.pairs.values(), self.made))

    def from_inside(self, frame):
        packet = read(frame)
        return packet and packet.source(frame).startswith(INSIDE)

    def learn(self, out, pair, ends):
        packet = read(pair[0])
        # Where frames differ within what an error quotes, nobody could tell later on what is chance.
        if pair[0] == pair[1] or (packet and not packet.fragment and (
                None not in ends or not is_error(packet, pair[0]))):
            self.maker.seen[out].append(pair)
        if None not in ends:
            self.pairs[out].add((ends[0][0], ends[1][0]))
            for used, end in zip(self.ports[out], ends):
                used.add(end[0])

    def compare_expectations(self, side, pair, what):
        """What ours expects the kernel's does, too; and ours does so after requests."""
        kernels, ours = [router.expected for router in self.routers]
        if ours - kernels:
            self.complain(f"{what}: RUSTMASQ alone expects something, after {show(pair[1])}")
        packet = read(pair[1])
        # The last piece of a packet does not tell.
        clear = packet and packet.protocol == UDP and not packet.fragment
        if clear and set(+ours) - self.expecting and not self.is_request(pair[1], packet):
            self.complain(f"{what}: RUSTMASQ expects something, but this is no request: {show(pair[1])}")
        self.expecting = set(+ours)
        for ends in kernels - ours:
            if ends not in self.tainted:
                self.tainted.add(ends)
                self.notes["hosts that the kernel's helper alone expects answers from"] += 1
                # The other direction of a flow may look like this one.
                if clear and side == "lan" and packet.ports(pair[1])[0] != PORT and self.is_request(pair[1], packet):
                    self.complain(f"{what}: RUSTMASQ does not expect what it should, after {show(pair[1])}")

    def is_request(self, frame, packet):
        """Whether it goes to a server, and asks it for what ours should expect an answer to."""
        ports = packet.ports(frame)
        if not ports or ports[1] != PORT or len(frame) < packet.body + 8:
            return False
        (length,) = struct.unpack_from("!H", frame, packet.body + 4)
        return is_request(frame[packet.body + 8 : packet.body + length])

    def sent(self, router, side, frame):
        """What comes of a frame for one of them, by side."""
        for frames in router.came.values():
            frames.clear()
        router.send(side, frame)
        self.listen(20)
        return router.came

    def look(self, what):
        """What the routers know of it all is the same; and they forget it."""
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


def flows_pass(battle):
    """A flow of each family and kind still works: out with the router's address, and an answer comes back."""
    dice = random.Random(0)
    for version in (4, 6):
        ping = ICMP if version == 4 else ICMPV6
        for protocol, body in ((UDP, udp((40000, 53), b"question")), (TCP, tcp((40000, 80), SYN)),
                               (ping, icmp(REQUEST[ping], 0, struct.pack("!HH", 40000, 1), b"ping"))):
            packet = ip(CLIENTS[version][0], SERVERS[version][0], protocol, body)
            frame = sealed(ethernet(MAC["lan"], bytes(6), IPV4 if version == 4 else IPV6, packet))
            for router in battle.routers:
                out = battle.sent(router, "lan", frame)["wan"]
                if len(out) != 1 or read(out[0]).source(out[0]) != OWN[2 if version == 4 else 3]:
                    battle.complain(f"{router.name}: what leaves for {show(frame)} is {[show(each) for each in out]}")
                    continue
                back = battle.sent(router, "wan", turned(out[0], dice))["lan"]
                if len(back) != 1 or read(back[0]).target(back[0]) != CLIENTS[version][0]:
                    battle.complain(f"{router.name}: what comes back is {[show(each) for each in back]}")


# --- The watch's events, as its reader understands them


def reader():
    """rust/cli/rustmasq-watch as a module."""
    path = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../rust/cli/rustmasq-watch")
    loader = importlib.machinery.SourceFileLoader("rustmasq_watch", path)
    sys.dont_write_bytecode = True
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("rustmasq_watch", loader))
    sys.modules["rustmasq_watch"] = module
    loader.exec_module(module)
    return module


def understand(watch, line):
    """ValueError, KeyError or TypeError, if the line of the kernel's cannot be understood. None: it is no event of
    ours, else its name."""
    found = re.search(r": (flow_new|flow_confirm|packet): (.*)", line)
    if not found:
        return None
    if found[1] == "flow_confirm":
        watch.parse_flow(line, {})
        return found[1]
    fields = dict(word.split("=", 1) for word in found[2].split(" "))
    watch.parse_tuple(fields["original" if found[1] == "flow_new" else "tuple"])
    [int(fields[name]) for name in ("netns", "id")]
    return found[1]


class Events:
    """What the three events say, as long as there is room for it: some of it after each epoch."""

    def __init__(self, battle, folder):
        self.battle, self.watch = battle, reader()
        self.pipe = os.open(f"{folder}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK)

    def read(self, what):
        try:
            data = os.read(self.pipe, 1 << 12)
        except BlockingIOError:
            return
        for line in data.decode("utf-8", "backslashreplace").split("\n")[:-1]:
            try:
                name = understand(self.watch, line)
            except (ValueError, KeyError, TypeError) as error:
                self.battle.complain(f"{what}: {error}: {line}")
                continue
            if name:
                self.battle.notes[f"lines of the event {name}"] += 1


def report(battle):
    columns = "passed", "passed as it was", "answered", "both", "vanished", "no frame", "not sent"
    print(f"{'':18}{'frames':>8}", *(f"{column:>16}" for column in columns))
    total = collections.Counter()
    for kind, fates in sorted(battle.fates.items()):
        total.update(fates)
        print(f"{kind:18}{sum(fates.values()):8}", *(f"{fates[column]:16}" for column in columns))
    print(f"{'all':18}{sum(total.values()):8}", *(f"{total[column]:16}" for column in columns))
    for name, value in sorted(battle.notes.items()):
        print(f"{name}: {value}")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__.strip())
    count, seed = int(sys.argv[1]), sys.argv[2]
    # So that each frame has gone its way before the next one comes.
    os.sched_setaffinity(0, {0})
    battle = Battle()
    events = Events(battle, sys.argv[3]) if sys.argv[3:] else None
    sent = epoch = 0
    while sent < count:
        dice, end = random.Random(f"{seed} {epoch}"), min(count, sent + EPOCH)
        while sent < end:
            kind, side, pairs = battle.maker.next(dice)
            battle.fight(kind, side, pairs, f"epoch {epoch}, frame {sent % EPOCH}")
            sent += len(pairs)
        battle.look(f"epoch {epoch}")
        if events:
            events.read(f"epoch {epoch}")
        epoch += 1
    flows_pass(battle)
    report(battle)
    print(f"{sent} frames, seed {seed}: {battle.wrong} differences")
    return 1 if battle.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
