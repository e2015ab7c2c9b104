#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Sends pairs of UDP packets over IPv4, the two of a pair at the same time from two CPUs; runs in the guest.

Usage: tests/tools/races.py KIND COUNT HOST,HOST ADDRESS

One process on each of the first two CPUs sends COUNT packets from its host to ADDRESS. After every few packets it waits
until the other has sent as many. KIND says what both packets of a pair have in common:

  port    the source port and the destination port; both differ from pair to pair
  server  source port and destination port, the same in all pairs; each packet has a source address of its own
  flow    everything; the ports differ from pair to pair
  flow-to-server
          everything; the source address differs from pair to pair

Sources are 10.1.0.0/16 for the first host, and 10.2.0.0/16 for the second.
"""

import mmap
import os
import socket
import struct
import sys
import time

HEADER = struct.Struct("!BBHHHBB2x4s4s4H")
# With two packets for each, one server is not asked for more ports than there are.
PORTS = range(2000, 27000)
PORT = 5000
# So many packets are sent before the processes wait for each other. Where the host's CPUs are busy, each time costs
# some milliseconds.
BURST = 8


def packet(kind, host, number, destination):
    """Returns the packet with this number. The kernel fills in IP's checksum, and UDP's may be 0."""
    sport, dport, client = PORT, PORT, number
    if kind in ("port", "flow"):
        sport, dport, client = PORTS[number % len(PORTS)], PORT + number // len(PORTS), 0
    second = 1 if kind.startswith("flow") else 1 + host
    source = struct.pack("!BBH", 10, second, 1 + client)
    return HEADER.pack(0x45, 0, HEADER.size, 1, 0, 64, socket.IPPROTO_UDP, source, destination, sport, dport, 8, 0)


def wait_for(places, other, number):
    """Waits until the other process is at this number: spins, so that both go on in the same moment.

    Now and then it sleeps: where the two CPUs are one of the host's, it would take the other one's time.
    """
    spins = 0
    while places[other] <= number:
        spins += 1
        if spins % 200 == 0:
            time.sleep(0.0001)


def send_all(host, name, kind, count, address, places):
    with open(f"/run/netns/{name}", "rb") as namespace:
        os.setns(namespace.fileno(), os.CLONE_NEWNET)
    os.sched_setaffinity(0, {host})
    destination, other = socket.inet_aton(address), 1 - host
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for number in range(count):
            data = packet(kind, host, number, destination)
            if number % BURST == 0:
                places[host] = number + 1
                wait_for(places, other, number)
            sock.sendto(data, (address, 0))


def main():
    kind, count, names, address = sys.argv[1:]
    places = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    children = []
    for host, name in enumerate(names.split(",")):
        child = os.fork()
        if not child:
            status = 1
            try:
                send_all(host, name, kind, int(count), address, places)
                status = 0
            finally:
                # A process that fails must not let the other one wait.
                places[host] = (1 << 64) - 1
                os._exit(status)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


main()
