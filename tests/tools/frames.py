# SPDX-License-Identifier: GPL-2.0
"""Parses, makes, changes, answers and compares Ethernet frames, for tests/tools/packet_fuzz.py.

Frames are bytes. Addresses are in network order, and ports and lengths are numbers.
"""

import ipaddress
import os
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from peers import checksum

ETHERNET = 14
IPV4, IPV6, ARP, VLAN = 0x0800, 0x86DD, 0x0806, 0x8100
ICMP, IGMP, TCP, UDP, GRE, ICMPV6, SCTP = 1, 2, 6, 17, 47, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, OPTIONS = 0, 43, 44, 59, 60
# The offset of each transport's checksum.
CHECKSUM = {ICMP: 2, TCP: 16, UDP: 6, ICMPV6: 2, SCTP: 8, IGMP: 2}
FIN, SYN, RST, PSH, ACK_FLAG, URG = 1, 2, 4, 8, 16, 32
REQUEST, REPLY = {ICMP: 8, ICMPV6: 128}, {ICMP: 0, ICMPV6: 129}
# The types of ICMP messages with an identifier, and of ICMP errors.
QUERIES = {ICMP: {0, 8, 13, 14, 15, 16, 17, 18}, ICMPV6: {128, 129}}
ERRORS = {ICMP: {3, 4, 5, 11, 12}, ICMPV6: {1, 2, 3, 4}}


def packed(address):
    return ipaddress.ip_address(address).packed


# --- Parsing


class Packet:
    """The offsets of the parts of an IP packet in a frame, and the fields that matter."""

    __slots__ = "version", "at", "protocol", "body", "offset", "fragment"

    def __init__(self, version, at, protocol, body, offset, fragment):
        self.version, self.at, self.protocol = version, at, protocol
        # The offset of the transport header, or of the fragment's data; the fragment's offset in bytes; and whether
        # the packet is a fragment.
        self.body, self.offset, self.fragment = body, offset, fragment

    def source(self, frame):
        return bytes(frame[self.at + 12 : self.at + 16] if self.version == 4 else frame[self.at + 8 : self.at + 24])

    def target(self, frame):
        return bytes(frame[self.at + 16 : self.at + 20] if self.version == 4 else frame[self.at + 24 : self.at + 40])

    def ports(self, frame):
        """Returns the source and destination port, or None if there are none."""
        if not self.offset and self.protocol in (TCP, UDP, SCTP) and len(frame) >= self.body + 4:
            return struct.unpack_from("!HH", frame, self.body)
        return None


def read(frame, at=ETHERNET):
    """Returns the IP packet at that offset, or None if it cannot be parsed."""
    if at == ETHERNET and frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return None
    version = frame[at] >> 4 if len(frame) > at else 0
    if version == 4 and len(frame) >= at + 20:
        (where,) = struct.unpack_from("!H", frame, at + 6)
        body = at + max(20, (frame[at] & 15) * 4)
        return Packet(4, at, frame[at + 9], body, (where & 0x1FFF) * 8, where & 0x3FFF > 0)
    if version == 6 and len(frame) >= at + 40:
        return read_extensions(frame, at)
    return None


def read_extensions(frame, at):
    """Returns the IPv6 packet, without its extension headers."""
    following, body, offset, fragment = frame[at + 6], at + 40, 0, False
    while following in (HOP_BY_HOP, ROUTING, OPTIONS, FRAGMENT) and not offset and len(frame) >= body + 8:
        step = 8 + 8 * frame[body + 1]
        if following == FRAGMENT:
            (where,) = struct.unpack_from("!H", frame, body + 2)
            offset, fragment, step = where & 0xFFF8, True, 8
        following, body = frame[body], body + step
    return Packet(6, at, following, body, offset, fragment)


def is_error(packet, frame):
    """Returns whether the packet is an ICMP error."""
    return packet.protocol in ERRORS and len(frame) > packet.body and frame[packet.body] in ERRORS[packet.protocol]


# --- Checksums


def crc32c_table():
    for index in range(256):
        n = index
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        yield n


CRC32C = list(crc32c_table())


