#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""tests/tools/rule_abi_fuzz.py legacy|nft COUNT SEED: sends COUNT tables or rules, made wrong by SEED, to the kernel,
in each family.

What is changed is any part of them: sizes, offsets, names, revisions, chains, what packets match, counters, and the
rule's own fields. Which stage each one came to is read from the target's description in the kernel (class Sights).
Of those that our check was asked about, it must have said what the model in tests/tools/rule_abi.py says. One in ten
must have come so far, and one in a hundred must have been accepted.

To be run as root in a network namespace of its own, where no other one has a RUSTMASQ rule. Says its results in TAP
lines.
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
from rule_abi import LIBC, Legacy, Nft, blob, error_text, expected, nearly_right, padded, reload_module, target
from tap import done_testing, result

NAME = b"RUSTMASQ"
SIZE = 48
# How far one may come.
STAGES = ("the message or the name", "the revision or the size", "the table or the chain", "our check",
          "what came after ours", "nothing", "nothing, without a rule of ours")
MESSAGE, DESCRIPTION, PLACE, CHECK, REST, ACCEPTED, OTHERS = STAGES


# --- How far the kernel went


class Sights:
    """Counts how often the kernel looked at members of our struct xt_target, by the processor's debug registers: an
    observer that needs nothing of the module, nor of the kernel's configuration but perf."""

    NR_PERF_EVENT_OPEN, TYPE_BREAKPOINT, READ_OR_WRITE, FORMAT_GROUP = 298, 5, 3, 8
    # Where they are and how long. x_tables reads the revision of a target whose name is right; the table, when the
    # size is right; and what to call, once, right before it does.
    MEMBERS = {"revision": (45, 1), "table": (88, 8), "checkentry": (56, 8)}
    NAME_AT = 16

    def __init__(self, family):
        place = self.place(family)
        self.files = []
        for offset, length in self.MEMBERS.values():
            self.files.append(self.breakpoint(place + offset, length))
        self.before = dict.fromkeys(self.MEMBERS, 0)

    def breakpoint(self, address, length):
        """For this process; one of a group, to be read together."""
        attributes = bytearray(112)
        struct.pack_into("=II", attributes, 0, self.TYPE_BREAKPOINT, len(attributes))
        struct.pack_into("=Q", attributes, 32, self.FORMAT_GROUP)
        struct.pack_into("=IQQ", attributes, 52, self.READ_OR_WRITE, address, length)
        buffer = ctypes.create_string_buffer(bytes(attributes), len(attributes))
        file = LIBC.syscall(self.NR_PERF_EVENT_OPEN, buffer, 0, -1, self.files[0] if self.files else -1, 0)
        if file < 0:
            sys.exit(f"tests/tools/rule_abi_fuzz.py: a breakpoint at {address:#x}: {error_text(ctypes.get_errno())}")
        return file

    def place(self, family):
        """Where the module has the target's description: that of IPv4 comes first."""
        with open(f"/lib/modules/{os.uname().release}/updates/rust/rustmasq.ko", "rb") as file:
            found = list(re.finditer(NAME + b"\0", section(file.read(), b".data")))
        if len(found) != 2:
            sys.exit(f"tests/tools/rule_abi_fuzz.py: the module has {len(found)} targets")
        with open("/sys/module/rustmasq/sections/.data", encoding="ascii") as file:
            return int(file.read(), 16) + found[family == socket.AF_INET6].start() - self.NAME_AT

    def since(self):
        """How often the members were looked at since the last call."""
        now = dict(zip(self.MEMBERS, struct.unpack("=8x3Q", os.read(self.files[0], 64))))
        seen = {member: now[member] - self.before[member] for member in now}
        self.before = now
        return seen

    def close(self):
        for file in self.files:
            os.close(file)


def section(elf, wanted):
    """What an ELF file of 64 bits has in a section."""
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


def other_number(dice, value, size):
    """An integer that is wrong in a way that may matter."""
    kind = dice.randrange(6)
    if kind == 0:
        value += dice.choice((-1, 1)) * dice.choice((1, 2, 4, 8, 16, SIZE))
    elif kind == 1:
        value = dice.choice((0, 1, -1, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1))
    elif kind == 2:
        value ^= 1 << dice.randrange(8 * size)
    elif kind == 3:
        value = dice.randrange(1 << 8 * size)
    else:
        value = dice.randrange(256)
    return value & ((1 << 8 * size) - 1)


def other_bytes(dice, data):
    data = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        if data:
            data[dice.randrange(len(data))] = dice.choice((0, 1, 0x80, 0xFF, dice.randrange(256)))
    return bytes(data)


