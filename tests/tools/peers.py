# SPDX-License-Identifier: GPL-2.0
"""The shared part of the tools that act for the hosts of a scenario: a loop that reads commands, and ICMP errors.

Used by compare.py, conversation.py, tftp.py and ftp.py, which scenarios start with `peers_start` (tests/lib/lib.sh).
"""

import ipaddress
import os
import socket
import struct
import sys

# The factor for all time limits: the debug kernel, which has kmemleak, is slower.
SLOW = 4 if os.path.exists("/sys/kernel/debug/kmemleak") else 1
# Numbers of Linux that the module socket does not define.
IP_RECVERR, IPV6_RECVERR = 11, 25
# struct sock_extended_err; the sockaddr of the error's origin is behind it.
EXTENDED_ERROR = struct.Struct("=IBBBBII")


class Peers:
    """Runs commands from standard input, one in each line: the name of a method, and its arguments.

    A command returns a list of lines. They are printed, followed by a line that is a dot.
    """

    def do(self, command, *arguments):
        return getattr(self, command)(*arguments)

    def run(self):
        for line in sys.stdin:
            try:
                answer = self.do(*line.split())
            except OSError as error:
                answer = [f"{line.strip()}: {error}"]
            print("\n".join([*answer, "."]), flush=True)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def checksum(data):
    """Returns the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def enable_errors(sock):
    """Makes the socket keep the ICMP errors that it receives in its error queue."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def next_error(sock):
    """Returns the next error in the socket's queue as (origin, type, code, info), or None if there is none."""
    timeout = sock.gettimeout()
    # With a timeout, Python would wait for data to arrive before it reads the error queue.
    sock.setblocking(False)
    try:
        ancillary = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)[1]
    except BlockingIOError:
        return None
    finally:
        sock.settimeout(timeout)
    for _, kind, data in ancillary:
        if kind in (IP_RECVERR, IPV6_RECVERR):
            _, _, number, code, _, info, _ = EXTENDED_ERROR.unpack_from(data)
            return origin(data[EXTENDED_ERROR.size:]), number, code, info
    return None


def origin(raw):
    """Returns the address in a struct sockaddr, or "local" if the error comes from this host."""
    kind, = struct.unpack_from("=H", raw)
    if kind == socket.AF_INET:
        return str(ipaddress.IPv4Address(raw[4:8]))
    if kind == socket.AF_INET6:
        return str(ipaddress.IPv6Address(raw[8:24]))
    return "local"


def icmp_error(sock):
    """Returns the socket's next error as "ICMP TYPE CODE from ADDRESS", or "" if there is none."""
    error = next_error(sock)
    return f"ICMP {error[1]} {error[2]} from {error[0]}" if error else ""
