#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Begins flows that may be refused, and prints what their sender is told; runs in the guest.

Usage: tests/tools/refused.py [--flows N] [--patience SECONDS] udp|tcp|sctp|icmp SOURCE PORT ADDRESS

The first packet of N flows goes from SOURCE, from PORT and the ports behind it, to port 9 of ADDRESS. For ICMP a port
is an echo request's identifier. Then ICMP errors are awaited until none comes for --patience seconds, or until there
are as many as flows. Prints a line for each error:

  ORIGIN TYPE CODE QUOTE      the error's source, and the quoted packet: PROTOCOL SOURCE:PORT>ADDRESS

and one for the last flow: "told NAME", the error that the system call returns, or else the socket within --patience
seconds ("told nothing" if there is none).
"""

import argparse
import errno
import ipaddress
import os
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from peers import SLOW, checksum, family

NAMES = {socket.IPPROTO_UDP: "udp", socket.IPPROTO_TCP: "tcp", 132: "sctp", socket.IPPROTO_ICMP: "icmp",
         socket.IPPROTO_ICMPV6: "icmp"}
UNREACHABLE = {socket.AF_INET: 3, socket.AF_INET6: 1}


def quoted(version, packet):
    """Returns the quoted packet as PROTOCOL SOURCE:PORT>ADDRESS."""
    if version == socket.AF_INET:
        length, protocol = (packet[0] & 15) * 4, packet[9]
        addresses = packet[12:16], packet[16:20]
        if checksum(packet[:length]):
            return "a wrong checksum"
    else:
        length, protocol = 40, packet[6]
        addresses = packet[8:24], packet[24:40]
    name = NAMES.get(protocol, str(protocol))
    port, = struct.unpack_from("!H", packet, length + (4 if name == "icmp" else 0))
    source, target = (ipaddress.ip_address(address) for address in addresses)
    return f"{name} {source}:{port}>{target}"


class Listener:
    """Receives the ICMP errors of this host."""

    def __init__(self, version):
        self.version = version
        self.sock = socket.socket(version, socket.SOCK_RAW,
                                  socket.IPPROTO_ICMP if version == socket.AF_INET else socket.IPPROTO_ICMPV6)

    def errors(self, count, patience):
        """Yields up to `count` errors, until none comes for `patience` seconds."""
        end = time.monotonic() + patience
        while count and select.select([self.sock], [], [], max(0, end - time.monotonic()))[0]:
            data, origin = self.sock.recvfrom(2048)
            if self.version == socket.AF_INET:
                data = data[(data[0] & 15) * 4:]
            if data[0] == UNREACHABLE[self.version]:
                yield f"{origin[0]} {data[0]} {data[1]} {quoted(self.version, data[8:])}"
                count, end = count - 1, time.monotonic() + patience


def begin(protocol, source, target):
    """Sends the first packet of a flow. Returns its socket, and the number of the error that this reports, or 0."""
    version = family(source[0])
    kind = socket.SOCK_STREAM if protocol in ("tcp", "sctp") else socket.SOCK_DGRAM
    number = {"udp": 0, "tcp": 0, "sctp": 132}.get(
        protocol, socket.IPPROTO_ICMP if version == socket.AF_INET else socket.IPPROTO_ICMPV6)
    sock = socket.socket(version, kind, number)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(source)
    sock.setblocking(False)
    error = sock.connect_ex(target)
    if kind == socket.SOCK_DGRAM:
        # The kernel fills in the identifier and the checksum of an echo request.
        request = struct.pack("!BBHHH", 8 if version == socket.AF_INET else 128, 0, 0, 0, 1)
        try:
            sock.send(request)
        except OSError as refused:
            error = refused.errno
    return sock, 0 if error == errno.EINPROGRESS else error


def told(sock, error, patience):
    """Returns the number of the error that a flow's sender is told of, or 0."""
    if error:
        return error
    poll = select.poll()
    poll.register(sock, 0)
    # Without this, a soft error, which does not end a connection, would count.
    failed = poll.poll(patience * 1000)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if failed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--flows", type=int, default=1)
    parser.add_argument("--patience", type=float, default=SLOW)
    parser.add_argument("protocol", choices=["udp", "tcp", "sctp", "icmp"])
    parser.add_argument("source")
    parser.add_argument("port", type=int)
    parser.add_argument("address")
    options = parser.parse_args()
    listener = Listener(family(options.source))
    flows = [begin(options.protocol, (options.source, port), (options.address, 9))
             for port in range(options.port, options.port + options.flows)]
    for error in listener.errors(options.flows, options.patience):
        print(error)
    error = told(*flows[-1], options.patience)
    print("told", errno.errorcode.get(error, error) if error else "nothing")


if __name__ == "__main__":
    main()
