#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Sends randomly changed tables or rules with RUSTMASQ to the kernel and compares its answers with a model.

Usage: tests/tools/rule_abi_fuzz.py legacy|nft COUNT SEED

Sends COUNT tables or rules, made from SEED, for each of IPv4 and IPv6, half of them with rules of each revision. Any
part of them may be changed: sizes, offsets, names, revisions, chains, matches, counters, and the fields of the rule.
Class Breakpoints finds out how far the kernel went with each. Where the kernel called the module's check, the check
must have decided as the model in tests/tools/rule_abi.py does. One in ten must reach the check, and one in a hundred
must be accepted. Prints TAP.

Run it as root in a network namespace of its own, while no namespace has a RUSTMASQ rule.
"""

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import random
import re
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from rule_abi import (
    LIBC,
    SIZES,
    USER_SIZES,
    Legacy,
    Nft,
    error_text,
    expected,
    nearly_right,
    padded,
    reload_module,
    rule_info,
    rule_info_1,
    target,
)
from tap import done_testing, result

NAME = b"RUSTMASQ"
# The reasons for which the kernel may stop, in the order of its checks.
STAGES = ("the message or the name", "the revision or the size", "the table or the chain", "the module's check",
          "a later check", "nothing", "nothing, without a RUSTMASQ rule")
MESSAGE, DESCRIPTION, PLACE, CHECK, REST, ACCEPTED, OTHERS = STAGES


# --- How far the kernel went


class Breakpoints:
    """Counts the kernel's accesses to members of the module's struct xt_target, with hardware breakpoints.

    This needs no support by the module, and of the kernel's configuration only perf.
    """

    NR_PERF_EVENT_OPEN, TYPE_BREAKPOINT, READ_OR_WRITE, FORMAT_GROUP = 298, 5, 3, 8
    # Offset and size of each member. x_tables reads the revision if the name is right, and the table if the size is
    # right. It reads checkentry once for each rule, right before it calls the module's check.
    MEMBERS = {"revision": (45, 1), "table": (88, 8), "checkentry": (56, 8)}
    NAME_AT = 16

    def __init__(self, family, revision):
        place = self.place(family, revision)
        self.files = []
        for offset, length in self.MEMBERS.values():
            self.files.append(self.breakpoint(place + offset, length))
        self.before = dict.fromkeys(self.MEMBERS, 0)

    def breakpoint(self, address, length):
        """Sets a breakpoint for this process. All of them are in one group, which is read at once."""
        attributes = bytearray(112)
        struct.pack_into("=II", attributes, 0, self.TYPE_BREAKPOINT, len(attributes))
        struct.pack_into("=Q", attributes, 32, self.FORMAT_GROUP)
        struct.pack_into("=IQQ", attributes, 52, self.READ_OR_WRITE, address, length)
        buffer = ctypes.create_string_buffer(bytes(attributes), len(attributes))
        file = LIBC.syscall(self.NR_PERF_EVENT_OPEN, buffer, 0, -1, self.files[0] if self.files else -1, 0)
        if file < 0:
            sys.exit(f"tests/tools/rule_abi_fuzz.py: cannot set a breakpoint at {address:#x}: "
                     f"{error_text(ctypes.get_errno())}")
        return file

    def place(self, family, revision):
        """Returns the address of the module's struct xt_target for the family and the revision.

        Revision 0 comes first, and in each the one for IPv4.
        """
        with open(f"/lib/modules/{os.uname().release}/updates/rust/rustmasq.ko", "rb") as file:
            found = list(re.finditer(NAME + b"\0", section(file.read(), b".data")))
        if len(found) != 4:
            sys.exit(f"tests/tools/rule_abi_fuzz.py: the module has {len(found)} targets, expected 4")
        with open("/sys/module/rustmasq/sections/.data", encoding="ascii") as file:
            return int(file.read(), 16) + found[2 * revision + (family == socket.AF_INET6)].start() - self.NAME_AT

    def counts(self):
        """Returns the number of accesses to each member since the last call."""
        now = dict(zip(self.MEMBERS, struct.unpack("=8x3Q", os.read(self.files[0], 64))))
        seen = {member: now[member] - self.before[member] for member in now}
        self.before = now
        return seen

    def close(self):
        for file in self.files:
            os.close(file)


def section(elf, wanted):
    """Returns the content of a section of a 64-bit ELF file."""
    (table,) = struct.unpack_from("=Q", elf, 40)
    size, count, names = struct.unpack_from("=HHH", elf, 58)
    heads = [struct.unpack_from("=I20xQQ", elf, table + n * size) for n in range(count)]
    for name, start, length in heads:
        if elf.startswith(wanted + b"\0", heads[names][1] + name):
            return elf[start : start + length]
    return b""


# --- Changes


def c_string(data):
    return data.split(b"\0", 1)[0]


def other_number(rng, value, size):
    """Returns another integer: close to the old one, an extreme, or random."""
    kind = rng.randrange(6)
    if kind == 0:
        value += rng.choice((-1, 1)) * rng.choice((1, 2, 4, 8, 16, *SIZES))
    elif kind == 1:
        value = rng.choice((0, 1, -1, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1))
    elif kind == 2:
        value ^= 1 << rng.randrange(8 * size)
    elif kind == 3:
        value = rng.randrange(1 << 8 * size)
    else:
        value = rng.randrange(256)
    return value & ((1 << 8 * size) - 1)


def other_bytes(rng, data):
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if data:
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x80, 0xFF, rng.randrange(256)))
    return bytes(data)


def other_name(rng, names, size):
    """Returns a name, its NUL and random bytes or zeros behind it; or a name without NUL that fills the field."""
    name = rng.choice((*names, b"", b"rustmasq", b"RUSTMASQ2", b"RUSTMAS", b"\xff" * size, rng.randbytes(size)))
    rest = rng.choice((bytes(size), rng.randbytes(size)))
    return (name + (b"\0" + rest if len(name) < size else b""))[:size]


TABLES = b"nat filter mangle raw security".split()
TARGETS = b"RUSTMASQ RUSTMASQ MASQUERADE SNAT LOG ERROR REJECT".split()
MATCHES = b"udp tcp comment mark RUSTMASQ nonsense".split()


# --- iptables-legacy: whole tables


class LegacyFuzz(Legacy):
    """Makes tables nat, with RUSTMASQ and other targets, and changes them."""

    # The fields of a request in front of its entries: offset, size, and the weight of changing it.
    REQUEST = {"name": (0, 32, 3), "hooks": (32, 4, 2), "count": (36, 4, 2), "size": (40, 4, 2), "begin": (44, 20, 1),
               "policy": (64, 20, 1), "counters": (84, 4, 1), "pointer": (88, 8, 1)}
    HEADER = 96
    # The fields of an entry's target.
    TARGET = {"size": (0, 2, 12), "name": (2, 29, 6), "revision": (31, 1, 6)}

    def __init__(self, family, revision):
        super().__init__(family)
        self.revision, self.size = revision, SIZES[revision]
        # The kernel writes old counters to the middle of this buffer. A wrong number of them must not overwrite
        # anything else.
        self.buffer = mmap.mmap(-1, 1 << 16)
        self.counters = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer)) + (1 << 15)
        self.set_fields()

    def set_fields(self):
        """Sets the fields of an entry in front of its matches."""
        self.entry_fields = {"addresses": (0, self.head - (8 if self.ipv6 else 4), 3),
                             "protocol": (128 if self.ipv6 else 80, 2, 5), "flags": (130 if self.ipv6 else 82, 2, 2),
                             "cache": (self.head, 4, 1), "target": (self.head + 4, 2, 3), "next": (self.head + 6, 2, 3),
                             "comefrom": (self.head + 8, 4, 3), "counter": (self.entry_size - 16, 16, 3)}

    def entry_with(self, entry_target, matches=b""):
        """Returns an entry with this target."""
        offset = self.entry_size + len(matches)
        fields = bytes(self.head) + struct.pack("=IHHI", 0, offset, offset + len(entry_target), 0)
        return padded(fields, 8) + bytes(16) + matches + entry_target

    def ours(self, rng):
        """Returns an entry with RUSTMASQ, whose rule has a wrong size now and then."""
        rule = nearly_right(rng, self.revision)
        if rng.random() < 0.15:
            rule = (rule + rng.randbytes(32))[: self.size + rng.choice((-self.size, 8 - self.size, -8, -1, 1, 8, 32))]
        entry_target = padded(target(NAME, rule, rng.choice((self.revision,) * 19 + (1 - self.revision,))), 8)
        if rng.random() < 0.05:
            return self.entry_with(entry_target, target(rng.choice(MATCHES), rng.randbytes(8)))
        return self.entry_with(entry_target)

    def standard(self, verdict):
        return self.entry_with(target(b"", struct.pack("=i4x", verdict)))

    def chain_name(self, name):
        return self.entry_with(target(b"ERROR", name.ljust(32, b"\0")))

    def make_table(self, rng):
        """Returns a table that is valid except for its rules, as (entries, offsets of chains, offsets of policies)."""
        entries, begin, policy = [], [0] * 5, [0] * 5
        # Seldom another chain than POSTROUTING: there x_tables refuses RUSTMASQ.
        chosen = self.POSTROUTING if rng.random() < 0.93 else rng.choice(self.HOOKS)
        # Whether there is a user-defined chain, and the entries that jump to it.
        aside, jumps = rng.random() < 0.2, []
        for chain in self.HOOKS:
            begin[chain] = sum(map(len, entries))
            if chain == chosen:
                entries += [self.ours(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            if aside and rng.random() < (0.7 if chain == self.POSTROUTING else 0.05):
                jumps.append(len(entries))
                entries.append(self.standard(0))
            policy[chain] = sum(map(len, entries))
            entries.append(self.standard(-2))
        if aside:
            entries.append(self.chain_name(b"aside"))
            first = sum(map(len, entries))
            entries += [*(self.ours(rng) for _ in range(rng.choice((1, 2)))), self.standard(-5)]
            for jump in jumps:
                entries[jump] = self.standard(first)
        return [*entries, self.chain_name(b"ERROR")], begin, policy

    def case(self, rng):
        """Returns a request to replace the table."""
        entries, begin, policy = self.make_table(rng)
        starts = list(itertools.accumulate(map(len, entries), initial=self.HEADER))
        ours = [start for start, entry in zip(starts, entries) if NAME in entry]
        request = bytearray(struct.pack("=32sIII5I5IIQ", b"nat", 0x1B, len(entries), starts[-1] - self.HEADER,
                                        *begin, *policy, 5, self.counters) + b"".join(entries))
        for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3))):
            self.change(rng, request, rng.choice(ours if rng.random() < 0.7 else starts[:-1]))
        if rng.random() < 0.05:
            place = rng.randrange(self.HEADER, len(request))
            request[place : place + 16] = other_bytes(rng, request[place : place + 16])
        return bytes(request[: rng.randrange(len(request))] if rng.random() < 0.01 else request)

    def change(self, rng, request, entry):
        """Changes a field of the request, or of that entry."""
        (behind,) = struct.unpack_from("=H", request, entry + self.head + 4)
        (data,) = struct.unpack_from("=H", request, min(entry + behind, len(request) - 2))
        fields = [(0, self.REQUEST), (entry, self.entry_fields), (entry + behind, self.TARGET),
                  (entry + behind + 32, {"rule": (0, data - 32, 25)})]
        choices = [(name, start + place, size, weight) for start, some in fields
                   for name, (place, size, weight) in some.items()]
        name, place, size, _ = rng.choices(choices, [choice[3] for choice in choices])[0]
        if place + size <= len(request) and size > 0:
            request[place : place + size] = self.changed(rng, name, place, bytes(request[place : place + size]))

    def changed(self, rng, name, place, old):
        size = len(old)
        if name == "pointer":
            # Never an address that could be in the tool's other memory.
            return struct.pack("=Q", rng.choice((0, 1, self.counters + 3, (1 << 64) - 1, 0xFFFF888000000000, 1 << 56)))
        if name == "name":
            return other_name(rng, TABLES if place == 0 else TARGETS, size)
        if name == "rule":
            whole = size == self.size and rng.random() < 0.5
            return nearly_right(rng, self.revision) if whole else other_bytes(rng, old)
        if size not in (1, 2, 4):
            return other_bytes(rng, old)
        number = other_number(rng, int.from_bytes(old, "little"), size)
        if name in ("count", "counters") and number < 1 << 27:
            # The kernel would allocate that much memory, and run out of it.
            number &= 0xFFFF
        return number.to_bytes(size, "little")

    def put(self, request):
        """Sends the request. Returns the error, or 0."""
        try:
            self.socket.setsockopt(self.level, self.SET_REPLACE, request)
        except OSError as error:
            return error.errno
        return 0

    def replaced(self, request, rule, other):
        """Returns the request with another rule in place of this one."""
        return request.replace(rule, other)

    def shown(self, request):
        return request.hex()

    def sent_rules(self, request):
        """Returns the data of the RUSTMASQ rules in the request, up to the first entry that cannot be parsed."""
        return self.rules_in(request[self.HEADER :])

    def rules_in(self, entries):
        place, found = 0, []
        while place + self.entry_size + 32 <= len(entries):
            behind, following = struct.unpack_from("=HH", entries, place + (self.head + 4))
            if place + behind + 32 > len(entries) or not following:
                break
            size, name = struct.unpack_from("=H29s", entries, place + behind)
            if c_string(name) == NAME:
                found.append(entries[place + behind + 32 : place + behind + max(size, 32)])
            place += following
        return found

    def kept_rules(self):
        """Returns the data of the RUSTMASQ rules that the kernel has."""
        return self.rules_in(self.entries())

    def remove(self):
        self.clear()

    def left(self):
        """Returns the number of rules in the table, without the four policies and the end."""
        return self.info()[0] - 5


# --- iptables-nft: single rules


class Attribute:
    """An attribute of a message: bytes, or attributes."""

    def __init__(self, kind, content, kinds=()):
        self.kind, self.content = kind, content
        self.nested = isinstance(content, list)
        # Names that may replace the content.
        self.kinds = kinds
        # The length in the header, if it is not to be the right one.
        self.length = None

    def bytes(self):
        content = self.content if isinstance(self.content, bytes) else b"".join(each.bytes() for each in self.content)
        length = 4 + len(content) if self.length is None else self.length
        return padded(struct.pack("=HH", length & 0xFFFF, self.kind | (0x8000 if self.nested else 0)) + content, 4)

    def all(self):
        """Yields all attributes in this one, at any depth, as (parent, attribute)."""
        if isinstance(self.content, list):
            for each in self.content:
                yield self, each
                yield from each.all()


def attributes_in(data):
    """Yields (kind, data) of the attributes, up to the first invalid one."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4 or length > len(data):
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


