#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Sends packets between the hosts of a scenario, and reports what the hosts and conntrack saw; runs in the guest.

Usage: tests/tools/compare.py < COMMANDS (tests/lib/compare.sh starts it)

Each line of the standard input is a command: a method of class ComparePeers, with its arguments. Its answer ends with a
line that is a dot. Protocols are udp, tcp, sctp and icmp. For ICMP and ICMPv6, the identifier of the echo request takes
the place of the port.
"""

import ipaddress
import os
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import (
    CTA_PROTO_DST_PORT,
    CTA_PROTO_NUM,
    CTA_PROTO_SRC_PORT,
    CTA_STATUS,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    DELETE,
    FLOWS,
    HEADER,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    STATUS,
    Conntrack,
    Inside,
    attributes,
    number,
    place,
)
from peers import SLOW, Peers, checksum, enable_errors, family, icmp_error

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmp", SCTP: "sctp"}
# Numbers of ctnetlink: the ICMP identifier in a tuple, the protocol's state and the zone of a flow, and the counters.
IDENTIFIERS = {ICMP: 4, ICMPV6: 7}
CTA_PROTOINFO, CTA_ZONE = 4, 18
GET_STATISTICS = 4
# Without search_restart, which depends on timing.
STATISTICS = {2: "found", 4: "invalid", 8: "insert", 9: "insert_failed", 10: "drop", 11: "early_drop", 12: "error",
              14: "clash_resolve", 15: "chaintoolong"}
DROP = 10
STATES = {
    TCP: "none syn-sent syn-recv established fin-wait close-wait last-ack time-wait close syn-sent2".split(),
    SCTP: "none closed cookie-wait cookie-echoed established shutdown-sent shutdown-recd shutdown-ack-sent "
          "heartbeat-sent".split(),
}
# Multicast groups: new, updated and destroyed flows.
EVENTS = 1 | 2 | 4
# Seconds.
PATIENCE = 5 * SLOW
# Types of ICMP and ICMPv6 messages.
REQUEST, REPLY = {ICMP: 8, ICMPV6: 128}, {ICMP: 0, ICMPV6: 129}


class Flow:
    """A conntrack entry, from ctnetlink's attributes."""

    def __init__(self, nest):
        self.original, self.reply = self.tuple(nest[CTA_TUPLE_ORIG]), self.tuple(nest[CTA_TUPLE_REPLY])
        self.zone = f" zone {number(nest[CTA_ZONE])}" if CTA_ZONE in nest else ""
        status = number(nest[CTA_STATUS])
        self.status = "+".join(name for n, name in enumerate(STATUS) if status >> n & 1)
        if CTA_PROTOINFO in nest:
            (_, info), = attributes(nest[CTA_PROTOINFO]).items()
            self.status += " " + STATES[self.protocol][number(attributes(info)[1])]

    def tuple(self, data):
        """Returns source and destination as (address, port), and sets the protocol."""
        nest = attributes(data)
        addresses, ports = attributes(nest[CTA_TUPLE_IP]), attributes(nest[CTA_TUPLE_PROTO])
        self.protocol = number(ports[CTA_PROTO_NUM])
        source, target = [str(ipaddress.ip_address(addresses[kind])) for kind in sorted(addresses)]
        if self.protocol in IDENTIFIERS:
            both = [number(ports[IDENTIFIERS[self.protocol]])] * 2
        else:
            both = [number(ports[kind]) for kind in (CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT)]
        return (source, both[0]), (target, both[1])

    def name(self):
        """Returns the original tuple as text, which identifies the flow."""
        return f"{NAMES[self.protocol]} {place(*self.original[0])}>{place(*self.original[1])}{self.zone}"


class Table(Conntrack):
    """conntrack in a host's namespace, and its events from now on."""

    def __init__(self, host):
        super().__init__(host)
        self.watch = Conntrack(host, EVENTS)

    def all(self):
        """Returns all flows."""
        return sorted((Flow(nest) for nest in self.dump(FLOWS)), key=Flow.name)

    def heard(self):
        """Returns the events since the last call, sorted by flow, as (kind, flow)."""
        found = []
        while select.select([self.watch.sock], [], [], 0)[0]:
            data = self.watch.sock.recv(1 << 17)
            while data:
                length, kind, flags = struct.unpack_from("=IHH", data)
                what = "gone" if kind & 0xFF == DELETE else "new" if flags else "update"
                found.append((what, Flow(attributes(data[HEADER.size:length]))))
                data = data[length + 3 & ~3:]
        return sorted(found, key=lambda event: event[1].name())

    def statistics(self):
        """Returns the counters that `conntrack -S` shows, summed over all CPUs."""
        total = dict.fromkeys(STATISTICS, 0)
        self.request(FLOWS, GET_STATISTICS, NLM_F_DUMP)
        while True:
            for kind, data in self.messages():
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return total
                for what, value in attributes(data).items():
                    if what in total:
                        total[what] += number(value)


