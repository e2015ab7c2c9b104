#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Sends random rules that masquerade to the kernel, and prints what becomes of each.

Usage: tests/tools/masquerade_rules.py legacy|nft COUNT SEED

With "legacy" they are rules of iptables' target MASQUERADE in binary form, for IPv4 and IPv6; with "nft" they are
messages with the expression masq of nftables, for tables of the families ip, ip6, inet and bridge, and chains of all
kinds. Many have a wrong field or are malformed. A line for each has its number, what was sent, the error, and the form
that the kernel reports. The lines of two modules that do the same are equal.

Run it as root in a network namespace of its own.
"""

import os
import random
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from rule_abi import Legacy, Nft, error_text, padded, target

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 7, 10
FLAGS, FIRST, LAST = 1, 2, 3
POSTROUTING, PREROUTING = 4, 0
MASQUERADE = b"MASQUERADE"


class LegacyRules(Legacy):
    """Tables nat with one rule."""

    def make(self, rng):
        """Returns the binary form of a random rule."""
        flags = rng.randrange(128) & ~1 if rng.random() < 0.7 else rng.getrandbits(32)
        ports = rng.randbytes(4) if rng.random() < 0.7 else bytes(4)
        address = 32 if self.ipv6 else 8
        range_ = struct.pack("=I", flags) + (bytes(address) if rng.random() < 0.8 else rng.randbytes(address)) + ports
        if not self.ipv6:
            range_ = struct.pack("=I", 1 if rng.random() < 0.8 else rng.randrange(4)) + range_
        rule = padded(range_, 8)
        if rng.random() < 0.1:
            rule = rng.randbytes(rng.choice((0, 8, 16, 24, 32, 40, 48)))
        return rule

    def try_one(self, rng):
        """Sends a random rule. Returns what was sent, the error or 0, and what comes back."""
        rule = self.make(rng)
        revision = 0 if rng.random() < 0.95 else 1
        hook = POSTROUTING if rng.random() < 0.9 else PREROUTING
        error = self.replace(target(MASQUERADE, rule, revision=revision), hook)
        back = b""
        if not error:
            entries = self.entries()
            place = entries.index(MASQUERADE + b"\0") - 2
            (size,) = struct.unpack_from("=H", entries, place)
            back = entries[place + 32 : place + size]
        return f"{rule.hex()} revision {revision} hook {hook}", error, back


class NftRules(Nft):
    """Rules in a table with chains of all kinds."""

    KINDS = ((b"nat", POSTROUTING), (b"nat", PREROUTING), (b"filter", POSTROUTING))

    def __init__(self, family):
        self.family, self.sequence = family, 0
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.socket.bind((0, 0))
        self.batch(self.DELTABLE, 0, self.attribute(1, b"t\0"))
        self.batch(self.NEWTABLE, self.CREATE, self.attribute(1, b"t\0"))
        for number, (kind, hook) in enumerate(self.KINDS):
            where = self.attribute(1, struct.pack("!I", hook)) + self.attribute(2, struct.pack("!i", 100))
            self.batch(self.NEWCHAIN, self.CREATE, self.attribute(1, b"t\0") + self.attribute(3, b"c%d\0" % number)
                       + self.attribute(4, where, nested=True) + self.attribute(7, kind + b"\0"))
        self.batch(self.NEWCHAIN, self.CREATE, self.attribute(1, b"t\0") + self.attribute(3, b"c3\0"))

    def expression(self, name, data):
        return self.attribute(1, self.attribute(1, name + b"\0") + self.attribute(2, data, nested=True), nested=True)

    def load(self, register, value):
        """Returns an expression that loads two octets into a register."""
        data = self.attribute(1, struct.pack("!I", register))
        return self.expression(b"immediate", data + self.attribute(2, self.attribute(1, value), nested=True))

    def make(self, rng):
        """Returns the attributes of a random expression, and the registers that are loaded before."""
        loaded = [rng.choice((1, 2, 8, 9, 23)) for _ in range(rng.randrange(3))]
        data = b""
        if rng.random() < 0.7:
            flags = rng.randrange(128) if rng.random() < 0.9 else rng.getrandbits(32)
            data += self.attribute(FLAGS, struct.pack("!I", flags))
        for kind in (FIRST, LAST):
            if rng.random() < 0.5:
                register = rng.choice(loaded) if loaded and rng.random() < 0.8 else rng.randrange(30)
                data += self.attribute(kind, struct.pack("!I", register))
        if rng.random() < 0.15:
            data += self.attribute(rng.randrange(12), rng.randbytes(rng.randrange(10)))
        if rng.random() < 0.05:
            data = rng.randbytes(rng.randrange(40))
        return data, loaded

    def try_one(self, rng):
        data, loaded = self.make(rng)
        chain = b"c%d\0" % (0 if rng.random() < 0.7 else rng.randrange(4))
        expressions = b"".join(self.load(register, rng.randbytes(2)) for register in loaded)
        expressions += self.expression(b"masq", data) if rng.random() < 0.95 else self.attribute(
            1, self.attribute(1, b"masq\0"), nested=True)
        error = self.batch(self.NEWRULE, self.CREATE | self.APPEND, self.attribute(1, b"t\0") + self.attribute(2, chain)
                           + self.attribute(4, expressions, nested=True))
        back = b"" if error else b"".join(self.rules())
        self.batch(self.DELRULE, 0, self.attribute(1, b"t\0") + self.attribute(2, chain))
        return f"{data.hex()} registers {loaded} chain {chain[:-1].decode()}", error, back

    def rules(self):
        """Returns the expressions of all rules in the table."""
        return [self.attributes(rule).get(4, b"") for rule in self.dumped_rules()]


def main():
    kind, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind == "legacy":
        makers = {str(family): LegacyRules(family) for family in (socket.AF_INET, socket.AF_INET6)}
    else:
        families = NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_INET, NFPROTO_BRIDGE
        makers = {str(family): NftRules(family) for family in families}
    rng = random.Random(seed)
    for number in range(count):
        family, maker = rng.choice(list(makers.items()))
        what, error, back = maker.try_one(rng)
        print(f"{number} family {family} {what}: {error_text(error)} {back.hex()}", flush=number % 100 == 0)
    if kind == "legacy":
        for maker in makers.values():
            maker.clear()


if __name__ == "__main__":
    main()