def crc32c(data):
    """Returns SCTP's checksum (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def with_checksums(frame):
    """Returns the frame with correct checksums."""
    packet = read(frame)
    if not packet:
        return frame
    frame = bytearray(frame)
    if packet.version == 4:
        frame[packet.at + 10 : packet.at + 12] = b"\0\0"
        header = frame[packet.at : packet.body]
        frame[packet.at + 10 : packet.at + 12] = struct.pack("!H", checksum(bytes(header)))
    place = packet.body + CHECKSUM.get(packet.protocol, 0)
    if packet.protocol not in CHECKSUM or packet.fragment or len(frame) < place + 4:
        return bytes(frame)
    if packet.protocol == SCTP:
        frame[place : place + 4] = bytes(4)
        frame[place : place + 4] = struct.pack("<I", crc32c(frame[packet.body :]))
        return bytes(frame)
    frame[place : place + 2] = b"\0\0"
    body = bytes(frame[packet.body :])
    if packet.protocol not in (ICMP, IGMP):
        body = packet.source(frame) + packet.target(frame) + struct.pack("!II", len(body), packet.protocol) + body
    frame[place : place + 2] = struct.pack("!H", checksum(body) or 0xFFFF)
    return bytes(frame)


# --- Making


def ethernet(target, source, kind, content):
    return target + source + struct.pack("!H", kind) + content


def ip(source, target, protocol, body, hops=64, more=b"", name=0, where=0):
    """Returns an IP packet.

    `more` are IPv4's options, or IPv6's extension headers behind the number of the first one. `name` is the
    identification. `where` is a fragment's offset in bytes, plus 1 if more fragments follow.
    """
    if len(source) == 4:
        # IPv4's field contains the offset in units of 8 bytes, and the flag in bit 13.
        place = where >> 3 | (where & 1) << 13
        return struct.pack("!BBHHHBBH", 0x45 + len(more) // 4, 0, 20 + len(more) + len(body) & 0xFFFF, name, place,
                           hops, protocol, 0) + source + target + more + body
    first = protocol
    if more:
        first, more = more[0], more[1:]
    return struct.pack("!IHBB", 6 << 28, len(more) + len(body) & 0xFFFF, first, hops) + source + target + more + body


def extensions(kinds, following, contents):
    """Returns IPv6 extension headers of these kinds, behind the number of the first one."""
    made = bytes([following])
    for kind, content in zip(reversed(kinds), contents):
        body = content[:6] if kind == FRAGMENT else content + bytes(-(len(content) + 2) % 8)
        length = 0 if kind == FRAGMENT else (len(body) + 2) // 8 - 1
        made = bytes([kind, made[0], length]) + body + made[1:]
    return made


def udp(ports, content):
    return struct.pack("!HHHH", *ports, 8 + len(content) & 0xFFFF, 0) + content


def tcp(ports, flags, sequence=0, acknowledged=0, content=b"", options=b""):
    return struct.pack("!HHIIBBHHH", *ports, sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF,
                       5 + len(options) // 4 << 4, flags, 65535, 0, 0) + options + content


def sctp(ports, tag, chunk):
    return struct.pack("!HHII", *ports, tag, 0) + chunk


def icmp(kind, code, rest, content):
    return struct.pack("!BBH", kind, code, 0) + rest + content


# --- Answering


def answer_to(frame, rng):
    """Returns a plausible answer to the frame, with source and destination swapped, or the frame if it is no packet."""
    packet = read(frame)
    if not packet:
        return frame
    frame = bytearray(frame)
    source, target = packet.source(frame), packet.target(frame)
    start = packet.at + (12 if packet.version == 4 else 8)
    frame[start : start + 2 * len(source)] = target + source
    frame[packet.at + (8 if packet.version == 4 else 7)] = 60
    ports = packet.ports(frame)
    if ports:
        struct.pack_into("!HH", frame, packet.body, *ports[::-1])
    if packet.offset:
        return with_checksums(frame)
    if packet.protocol == TCP and len(frame) >= packet.body + 20:
        answer_tcp(frame, packet.body, rng)
    elif packet.protocol == SCTP and len(frame) >= packet.body + 32:
        answer_sctp(frame, packet.body)
    elif packet.protocol in REQUEST and len(frame) > packet.body:
        kinds = {REQUEST[packet.protocol]: REPLY[packet.protocol], 13: 14, 15: 16, 17: 18}
        frame[packet.body] = kinds.get(frame[packet.body], frame[packet.body])
    elif packet.protocol == UDP and ports and ports[1] == 69:
        # A TFTP server answers from another port.
        struct.pack_into("!H", frame, packet.body, rng.choice((69, 1069, 40069, 50069)))
    return with_checksums(frame)


def answer_tcp(frame, at, rng):
    sequence, acknowledged, flags = struct.unpack_from("!IIxB", frame, at + 4)
    length = max(0, len(frame) - at - (frame[at + 12] >> 4) * 4)
    step = length + bool(flags & (SYN | FIN))
    if flags & SYN and not flags & ACK_FLAG:
        flags, acknowledged = SYN | ACK_FLAG, rng.randrange(1 << 32)
    else:
        flags = rng.choice((ACK_FLAG,) * 6 + (ACK_FLAG | PSH, ACK_FLAG | FIN, ACK_FLAG | FIN, RST, RST | ACK_FLAG))
    struct.pack_into("!II", frame, at + 4, acknowledged, sequence + step & 0xFFFFFFFF)
    frame[at + 13] = flags


def answer_sctp(frame, at):
    """Answers INIT by INIT ACK, and so on up to COOKIE ACK. Other chunks are the same in both directions."""
    kind = frame[at + 12]
    frame[at + 12] = {1: 2, 2: 10, 10: 11}.get(kind, kind)
    if kind in (1, 2):
        # The verification tag that the receiver expects is the initiate tag that it sent.
        frame[at + 4 : at + 8] = frame[at + 16 : at + 20]


def error_about(frame, origin, rng):
    """Returns an ICMP error from the origin to the packet's source."""
    packet = read(frame)
    if not packet or packet.version != (4 if len(origin) == 4 else 6):
        return frame
    quoted = frame[packet.at : packet.at + rng.choice((28, 36, 48, 68, 128, 548, rng.randrange(200)))]
    if packet.version == 4:
        protocol, kinds = ICMP, ((3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0), (4, 0), (5, 1))
    else:
        protocol, kinds = ICMPV6, ((1, 0), (1, 4), (2, 0), (3, 0), (3, 1), (4, 1))
    rest = struct.pack("!HH", 0, rng.choice((0, 576, 1280, 1400, 65535)))
    packet = ip(origin, packet.source(frame), protocol, icmp(*rng.choice(kinds), rest, quoted))
    return with_checksums(frame[:ETHERNET] + packet)


