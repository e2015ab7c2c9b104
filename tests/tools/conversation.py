#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""tests/tools/conversation.py: conversations between hosts, line by line; runs in the guest.

Each line of the standard input is a command: a method of class Stage, with its arguments. What it says
ends with a line that is a dot. SOURCE is ADDRESS:PORT, the address may be missing. Connections and
sockets stay open until `hang_up`, so that conntrack has what it is to be asked about. Where no answer is
expected, the command's name has `vain-` in front: it is less patient then.
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
from peers import SLOW, Player, hear_errors, icmp_error

KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
# Seconds to wait for an answer: that should come, that should not.
PATIENT, VAIN = 10 * SLOW, 0.7 * SLOW


def make(host, kind, protocol=0):
    with Inside(host):
        return socket.socket(socket.AF_INET, kind, protocol)


def where(peer):
    return place(peer[0], peer[1])


def pair(text):
    """ADDRESS:PORT, :PORT, or nothing, as bind() wants it."""
    address, _, port = (text or ":0").rpartition(":")
    return address, int(port)


def why(sock, error):
    """How a packet of the socket was turned away: by an ICMP error, or by a TCP RST."""
    return icmp_error(sock) or {"ConnectionRefusedError": "reset", "ConnectionResetError": "reset",
                                "TimeoutError": "silence"}.get(type(error).__name__, str(error))


class Talk:
    """One side of a conversation: the client's."""

    def __init__(self, host, protocol, source):
        self.sock = make(host, KINDS[protocol])
        self.protocol, self.buffer, self.lines = protocol, b"", []
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hear_errors(self.sock)
        self.sock.bind(pair(source))

    def connect(self, address, port, patience):
        """What came of it."""
        self.sock.settimeout(patience)
        try:
            self.sock.connect((address, int(port)))
        except OSError as error:
            return why(self.sock, error)
        return "connected"

    def say(self, text):
        self.sock.send(text.encode() + b"\n" * (self.protocol == "TCP"))

    def hear(self, patience):
        """The next line of TCP, the next datagram of UDP, or what went wrong."""
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
    """All servers. One says its banner, if it has one, and then to each line who said it, and the line."""

    def __init__(self):
        super().__init__(daemon=True)
        self.poll, self.of, self.heard = select.epoll(), {}, []
        self.start()

    def add(self, sock, *about):
        self.of[sock.fileno()] = sock, *about
        self.poll.register(sock.fileno(), select.EPOLLIN)

    def run(self):
        while True:
            for number, _ in self.poll.poll():
                try:
                    self.serve(*self.of[number])
                except OSError:
                    # One who cannot be answered is none of a server's trouble.
                    if self.of[number][-1]:
                        self.drop(number)

    def drop(self, number):
        self.poll.unregister(number)
        self.of.pop(number)[0].close()

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


