#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""tests/tools/senders.py SENDERS RATE HOST,... ADDRESS...: so many senders that keep making flows; runs in the guest.

Each is a process of its own, in the hosts in turn. It makes about RATE flows a second, to each ADDRESS in turn: a
TFTP request to port 69, from a source port that was not used for a while, sent raw, for a socket for each flow
would cost more than the flow does. Says "ready" first. At SIGTERM all end, and the number of packets that were
sent is printed.
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
# Where the kernel puts the checksum; with IPv4 there need not be one.
IPV6_CHECKSUM, OFFSET = 7, 6
# Seconds between two bursts, at least.
PAUSE = 0.05


def socket_for(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, OFFSET)
    return sock


def keep_sending(host, ports, rate, addresses):
    """Makes flows until SIGTERM; answers how many."""
    told = []
    with open(f"/run/netns/{host}", "rb") as namespace:
        os.setns(namespace.fileno(), os.CLONE_NEWNET)
    signal.signal(signal.SIGTERM, lambda *_: told.append("to end"))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    targets = itertools.cycle([(socket_for(address), (address, 0)) for address in addresses])
    ports, sent = itertools.cycle(ports), 0
    while not told:
        began = time.process_time()
        for _ in range(max(1, round(rate * PAUSE))):
            sock, target = next(targets)
            header = struct.pack("!HHHH", next(ports), PORT, 8 + len(REQUEST), 0)
            try:
                sock.sendto(header + REQUEST, target)
                sent += 1
            except OSError:
                # There is no way there at the moment.
                pass
        # Where packets are dear, on a debug kernel, time is left for others.
        time.sleep(max(PAUSE, 20 * (time.process_time() - began)))
    return sent


def main():
    senders, rate, hosts, addresses = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:]
    share = len(SOURCES) // senders
    # A child's handler comes after its birth, and ours is to wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    children = {}
    for number in range(senders):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            host, ports = hosts[number % len(hosts)], SOURCES[number * share:(number + 1) * share]
            os.write(writer, b"%d" % keep_sending(host, ports, rate, addresses))
            os._exit(0)
        os.close(writer)
        children[child] = reader
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    for child in children:
        os.kill(child, signal.SIGTERM)
        # It may have been stopped for a while.
        os.kill(child, signal.SIGCONT)
    print(sum(int(os.read(reader, 20) or 0) for reader in children.values()))


main()
