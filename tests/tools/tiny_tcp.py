# SPDX-License-Identifier: GPL-2.0
"""A tiny TCP that sends exactly the segments that it is told to: for retransmissions, overlaps and gaps.

It uses a raw socket. Its host's own TCP would reset the connection: a rule has to drop these resets.
"""

import ipaddress
import os
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import Inside
from peers import checksum, family

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
# A number of Linux that the module socket does not define; and the offset of TCP's checksum.
IPV6_CHECKSUM, CHECKSUM = 7, 16
# A maximum segment size of 1460, and "SACK permitted" (RFC 9293, section 3.2, and RFC 2018, section 2).
SYN_OPTIONS = bytes([2, 4, 1460 >> 8, 1460 & 0xFF, 4, 2, 1, 1])
OPTION_END, OPTION_NOP, OPTION_SACK = 0, 1, 5
# The first sequence number: soon after it the numbers begin again at 0.
FIRST = 2**32 - 100


def signed(number):
    """Returns a difference of sequence numbers as a number from -2**31 on."""
    return (number + 2**31) % 2**32 - 2**31


def read_sack(options):
    """Returns the edges of an option SACK, or none."""
    while options and options[0] != OPTION_END:
        if options[0] == OPTION_NOP:
            options = options[1:]
            continue
        length = max(options[1], 2) if len(options) > 1 else len(options)
        if options[0] == OPTION_SACK:
            return list(struct.unpack_from(f"!{(length - 2) // 4}I", options, 2))
        options = options[length:]
    return []


class TinyTcp:
    """One end of a connection. Positions are octets since the beginning of a direction."""

    def __init__(self, host, address, port):
        self.address, self.port = address, port
        with Inside(host):
            self.sock = socket.socket(family(address), socket.SOCK_RAW, socket.IPPROTO_TCP)
        if self.sock.family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, CHECKSUM)
        self.sock.bind((address, 0))
        self.sock.setblocking(False)
        self.peer, self.established = None, False
        # How much was sent, and acknowledged; the edges of the last SACK; and the other end's first number.
        self.sent, self.acknowledged, self.sack, self.other_first = 0, 0, [], None
        # The octets that arrived, those included that were lost then, and the octets that were received; the number of
        # these that were taken; the numbers of segments that came again, or with other content.
        self.arrived, self.stream, self.taken, self.again, self.changed = {}, {}, 0, 0, 0
        # So many segments with data are lost on arrival. Whether anything came since the last segment was sent.
        self.lose, self.answered = 0, False

    def connect(self, address, port):
        self.peer = address, port
        self.transmit(SYN, FIRST, b"", SYN_OPTIONS)

    def received(self):
        """Returns how much has been received without a gap."""
        end = 0
        while end in self.stream:
            end += 1
        return end

    def sack_option(self):
        """Returns an option SACK about the octets behind the first gap, or nothing if there is no gap."""
        behind = [place for place in self.stream if place > self.received()]
        if not behind:
            return b""
        start = end = min(behind)
        while end in self.stream:
            end += 1
        edges = [(self.other_first + 1 + edge) % 2**32 for edge in (start, end)]
        return struct.pack("!BBBB2I", OPTION_NOP, OPTION_NOP, OPTION_SACK, 10, *edges)

    def transmit(self, flags, number, payload=b"", options=b""):
        acknowledged = 0 if self.other_first is None else self.other_first + 1 + self.received()
        header = struct.pack("!HHIIBBHHH", self.port, self.peer[1], number % 2**32, acknowledged % 2**32,
                             (20 + len(options)) // 4 << 4, flags, 65535, 0, 0)
        segment = bytearray(header + options + payload)
        if self.sock.family == socket.AF_INET:
            ends = b"".join(ipaddress.ip_address(end).packed for end in (self.address, self.peer[0]))
            total = checksum(ends + struct.pack("!HH", socket.IPPROTO_TCP, len(segment)) + segment)
            struct.pack_into("!H", segment, CHECKSUM, total)
        self.sock.sendto(segment, (self.peer[0], 0))

    def send_at(self, position, payload):
        """Sends one segment."""
        self.answered = False
        self.transmit(ACK | PSH, FIRST + 1 + position, payload)
        self.sent = max(self.sent, position + len(payload))

    def send(self, payload):
        self.send_at(self.sent, payload)

    def settled(self):
        """Returns whether all that was sent is acknowledged."""
        self.receive()
        return self.acknowledged == self.sent

    def hopeless(self):
        """Returns whether the other end answered without acknowledging all: it does not do so later, either."""
        return self.answered and not self.settled()

    def take(self):
        """Returns what has been received without a gap since the last call."""
        self.receive()
        start, self.taken = self.taken, self.received()
        return bytes(self.stream[position] for position in range(start, self.taken))

    def receive(self):
        """Receives all packets that are there."""
        while True:
            try:
                packet, source = self.sock.recvfrom(1 << 17)
            except BlockingIOError:
                return
            segment = packet[(packet[0] & 15) * 4:] if self.sock.family == socket.AF_INET else packet
            place = source[0], int.from_bytes(segment[:2], "big")
            if int.from_bytes(segment[2:4], "big") == self.port and self.peer in (None, place):
                self.take_segment(place, segment)

    def take_segment(self, place, segment):
        number, acknowledged, offset, flags = struct.unpack_from("!IIBB", segment, 4)
        data = segment[(offset >> 4) * 4:]
        if flags & RST:
            return
        self.answered = True
        if flags & SYN:
            passive, self.peer, self.other_first = self.peer is None, place, number
            self.transmit(SYN | ACK if passive else ACK, FIRST if passive else FIRST + 1, b"",
                          SYN_OPTIONS if passive else b"")
        if flags & ACK and self.other_first is not None:
            self.established = True
            self.acknowledged = max(self.acknowledged, signed(acknowledged - FIRST - 1))
            self.sack = [signed(edge - FIRST - 1) for edge in read_sack(segment[20:(offset >> 4) * 4])]
        if data:
            self.take_data(signed(number - self.other_first - 1), data)

    def take_data(self, position, data):
        octets = dict(enumerate(data, position))
        self.again += position in self.arrived
        self.changed += any(self.arrived.get(place, octet) != octet for place, octet in octets.items())
        self.arrived.update(octets)
        if self.lose:
            self.lose -= 1
        else:
            self.stream = octets | self.stream
            self.transmit(ACK, FIRST + 1 + self.sent, b"", self.sack_option())

    def close(self):
        """Closes the socket, and leaves it to the other end to reset the connection."""
        self.sock.close()