class NftFuzz(Nft):
    """Makes rules, and changes their messages."""

    TABLES, CHAINS = (b"nat", b"nat", b"filter", b"other"), (b"POSTROUTING", b"PREROUTING", b"aside", b"other")

    def __init__(self, family, revision):
        super().__init__(family)
        self.revision, self.size = revision, SIZES[revision]
        names = Attribute(1, b"nat\0").bytes() + Attribute(3, b"aside\0").bytes()
        error = self.batch(self.NEWCHAIN, self.CREATE, names)
        if error:
            sys.exit(f"tests/tools/rule_abi_fuzz.py: cannot make a chain: {error_text(error)}")

    def expression(self, rng):
        """Returns an expression, mostly with RUSTMASQ."""
        if rng.random() < 0.1:
            return Attribute(1, [Attribute(1, rng.choice((b"counter\0", b"notrack\0", b"match\0", b"none\0")))])
        rule = nearly_right(rng, self.revision)
        if rng.random() < 0.15:
            rule = (rule + rng.randbytes(32))[: self.size + rng.choice((-self.size, 1 - self.size, -8, -1, 1, 8, 32))]
        revision = rng.choice((self.revision,) * 15 + (1 - self.revision, 256, 1 << 31))
        return Attribute(1, [Attribute(1, b"target\0"), Attribute(2, [
            Attribute(1, NAME + b"\0", TARGETS), Attribute(2, struct.pack("!I", revision)), Attribute(3, rule)])])

    def case(self, rng):
        """Returns (the message's flags, family, attributes)."""
        chain = self.CHAINS[0] if rng.random() < 0.85 else rng.choice(self.CHAINS)
        table = self.TABLES[0] if rng.random() < 0.9 else rng.choice(self.TABLES)
        rule = Attribute(0, [Attribute(1, table + b"\0", self.TABLES), Attribute(2, chain + b"\0", self.CHAINS)])
        if rng.random() < 0.4:
            protocol, flags = rng.choice((0, 6, 17, 65535, 1 << 16)), rng.choice((0, 0, 2, 1, 4, 1 << 31))
            rule.content.append(Attribute(5, [Attribute(1, struct.pack("!I", protocol)),
                                              Attribute(2, struct.pack("!I", flags))]))
        rule.content.append(Attribute(4, [self.expression(rng) for _ in range(rng.choice((1, 1, 1, 1, 2, 3)))]))
        if rng.random() < 0.2:
            rule.content.append(Attribute(7, rng.randbytes(rng.randrange(20))))
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
            self.change(rng, rule)
        data = b"".join(each.bytes() for each in rule.content)
        if rng.random() < 0.05:
            data = other_bytes(rng, data)
        if rng.random() < 0.01:
            data = data[: rng.randrange(len(data))]
        flags = self.CREATE | self.APPEND if rng.random() < 0.97 else rng.choice((0, self.CREATE, 0x100, 0x200))
        family = self.family if rng.random() < 0.97 else rng.choice((0, 1, 3, 5, 7, 12, 255))
        return flags, family, data

    def change(self, rng, rule):
        parent, chosen = rng.choice(list(rule.all()))
        kind = rng.randrange(8)
        if kind == 0:
            parent.content.remove(chosen)
        elif kind == 1:
            parent.content.insert(rng.randint(0, len(parent.content)), chosen)
        elif kind == 2:
            chosen.kind = rng.choice((0, chosen.kind + 1, rng.randrange(16), 0x3FFF))
        elif kind == 3:
            chosen.nested = not chosen.nested
        elif kind == 4:
            chosen.length = other_number(rng, len(chosen.bytes()), 2)
        elif chosen.kinds:
            chosen.content = other_name(rng, chosen.kinds, rng.choice((8, 12, 29, 32, 300)))
        elif isinstance(chosen.content, bytes):
            whole = len(chosen.content) == self.size and kind < 7
            chosen.content = nearly_right(rng, self.revision) if whole else other_bytes(rng, chosen.content)

    def put(self, case):
        flags, family, data = case
        begin = self.message(self.BATCH_BEGIN, 0, b"", resource=self.NFNL_SUBSYS_NFTABLES)
        middle = self.message(self.NFNL_SUBSYS_NFTABLES << 8 | self.NEWRULE, flags | self.ACK, data, family)
        wanted = self.sequence
        end = self.message(self.BATCH_END, 0, b"", resource=self.NFNL_SUBSYS_NFTABLES)
        self.socket.send(begin + middle + end)
        # The kernel has already sent its answers.
        answers = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                answers += [-struct.unpack_from("=i", body)[0] for kind, sequence, body in self.received()
                            if kind == 2 and sequence == wanted]
        # The last one counts: the kernel repeats a batch after it has loaded a module for it.
        return answers[-1] if answers else errno.ENOMSG

    def replaced(self, case, rule, other):
        return *case[:2], case[2].replace(rule, other)

    def shown(self, case):
        return f"{case[0]} {case[1]} {case[2].hex()}"

    def sent_rules(self, case):
        found = []
        for kind, element in attributes_in(dict(attributes_in(case[2])).get(4, b"")):
            expression = dict(attributes_in(element))
            of_target = dict(attributes_in(expression.get(2, b"")))
            if kind == 1 and c_string(expression.get(1, b"")) == b"target" and c_string(of_target.get(1, b"")) == NAME:
                found.append(of_target.get(3, b"")[: self.size])
        return found

    def kept_rules(self):
        self.socket.setblocking(True)
        return [found for rule in self.dumped_rules() for found in self.sent_rules((0, 0, rule))]

    def remove(self):
        """Removes all rules of the table nat. The target is not valid in other tables."""
        self.socket.setblocking(True)
        error = self.clear()
        if error:
            sys.exit(f"tests/tools/rule_abi_fuzz.py: cannot remove rules: {error_text(error)}")

    def left(self):
        return len(self.kept_rules())


