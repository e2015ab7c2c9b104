# SPDX-License-Identifier: GPL-2.0
"""Reads and deletes the conntrack entries and expectations of a namespace, through ctnetlink.

It shows more than conntrack(8) does, and needs no process for each call.
"""

import ipaddress
import os
import select
import socket
import struct

NETLINK_NETFILTER = 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
HEADER = struct.Struct("=IHHIIBBH")
# Numbers of the tables, messages, and multicast groups.
FLOWS, EXPECTATIONS = 1, 2
NEW, GET, DELETE = range(3)
EXPECTATION_NEW, EXPECTATION_GONE = 1 << 3, 1 << 5
# Attributes of a tuple, a flow, and an expectation.
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_HELP, CTA_TUPLE_MASTER = 1, 2, 3, 5, 14
CTA_HELP_NAME = 1
CTA_EXPECT_MASTER, CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_HELP_NAME = 1, 2, 3, 6
CTA_EXPECT_FLAGS, CTA_EXPECT_CLASS, CTA_EXPECT_NAT, CTA_EXPECT_FN = 8, 9, 10, 11
CTA_EXPECT_NAT_DIR, CTA_EXPECT_NAT_TUPLE = 1, 2
# The bits of a flow's status, the lowest first.
STATUS = ("expected seen-reply assured confirmed src-nat dst-nat seq-adjust src-nat-done dst-nat-done dying "
          "fixed-timeout template nat-clash helper offload hw-offload").split()


class Inside:
    """with Inside(HOST): runs the block in that namespace. Sockets from there stay in it."""

    def __init__(self, host):
        self.host = host
        self.original = None

    def __enter__(self):
        self.original = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.host}", os.O_RDONLY)
        os.setns(there, os.CLONE_NEWNET)
        os.close(there)

    def __exit__(self, *_):
        os.setns(self.original, os.CLONE_NEWNET)
        os.close(self.original)


def place(address, port):
    """Returns an address and a port as text."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def attributes(data):
    """Returns the values of netlink attributes, by kind."""
    found, offset = {}, 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        # Without the flags for nests and byte order.
        found[kind & 0x3FFF] = data[offset + 4:offset + length]
        offset += max(length + 3 & ~3, 4)
    return found


def number(data):
    return int.from_bytes(data, "big")


def text(data):
    return data.rstrip(b"\0").decode()


class Tuple:
    """A tuple of addresses and ports, or the mask of an expectation, which has the same form."""

    def __init__(self, data):
        nest = attributes(data)
        ip, proto = attributes(nest[CTA_TUPLE_IP]), attributes(nest[CTA_TUPLE_PROTO])
        # In both families, the attribute with the lower number is the source.
        source, target = [str(ipaddress.ip_address(ip[kind])) for kind in sorted(ip)]
        self.protocol = number(proto[CTA_PROTO_NUM])
        self.source = source, number(proto.get(CTA_PROTO_SRC_PORT, b""))
        self.target = target, number(proto.get(CTA_PROTO_DST_PORT, b""))

    def __str__(self):
        return f"{place(*self.source)}>{place(*self.target)}"


def show_flow(nest):
    """Returns ORIGINAL REPLY STATUS [helper NAME] [master TUPLE].

    The status of a UDP flow omits `assured`, which depends on timing: the flow gets it after two seconds.
    """
    status = number(nest[CTA_STATUS])
    if Tuple(nest[CTA_TUPLE_ORIG]).protocol == socket.IPPROTO_UDP:
        status &= ~(1 << STATUS.index("assured"))
    words = [str(Tuple(nest[CTA_TUPLE_ORIG])), str(Tuple(nest[CTA_TUPLE_REPLY])),
             "+".join(name for n, name in enumerate(STATUS) if status >> n & 1)]
    if CTA_HELP in nest:
        words += ["helper", text(attributes(nest[CTA_HELP])[CTA_HELP_NAME])]
    if CTA_TUPLE_MASTER in nest:
        words += ["master", str(Tuple(nest[CTA_TUPLE_MASTER]))]
    return " ".join(words)


def show_expectation(nest):
    """Returns TUPLE mask MASK master TUPLE class N flags N [helper NAME] [nat DIRECTION TUPLE] [call NAME]."""
    words = [str(Tuple(nest[CTA_EXPECT_TUPLE])), "mask", str(Tuple(nest[CTA_EXPECT_MASK])),
             "master", str(Tuple(nest[CTA_EXPECT_MASTER])),
             "class", str(number(nest[CTA_EXPECT_CLASS])), "flags", str(number(nest[CTA_EXPECT_FLAGS]))]
    if CTA_EXPECT_HELP_NAME in nest:
        words += ["helper", text(nest[CTA_EXPECT_HELP_NAME])]
    if CTA_EXPECT_NAT in nest:
        nat = attributes(nest[CTA_EXPECT_NAT])
        words += ["nat", ["original", "reply"][number(nat[CTA_EXPECT_NAT_DIR])], str(Tuple(nat[CTA_EXPECT_NAT_TUPLE]))]
    if CTA_EXPECT_FN in nest:
        words += ["call", text(nest[CTA_EXPECT_FN])]
    return " ".join(words)


class Conntrack:
    """A ctnetlink socket in a namespace. With groups, it receives their events."""

    def __init__(self, host, groups=0):
        with Inside(host):
            self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind((0, groups))

    def request(self, table, message, flags):
        self.sock.send(HEADER.pack(HEADER.size, table << 8 | message, NLM_F_REQUEST | flags, 0, 0, 0, 0, 0))

    def messages(self):
        """Receives once. Yields the kind and the attributes of each message."""
        data = self.sock.recv(1 << 17)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            yield kind, data[HEADER.size:length]
            data = data[length + 3 & ~3:]

    def dump(self, table):
        """Yields the attributes of each entry of the table."""
        self.request(table, GET, NLM_F_DUMP)
        while True:
            for kind, data in self.messages():
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return
                yield attributes(data)

    def flows(self, protocol=socket.IPPROTO_UDP):
        """Returns the entries of a protocol, a line for each."""
        return sorted(show_flow(nest) for nest in self.dump(FLOWS)
                      if Tuple(nest[CTA_TUPLE_ORIG]).protocol == protocol)

    def expectations(self):
        """Returns the expectations, a line for each."""
        return sorted(show_expectation(nest) for nest in self.dump(EXPECTATIONS))

    def expected(self):
        """Returns the destinations of the expectations, as (address, port)."""
        return sorted(Tuple(nest[CTA_EXPECT_TUPLE]).target for nest in self.dump(EXPECTATIONS))

    def forget(self):
        """Removes all flows, and with them their expectations."""
        self.request(FLOWS, DELETE, NLM_F_ACK)
        list(self.messages())

    def events(self):
        """Returns the expectations that came ("new") and went ("gone") since the last call."""
        found = []
        while select.select([self.sock], [], [], 0)[0]:
            for kind, data in self.messages():
                what = "gone" if kind & 0xFF == DELETE else "new"
                found.append(f"{what} {Tuple(attributes(data)[CTA_EXPECT_TUPLE])}")
        return found