class Mask:
    """Masks random ports: those in the ranges (FIRST-LAST), except single ports that are given, too.

    Each masked port gets a number, so that equal ports stay equal.
    """

    def __init__(self, words):
        ranges = [list(map(int, word.split("-"))) for word in words]
        self.ranges = [ends for ends in ranges if len(ends) == 2]
        self.kept = [ends[0] for ends in ranges if len(ends) == 1]
        self.numbers = {}

    def port(self, protocol, address, port):
        if port not in self.kept:
            for first, last in self.ranges:
                if first <= port <= last:
                    count = self.numbers.setdefault((protocol, address, port), len(self.numbers) + 1)
                    return f"[{first}-{last}]#{count}"
        return str(port)


class ComparePeers(Peers):
    """The commands. WHO is HOST@ADDRESS."""

    def __init__(self):
        self.sockets, self.listening, self.peers, self.tables = {}, {}, {}, {}
        self.mask, self.routers, self.before = Mask([]), set(), {}

    # --- Observations, which must be the same with both targets

    def routers_are(self, *addresses):
        """routers_are ADDRESS...: sets the addresses whose ports may be random."""
        self.routers = set(addresses)
        return []

    def place(self, protocol, address, port):
        """Returns "ADDRESS PORT", with the port masked if it may be random."""
        return f"{address} {self.mask.port(protocol, address, port) if address in self.routers else port}"

    def anew(self, host, *mask):
        """anew HOST [FIRST-LAST|PORT]...: begins a case. Ports in these ranges are random, except the single ports."""
        if host not in self.tables:
            self.tables[host] = Table(host)
        table = self.tables[host]
        self.mask = Mask(mask)
        table.forget()
        table.heard()
        self.before = table.statistics()
        return []

    def look(self, host):
        """look HOST: ends the case. Returns the observations to compare, as PROPERTY WHAT."""
        table = self.tables[host]
        now, flows = table.statistics(), table.all()
        said = [f"original {flow.name()}" for flow in flows]
        for flow in flows:
            # Both ends of an ICMP flow have the same identifier: show it once.
            source = flow.reply[0][0] if flow.protocol in IDENTIFIERS else place(*flow.reply[0])
            name = NAMES[flow.protocol]
            said.append(f"reply {name} {source}>{self.place(name, *flow.reply[1])}")
        said += [f"flags {NAMES[flow.protocol]} {flow.status}" for flow in flows]
        # `found` counts the taken ports that the search met, which is random if the port is.
        said += [f"statistics {name}={now[what] - self.before[what]}" for what, name in STATISTICS.items()
                 if now[what] != self.before[what] and not (name == "found" and self.mask.ranges)]
        said += self.events(table)
        for sock in [*self.sockets.values(), *self.listening.values()]:
            if sock.type == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        self.sockets, self.listening, self.peers = {}, {}, {}
        table.heard()
        table.forget()
        return said + [line for line in self.events(table) if line.startswith("events gone")]

    def events(self, table):
        # Without the tuples, which are properties of their own.
        return [f"events {what} {NAMES[flow.protocol]}" + (f" {flow.status}" if what != "gone" else "")
                for what, flow in table.heard()]

    def until(self, host, word, count="1", patience=PATIENCE):
        """until HOST FLAG [COUNT [SECONDS]]: waits until COUNT flows have the flag or state. Returns "yes" or "no"."""
        end = time.monotonic() + float(patience)
        while True:
            found = sum(word in flow.status.replace("+", " ").split() for flow in self.tables[host].all())
            if found >= int(count):
                return ["yes"]
            if time.monotonic() > end:
                return ["no"]
            time.sleep(0.02)

    def dropped(self, host, count, patience=PATIENCE):
        """dropped HOST COUNT [SECONDS]: waits until conntrack has counted COUNT drops since the case began. Returns
        "yes" or "no"."""
        end = time.monotonic() + float(patience)
        while self.tables[host].statistics()[DROP] - self.before[DROP] < int(count):
            if time.monotonic() > end:
                return ["no"]
            time.sleep(0.02)
        return ["yes"]

    # --- Sockets

    def socket(self, who, protocol, port):
        key = who, protocol, port
        if key in self.sockets:
            return self.sockets[key]
        host, _, address = who.partition("@")
        kind, number_ = {
            "udp": (socket.SOCK_DGRAM, UDP), "tcp": (socket.SOCK_STREAM, TCP), "sctp": (socket.SOCK_STREAM, SCTP),
            "icmp": (socket.SOCK_RAW, ICMPV6 if family(address) == socket.AF_INET6 else ICMP),
        }[protocol]
        with Inside(host):
            sock = socket.socket(family(address), kind, number_)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if protocol == "udp":
            enable_errors(sock)
        sock.bind((address, 0 if protocol == "icmp" else int(port)))
        if kind == socket.SOCK_STREAM:
            sock.settimeout(PATIENCE)
        self.sockets[key] = sock
        return sock

    def open(self, who, protocol, port):
        """open WHO PROTOCOL PORT: opens a socket that receives there."""
        sock = self.socket(who, protocol, port)
        if sock.type == socket.SOCK_STREAM:
            sock.listen(16)
            self.listening[who, protocol, port] = self.sockets.pop((who, protocol, port))
        return []

    def send(self, who, protocol, port, address, target, text, size="0"):
        """send WHO PROTOCOL PORT ADDRESS PORT TEXT [SIZE]: sends a datagram or echo request of SIZE bytes or more."""
        sock = self.socket(who, protocol, port)
        data = text.encode().ljust(int(size), b".")
        if protocol == "icmp":
            data += b"." * (len(data) % 2)
            head = struct.pack("!BBHHH", REQUEST[sock.proto], 0, 0, int(port), 1)
            data = head[:2] + struct.pack("!H", checksum(head + data)) + head[4:] + data
            target = 0
        try:
            sock.sendto(data, (address, int(target)))
        except OSError as error:
            return [str(error)]
        return []

    def hear(self, who, protocol, port, patience=PATIENCE):
        """hear WHO PROTOCOL PORT [SECONDS]: receives. Returns "ADDRESS PORT TEXT", an ICMP error or "nothing"; for a
        stream the text, "closed", "reset" or "nothing"."""
        sock = self.socket(who, protocol, port)
        end = time.monotonic() + float(patience)
        while select.select([sock], [], [], max(0, end - time.monotonic()))[0]:
            if sock.type == socket.SOCK_STREAM:
                try:
                    return [sock.recv(65535).decode() or "closed"]
                except ConnectionResetError:
                    return ["reset"]
            error = icmp_error(sock)
            if error:
                return [error]
            data, peer = sock.recvfrom(65535)
            seen = peer[1]
            if protocol == "icmp":
                if sock.proto == ICMP:
                    data = data[(data[0] & 15) * 4:]
                seen, = struct.unpack("!H", data[4:6])
                if data[0] != (REPLY if int(port) else REQUEST)[sock.proto] or int(port) not in (0, seen):
                    continue
                data = data[8:]
            self.peers[who, protocol, port] = peer
            text = data.decode().rstrip(".")
            return [f"{self.place(protocol, peer[0], seen)} {text}" + (f" {len(data)}" if len(data) > 1000 else "")]
        return ["nothing"]

    def answer(self, who, protocol, port, text, size="0"):
        """answer WHO PROTOCOL PORT TEXT [SIZE]: sends a datagram to the source of the last one received, if any."""
        peer = self.peers.get((who, protocol, port))
        if peer:
            self.socket(who, protocol, port).sendto(text.encode().ljust(int(size), b"."), peer)
        return []

    def connect(self, who, protocol, port, address, target):
        """connect WHO PROTOCOL PORT ADDRESS PORT: connects. Returns "connected", "refused" or "nothing"."""
        try:
            self.socket(who, protocol, port).connect((address, int(target)))
        except TimeoutError:
            return ["nothing"]
        except ConnectionRefusedError:
            return ["refused"]
        return ["connected"]

    def accept(self, who, protocol, port):
        """accept WHO PROTOCOL PORT: accepts a connection, which `say` and `hear` use from now on. Returns
        "ADDRESS PORT" of the client, or "nothing"."""
        listening = self.listening[who, protocol, port]
        if not select.select([listening], [], [], PATIENCE)[0]:
            return ["nothing"]
        self.sockets[who, protocol, port], peer = listening.accept()
        return [self.place(protocol, *peer[:2])]

    def say(self, who, protocol, port, text):
        """say WHO PROTOCOL PORT TEXT: sends text through a stream."""
        self.socket(who, protocol, port).send(text.encode())
        return []

    def end(self, who, protocol, port):
        """end WHO PROTOCOL PORT: shuts down the sending side of a stream."""
        self.socket(who, protocol, port).shutdown(socket.SHUT_WR)
        return []

    def abort(self, who, protocol, port):
        """abort WHO PROTOCOL PORT: resets the connection."""
        sock = self.sockets.pop((who, protocol, port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        return []


if __name__ == "__main__":
    ComparePeers().run()
