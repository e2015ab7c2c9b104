#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Sends RUSTMASQ rules in binary form to the kernel and compares its answers with a model.

Usage: tests/tools/rule_abi.py legacy|nft

Some of the rules are ones that the iptables extension never sends. The module must accept or refuse each rule as
rust/uapi/xt_RUSTMASQ.h describes. For each refusal, the kernel's log must name the wrong field, until the log's rate
limit is reached. Accepted rules are read back, and must not contain the kernel's private part. Prints TAP.

Run it as root in a network namespace of its own, while no namespace has a RUSTMASQ rule: it reloads the module.
"""

import ctypes
import errno
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from tap import done_testing, result

TO_PORTS, RANDOM, RANDOM_FULLY, REJECT = 1, 2, 4, 8
# At most one of these: --full-cone, --port-restricted-cone, --address-restricted-cone.
CONES = (16, 32, 64)
ALL_FLAGS = TO_PORTS | RANDOM | RANDOM_FULLY | REJECT | sum(CONES)
# Of revision 1 alone, which has no TO_PORTS.
PSID, EXCEPT_RESERVED, ROUTE_SOURCE, KEEP_OWN = 128, 256, 512, 1024
ALL_FLAGS_1 = ALL_FLAGS & ~TO_PORTS | PSID | EXCEPT_RESERVED | ROUTE_SOURCE | KEEP_OWN
# The most ranges of a list.
RANGES = 15
# The size of a rule by revision, and of the part that userspace fills in.
SIZES, USER_SIZES = (48, 168), (16, 136)
# The seed for random bytes.
SEED = 1
# The number of lines about refused rules that the module logs at once after it is loaded.
LINES = 10
LIBC = ctypes.CDLL(None, use_errno=True)


def rule_info(flags=0, first=0, last=0, reserved=bytes(8), private=bytes(32)):
    """Returns a struct xt_rustmasq_info."""
    return struct.pack("=I", flags) + struct.pack("!HH", first, last) + reserved + private


def ranges_data(ranges):
    """Returns an array of struct xt_rustmasq_ports."""
    return b"".join(struct.pack("!HH", *each) for each in ranges).ljust(4 * RANGES, b"\0")


def rule_info_1(flags=0, to_ports=(), except_ports=(), psid=(0, 0, 0), share=0, counts=None, reserved=bytes(2),
                private=bytes(32)):
    """Returns a struct xt_rustmasq_info_v1. The counts of ranges are the right ones unless they are given."""
    counts = counts or (len(to_ports), len(except_ports))
    offset, length, identifier = psid
    fields = struct.pack("=II", flags, share) + struct.pack("!HBBBB", identifier, offset, length, *counts) + reserved
    return fields + ranges_data(to_ports) + ranges_data(except_ports) + private


def revision_of(rule):
    """Returns the revision of a rule, by its size."""
    return SIZES.index(len(rule))


def ranges_in(rule, place):
    return [struct.unpack_from("!HH", rule, place + 4 * n) for n in range(RANGES)]


def expected_list(name, count, ranges):
    """Returns what expected returns, for one list of revision 1."""
    if count > RANGES:
        return f"{name}_count is {count} "
    before = -1
    for n, (first, last) in enumerate(ranges):
        if n >= count:
            if first or last:
                return f"{name} has {first}-{last} behind its {name}_count ranges "
            continue
        if first == 0 or last < first:
            return f"{name} has the range {first}-{last} "
        if first <= before + 1:
            return f"{name} has {first}-{last} not behind the range before it "
        before = last
    return None


def ports_left(to_ports, psid, except_ports):
    """Returns whether a rule leaves a port. psid is None, or offset, length and identifier."""
    ports = set(range(1, 1 << 16))
    if psid:
        offset, length, identifier = psid
        rest = 16 - offset - length
        ports = {(a << 16 - offset) + (identifier << rest) + j
                 for a in range(int(offset > 0), 1 << offset) for j in range(1 << rest)} - {0}
    elif to_ports:
        ports = {port for first, last in to_ports for port in range(first, last + 1)}
    return any(all(not first <= port <= last for first, last in except_ports) for port in ports)


def expected_1(rule):
    """Returns the same as expected, for revision 1."""
    (flags,) = struct.unpack_from("=I", rule)
    identifier, offset, length, *counts = struct.unpack_from("!HBBBB", rule, 8)
    to_ports, except_ports = ranges_in(rule, 16), ranges_in(rule, 76)
    if flags & ~ALL_FLAGS_1:
        return f"flags has unknown bits {flags & ~ALL_FLAGS_1:#x} "
    if any(rule[14:16]):
        return "reserved is not zero"
    wrong = expected_list("to_ports", counts[0], to_ports)
    if wrong:
        return wrong
    if flags & PSID and (offset + length > 16 or identifier >> length):
        return f"psid is {offset}/{length}/{identifier} (allowed"
    if not flags & PSID and (offset or length or identifier):
        return f"psid is {offset}/{length}/{identifier} without "
    wrong = expected_list("except_ports", counts[1], except_ports)
    if wrong:
        return wrong
    if flags & PSID and counts[0]:
        return "to_ports_count is not 0 with XT_RUSTMASQ_PSID"
    if (flags & sum(CONES)).bit_count() > 1:
        return f"flags has {flags & sum(CONES):#x} "
    psid = (offset, length, identifier) if flags & PSID else None
    if not ports_left(to_ports[: counts[0]], psid, except_ports[: counts[1]]):
        return "no port is left "
    return None


def expected(rule):
    """Returns None if the module must accept the rule, else the start of the message that the log must contain."""
    if revision_of(rule) == 1:
        return expected_1(rule)
    (flags,) = struct.unpack_from("=I", rule)
    first, last = struct.unpack_from("!HH", rule, 4)
    if flags & ~ALL_FLAGS:
        return f"flags has unknown bits {flags & ~ALL_FLAGS:#x} "
    if any(rule[8:16]):
        return "reserved is not zero"
    if not flags & TO_PORTS:
        if first or last:
            return f"min_port and max_port are {first} and {last} without "
    elif first == 0:
        return "min_port is 0 "
    elif last < first:
        return f"max_port {last} is less than min_port {first}"
    if (flags & sum(CONES)).bit_count() > 1:
        return f"flags has {flags & sum(CONES):#x} "
    return None


def chosen_rules():
    """Yields the rules that get a result of their own, as (description, rule)."""
    junk = random.Random(SEED).randbytes(32)
    yield "no options", rule_info()
    yield "a range", rule_info(TO_PORTS, 1000, 2000)
    yield "the widest range", rule_info(TO_PORTS, 1, 65535)
    yield "one port", rule_info(TO_PORTS, 65535, 65535)
    for cone in CONES:
        yield f"all options with flag {cone}", rule_info(ALL_FLAGS & ~sum(CONES) | cone, 258, 513)
        yield f"two cones, without flag {cone}", rule_info(sum(CONES) & ~cone)
    yield "all cones", rule_info(ALL_FLAGS, 258, 513)
    yield "random alone", rule_info(RANDOM)
    yield "random-fully alone", rule_info(RANDOM_FULLY)
    yield "reject alone", rule_info(REJECT)
    yield "junk in the private part", rule_info(private=junk)
    yield "a range, and junk in the private part", rule_info(TO_PORTS, 7, 8, private=junk)
    yield "all ones in the private part", rule_info(RANDOM, private=b"\xff" * 32)
    for bit in range(32):
        if not ALL_FLAGS & 1 << bit:
            yield f"unknown flag bit {bit}", rule_info(1 << bit)
    yield "an unknown flag bit among known ones", rule_info(ALL_FLAGS | 128, 7, 8)
    yield "all flag bits", rule_info(0xFFFFFFFF, 7, 8)
    for place in range(8):
        yield f"reserved byte {place}", rule_info(reserved=bytes(place) + b"\x01" + bytes(7 - place))
    yield "a reserved byte in a rule with a range", rule_info(TO_PORTS, 7, 8, reserved=b"\x80" + bytes(7))
    yield "a range that begins with 0", rule_info(TO_PORTS, 0, 10)
    yield "port 0", rule_info(TO_PORTS, 0, 0)
    yield "a reversed range", rule_info(TO_PORTS, 10, 9)
    yield "a range that ends with 0", rule_info(TO_PORTS, 10, 0)
    yield "a range that is reversed in host order alone", rule_info(TO_PORTS, 0x0200, 0x0103)
    yield "ports without their flag", rule_info(0, 7, 8)
    yield "a first port without its flag", rule_info(RANDOM, 7, 0)
    yield "a last port without its flag", rule_info(RANDOM_FULLY, 0, 8)
    yield "all zeros but the private part", bytes(16) + junk
    yield "all ones", b"\xff" * 48
    yield "junk", random.Random(SEED + 1).randbytes(48)
    for what, rule in chosen_rules_1():
        yield f"revision 1, {what}", rule


def chosen_rules_1():
    """Yields the same of revision 1."""
    junk = random.Random(SEED).randbytes(32)
    apart = [(4000 * n + 1, 4000 * n + 100) for n in range(RANGES)]
    yield "no options", rule_info_1()
    yield "a range", rule_info_1(0, [(1000, 2000)])
    yield "15 ranges", rule_info_1(0, apart)
    yield "15 exceptions", rule_info_1(0, [(1, 65535)], apart)
    yield "ranges of one port with one between them", rule_info_1(0, [(1, 1), (3, 3), (65535, 65535)])
    yield "exceptions alone", rule_info_1(0, [], [(30000, 32767)])
    yield "a port set", rule_info_1(PSID, psid=(6, 8, 52))
    yield "a port set of no bits", rule_info_1(PSID)
    yield "a port set with the last identifier", rule_info_1(PSID, psid=(0, 16, 65535))
    yield "a port set with an offset of 16 bits", rule_info_1(PSID, psid=(16, 0, 0))
    yield "a port set with exceptions", rule_info_1(PSID, [], [(1, 2000)], psid=(6, 8, 52))
    yield "a share", rule_info_1(share=0xFFFFFFFF)
    for cone in CONES:
        flags = ALL_FLAGS_1 & ~sum(CONES) & ~PSID | cone
        yield f"all options with flag {cone}", rule_info_1(flags, [(258, 513), (600, 700)], [(300, 300)], share=7,
                                                           private=junk)
    yield "all ones in the private part", rule_info_1(RANDOM, private=b"\xff" * 32)
    for bit in range(32):
        if not ALL_FLAGS_1 & 1 << bit:
            yield f"unknown flag bit {bit}", rule_info_1(1 << bit)
    for place in range(2):
        yield f"reserved byte {place}", rule_info_1(reserved=bytes(place) + b"\x01" + bytes(1 - place))
    yield "two cones", rule_info_1(CONES[0] | CONES[1])
    for name, lists in (("range", lambda *ranges: (ranges, ())), ("exception", lambda *ranges: ((), ranges))):
        yield f"one {name} that begins with 0", rule_info_1(0, *lists((0, 5)))
        yield f"a reversed {name}", rule_info_1(0, *lists((6, 5)))
        yield f"one {name} that touches the one before it", rule_info_1(0, *lists((1, 5), (6, 9)))
        yield f"one {name} in the one before it", rule_info_1(0, *lists((1, 50), (6, 9)))
        yield f"one {name} below the one before it", rule_info_1(0, *lists((7, 9), (1, 5)))
        yield f"one {name} that comes twice", rule_info_1(0, *lists((7, 9), (7, 9)))
        yield f"one {name} behind the last port", rule_info_1(0, *lists((7, 65535), (1, 1)))
    yield "a range behind the count", rule_info_1(0, [(1, 2), (4, 5)], counts=(1, 0))
    yield "an exception behind the count", rule_info_1(0, [], [(1, 2)], counts=(0, 0))
    yield "a count of 16", rule_info_1(0, apart, counts=(16, 0))
    yield "a count of 255 exceptions", rule_info_1(0, [], apart, counts=(0, 255))
    yield "a count of ranges that are 0", rule_info_1(counts=(1, 0))
    yield "a port set and a range", rule_info_1(PSID, [(1, 2)], psid=(6, 8, 52))
    yield "a port set of 17 bits", rule_info_1(PSID, psid=(9, 8, 0))
    yield "a port set of 510 bits", rule_info_1(PSID, psid=(255, 255, 0))
    yield "an identifier that is too large", rule_info_1(PSID, psid=(6, 8, 256))
    yield "a port set without its flag", rule_info_1(psid=(6, 8, 52))
    yield "an offset without the flag", rule_info_1(psid=(6, 0, 0))
    yield "a port set of port 0", rule_info_1(PSID, psid=(0, 16, 0))
    yield "exceptions that leave no port", rule_info_1(0, [], [(1, 65535)])
    yield "exceptions that leave no port of a list", rule_info_1(0, [(5, 9), (20, 30)], [(1, 9), (15, 40)])
    yield "exceptions that leave no port of a set", rule_info_1(PSID, [], [(1, 255)], psid=(0, 8, 0))
    yield "all ones", b"\xff" * 168
    yield "junk", random.Random(SEED + 1).randbytes(168)


def random_list(rng):
    """Returns the ranges of a list, which are wrong now and then."""
    ports = sorted(rng.sample(range(1, 65536), 2 * rng.choice((0, 0, 1, 1, 2, 3, RANGES))))
    ranges = list(zip(ports[::2], ports[1::2]))
    if ranges and rng.random() < 0.2:
        ranges[rng.randrange(len(ranges))] = tuple(rng.choice((0, 1, ports[0], 65535)) for _ in range(2))
    return ranges


def nearly_right_1(rng):
    """Returns the same as nearly_right, of revision 1."""
    flags = rng.choice((0, RANDOM, RANDOM_FULLY, REJECT)) | rng.choice((0, 0, *CONES, rng.randrange(8) << 4))
    flags |= rng.choice((0, 0, PSID, EXCEPT_RESERVED, ROUTE_SOURCE, KEEP_OWN, rng.randrange(16) << 7))
    if rng.random() < 0.1:
        flags |= 1 << rng.randrange(32)
    psid = (0, 0, 0)
    if flags & PSID or rng.random() < 0.05:
        length = rng.randrange(18)
        psid = (rng.randrange(18 - length), length, rng.randrange(1 << min(16, length + (rng.random() < 0.2))))
    to_ports = random_list(rng) if not flags & PSID or rng.random() < 0.1 else []
    except_ports = random_list(rng) if rng.random() < 0.95 else [(1, 65535)]
    counts = (len(to_ports), len(except_ports))
    if rng.random() < 0.1:
        counts = (rng.choice((0, 1, RANGES, RANGES + 1, 255)), counts[1])
    reserved = rng.randbytes(2) if rng.random() < 0.1 else bytes(2)
    share = rng.choice((0, 0, 1, rng.randrange(1 << 32)))
    return rule_info_1(flags, to_ports, except_ports, psid, share, counts, reserved, rng.randbytes(32))


def nearly_right(rng, revision=0):
    """Returns a random rule in which each field is wrong now and then."""
    if revision == 1:
        return nearly_right_1(rng)
    flags = rng.randrange(16) | rng.choice((0, 0, *CONES, rng.randrange(8) << 4))
    if rng.random() < 0.2:
        flags |= 1 << rng.randrange(32)
    ports = [rng.choice((0, 1, 255, 256, 65535, rng.randrange(65536))) for _ in range(2)]
    if rng.random() < 0.5:
        ports.sort()
    if not flags & TO_PORTS and rng.random() < 0.7:
        ports = [0, 0]
    reserved = rng.randbytes(8) if rng.random() < 0.2 else bytes(8)
    return rule_info(flags, *ports, reserved, rng.randbytes(32))


def padded(data, size):
    return data + bytes(-len(data) % size)


def target(name, data, revision=0, size=None):
    """Returns a struct xt_entry_target with its data."""
    return struct.pack("=H29sB", size or 32 + len(data), name, revision) + data


def error_text(error):
    return errno.errorcode.get(error, str(error)) if error else "accepted"


class Legacy:
    """Sends rules as iptables-legacy does: a whole table nat at a time, through setsockopt."""

    SET_REPLACE, GET_INFO, GET_ENTRIES = 64, 64, 65
    HOOKS = (0, 1, 3, 4)  # hook numbers of the chains of table nat
    POSTROUTING = 4
    ACCEPT = struct.pack("=i4x", -2)

    def __init__(self, family):
        self.ipv6 = family == socket.AF_INET6
        self.level = socket.IPPROTO_IPV6 if self.ipv6 else socket.IPPROTO_IP
        self.socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        # The size of struct ipt_ip or ip6t_ip6, with which an entry starts. All zeros match any packet.
        self.head = 136 if self.ipv6 else 84
        self.entry_size = 168 if self.ipv6 else 112
        error = self.replace(b"")
        if error:
            sys.exit(f"tests/tools/rule_abi.py: cannot set up an empty table: {error_text(error)}")

    def entry(self, rest):
        """Returns an entry for all packets, with this target."""
        fields = bytes(self.head) + struct.pack("=IHHI", 0, self.entry_size, self.entry_size + len(rest), 0)
        return padded(fields, 8) + bytes(16) + rest

    def table(self, rest, hook):
        """Returns a table nat with one rule in a chain, as (entries, offsets of chains, offsets of policies)."""
        entries, begin, policy = b"", [0] * 5, [0] * 5
        for chain in self.HOOKS:
            begin[chain] = len(entries)
            if rest and chain == hook:
                entries += self.entry(rest)
            policy[chain] = len(entries)
            entries += self.entry(target(b"", self.ACCEPT))
        entries += self.entry(target(b"ERROR", padded(b"ERROR".ljust(30, b"\0"), 32)))
        return entries, begin, policy

    def getsockopt(self, option, request):
        """Calls getsockopt with a request in the buffer, which Python's own function cannot pass."""
        buffer = ctypes.create_string_buffer(request, len(request))
        size = ctypes.c_uint(len(request))
        if LIBC.getsockopt(self.socket.fileno(), self.level, option, buffer, ctypes.byref(size)) != 0:
            sys.exit(f"tests/tools/rule_abi.py: getsockopt {option}: {error_text(ctypes.get_errno())}")
        return buffer.raw

    def info(self):
        """Returns (number of rules, size) of the table nat."""
        return struct.unpack_from("=II", self.getsockopt(self.GET_INFO, struct.pack("=32s52x", b"nat")), 32 + 4 + 40)

    def replace(self, rest, hook=POSTROUTING):
        """Replaces the table by one with this target. Returns the error, or 0."""
        entries, begin, policy = self.table(rest, hook)
        old = self.info()[0]
        counters = ctypes.create_string_buffer(16 * old)
        request = struct.pack("=32sIII5I5IIQ", b"nat", 0x1B, len(self.HOOKS) + bool(rest) + 1, len(entries),
                              *begin, *policy, old, ctypes.addressof(counters))
        try:
            self.socket.setsockopt(self.level, self.SET_REPLACE, request + entries)
        except OSError as error:
            return error.errno
        return 0

    def entries(self):
        size = self.info()[1]
        return self.getsockopt(self.GET_ENTRIES, struct.pack("=32sI4x", b"nat", size) + bytes(size))[40:]

    def send(self, rule):
        """Makes this the only rule. Returns the error, or 0, and the rule as read back, or None."""
        error = self.replace(target(b"RUSTMASQ", rule, revision_of(rule)))
        if error:
            return error, None
        entries = self.entries()
        place = entries.index(b"RUSTMASQ\0") - 2
        (size,) = struct.unpack_from("=H", entries, place)
        return 0, entries[place + 32 : place + size]

    def others(self):
        """Yields (description, error) for rules that x_tables refuses before it calls the module's check."""
        yield "a rule of 40 bytes", self.replace(target(b"RUSTMASQ", rule_info()[:40]))
        yield "a rule of 56 bytes", self.replace(target(b"RUSTMASQ", rule_info() + bytes(8)))
        yield "a rule without data", self.replace(target(b"RUSTMASQ", b""))
        yield "a target that claims to be larger than its rule", self.replace(target(b"RUSTMASQ", rule_info(), size=96))
        yield "a rule in PREROUTING", self.replace(target(b"RUSTMASQ", rule_info()), hook=0)
        yield "revision 2", self.replace(target(b"RUSTMASQ", rule_info_1(), revision=2))
        yield "a rule of revision 0 as revision 1", self.replace(target(b"RUSTMASQ", rule_info(), revision=1))
        yield "a rule of revision 1 as revision 0", self.replace(target(b"RUSTMASQ", rule_info_1(), revision=0))

    def clear(self):
        return self.replace(b"")


