#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Acts for the ends of an FTP control connection, and opens data connections; runs in the guest.

Usage: tests/tools/ftp.py < COMMANDS (tests/lib/ftp.sh starts it)

Each line of the standard input is a method of class FtpPeers, with its arguments. Its answer ends with a line that is a
dot. TEXT is what goes through the control connection, with the escapes of Python's strings: "PORT 1,2,3,4,5,6\\r\\n". A
"|" between blanks divides it into segments.
"""

import fcntl
import ipaddress
import os
import re
import select
import socket
import struct
import sys
import termios
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import CTA_EXPECT_TUPLE, EXPECTATIONS, Inside, Tuple, place
from observer import Observer
from peers import SLOW, family
from tiny_tcp import TinyTcp

# Seconds: for what has to come, and for a segment that is lost, at its end or before.
PATIENCE, LOSS = 5 * SLOW, SLOW
# A segment that is lost again so often, in a network that loses nothing by chance, is dropped by someone.
RETRANSMISSIONS = 2
# What a data connection carries, in each direction.
CONTENT = b"content"


def octets(text):
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def shown(data):
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")


def wait_for(condition, patience=PATIENCE):
    """Returns whether the condition became true in time."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001 if time.monotonic() < end - patience + 0.1 else 0.02)
    return True


