# SPDX-License-Identifier: GPL-2.0
"""The network of the scorecard: hosts inside and outside that exist only as packets on two wires, and the router.

    inside                                router                      outside
    172.18.0.2, .3, ...   lan (lan0)   lan0  wan0   server (eth0)   203.0.113.2, .3, .4
                                 172.18.0.1  203.0.113.1, .9

The namespaces lan and server have no addresses, so that nobody but this program answers a packet there.
"""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "tools"))
import frames
from ctnetlink import Conntrack, Inside
from frames import ICMP, TCP, UDP
from peers import SLOW

INSIDE, OUTSIDE = "inside", "outside"
ROUTER, GATEWAY = "203.0.113.1", "172.18.0.1"
# Hosts outside.
A, B, C = "203.0.113.2", "203.0.113.3", "203.0.113.4"
ETH_P_ALL, PACKET_OUTGOING = 3, 4
DONT_FRAGMENT = 0x4000
# The ICMP messages with an identifier, and the errors.
QUERIES, ERRORS = frames.QUERIES[ICMP], frames.ERRORS[ICMP]
# Seconds that a test may wait where the clock does not jump ahead.
PATIENCE = 2


class Skipped(Exception):
    """The test would wait too long."""


def host(number):
    """Returns the address of an inside host."""
    return f"172.18.0.{number}"


# --- Packets: bytes that begin with the IP header


def finished(packet):
    """Returns the packet with correct checksums."""
    return frames.with_checksums(bytes(12) + struct.pack("!H", frames.IPV4) + packet)[frames.ETHERNET:]


def ip(source, target, protocol, body, *, hops=64, options=b"", dont_fragment=False, tos=0, name=0):
    packet = bytearray(frames.ip(frames.packed(source), frames.packed(target), protocol, body, hops, options, name))
    packet[1] = tos
    if dont_fragment:
        packet[6] |= DONT_FRAGMENT >> 8
    return finished(bytes(packet))


def datagram(source, target, content=b"content", **more):
    return ip(source[0], target[0], UDP, frames.udp((source[1], target[1]), content), **more)


def segment(source, target, flags, sequence=1000, acknowledged=0, content=b"", **more):
    body = frames.tcp((source[1], target[1]), flags, sequence, acknowledged, content)
    return ip(source[0], target[0], TCP, body, **more)


def query(source, target, kind=8, **more):
    """Returns an ICMP query or its response. The port of the source is the identifier."""
    # The times of a timestamp, or a mask, are content, too.
    return ip(source[0], target[0], ICMP, frames.icmp(kind, 0, struct.pack("!HH", source[1], 1), bytes(12)), **more)


def error(origin, target, kind, code, quoted, rest=bytes(4), **more):
    """Returns an ICMP error from an address to another, about a packet."""
    return ip(origin, target, ICMP, frames.icmp(kind, code, rest, quoted), **more)


def first(protocol, source, target, **more):
    """Returns the first packet of a flow."""
    if protocol == UDP:
        return datagram(source, target, **more)
    if protocol == TCP:
        return segment(source, target, frames.SYN, **more)
    return query(source, target, **more)


def fragments(packet, size):
    """Returns a packet in fragments with `size` bytes of its body each, a multiple of 8."""
    source, target = packet[12:16], packet[16:20]
    body, name = packet[20:], os.getpid() & 0xFFFF
    made = []
    for offset in range(0, len(body), size):
        more = int(offset + size < len(body))
        piece = body[offset:offset + size]
        made.append(finished(frames.ip(source, target, packet[9], piece, name=name, where=offset | more)))
    return made


class Seen:
    """A packet that arrived somewhere, or that an ICMP error quotes."""

    def __init__(self, where, packet):
        self.where = where
        length = (packet[0] & 15) * 4
        (total,) = struct.unpack_from("!H", packet, 2)
        # Without the padding of short frames. An error may quote less than all.
        self.packet = packet[:total]
        self.source, self.target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        self.protocol, self.tos, self.hops = packet[9], packet[1], packet[8]
        (place,) = struct.unpack_from("!H", packet, 6)
        self.offset, self.fragment = (place & 0x1FFF) * 8, place & 0x3FFF > 0
        self.body = self.packet[length:]
        self.ports, self.flags, self.kind, self.code, self.quoted = (None, None), 0, None, None, None
        if not self.offset and len(self.body) >= 8:
            self.read_body()

    def read_body(self):
        if self.protocol in (UDP, TCP):
            self.ports = struct.unpack_from("!HH", self.body)
            if self.protocol == TCP and len(self.body) > 13:
                self.flags = self.body[13]
        elif self.protocol == ICMP:
            self.kind, self.code = self.body[0], self.body[1]
            (number,) = struct.unpack_from("!H", self.body, 4)
            if self.kind in QUERIES:
                self.ports = number, number
            elif self.kind in ERRORS and len(self.body) >= 36:
                self.quoted = Seen(self.where, self.body[8:])

    @property
    def intact(self):
        """Whether the packet's checksums are correct."""
        return finished(self.packet) == self.packet

    def __str__(self):
        ends = f"{self.source}:{self.ports[0]} > {self.target}:{self.ports[1]}"
        if self.protocol == ICMP:
            return f"{self.where}: {ends} ICMP {self.kind} {self.code}" + (f" [{self.quoted}]" if self.quoted else "")
        return f"{self.where}: {ends} protocol {self.protocol}"