def other_name(dice, names, size):
    """A name, and what follows its end; or one that has none."""
    name = dice.choice((*names, b"", b"rustmasq", b"RUSTMASQ2", b"RUSTMAS", b"\xff" * size, dice.randbytes(size)))
    rest = dice.choice((bytes(size), dice.randbytes(size)))
    return (name + (b"\0" + rest if len(name) < size else b""))[:size]


TABLES = b"nat filter mangle raw security".split()
TARGETS = b"RUSTMASQ RUSTMASQ MASQUERADE SNAT LOG ERROR REJECT".split()
MATCHES = b"udp tcp comment mark RUSTMASQ nonsense".split()


# --- iptables-legacy: whole tables


class LegacyFuzz(Legacy):
    """Makes tables nat, with rules of ours and of others, and changes them."""

    # The fields of a request in front of its entries: where, how long, and how often one is the one to change.
    REQUEST = {"name": (0, 32, 3), "hooks": (32, 4, 2), "count": (36, 4, 2), "size": (40, 4, 2), "begin": (44, 20, 1),
               "policy": (64, 20, 1), "counters": (84, 4, 1), "pointer": (88, 8, 1)}
    HEADER = 96
    # Those of an entry's target.
    TARGET = {"size": (0, 2, 12), "name": (2, 29, 6), "revision": (31, 1, 6)}

    def __init__(self, family):
        super().__init__(family)
        # What the kernel writes old counters to has room on both sides.
        self.room = mmap.mmap(-1, 1 << 16)
        self.place = ctypes.addressof(ctypes.c_char.from_buffer(self.room)) + (1 << 15)
        self.set_fields()

    def set_fields(self):
        """Those of an entry, in front of its matches."""
        self.entry_fields = {"addresses": (0, self.head - (8 if self.ipv6 else 4), 3),
                             "protocol": (128 if self.ipv6 else 80, 2, 5), "flags": (130 if self.ipv6 else 82, 2, 2),
                             "cache": (self.head, 4, 1), "target": (self.head + 4, 2, 3), "next": (self.head + 6, 2, 3),
                             "comefrom": (self.head + 8, 4, 3), "counter": (self.entry_size - 16, 16, 3)}

    def entry_with(self, aim, matches=b""):
        """An entry: for all packets that match, a target."""
        target = self.entry_size + len(matches)
        fields = bytes(self.head) + struct.pack("=IHHI", 0, target, target + len(aim), 0)
        return padded(fields, 8) + bytes(16) + matches + aim

    def ours(self, dice):
        """A rule with our target, of another size now and then."""
        rule = nearly_right(dice)
        if dice.random() < 0.15:
            rule = (rule + dice.randbytes(32))[: dice.choice((0, 8, 40, 47, 49, 56, 80))]
        aim = padded(target(NAME, rule, dice.choice((0,) * 19 + (1,))), 8)
        if dice.random() < 0.05:
            return self.entry_with(aim, target(dice.choice(MATCHES), dice.randbytes(8)))
        return self.entry_with(aim)

    def standard(self, verdict):
        return self.entry_with(target(b"", struct.pack("=i4x", verdict)))

    def chain_name(self, name):
        return self.entry_with(target(b"ERROR", name.ljust(32, b"\0")))

    def made(self, dice):
        """A table that is right but for its rules: (entries, where chains begin, where policies are)."""
        entries, begin, policy = [], [0] * 5, [0] * 5
        # Seldom in other chains, where x_tables does not let ours be.
        chosen = self.POSTROUTING if dice.random() < 0.93 else dice.choice(self.HOOKS)
        # A chain of a user's, too, and where one jumps there from.
        aside, jumps = dice.random() < 0.2, []
        for chain in self.HOOKS:
            begin[chain] = sum(map(len, entries))
            if chain == chosen:
                entries += [self.ours(dice) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
            if aside and dice.random() < (0.7 if chain == self.POSTROUTING else 0.05):
                jumps.append(len(entries))
                entries.append(self.standard(0))
            policy[chain] = sum(map(len, entries))
            entries.append(self.standard(-2))
        if aside:
            entries.append(self.chain_name(b"aside"))
            first = sum(map(len, entries))
            entries += [*(self.ours(dice) for _ in range(dice.choice((1, 2)))), self.standard(-5)]
            for jump in jumps:
                entries[jump] = self.standard(first)
        return [*entries, self.chain_name(b"ERROR")], begin, policy

    def case(self, dice):
        """A request to replace the table."""
        entries, begin, policy = self.made(dice)
        starts = list(itertools.accumulate(map(len, entries), initial=self.HEADER))
        ours = [start for start, entry in zip(starts, entries) if NAME in entry]
        request = bytearray(struct.pack("=32sIII5I5IIQ", b"nat", 0x1B, len(entries), starts[-1] - self.HEADER,
                                        *begin, *policy, 5, self.place) + b"".join(entries))
        for _ in range(dice.choice((0, 0, 1, 1, 1, 2, 3))):
            self.change(dice, request, dice.choice(ours if dice.random() < 0.7 else starts[:-1]))
        if dice.random() < 0.05:
            place = dice.randrange(self.HEADER, len(request))
            request[place : place + 16] = other_bytes(dice, request[place : place + 16])
        return bytes(request[: dice.randrange(len(request))] if dice.random() < 0.01 else request)

    def change(self, dice, request, entry):
        """Changes a field of the request, or of that entry."""
        (behind,) = struct.unpack_from("=H", request, entry + self.head + 4)
        (data,) = struct.unpack_from("=H", request, min(entry + behind, len(request) - 2))
        fields = [(0, self.REQUEST), (entry, self.entry_fields), (entry + behind, self.TARGET),
                  (entry + behind + 32, {"rule": (0, data - 32, 25)})]
        choices = [(name, start + place, size, often) for start, some in fields
                   for name, (place, size, often) in some.items()]
        name, place, size, _ = dice.choices(choices, [choice[3] for choice in choices])[0]
        if place + size <= len(request) and size > 0:
            request[place : place + size] = self.changed(dice, name, place, bytes(request[place : place + size]))

    def changed(self, dice, name, place, old):
        size = len(old)
        if name == "pointer":
            # Never to the tool's own memory.
            return struct.pack("=Q", dice.choice((0, 1, self.place + 3, (1 << 64) - 1, 0xFFFF888000000000, 1 << 56)))
        if name == "name":
            return other_name(dice, TABLES if place == 0 else TARGETS, size)
        if name == "rule":
            return nearly_right(dice) if size == SIZE and dice.random() < 0.5 else other_bytes(dice, old)
        if size not in (1, 2, 4):
            return other_bytes(dice, old)
        number = other_number(dice, int.from_bytes(old, "little"), size)
        if name in ("count", "counters") and number < 1 << 27:
            # The kernel would get that much memory, and have none left.
            number &= 0xFFFF
        return number.to_bytes(size, "little")

    def put(self, request):
        """Sends it; says the error."""
        try:
            self.socket.setsockopt(self.level, self.SET_REPLACE, request)
        except OSError as error:
            return error.errno
        return 0

    def replaced(self, request, rule, other):
        return request.replace(rule, other)

    def shown(self, request):
        return request.hex()

    def sent_rules(self, request):
        """Our rules' data, as far as entries can be told from each other."""
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
        return self.rules_in(self.entries())

    def remove(self):
        self.clear()

    def left(self):
        """What is there but four policies and the end."""
        return self.info()[0] - 5


# --- iptables-nft: a rule at a time


class Attribute:
    """An attribute of a message: bytes, or attributes."""

    def __init__(self, kind, content, kinds=()):
        self.kind, self.content = kind, content
        self.nested = isinstance(content, list)
        # What may stand in its place.
        self.kinds = kinds
        self.length = None

    def bytes(self):
        content = self.content if isinstance(self.content, bytes) else b"".join(each.bytes() for each in self.content)
        length = 4 + len(content) if self.length is None else self.length
        return padded(struct.pack("=HH", length & 0xFFFF, self.kind | (0x8000 if self.nested else 0)) + content, 4)

    def all(self):
        """With all that is in it, and where it hangs."""
        if isinstance(self.content, list):
            for each in self.content:
                yield self, each
                yield from each.all()


def attributes_in(data):
    """(kind, data) of attributes, as long as they make sense."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4 or length > len(data):
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


class NftFuzz(Nft):
    """Makes rules, and changes their messages."""

    TABLES, CHAINS = (b"nat", b"nat", b"filter", b"other"), (b"POSTROUTING", b"PREROUTING", b"aside", b"other")

    def __init__(self, family):
        super().__init__(family)
        names = Attribute(1, b"nat\0").bytes() + Attribute(3, b"aside\0").bytes()
        error = self.batch(self.NEWCHAIN, self.CREATE, names)
        if error:
            sys.exit(f"tests/tools/rule_abi_fuzz.py: a chain: {error_text(error)}")

    def expression(self, dice):
        """Mostly ours."""
        if dice.random() < 0.1:
            return Attribute(1, [Attribute(1, dice.choice((b"counter\0", b"notrack\0", b"match\0", b"none\0")))])
        rule = nearly_right(dice)
        if dice.random() < 0.15:
            rule = (rule + dice.randbytes(32))[: dice.choice((0, 1, 8, 40, 47, 49, 56, 80))]
        revision = dice.choice((0,) * 15 + (1, 256, 1 << 31))
        return Attribute(1, [Attribute(1, b"target\0"), Attribute(2, [
            Attribute(1, NAME + b"\0", TARGETS), Attribute(2, struct.pack("!I", revision)), Attribute(3, rule)])])

    def case(self, dice):
        """(message's flags, family, attributes)"""
        chain = self.CHAINS[0] if dice.random() < 0.85 else dice.choice(self.CHAINS)
        table = self.TABLES[0] if dice.random() < 0.9 else dice.choice(self.TABLES)
        rule = Attribute(0, [Attribute(1, table + b"\0", self.TABLES), Attribute(2, chain + b"\0", self.CHAINS)])
        if dice.random() < 0.4:
            protocol, flags = dice.choice((0, 6, 17, 65535, 1 << 16)), dice.choice((0, 0, 2, 1, 4, 1 << 31))
            rule.content.append(Attribute(5, [Attribute(1, struct.pack("!I", protocol)),
                                              Attribute(2, struct.pack("!I", flags))]))
        rule.content.append(Attribute(4, [self.expression(dice) for _ in range(dice.choice((1, 1, 1, 1, 2, 3)))]))
        if dice.random() < 0.2:
            rule.content.append(Attribute(7, dice.randbytes(dice.randrange(20))))
        for _ in range(dice.choice((0, 0, 0, 1, 1, 2))):
            self.change(dice, rule)
        data = b"".join(each.bytes() for each in rule.content)
        if dice.random() < 0.05:
            data = other_bytes(dice, data)
        if dice.random() < 0.01:
            data = data[: dice.randrange(len(data))]
        flags = self.CREATE | self.APPEND if dice.random() < 0.97 else dice.choice((0, self.CREATE, 0x100, 0x200))
        family = self.family if dice.random() < 0.97 else dice.choice((0, 1, 3, 5, 7, 12, 255))
        return flags, family, data

    def change(self, dice, rule):
        parent, chosen = dice.choice(list(rule.all()))
        kind = dice.randrange(8)
        if kind == 0:
            parent.content.remove(chosen)
        elif kind == 1:
            parent.content.insert(dice.randint(0, len(parent.content)), chosen)
        elif kind == 2:
            chosen.kind = dice.choice((0, chosen.kind + 1, dice.randrange(16), 0x3FFF))
        elif kind == 3:
            chosen.nested = not chosen.nested
        elif kind == 4:
            chosen.length = other_number(dice, len(chosen.bytes()), 2)
        elif chosen.kinds:
            chosen.content = other_name(dice, chosen.kinds, dice.choice((8, 12, 29, 32, 300)))
        elif isinstance(chosen.content, bytes):
            chosen.content = nearly_right(dice) if len(chosen.content) == SIZE and kind < 7 else \
                other_bytes(dice, chosen.content)

    def put(self, case):
        flags, family, data = case
        begin = self.message(self.BATCH_BEGIN, 0, b"", resource=self.NFNL_SUBSYS_NFTABLES)
        middle = self.message(self.NFNL_SUBSYS_NFTABLES << 8 | self.NEWRULE, flags | self.ACK, data, family)
        wanted = self.sequence
        end = self.message(self.BATCH_END, 0, b"", resource=self.NFNL_SUBSYS_NFTABLES)
        self.socket.send(begin + middle + end)
        # What the kernel has to say it has said by now.
        answers = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                answers += [-struct.unpack_from("=i", body)[0] for kind, sequence, body in self.received()
                            if kind == 2 and sequence == wanted]
        # It repeats a batch for which it has loaded a module.
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
                found.append(of_target.get(3, b"")[:SIZE])
        return found

    def kept_rules(self):
        self.socket.setblocking(True)
        self.socket.send(self.message(self.NFNL_SUBSYS_NFTABLES << 8 | self.GETRULE, self.DUMP, b"", self.family))
        found, done = [], False
        while not done:
            for kind, _, body in self.received():
                done = done or kind == 3
                if kind == self.NFNL_SUBSYS_NFTABLES << 8 | self.NEWRULE:
                    found += self.sent_rules((0, 0, body[4:]))
        return found

    def remove(self):
        """All rules of the table nat: the target is for no other one."""
        self.socket.setblocking(True)
        error = self.clear()
        if error:
            sys.exit(f"tests/tools/rule_abi_fuzz.py: removing rules: {error_text(error)}")

    def left(self):
        return len(self.kept_rules())


# --- The verdict


class Judge:
    """Sends cases, and compares."""

    def __init__(self, way, family, what):
        self.way, self.what, self.sights = way, what, Sights(family)
        self.stages = dict.fromkeys(STAGES, 0)

    def send(self, case):
        """The error, and what the kernel looked at."""
        self.sights.since()
        return self.way.put(case), self.sights.since()

    def finding(self, case):
        """(the stage, what is wrong with what the kernel made of it, or None)"""
        rules = self.way.sent_rules(case)
        error, seen = self.send(case)
        asked = rules[: seen["checkentry"]]
        bad = [rule for rule in asked if len(rule) < SIZE or expected(rule)]
        stage = self.stage(error, seen, bad)
        if len(asked) != seen["checkentry"]:
            return stage, f"our check was asked about {seen['checkentry']} rules, but there are {len(rules)}"
        if bad and (bad != asked[-1:] or error != errno.EINVAL):
            return stage, f"{error_text(error)}, but '{expected(bad[0])}'"
        if stage == REST:
            return stage, self.refused(case, asked, error)
        return stage, None if error else self.kept(rules, asked)

    def stage(self, error, seen, bad):
        if not error:
            return ACCEPTED if seen["checkentry"] else OTHERS
        if seen["checkentry"]:
            return CHECK if bad else REST
        if seen["table"]:
            return PLACE
        return DESCRIPTION if seen["revision"] else MESSAGE

    def refused(self, case, asked, error):
        """As finding, of what was refused although our rules are good: so it must be with the best of rules."""
        for rule in asked:
            case = self.way.replaced(case, rule, blob())
        again, seen = self.send(case)
        if not again:
            self.way.remove()
        as_before = again == error and seen["checkentry"] == len(asked)
        return None if as_before else f"{error_text(error)}, although our rules are good"

    def kept(self, rules, asked):
        """As finding, of what was accepted; and removes it."""
        kept = self.way.kept_rules()
        self.way.remove()
        if rules != asked:
            return f"accepted, but our check was asked about {len(asked)} rules of {len(rules)}"
        if [rule[:16] for rule in kept] != [rule[:16] for rule in rules] or any(any(rule[16:]) for rule in kept):
            return f"read back {[rule.hex() for rule in kept]}"
        return None

    def tell(self, good, what, finding=""):
        result(f"{self.what}: {what}", None if good else finding or "it is not so")

    def run(self, count, seed):
        findings = []
        for n in range(count):
            # Each can be had without those before it.
            case = self.way.case(random.Random(f"{seed} {self.what} {n}"))
            stage, finding = self.finding(case)
            self.stages[stage] += 1
            if finding:
                self.way.remove()
                findings.append(f"number {n}: {finding}: {self.way.shown(case)}")
        reached = sum(self.stages[stage] for stage in (CHECK, REST, ACCEPTED))
        self.tell(not findings, f"of {count} blobs all were judged as the model does", "\n    # ".join(findings[:5]))
        self.tell(10 * reached >= count, "a tenth reached our check", f"{reached} did")
        self.tell(100 * self.stages[ACCEPTED] >= count, "a hundredth was accepted", f"{self.stages[ACCEPTED]} were")
        self.tell(not self.way.left(), "nothing is left in the tables", f"{self.way.left()}")
        self.sights.close()
        print(f"# {self.what}: {count} blobs, stopped by: " +
              ", ".join(f"{stage}: {number}" for stage, number in self.stages.items()), flush=True)


@contextlib.contextmanager
def set_to(path, value):
    """A setting of the kernel's, for as long as this lasts."""
    with open(path, "r+", encoding="ascii") as file:
        before = file.read()
        file.write(value)
    yield
    with open(path, "w", encoding="ascii") as file:
        file.write(before)


def main():
    ways = {"legacy": LegacyFuzz, "nft": NftFuzz}
    if len(sys.argv) != 4 or sys.argv[1] not in ways:
        sys.exit(__doc__)
    for family, name in ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6")):
        judge = Judge(ways[sys.argv[1]](family), family, f"{sys.argv[1]}, {name}")
        # No modules of odd names are looked for; and no time is lost by waiting for readers.
        with set_to("/proc/sys/kernel/modprobe", "\n"), set_to("/sys/kernel/rcu_expedited", "1\n"):
            judge.run(int(sys.argv[2]), sys.argv[3])
    reload_module()
    result("the module can be removed")
    done_testing()


if __name__ == "__main__":
    main()