class Nft:
    """Sends rules as iptables-nft does: one at a time, through nfnetlink, with an expression of nft_compat."""

    NFNL_SUBSYS_NFTABLES, NFPROTO_INET = 10, 1
    BATCH_BEGIN, BATCH_END = 16, 17
    NEWTABLE, DELTABLE, NEWCHAIN, NEWRULE, GETRULE, DELRULE = 0, 2, 3, 6, 7, 8
    REQUEST, ACK, DUMP, CREATE, APPEND = 1, 4, 0x300, 0x400, 0x800
    POSTROUTING, PREROUTING = 4, 0

    def __init__(self, family):
        self.family = family  # NFPROTO_IPV4 and NFPROTO_IPV6 have the numbers of AF_INET and AF_INET6
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.socket.bind((0, 0))
        self.sequence = 0
        self.table(b"nat", b"nat", self.POSTROUTING, b"POSTROUTING")
        self.table(b"nat", b"nat", self.PREROUTING, b"PREROUTING")
        self.table(b"filter", b"filter", self.POSTROUTING, b"POSTROUTING")

    @staticmethod
    def attribute(kind, data, nested=False):
        return padded(struct.pack("=HH", 4 + len(data), kind | (0x8000 if nested else 0)) + data, 4)

    @staticmethod
    def attributes(data):
        """Returns the attributes in the data, as {kind: data}."""
        found = {}
        while len(data) >= 4:
            size, kind = struct.unpack_from("=HH", data)
            found[kind & 0x3FFF] = data[4:size]
            data = data[(size + 3) & ~3 :]
        return found

    def message(self, kind, flags, data, family=0, resource=0):
        self.sequence += 1
        return struct.pack("=IHHII", 20 + len(data), kind, flags | self.REQUEST, self.sequence, 0) + struct.pack(
            "!BBH", family, 0, resource) + data

    def batch(self, kind, flags, data):
        """Sends one message in a batch. Returns its error, or 0."""
        begin = self.message(self.BATCH_BEGIN, 0, b"", resource=self.NFNL_SUBSYS_NFTABLES)
        middle = self.message(self.NFNL_SUBSYS_NFTABLES << 8 | kind, flags | self.ACK, data, self.family)
        wanted = self.sequence
        end = self.message(self.BATCH_END, 0, b"", resource=self.NFNL_SUBSYS_NFTABLES)
        self.socket.send(begin + middle + end)
        answer = None
        while answer is None:
            for _, sequence, body in self.received():
                if sequence == wanted:
                    (answer,) = struct.unpack_from("=i", body)
        return -answer

    def received(self):
        """Receives once. Yields (kind, sequence, body) of each message."""
        data = self.socket.recv(1 << 16)
        while len(data) >= 16:
            size, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
            yield kind, sequence, data[16:size]
            data = data[(size + 3) & ~3 :]

    def table(self, name, kind, hook, chain):
        """Makes a table with a base chain."""
        self.batch(self.NEWTABLE, self.CREATE, self.attribute(1, name + b"\0"))
        attributes = self.attribute(1, name + b"\0") + self.attribute(3, chain + b"\0")
        where = self.attribute(1, struct.pack("!I", hook)) + self.attribute(2, struct.pack("!i", 100))
        attributes += self.attribute(4, where, nested=True) + self.attribute(7, kind + b"\0")
        error = self.batch(self.NEWCHAIN, self.CREATE, attributes)
        if error:
            sys.exit(f"tests/tools/rule_abi.py: cannot make the chain {chain.decode()}: {error_text(error)}")

    def add(self, rule, table=b"nat", chain=b"POSTROUTING", revision=0):
        expression = self.attribute(1, b"RUSTMASQ\0") + self.attribute(2, struct.pack("!I", revision))
        expression += self.attribute(3, rule)
        element = self.attribute(1, b"target\0") + self.attribute(2, expression, nested=True)
        expressions = self.attribute(1, element, nested=True)
        return self.batch(self.NEWRULE, self.CREATE | self.APPEND, self.attribute(1, table + b"\0") + self.attribute(
            2, chain + b"\0") + self.attribute(4, expressions, nested=True))

    def dumped_rules(self):
        """Returns the attributes of each rule of the family in the namespace, as the kernel sends them."""
        self.socket.send(self.message(self.NFNL_SUBSYS_NFTABLES << 8 | self.GETRULE, self.DUMP, b"", self.family))
        found, done = [], False
        while not done:
            for kind, _, body in self.received():
                done = done or kind == 3
                if kind == self.NFNL_SUBSYS_NFTABLES << 8 | self.NEWRULE:
                    found.append(body[4:])
        return found

    def dump(self):
        """Returns the data of each RUSTMASQ target in the namespace."""
        found = []
        for rule in self.dumped_rules():
            expressions = self.attributes(rule).get(4, b"")
            found += [self.attributes(self.attributes(element)[2])[3] for element in
                      self.attributes(expressions).values()]
        return found

    def clear(self):
        return self.batch(self.DELRULE, 0, self.attribute(1, b"nat\0"))

    def send(self, rule):
        """Does the same as Legacy.send."""
        self.clear()
        error = self.add(rule, revision=revision_of(rule))
        if error:
            return error, None
        (back,) = self.dump()
        return 0, back

    def others(self):
        yield "a rule of 40 bytes", self.add(rule_info()[:40])
        yield "a rule of 56 bytes", self.add(rule_info() + bytes(8))
        yield "a rule of 1 byte", self.add(b"\0")
        yield "a rule in PREROUTING", self.add(rule_info(), chain=b"PREROUTING")
        yield "a rule in the table filter", self.add(rule_info(), table=b"filter")
        yield "revision 2", self.add(rule_info_1(), revision=2)
        yield "a rule of revision 0 as revision 1", self.add(rule_info(), revision=1)
        yield "a rule of revision 1 as revision 0", self.add(rule_info_1(), revision=0)
        # The target is registered for IPv4 and IPv6 only, and the family inet is neither.
        family, self.family = self.family, self.NFPROTO_INET
        self.table(b"nat", b"nat", self.POSTROUTING, b"POSTROUTING")
        yield "a rule of the family inet", self.add(rule_info())
        self.batch(self.DELTABLE, 0, self.attribute(1, b"nat\0"))
        self.family = family