def fragments(frame, rng):
    """Returns the packet in fragments: in any order, possibly with one missing, repeated or overlapping."""
    packet = read(frame)
    if not packet or packet.fragment or len(frame) < packet.body + 9:
        return [frame]
    body, name = frame[packet.body :], rng.randrange(1, 1 << 16)
    size = rng.choice((8, 16, 24, 64, 256, 1400, 1480))
    made = []
    for offset in range(0, min(len(body), 24 * size), size):
        piece = body[offset : offset + size]
        more = int(offset + size < len(body))
        made.append(piece_of(frame, packet, piece, offset | more, name))
    how = rng.randrange(8)
    if how == 0:
        made.reverse()
    elif how == 1:
        rng.shuffle(made)
    elif how == 2:
        made.pop(rng.randrange(len(made)))
    elif how == 3:
        made.append(rng.choice(made))
    elif how == 4:
        # A fragment that overlaps others, or begins at the end or behind it.
        offset = rng.randrange(0, len(body) + 64, 8)
        made.insert(rng.randrange(len(made) + 1),
                    piece_of(frame, packet, rng.randbytes(rng.choice((8, 16, 13))), offset | rng.randrange(2), name))
    elif how == 5:
        # A fragment close to the maximum offset.
        made.insert(0, piece_of(frame, packet, body[:8], 65528 if rng.random() < 0.5 else 65520, name))
    return made


def piece_of(frame, packet, piece, where, name):
    source, target = packet.source(frame), packet.target(frame)
    hops = frame[packet.at + (8 if packet.version == 4 else 7)]
    if packet.version == 4:
        return with_checksums(frame[:ETHERNET] + ip(source, target, packet.protocol, piece, hops, b"", name, where))
    more = extensions([FRAGMENT], packet.protocol, [struct.pack("!HI", where, name)])
    return frame[:ETHERNET] + ip(source, target, packet.protocol, piece, hops, more)


# --- Changing