class Stage(Player):
    def __init__(self):
        self.talks, self.servers, self.patience, self.unnamed = {}, Servers(), PATIENT, 0

    def do(self, command, *arguments):
        """vain-COMMAND: as COMMAND, for what should not be answered."""
        self.patience = VAIN if command.startswith("vain-") else PATIENT
        return super().do(command.removeprefix("vain-"), *arguments)

    def serve(self, host, protocol, address, port, *banner):
        """serve HOST PROTOCOL ADDRESS PORT [BANNER...]: the banner "mute" is none, and no answers."""
        sock = make(host, KINDS[protocol])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, int(port)))
        if address.startswith("224."):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(address) + bytes(4))
        if protocol == "TCP":
            sock.listen(50)
        self.servers.add(sock, f"{host} {protocol} {port}", " ".join(banner), None)
        return []

    def heard(self, host, protocol, port):
        """heard HOST PROTOCOL PORT: what this server heard, and from whom, since last asked."""
        name = f"{host} {protocol} {port}"
        found = [text for whose, text in self.servers.heard if whose == name]
        self.servers.heard = [entry for entry in self.servers.heard if entry[0] != name]
        return found

    def sources(self, host, protocol, port):
        """sources HOST PROTOCOL PORT: how many lines this server heard, from which addresses; it goes on counting."""
        name = f"{host} {protocol} {port}"
        found = [text.split(":")[0] for whose, text in self.servers.heard if whose == name]
        return [f"{len(found)} from {' '.join(sorted(set(found)))}"]

    def open(self, name, host, protocol, address, port, source=None):
        """open NAME HOST PROTOCOL ADDRESS PORT [SOURCE]: how that went."""
        self.talks[name] = talk = Talk(host, protocol, source)
        return [talk.connect(address, port, self.patience)]

    def say(self, name, *words):
        """say NAME WORD...: the answer."""
        talk = self.talks[name]
        try:
            talk.say(" ".join(words))
        except OSError as error:
            return [why(talk.sock, error)]
        return self.hear(name)

    def hear(self, name):
        """hear NAME: the next line."""
        return [self.talks[name].hear(self.patience)]

    def tell(self, host, protocol, address, port, source, *words):
        """tell HOST PROTOCOL ADDRESS PORT SOURCE WORD...: as ask, without waiting for an answer."""
        return self.ask(host, protocol, address, port, source, *words, wait=False)

    def ask(self, host, protocol, address, port, source, *words, wait=True):
        """ask HOST PROTOCOL ADDRESS PORT SOURCE WORD...: the answer, or how the question was turned away."""
        self.unnamed += 1
        name = f"({self.unnamed})"
        opened = self.open(name, host, protocol, address, port, source)
        if opened != ["connected"]:
            return opened
        if wait:
            return self.say(name, *words)
        self.talks[name].say(" ".join(words))
        return []

    def scan(self, host, protocol, address, *ports):
        """scan HOST PROTOCOL ADDRESS PORT...: what each way of answering was met by; FIRST-LAST is a PORT, too."""
        met = {}
        for word in ports:
            first, _, last = word.partition("-")
            for port in range(int(first), int(last or first) + 1):
                talk = Talk(host, protocol, None)
                outcome = talk.connect(address, port, self.patience)
                if protocol == "UDP":
                    talk.say("knock")
                    outcome = talk.hear(self.patience)
                talk.sock.close()
                met.setdefault(outcome, []).append(str(port))
        return [f"{outcome}: {' '.join(ports)}" for outcome, ports in sorted(met.items())]

    def ping(self, host, address, number, source=""):
        """ping HOST ADDRESS IDENTIFIER [SOURCE]: who answered, and to which identifier."""
        with make(host, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.bind((source, 0))
            request = struct.pack("!BBHHH", 8, 0, 0, int(number), 1)
            total = sum(struct.unpack("!4H", request))
            total = (total & 0xFFFF) + (total >> 16)
            sock.sendto(request[:2] + struct.pack("!H", ~total & 0xFFFF) + request[4:], (address, 0))
            end = time.monotonic() + self.patience
            while select.select([sock], [], [], max(0, end - time.monotonic()))[0]:
                packet, (peer, _) = sock.recvfrom(65535)
                inner = packet[(packet[0] & 15) * 4:]
                kind, code, _, about, _ = struct.unpack_from("!BBHHH", inner)
                if (kind, about) == (0, int(number)):
                    return [f"answer from {peer}"]
                if kind not in (0, 8):
                    return [f"ICMP {kind} {code} from {peer}"]
        return ["silence"]

    def resolve(self, host, protocol, address, port, source, name):
        """resolve HOST PROTOCOL ADDRESS PORT SOURCE NAME: the address that a DNS server has for the name."""
        question = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
        query = struct.pack("!6H", 4711, 0x0100, 1, 0, 0, 0) + question + b"\0\0\1\0\1"
        self.unnamed += 1
        self.talks[f"({self.unnamed})"] = talk = Talk(host, protocol, source)
        opened = talk.connect(address, port, self.patience)
        if opened != "connected":
            return [opened]
        try:
            talk.sock.send(struct.pack("!H", len(query)) + query if protocol == "TCP" else query)
            answer = talk.sock.recv(65535)
        except OSError as error:
            return [why(talk.sock, error)]
        return [socket.inet_ntoa(answer[-4:])] if len(answer) > len(query) else ["no such name"]

    def shout(self, host, device, source, address, port, *words):
        """shout HOST DEVICE SOURCE ADDRESS PORT WORD...: a datagram to many."""
        with make(host, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            sock.bind(pair(source))
            sock.sendto(" ".join(words).encode(), (address, int(port)))
        return []

    def hang_up(self, *names):
        """hang_up [NAME...]: ends these conversations, or all, by a TCP RST, so that nothing follows."""
        for name in names or list(self.talks):
            talk = self.talks.pop(name)
            talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            talk.sock.close()
        return []


Stage().play()