class Log:
    """Reads the module's messages from the kernel's log."""

    def __init__(self):
        self.file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.file, 0, os.SEEK_END)

    def refusals(self):
        """Returns the messages about refused rules since the last call."""
        found = []
        while True:
            try:
                record = os.read(self.file, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            except BrokenPipeError:
                continue  # The log overwrote records that were not read: the next read goes on with the oldest.
            refusal = re.search(r";rustmasq: rule refused: (.*)", record)
            if refusal:
                found.append(refusal[1])


def reload_module():
    """Reloads the module, which resets the log's rate limit. The kernel may take a while to release the last rule."""
    end = time.monotonic() + 20
    while subprocess.run(["modprobe", "-r", "rustmasq"], capture_output=True, check=False).returncode != 0:
        if time.monotonic() > end:
            sys.exit("tests/tools/rule_abi.py: the module cannot be removed")
    subprocess.run(["modprobe", "rustmasq"], check=True)


class Checker:
    """Sends rules through an interface (Legacy or Nft) and compares the kernel's answers with the model."""

    def __init__(self, interface, what):
        self.interface, self.what, self.log = interface, what, Log()
        self.checked = self.accepted = self.lines = 0

    def reset(self):
        """Removes the rules and reloads the module."""
        self.interface.clear()
        reload_module()
        self.log.refusals()
        self.lines = 0

    def finding(self, rule):
        """Sends the rule. Returns what is wrong with the kernel's answer, or None."""
        wanted = expected(rule)
        error, back = self.interface.send(rule)
        logged = self.log.refusals()
        self.lines += len(logged)
        # The rule's size, table and chain are right, so EINVAL can only come from the module's check.
        self.checked += error in (0, errno.EINVAL)
        self.accepted += not error
        if wanted is None:
            if error or logged:
                return f"{error_text(error)}, {logged}, expected to be accepted"
            revision = revision_of(rule)
            user = USER_SIZES[revision]
            if back != rule[:user] + bytes(len(back) - user) or len(back) not in (user, SIZES[revision]):
                return f"sent {rule.hex()}, read back {back.hex()}"
            return None
        if error != errno.EINVAL:
            return f"{error_text(error)}, expected EINVAL"
        if not logged and self.lines >= LINES:
            return None
        if len(logged) != 1 or not logged[0].startswith(wanted):
            return f"the log contains {logged}, expected '{wanted}'"
        return None

    def report(self, what, finding):
        result(f"{self.what}: {what}", finding)

    def run(self):
        self.reset()
        for what, rule in chosen_rules():
            if self.lines == LINES:
                self.reset()
            self.report(f"{what}: {(expected(rule) or 'accepted').rstrip()}", self.finding(rule))
        self.reset()
        rng = random.Random(SEED + 2)
        rules = [nearly_right(rng, n % 2) for n in range(300)]
        findings = [f"{rule.hex()}: {found}" for rule in rules if (found := self.finding(rule))]
        self.report("300 rules that are nearly right", "\n    # ".join(findings[:5]))
        # They take some seconds at most, and the limit is LINES every 5 seconds.
        self.report(f"they left few lines in the log ({self.lines})", self.lines > 4 * LINES and f"{self.lines} lines")
        self.reset()
        for what, error in self.interface.others():
            logged = self.log.refusals()
            finding = None if error and not logged else f"{error_text(error)}, the log contains {logged}"
            self.report(f"{what}: {error_text(error)}, and the module's check was not called", finding)
        self.interface.clear()
        print(f"# {self.what}: {self.checked} rules reached the module's check, {self.accepted} were accepted",
              flush=True)


def main():
    interfaces = {"legacy": Legacy, "nft": Nft}
    if len(sys.argv) != 2 or sys.argv[1] not in interfaces:
        sys.exit(__doc__)
    for family, name in ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6")):
        Checker(interfaces[sys.argv[1]](family), f"{sys.argv[1]}, {name}").run()
    done_testing()


if __name__ == "__main__":
    main()
