#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Holds conversations between the hosts of a scenario, as clients and servers; runs in the guest.

Usage: tests/tools/conversation.py < COMMANDS (scenarios use peers_start, tests/lib/lib.sh)

Each line of the standard input is a command: a method of class ConversationPeers, with its arguments. Its answer ends
with a line that is a dot. SOURCE is ADDRESS:PORT; the address may be missing. Connections and sockets stay open until
`hang_up`, so that their conntrack entries stay, too. Where no answer is expected, prefix the command with `vain-`: it
waits for a shorter time then.
"""

import os
import select
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import Inside, place
from peers import SLOW, Peers, enable_errors, family, icmp_error

# A number of Linux that the module socket does not define.
SO_RCVBUFFORCE = 33
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
# Seconds to wait for an answer that should come, and for one that should not.
PATIENT, VAIN = 10 * SLOW, 0.7 * SLOW


def make_socket(host, kind, protocol=0, address=""):
    """Returns a socket of that kind on the host, for the address's family. Without an address, it is IPv4's."""
    with Inside(host):
        sock = socket.socket(family(address), kind, protocol)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def where(peer):
    return place(peer[0], peer[1])


def pair(text):
    """Returns (address, port) for bind(), from ADDRESS:PORT, [ADDRESS]:PORT, :PORT or None."""
    address, _, port = (text or ":0").rpartition(":")
    return address.strip("[]"), int(port)


def why(sock, error):
    """Returns how the socket's packets were rejected: an ICMP error, "reset" (TCP's RST), "silence", or the error."""
    return icmp_error(sock) or {"ConnectionRefusedError": "reset", "ConnectionResetError": "reset",
                                "TimeoutError": "silence"}.get(type(error).__name__, str(error))


class Conversation:
    """The client's side of a conversation."""

    def __init__(self, host, protocol, source, address):
        self.sock = make_socket(host, KINDS[protocol], address=address)
        self.protocol, self.buffer, self.lines = protocol, b"", []
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        enable_errors(self.sock)
        self.sock.bind(pair(source))

    def connect(self, address, port, patience):
        """Returns "connected", or why that failed."""
        self.sock.settimeout(patience)
        try:
            self.sock.connect((address, int(port)))
        except OSError as error:
            return why(self.sock, error)
        return "connected"

    def say(self, text):
        self.sock.send(text.encode() + b"\n" * (self.protocol == "TCP"))

    def hear(self, patience):
        """Returns the next line of TCP, the next datagram of UDP, or why there is none."""
        self.sock.settimeout(patience)
        try:
            if self.protocol == "UDP":
                return self.sock.recv(65535).decode(errors="replace")
            while b"\n" not in self.buffer:
                piece = self.sock.recv(65535)
                if not piece:
                    return "end"
                self.buffer += piece
        except OSError as error:
            return why(self.sock, error)
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()