def changed(frame, rng):
    """Returns the frame with a few bytes behind the Ethernet header changed, removed or inserted."""
    frame = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if len(frame) <= ETHERNET:
            break
        # Mostly in the headers.
        end = len(frame) if rng.random() < 0.3 else min(len(frame), ETHERNET + 68)
        place, how = rng.randrange(ETHERNET, end), rng.randrange(6)
        if how < 2:
            frame[place] ^= 1 << rng.randrange(8)
        elif how == 2:
            frame[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif how == 3:
            frame[place : place + 2] = rng.choice((b"\0\0", b"\0\1", b"\xff\xff", b"\x80\0", rng.randbytes(2)))
        elif how == 4:
            del frame[place : place + rng.choice((1, 2, 4, 8))]
        else:
            frame[place:place] = rng.randbytes(rng.choice((1, 2, 4, 8)))
    return with_checksums(frame) if rng.random() < 0.7 else bytes(frame)


def with_hops(frame, rng):
    packet = read(frame)
    if not packet:
        return frame
    frame = bytearray(frame)
    frame[packet.at + (8 if packet.version == 4 else 7)] = rng.choice((0, 1, 2, 255))
    return with_checksums(frame)


def with_bad_checksum(frame, rng):
    packet = read(frame)
    if not packet:
        return frame
    place = packet.body + CHECKSUM.get(packet.protocol, 0)
    if (packet.version == 4 and rng.random() < 0.3) or place >= len(frame):
        place = packet.at + 10
    frame = bytearray(frame)
    frame[place] ^= rng.randrange(1, 256)
    return bytes(frame)


def with_bad_length(frame, rng):
    """Returns the frame with a wrong length in one of its headers."""
    packet = read(frame)
    if not packet:
        return frame
    frame = bytearray(frame)
    places = [(packet.at + (2 if packet.version == 4 else 4), 2)]
    if packet.version == 4:
        places.append((packet.at, 1))
    if packet.protocol == UDP:
        places.append((packet.body + 4, 2))
    if packet.protocol == TCP:
        places.append((packet.body + 12, 1))
    if packet.protocol == SCTP:
        places.append((packet.body + 14, 2))
    place, size = rng.choice(places)
    if place + size > len(frame):
        return bytes(frame)
    old = int.from_bytes(frame[place : place + size], "big")
    if size == 1:
        # The other half of that byte is IP's version, or unused.
        mask = 0x0F if place == packet.at else 0xF0
        new = old & ~mask & 0xFF | rng.randrange(256) & mask
    else:
        new = rng.choice((0, 1, 7, 8, 19, 20, 21, old - 1, old + 1, old + 8, len(frame), 65535)) & 0xFFFF
    frame[place : place + size] = new.to_bytes(size, "big")
    return with_checksums(frame) if rng.random() < 0.7 else bytes(frame)


def truncated(frame, rng):
    """Returns the frame truncated anywhere, with or without corrected lengths in the headers."""
    frame = bytearray(frame[: rng.randrange(ETHERNET, max(len(frame), ETHERNET + 1))])
    packet = read(frame)
    if packet and rng.random() < 0.7:
        if packet.version == 4:
            struct.pack_into("!H", frame, packet.at + 2, len(frame) - packet.at)
        else:
            struct.pack_into("!H", frame, packet.at + 4, len(frame) - packet.at - 40)
        return with_checksums(frame)
    return bytes(frame)


# --- Comparing


def masked(frame):
    """Returns the frame with all fields zeroed that may be random.

    These are ports and identifiers, the identification of fragments, timestamps, and the checksums over these.
    """
    frame = bytearray(frame)
    mask(frame, read(frame))
    return bytes(frame)


def wipe(frame, start, end):
    if start < len(frame):
        end = min(end, len(frame))
        frame[start:end] = bytes(end - start)


def mask(frame, packet):
    if not packet:
        return
    at, body = packet.at, packet.body
    if packet.version == 4:
        wipe(frame, at + 4, at + 6)
        wipe(frame, at + 10, at + 12)
        # The options may contain a timestamp.
        wipe(frame, at + 20, body)
    else:
        wipe(frame, at + 1, at + 4)
        if packet.fragment:
            wipe(frame, body - 4, body)
    place = CHECKSUM.get(packet.protocol, 0) - packet.offset
    if packet.protocol in CHECKSUM and place >= 0:
        wipe(frame, body + place, body + place + (4 if packet.protocol == SCTP else 2))
    if packet.offset:
        return
    if packet.protocol in (TCP, UDP, SCTP):
        wipe(frame, body, body + 4)
    elif packet.protocol in ERRORS and len(frame) > body:
        if is_error(packet, frame):
            if packet.protocol == ICMP:
                # IPv4's identification and checksum, also if the quotation ends within the header.
                wipe(frame, body + 12, body + 14)
                wipe(frame, body + 18, body + 20)
            mask(frame, read(frame, body + 8))
        elif frame[body] in QUERIES[packet.protocol]:
            wipe(frame, body + 4, body + 6)
        if packet.protocol == ICMP and frame[body] in (13, 14):
            wipe(frame, body + 8, body + 20)
    elif packet.protocol == GRE:
        # PPTP's call ID.
        wipe(frame, body + 6, body + 8)


def show(frame):
    """Returns the frame as text."""
    packet = read(frame)
    if not packet:
        return f"{len(frame)} bytes: {frame[:80].hex()}"
    ends = [socket.inet_ntop(socket.AF_INET if packet.version == 4 else socket.AF_INET6, address)
            for address in (packet.source(frame), packet.target(frame))]
    ports = packet.ports(frame) or ("-", "-")
    return (f"{ends[0]} {ports[0]} > {ends[1]} {ports[1]} protocol {packet.protocol}, {len(frame)} bytes: "
            f"{frame[:160].hex()}")
