#!/usr/bin/env -S python3 -I
# SPDX-License-Identifier: GPL-2.0
"""Peers that look for a path between them by ICE (RFC 8445), as browsers do in a call; runs in the guest.

Usage: tests/tools/ice_peers.py STUN-SERVER PEER=PEER...

PEER is HOST@ADDRESS, a host's name and the one of its addresses that the peer uses. All pairs of peers run at the same
time. They tell each other their server-reflexive candidates alone, that is, the outside ends of their mappings. Each
peer prints a line: "PEER, mapping ADDRESS:PORT, heard LINE", with a line that the other one sent by the path, or "no
path" at its end.
"""

import asyncio
import multiprocessing
import os
import socket
import sys

from aioice import Candidate, Connection, stun

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import Inside
from peers import SLOW

# A check is repeated after this time, after twice, and after four times as much. The STUN server answers in any case.
stun.RETRY_RTO, CHECKS, QUESTIONS = 0.5 * SLOW, 3, 6


class Peer(Connection):
    """A peer that uses one of its host's addresses."""

    def __init__(self, name, server, controls):
        super().__init__(controls, stun_server=(server, 3478))
        self.name = name
        self.address = name.partition("@")[2]
        self.greeting = None

    async def get_component_candidates(self, component, addresses, timeout=20 * SLOW):
        stun.RETRY_MAX = QUESTIONS
        try:
            return await super().get_component_candidates(component, [self.address], timeout)
        finally:
            stun.RETRY_MAX = CHECKS

    def mappings(self):
        return [candidate for candidate in self.local_candidates if candidate.type == "srflx"]

    async def exchange(self, reader, writer):
        """Tells the other peer our name and candidates, and notes its own."""
        words = [self.local_username, self.local_password, *(mapping.to_sdp() for mapping in self.mappings())]
        writer.write("\t".join(words).encode() + b"\n")
        words = (await reader.readline()).decode().rstrip("\n").split("\t")
        self.remote_username, self.remote_password, *candidates = words
        for candidate in candidates:
            await self.add_remote_candidate(Candidate.from_sdp(candidate))
        await self.add_remote_candidate(None)

    async def talk(self):
        """Returns what the other peer says, if there is a path."""
        try:
            await self.connect()
        except ConnectionError:
            return "no path"
        self.greeting = asyncio.create_task(self.greet())
        try:
            return "heard " + (await asyncio.wait_for(self.recv(), 20 * SLOW)).decode()
        except TimeoutError:
            return "heard nothing"

    async def greet(self):
        """Sends a line again and again: the first one may arrive before the other router lets it in."""
        while True:
            await self.send(f"hello from {self.name}".encode())
            await asyncio.sleep(0.2 * SLOW)

    async def run(self, to_other):
        reader, writer = await asyncio.open_connection(sock=to_other)
        await self.gather_candidates()
        await self.exchange(reader, writer)
        said = await self.talk()
        words = [f"mapping {mapping.host}:{mapping.port}" for mapping in self.mappings()]
        print(", ".join([self.name, *words, said]), flush=True)
        # The other peer may still need our answers: both stay until both are done.
        writer.write_eof()
        await reader.read()
        if self.greeting:
            self.greeting.cancel()
        await self.close()


def run(name, server, controls, ends):
    own, others = ends if controls else reversed(ends)
    others.close()
    with Inside(name.partition("@")[0]):
        asyncio.run(Peer(name, server, controls).run(own))


def main():
    server, *pairs = sys.argv[1:]
    # Each peer needs a process to be in a namespace. Forked ones need not load aioice again.
    start = multiprocessing.get_context("fork").Process
    for pair in pairs:
        ends = socket.socketpair()
        for name, controls in zip(pair.split("="), (True, False)):
            start(target=run, args=(name, server, controls, ends)).start()
        for end in ends:
            end.close()


if __name__ == "__main__":
    main()
