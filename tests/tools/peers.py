# SPDX-License-Identifier: GPL-2.0
"""What the tools share that play hosts of a scenario: commands line by line, and what ICMP has to say."""

import ipaddress
import os
import socket
import struct
import sys

# The debug kernel takes its time: anything is waited for so many times longer there.
SLOW = 4 if os.path.exists("/sys/kernel/debug/kmemleak") else 1
# Linux's numbers that the module socket has no names for.
IP_RECVERR, IPV6_RECVERR = 11, 25
# struct sock_extended_err; the sockaddr of the error's origin is behind it.
EXTENDED_ERROR = struct.Struct("=IBBBBII")


class Player:
    """Does what the lines of the standard input say, each a method with its arguments. What it returns, lines, is
    printed, and then a dot."""

    def do(self, command, *arguments):
        return getattr(self, command)(*arguments)

    def play(self):
        for line in sys.stdin:
            try:
                said = self.do(*line.split())
            except OSError as error:
                said = [f"{line.strip()}: {error}"]
            print("\n".join([*said, "."]), flush=True)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def checksum(data):
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def hear_errors(sock):
    """From now on the socket keeps the ICMP errors that it meets."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def met_error(sock):
    """The next error that the socket met: where from, type, code, info. None: it met none."""
    patience = sock.gettimeout()
    # A socket with a time limit would wait for data, which is not what it gets here.
    sock.setblocking(False)
    try:
        ancillary = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)[1]
    except BlockingIOError:
        return None
    finally:
        sock.settimeout(patience)
    for _, kind, data in ancillary:
        if kind in (IP_RECVERR, IPV6_RECVERR):
            _, _, number, code, _, info, _ = EXTENDED_ERROR.unpack_from(data)
            return origin(data[EXTENDED_ERROR.size:]), number, code, info
    return None


def origin(raw):
    kind, = struct.unpack_from("=H", raw)
    if kind == socket.AF_INET:
        return str(ipaddress.IPv4Address(raw[4:8]))
    if kind == socket.AF_INET6:
        return str(ipaddress.IPv6Address(raw[8:24]))
    return "local"


def icmp_error(sock):
    """ICMP TYPE CODE from ADDRESS, as a socket was told; nothing, if it was told none."""
    error = met_error(sock)
    return f"ICMP {error[1]} {error[2]} from {error[0]}" if error else ""