def make_socket(who, kind):
    """Returns a TCP socket of a host, and the address that WHO names, HOST or HOST@ADDRESS."""
    host, _, address = who.partition("@")
    with Inside(host):
        sock = socket.socket(kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock, address.strip("[]")


class SocketEnd:
    """An end of a control connection that the host's own TCP serves. It loses nothing."""

    lose = 0

    def __init__(self, sock):
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)

    def send(self, payload):
        self.sock.sendall(payload)

    def receive(self):
        """Does nothing: the host's TCP receives by itself."""

    def settled(self):
        """Returns whether the other end has acknowledged all that was sent."""
        return not struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0]

    def hopeless(self):
        """Returns whether the other end does not acknowledge the retransmissions, either: tcpi_retransmits."""
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2] >= RETRANSMISSIONS

    def take(self):
        """Returns what has been received."""
        found = b""
        try:
            while more := self.sock.recv(1 << 16):
                found += more
        except BlockingIOError:
            pass
        return found

    def close(self):
        # Resets the connection, so that its port is free again at once.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class FtpPeers(Observer):
    """The commands, besides those of Observer.

    WHO is HOST, or HOST@ADDRESS to use one of the host's addresses. An IPv6 address may have brackets. END is client or
    server.
    """

    def __init__(self):
        super().__init__(socket.IPPROTO_TCP)
        self.listeners, self.ends, self.kept = {}, {}, []

    def listen(self, who, port):
        """listen WHO PORT: listens there, if it does not yet."""
        for kind in [family(who)] if "@" in who else [socket.AF_INET, socket.AF_INET6]:
            if (who, port, kind) not in self.listeners:
                sock, address = make_socket(who, kind)
                sock.bind((address, int(port)))
                sock.listen()
                self.listeners[who, port, kind] = sock
        return []

    def accept(self):
        """Returns a new connection as (WHO:PORT, socket, source), or None."""
        ready = select.select(list(self.listeners.values()), [], [], 0)[0]
        for (who, port, _), listener in self.listeners.items():
            if listener in ready:
                sock, source = listener.accept()
                return f"{who}:{port}", sock, place(*source[:2])
        return None

    def accept_in_time(self):
        """Returns what accept() returns as soon as there is a connection, None if there is none in time."""
        accepted = []
        wait_for(lambda: accepted.append(self.accept()) or accepted[-1])
        return accepted[-1]

    @staticmethod
    def begin(who, port, address, target):
        """Returns a socket that begins to connect."""
        sock, own = make_socket(who, family(address))
        sock.bind((own, int(port)))
        sock.setblocking(False)
        sock.connect_ex((address.strip("[]"), int(target)))
        return sock

    def open(self, who, port, address, target):
        """Connects. Returns the socket, and what accept() returned, or an error and None."""
        sock = self.begin(who, port, address, target)
        done = wait_for(lambda: select.select([], [sock], [], 0)[1])
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if done and not error and (accepted := self.accept_in_time()):
            return sock, accepted
        sock.close()
        return "refused" if error else "silence", None

    def control(self, who, port, address, target):
        """control WHO PORT ADDRESS PORT: opens a control connection from that port, in place of the last one. Returns
        the source that the server sees."""
        self.hang_up()
        sock, accepted = self.open(who, port, address, target)
        if not accepted:
            return [sock]
        self.ends = {"client": SocketEnd(sock), "server": SocketEnd(accepted[1])}
        return [accepted[2]]

    def tiny(self, which, who, port, address, target, *place_of_server):
        """tiny client|both WHO PORT ADDRESS PORT [ADDRESS PORT]: does the same with a tiny TCP as the client, at
        WHO:PORT, and if both are, another one as the server, on the host server at the last ADDRESS:PORT."""
        self.hang_up()
        host, _, own = who.partition("@")
        client = TinyTcp(host, own.strip("[]"), int(port))
        self.ends = {"client": client}
        if which == "both":
            own, port = place_of_server or (address, target)
            self.ends["server"] = TinyTcp("server", own.strip("[]"), int(port))
        client.connect(address.strip("[]"), int(target))
        if which == "both":
            server = self.ends["server"]
            done = wait_for(lambda: client.receive() or server.receive() or server.established)
            return [place(*server.peer) if done else "silence"]
        if not wait_for(lambda: client.receive() or client.established) or not (accepted := self.accept_in_time()):
            return ["silence"]
        self.ends["server"] = SocketEnd(accepted[1])
        return [accepted[2]]

    def say(self, end, *words):
        """say END TEXT: sends it, and returns what the other end receives; "stalled" is before it if that has not
        acknowledged all in time."""
        if len(self.ends) < 2:
            return ["no connection"]
        for piece in " ".join(words).split(" | "):
            self.ends[end].send(octets(piece))
        return self.hear(end)

    def say_again(self, end, back, *words):
        """say_again END BACK TEXT: does the same for one segment of a tiny TCP, which begins BACK octets before the end
        of what was sent. It leaves a gap if BACK is negative."""
        self.ends[end].send_at(self.ends[end].sent - int(back), octets(" ".join(words)))
        return self.hear(end)

    def hear(self, end):
        """hear END: returns what the other end has received from END by the time that it has acknowledged all."""
        sender, receiver = self.ends[end], self.ends[{"client": "server", "server": "client"}[end]]
        # A tiny TCP sends nothing again by itself.
        loses = isinstance(sender, TinyTcp) and receiver.lose
        wait_for(lambda: receiver.receive() or sender.settled() or sender.hopeless() or (loses and not receiver.lose),
                 LOSS if loses else PATIENCE)
        return [("" if sender.settled() else "stalled ") + shown(receiver.take())]

    def lose(self, end, count):
        """lose END COUNT: makes a tiny TCP lose so many segments with data: it notes them, as if none had arrived."""
        self.ends[end].lose = int(count)
        return []

    def noted(self, end):
        """noted END: returns what a tiny TCP noted: segments that came again, those with other content, how much of
        what it sent is not acknowledged, and the edges of the last SACK, relative to the end of what it sent."""
        tiny = self.ends[end]
        return [f"again {tiny.again} changed {tiny.changed} unacknowledged {tiny.sent - tiny.acknowledged} "
                f"sack {','.join(str(edge - tiny.sent) for edge in tiny.sack) or '-'}"]

    def data(self, who, port, address, target):
        """data WHO PORT ADDRESS PORT: opens a data connection from that port, and sends through it in both directions.
        Returns who accepted it and the source that he saw, or "refused", "silence" or "damaged"."""
        sock, accepted = self.open(who, port, address, target)
        if not accepted:
            return [sock]
        name, other, source = accepted
        ends = SocketEnd(sock), SocketEnd(other)
        for sender, receiver in (ends, ends[::-1]):
            sender.send(CONTENT)
            if not wait_for(sender.settled) or receiver.take() != CONTENT:
                source = "damaged"
        for end in ends:
            end.close()
        return [f"{name} from {source}"]

    def announced(self, address, *words):
        """announced ADDRESS TEXT: returns the place that a line of the control connection names, "nothing" if there is
        none. Of a reply 229, that is a port of ADDRESS."""
        text = " ".join(words)
        if found := re.search(r"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)", text):
            *address, high, low = found.groups()
            return [place(".".join(address), int(high) * 256 + int(low))]
        if found := re.search(r"\|[12]\|(.+)\|(\d+)\|", text):
            return [place(str(ipaddress.ip_address(found[1])), int(found[2]))]
        if found := re.search(r"\|\|\|(\d+)\|", text):
            return [place(address.strip("[]"), int(found[1]))]
        return ["nothing"]

    def tuples(self, *hosts):
        """tuples HOST...: returns the tuples that each host expects, without the rest, or "-"."""
        return [" / ".join(", ".join(str(Tuple(nest[CTA_EXPECT_TUPLE])) for nest in self.table(host).dump(EXPECTATIONS))
                           or "-" for host in hosts)]

    def keep(self):
        """keep: keeps the control connection, so that the next one does not take its place."""
        self.kept.extend(self.ends.values())
        self.ends = {}
        return []

    def hang_up(self, first="client"):
        """hang_up [END]: lets the client or the other end reset the control connection."""
        for end in sorted(self.ends, key=lambda end: end != first):
            self.ends.pop(end).close()
        return []

    def forget(self, *hosts):
        """forget HOST...: does what Observer's command does, resets the control connections, and listens nowhere."""
        self.hang_up()
        while self.kept:
            self.kept.pop().close()
        while self.listeners:
            self.listeners.popitem()[1].close()
        return super().forget(*hosts)


if __name__ == "__main__":
    FtpPeers().run()
