#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Makes flows all the time, from SENDERS processes; runs in the guest.

Usage: tests/tools/senders.py SENDERS RATE HOST,... ADDRESS...

The processes are distributed over the hosts. Each makes about RATE flows a second, to each ADDRESS in turn. A flow is
one TFTP request to port 69, from the source port that was not used for the longest time. The requests are sent through
raw sockets, because a UDP socket for each flow would cost more than the flow itself.

Prints "ready" when the processes exist. At SIGTERM it ends them and prints the number of packets that they sent.
"""

import itertools
import os
import signal
import socket
import struct
import sys
import time

REQUEST = b"\0\1boot\0octet\0"
PORT = 69
SOURCES = range(1024, 65536)
# The socket option that makes the kernel fill in UDP's checksum, and its offset. IPv4 does not require a checksum.
IPV6_CHECKSUM, OFFSET = 7, 6
# The least number of seconds between two bursts.
PAUSE = 0.05


def socket_for(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, OFFSET)
    return sock


def keep_sending(host, ports, rate, addresses):
    """Makes flows until SIGTERM. Returns how many."""
    ended = []
    with open(f"/run/netns/{host}", "rb") as namespace:
        os.setns(namespace.fileno(), os.CLONE_NEWNET)
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    targets = itertools.cycle([(socket_for(address), (address, 0)) for address in addresses])
    ports, sent = itertools.cycle(ports), 0
    while not ended:
        began = time.process_time()
        for _ in range(max(1, round(rate * PAUSE))):
            sock, target = next(targets)
            header = struct.pack("!HHHH", next(ports), PORT, 8 + len(REQUEST), 0)
            try:
                sock.sendto(header + REQUEST, target)
                sent += 1
            except OSError:
                # There is no route at the moment.
                pass
        # Use at most 5 % of a CPU: a debug kernel needs much time for a packet.
        time.sleep(max(PAUSE, 20 * (time.process_time() - began)))
    return sent


def main():
    senders, rate, hosts, addresses = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:]
    ports_each = len(SOURCES) // senders
    # Blocked: in a child until its handler is set, here for sigwait().
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    children = {}
    for number in range(senders):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            host, ports = hosts[number % len(hosts)], SOURCES[number * ports_each:(number + 1) * ports_each]
            os.write(writer, b"%d" % keep_sending(host, ports, rate, addresses))
            os._exit(0)
        os.close(writer)
        children[child] = reader
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    for child in children:
        os.kill(child, signal.SIGTERM)
        # Scenarios may have stopped it.
        os.kill(child, signal.SIGCONT)
    print(sum(int(os.read(reader, 20) or 0) for reader in children.values()))


main()