# --- Comparing


class Checker:
    """Sends cases and compares the kernel's answers with the model."""

    def __init__(self, interface, family, revision, what):
        self.interface, self.what, self.breakpoints = interface, what, Breakpoints(family, revision)
        self.size, self.user_size = SIZES[revision], USER_SIZES[revision]
        self.simplest = (rule_info, rule_info_1)[revision]()
        self.stages = dict.fromkeys(STAGES, 0)

    def send(self, case):
        """Sends the case. Returns the error, and the kernel's accesses to members of the target."""
        self.breakpoints.counts()
        return self.interface.put(case), self.breakpoints.counts()

    def finding(self, case):
        """Sends the case. Returns (stage, what is wrong with the kernel's answer, or None)."""
        rules = self.interface.sent_rules(case)
        error, seen = self.send(case)
        checked = rules[: seen["checkentry"]]
        bad = [rule for rule in checked if len(rule) < self.size or expected(rule)]
        stage = self.stage(error, seen, bad)
        if len(checked) != seen["checkentry"]:
            return stage, f"the module's check was called for {seen['checkentry']} rules, but there are {len(rules)}"
        if bad and (bad != checked[-1:] or error != errno.EINVAL):
            return stage, f"{error_text(error)}, but '{expected(bad[0])}'"
        if stage == REST:
            return stage, self.refused(case, checked, error)
        return stage, None if error else self.kept(rules, checked)

    def stage(self, error, seen, bad):
        if not error:
            return ACCEPTED if seen["checkentry"] else OTHERS
        if seen["checkentry"]:
            return CHECK if bad else REST
        if seen["table"]:
            return PLACE
        return DESCRIPTION if seen["revision"] else MESSAGE

    def refused(self, case, checked, error):
        """Checks a case that was refused although its RUSTMASQ rules are valid.

        With the simplest rules in their place, it must be refused, too. Returns what is wrong, or None.
        """
        for rule in checked:
            case = self.interface.replaced(case, rule, self.simplest)
        again, seen = self.send(case)
        if not again:
            self.interface.remove()
        as_before = again == error and seen["checkentry"] == len(checked)
        return None if as_before else f"{error_text(error)}, although the RUSTMASQ rules are valid"

    def kept(self, rules, checked):
        """Reads back a case that was accepted, and removes it. Returns what is wrong, or None."""
        kept = self.interface.kept_rules()
        self.interface.remove()
        if rules != checked:
            return f"accepted, but the module's check was called for {len(checked)} rules of {len(rules)}"
        user = self.user_size
        if [rule[:user] for rule in kept] != [rule[:user] for rule in rules] or any(any(rule[user:]) for rule in kept):
            return f"read back {[rule.hex() for rule in kept]}"
        return None

    def report(self, good, what, finding=""):
        result(f"{self.what}: {what}", None if good else finding or "this is not true")

    def run(self, count, seed):
        findings = []
        for n in range(count):
            # The case depends on its number only, so that it can be repeated without those before it.
            case = self.interface.case(random.Random(f"{seed} {self.what} {n}"))
            stage, finding = self.finding(case)
            self.stages[stage] += 1
            if finding:
                self.interface.remove()
                findings.append(f"number {n}: {finding}: {self.interface.shown(case)}")
        reached = sum(self.stages[stage] for stage in (CHECK, REST, ACCEPTED))
        self.report(not findings, f"{count} cases: all answers are those of the model", "\n    # ".join(findings[:5]))
        self.report(10 * reached >= count, "a tenth reached the module's check", f"{reached} did")
        self.report(100 * self.stages[ACCEPTED] >= count, "a hundredth was accepted", f"{self.stages[ACCEPTED]} were")
        self.report(not self.interface.left(), "nothing is left in the tables", f"{self.interface.left()}")
        self.breakpoints.close()
        print(f"# {self.what}: {count} cases, stopped by: " +
              ", ".join(f"{stage}: {number}" for stage, number in self.stages.items()), flush=True)


@contextlib.contextmanager
def set_to(path, value):
    """Changes a kernel setting for the duration of a block."""
    with open(path, "r+", encoding="ascii") as file:
        before = file.read()
        file.write(value)
    yield
    with open(path, "w", encoding="ascii") as file:
        file.write(before)


def main():
    interfaces = {"legacy": LegacyFuzz, "nft": NftFuzz}
    if len(sys.argv) != 4 or sys.argv[1] not in interfaces:
        sys.exit(__doc__)
    for family, name in ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6")):
        for revision in range(len(SIZES)):
            interface = interfaces[sys.argv[1]](family, revision)
            checker = Checker(interface, family, revision, f"{sys.argv[1]}, {name}, revision {revision}")
            # The kernel must not search for modules with random names, nor spend time on waiting for RCU readers.
            with set_to("/proc/sys/kernel/modprobe", "\n"), set_to("/sys/kernel/rcu_expedited", "1\n"):
                checker.run(int(sys.argv[2]) // len(SIZES), sys.argv[3])
    reload_module()
    result("the module can be removed")
    done_testing()


if __name__ == "__main__":
    main()