# --- Wires


class Wire:
    """A raw socket on one end of a link to the router."""

    def __init__(self, where, namespace, device, router):
        self.where = where
        with Inside(namespace):
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.sock.bind((device, 0))
        self.own = self.sock.getsockname()[4]
        self.router = router

    def send(self, packet):
        self.sock.send(frames.ethernet(self.router, self.own, frames.IPV4, packet))

    def ask(self, address):
        """Asks the router for its own address by ARP, without an address of ours."""
        body = struct.pack("!HHBBH", 1, frames.IPV4, 6, 4, 1) + self.own + bytes(4 + 6) + socket.inet_aton(address)
        self.sock.send(frames.ethernet(b"\xff" * 6, self.own, frames.ARP, body))

    def receive(self, *, until_answer):
        """Yields the IP packets that arrived; until the answer of `ask`, or those that are there."""
        self.sock.settimeout(10 * SLOW if until_answer else 0)
        while True:
            try:
                frame, (_, kind, sent, *_) = self.sock.recvfrom(65535)
            except BlockingIOError:
                return
            if sent == PACKET_OUTGOING:
                continue
            if kind == frames.ARP and frame[21] == 2 and until_answer:
                return
            if kind == frames.IPV4:
                yield Seen(self.where, frame[frames.ETHERNET:])


class Network:
    """Sends packets through the router, and sees what comes out. Tells how the router is set up."""

    def __init__(self, target, jumps):
        self.target, self.jumps = target, jumps
        # Tells whether the remedy of a requirement is in force.
        self.remedied = False
        # The router's softirqs run on the CPU that sends, one after the other.
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        self.wires = {INSIDE: Wire(INSIDE, "lan", "lan0", mac("lan0")),
                      OUTSIDE: Wire(OUTSIDE, "server", "eth0", mac("wan0"))}
        self.conntrack = Conntrack("router")
        # Each test takes ports of its own: mappings outlive their flows.
        self.last = 10000
        self.log = []

    def port(self):
        """Returns a port, an even one, that no test has used."""
        self.last += 2
        return self.last

    def through(self, where, *packets):
        """Sends packets, and returns what has come out of the router, anywhere, when all of them have passed it.

        The router handles packets of a wire in their order. When it has answered a question that follows them, it has
        handled them; no time needs to pass to know that nothing came.
        """
        self.forget()
        wire, other = self.wires[where], self.wires[OUTSIDE if where == INSIDE else INSIDE]
        for packet in packets:
            wire.send(packet)
        wire.ask(GATEWAY if where == INSIDE else ROUTER)
        seen = [*wire.receive(until_answer=True), *other.receive(until_answer=False)]
        self.log += seen
        return seen

    def forget(self):
        """Reads what has come without a packet of ours, and notes it in the log."""
        for wire in self.wires.values():
            self.log += wire.receive(until_answer=False)

    def wait(self, seconds):
        """Lets time pass. With a clock that jumps ahead while the guest is idle, that takes no time."""
        if seconds > PATIENCE and not self.jumps:
            raise Skipped
        time.sleep(seconds)

    # --- Flows

    def begin(self, protocol, source, target, **more):
        """Sends the first packet of a flow from inside, and returns it as it came out, or None."""
        for seen in self.through(INSIDE, first(protocol, source, target, **more)):
            if (seen.where, seen.protocol, seen.target) == (OUTSIDE, protocol, target[0]) and seen.source != source[0]:
                return seen
        return None

    def outside_port(self, protocol, source, target):
        """Begins a flow, and returns its outside port, or identifier, or None."""
        seen = self.begin(protocol, source, target)
        return seen.ports[0] if seen else None

    def comes_in(self, packet, target):
        """Sends a packet from outside and returns it as it reached an endpoint inside, or None."""
        for seen in self.through(OUTSIDE, packet):
            if seen.where == INSIDE and seen.target == target[0] and target[1] in (seen.ports[1], None):
                return seen
        return None

    # --- The router

    def expectations(self):
        return self.conntrack.expectations()

    def run(self, *words):
        """Runs a command on the router."""
        with Inside("router"):
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def iptables(self, *words):
        self.run(os.environ.get("IPTABLES", "iptables-legacy"), "-w", *words)

    @contextlib.contextmanager
    def rule(self, table, chain, *words):
        """Has a rule in front of the others for a while."""
        self.iptables("-t", table, "-I", chain, *words)
        try:
            yield
        finally:
            self.iptables("-t", table, "-D", chain, *words)

    @contextlib.contextmanager
    def settings(self, **values):
        """Has sysctls of the router for a while: names of files below /proc/sys/net, with __ for each slash."""
        old = {name: exchange_setting(name, value) for name, value in values.items()}
        try:
            yield
        finally:
            for name, value in reversed(old.items()):
                exchange_setting(name, value)


def exchange_setting(name, value):
    """Changes a sysctl of the router. Returns the old value."""
    with Inside("router"), open("/proc/sys/net/" + name.replace("__", "/"), "r+", encoding="ascii") as file:
        old = file.read().strip()
        file.seek(0)
        file.write(str(value))
    return old


def mac(device):
    """Returns the hardware address of a device of the router."""
    with Inside("router"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((device, 0))
        return sock.getsockname()[4]