class Servers(threading.Thread):
    """All servers, in one thread.

    A TCP server first sends its banner, if it has one. Servers answer each line with the client's address and port,
    and the line.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.poll, self.sockets, self.heard = select.epoll(), {}, []
        self.start()

    def add(self, sock, *about):
        self.sockets[sock.fileno()] = sock, *about
        self.poll.register(sock.fileno(), select.EPOLLIN)

    def run(self):
        while True:
            for number, _ in self.poll.poll():
                try:
                    self.serve(*self.sockets[number])
                except OSError:
                    # The client cannot be reached: close its connection, if it has one, and serve the others.
                    if self.sockets[number][-1]:
                        self.drop(number)

    def drop(self, number):
        self.poll.unregister(number)
        self.sockets.pop(number)[0].close()

    def serve(self, sock, name, banner, peer):
        if banner is not None and not peer:
            if sock.type == socket.SOCK_STREAM:
                client, peer = sock.accept()
                self.add(client, name, banner, peer)
                if banner:
                    client.send(banner.encode() + b"\n")
                return
            data, peer = sock.recvfrom(65535)

            def answer(text):
                sock.sendto(text.encode(), peer)
        else:
            data = sock.recv(65535)
            if not data:
                self.drop(sock.fileno())
                return

            def answer(text):
                sock.send(text.encode() + b"\n")

        for line in data.decode(errors="replace").splitlines():
            self.heard.append((name, f"{where(peer)} {line}"))
            if banner != "mute":
                answer(f"{where(peer)} {line}")


class ConversationPeers(Peers):
    """The commands."""

    def __init__(self):
        self.conversations, self.servers, self.patience, self.unnamed = {}, Servers(), PATIENT, 0

    def do(self, command, *arguments):
        """vain-COMMAND: runs COMMAND, for which no answer should come."""
        self.patience = VAIN if command.startswith("vain-") else PATIENT
        return super().do(command.removeprefix("vain-"), *arguments)

    def serve(self, host, protocol, address, port, *banner):
        """serve HOST PROTOCOL ADDRESS PORT [BANNER...]: starts a server. With "mute" as banner, it sends nothing."""
        sock = make_socket(host, KINDS[protocol], address=address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Room for hundreds of datagrams, which come at once when this process has to wait for a processor.
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        sock.bind((address, int(port)))
        if address.startswith("224."):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(address) + bytes(4))
        if protocol == "TCP":
            sock.listen(50)
        self.servers.add(sock, f"{host} {protocol} {port}", " ".join(banner), None)
        return []

    def heard(self, host, protocol, port):
        """heard HOST PROTOCOL PORT: returns the lines that this server received since the last call, with sources."""
        name = f"{host} {protocol} {port}"
        found = [text for whose, text in self.servers.heard if whose == name]
        self.servers.heard = [entry for entry in self.servers.heard if entry[0] != name]
        return found

    def sources(self, host, protocol, port):
        """sources HOST PROTOCOL PORT: returns how many lines this server received since the last `heard`, and the
        addresses that they came from."""
        name = f"{host} {protocol} {port}"
        found = [text.split(":")[0] for whose, text in self.servers.heard if whose == name]
        return [f"{len(found)} from {' '.join(sorted(set(found)))}"]

    def open(self, name, host, protocol, address, port, source=None):
        """open NAME HOST PROTOCOL ADDRESS PORT [SOURCE]: starts a conversation. Returns "connected", or why not."""
        self.conversations[name] = conversation = Conversation(host, protocol, source, address)
        return [conversation.connect(address, port, self.patience)]

    def say(self, name, *words):
        """say NAME WORD...: sends a line in a conversation and returns the answer."""
        conversation = self.conversations[name]
        try:
            conversation.say(" ".join(words))
        except OSError as error:
            return [why(conversation.sock, error)]
        return self.hear(name)

    def hear(self, name):
        """hear NAME: returns the next line of a conversation."""
        return [self.conversations[name].hear(self.patience)]

    def tell(self, host, protocol, address, port, source, *words):
        """tell HOST PROTOCOL ADDRESS PORT SOURCE WORD...: does the same as `ask`, without waiting for an answer."""
        return self.ask(host, protocol, address, port, source, *words, wait=False)

    def ask(self, host, protocol, address, port, source, *words, wait=True):
        """ask HOST PROTOCOL ADDRESS PORT SOURCE WORD...: opens a conversation without a name and sends a line. Returns
        the answer, or how the line was rejected."""
        self.unnamed += 1
        name = f"({self.unnamed})"
        opened = self.open(name, host, protocol, address, port, source)
        if opened != ["connected"]:
            return opened
        if wait:
            return self.say(name, *words)
        self.conversations[name].say(" ".join(words))
        return []

    def scan(self, host, protocol, address, *ports):
        """scan HOST PROTOCOL ADDRESS PORT...: knocks at ports; a PORT may be FIRST-LAST. Returns, for each outcome, the
        ports that had it."""
        found = {}
        for word in ports:
            first, _, last = word.partition("-")
            for port in range(int(first), int(last or first) + 1):
                conversation = Conversation(host, protocol, None, address)
                outcome = conversation.connect(address, port, self.patience)
                if protocol == "UDP":
                    conversation.say("knock")
                    outcome = conversation.hear(self.patience)
                conversation.sock.close()
                found.setdefault(outcome, []).append(str(port))
        return [f"{outcome}: {' '.join(ports)}" for outcome, ports in sorted(found.items())]

    def ping(self, host, address, number, source=""):
        """ping HOST ADDRESS IDENTIFIER [SOURCE]: sends an echo request. Returns who replied, or an ICMP error."""
        with make_socket(host, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.bind((source, 0))
            request = struct.pack("!BBHHH", 8, 0, 0, int(number), 1)
            total = sum(struct.unpack("!4H", request))
            total = (total & 0xFFFF) + (total >> 16)
            sock.sendto(request[:2] + struct.pack("!H", ~total & 0xFFFF) + request[4:], (address, 0))
            end = time.monotonic() + self.patience
            while select.select([sock], [], [], max(0, end - time.monotonic()))[0]:
                packet, (peer, _) = sock.recvfrom(65535)
                inner = packet[(packet[0] & 15) * 4:]
                kind, code, _, identifier, _ = struct.unpack_from("!BBHHH", inner)
                if (kind, identifier) == (0, int(number)):
                    return [f"answer from {peer}"]
                if kind not in (0, 8):
                    return [f"ICMP {kind} {code} from {peer}"]
        return ["silence"]

    def resolve(self, host, protocol, address, port, source, name):
        """resolve HOST PROTOCOL ADDRESS PORT SOURCE NAME: returns the address that a DNS server has for the name."""
        question = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
        query = struct.pack("!6H", 4711, 0x0100, 1, 0, 0, 0) + question + b"\0\0\1\0\1"
        self.unnamed += 1
        self.conversations[f"({self.unnamed})"] = conversation = Conversation(host, protocol, source, address)
        opened = conversation.connect(address, port, self.patience)
        if opened != "connected":
            return [opened]
        try:
            conversation.sock.send(struct.pack("!H", len(query)) + query if protocol == "TCP" else query)
            answer = conversation.sock.recv(65535)
        except OSError as error:
            return [why(conversation.sock, error)]
        return [socket.inet_ntoa(answer[-4:])] if len(answer) > len(query) else ["no such name"]

    def shout(self, host, device, source, address, port, *words):
        """shout HOST DEVICE SOURCE ADDRESS PORT WORD...: sends a broadcast or multicast datagram through the device."""
        with make_socket(host, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            sock.bind(pair(source))
            sock.sendto(" ".join(words).encode(), (address, int(port)))
        return []

    def hang_up(self, *names):
        """hang_up [NAME...]: ends these conversations, or all. TCP is reset, so that no more packets follow."""
        for name in names or list(self.conversations):
            conversation = self.conversations.pop(name)
            conversation.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            conversation.sock.close()
        return []


ConversationPeers().run()
