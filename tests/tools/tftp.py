#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""tests/tools/tftp.py COMMAND ...: both sides of TFTP, as odd as they need be; runs in the guest.

  play                     does what the lines of its standard input say, at any of the hosts (class
                           Stage has the commands); each answer ends with a line that is a dot
  serve PORT FILE          answers requests for reading by FILE, in blocks and windows of the size that
                           was asked for (RFC 2348, RFC 7440); says "ready" first

What is a request? RFC 1350, 5 and RFC 2347 say so. All that the UDP datagram holds, by the length
in its header, is:

    request = opcode name NUL mode NUL *(option NUL value NUL)    ; 512 octets at most

    opcode  = %x00.01 / %x00.02                  ; to read, to write
    name    = 1*octet
    mode    = "netascii" / "octet" / "mail"      ; in any case; "mail" to write alone
    option  = 1*octet
    value   = *octet
    octet   = %x01-FF
    NUL     = %x00

So nothing follows the last NUL, nor another NUL: an option's name is not empty. Its value may be, for
RFC 2347 does not say otherwise; nor does it forbid options that come twice or that nobody knows. That
names and values are ASCII is the server's to enforce.
"""

import os
import select
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import EXPECTATION_GONE, EXPECTATION_NEW, Conntrack, Inside, place
from peers import SLOW, Player, family, hear_errors, icmp_error

READ, WRITE, DATA, ACK, ERROR, OACK = range(1, 7)
OPCODES = {"read": READ, "write": WRITE, "data": DATA, "ack": ACK, "error": ERROR}
LONGEST = 512
PORT = 69


def is_request(datagram):
    """Whether a datagram's content is a request, by the grammar above."""
    if len(datagram) > LONGEST or datagram[:2] not in (b"\0\1", b"\0\2"):
        return False
    *fields, rest = datagram[2:].split(b"\0")
    if rest or len(fields) % 2 or not all(fields[::2]):
        return False
    modes = [b"netascii", b"octet"] + ([b"mail"] if datagram[1] == WRITE else [])
    return bool(fields) and fields[1].lower() in modes


# --- play


def to_datagram(words):
    """read NAME MODE [OPTION VALUE]..., write ..., data BLOCK SIZE, ack BLOCK, error CODE, hex OCTETS"""
    if words[0] == "hex":
        return bytes.fromhex(words[1])
    opcode = struct.pack("!H", OPCODES[words[0]])
    if words[0] in ("read", "write"):
        return opcode + b"".join(word.encode() + b"\0" for word in words[1:])
    rest = bytes(int(words[2])) if words[0] == "data" else b"\0" if words[0] == "error" else b""
    return opcode + struct.pack("!H", int(words[1])) + rest


def to_words(datagram):
    """The reverse."""
    if is_request(datagram):
        name = "read" if datagram[1] == READ else "write"
        return " ".join([name, *(field.decode("latin-1") for field in datagram[2:-1].split(b"\0"))])
    opcode, block = struct.unpack("!HH", datagram[:4].ljust(4, b"\xff"))
    if opcode == DATA:
        return f"data {block} {len(datagram) - 4}"
    if opcode in (ACK, ERROR):
        return f"{'ack' if opcode == ACK else 'error'} {block}"
    return "hex " + datagram.hex()


class Stage(Player):
    """The commands of play. WHO is HOST, or HOST@ADDRESS where a host is to use one of several. An IPv6 address
    may have its brackets."""

    def __init__(self):
        self.sockets, self.tables, self.watches = {}, {}, {}

    def socket(self, who, port, kind):
        key = who, port, kind
        if key not in self.sockets:
            host, _, address = who.partition("@")
            with Inside(host):
                sock = socket.socket(kind, socket.SOCK_DGRAM)
            # One for all addresses and one for a single one, if need be; and what ICMP has to say.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            hear_errors(sock)
            sock.bind((address.strip("[]"), int(port)))
            self.sockets[key] = sock
        return self.sockets[key]

    def table(self, host):
        if host not in self.tables:
            self.tables[host] = Conntrack(host)
        return self.tables[host]

    def open(self, who, port):
        """open WHO PORT: to hear what comes there; `send` does so by itself."""
        kinds = [family(who)] if "@" in who else [socket.AF_INET, socket.AF_INET6]
        for kind in kinds:
            self.socket(who, port, kind)
        return []

    def send(self, who, port, address, target, *words):
        """send WHO PORT ADDRESS PORT WORD...: sends the datagram that the words describe."""
        address = address.strip("[]")
        sock = self.socket(who, port, family(address))
        try:
            sock.sendto(to_datagram(words), (address, int(target)))
        except OSError:
            # An ICMP error of earlier, which `hear` tells of.
            sock.sendto(to_datagram(words), (address, int(target)))
        return []

    def close(self, who, port):
        """close WHO PORT: what comes there from now on meets an ICMP error."""
        for key in [key for key in self.sockets if key[:2] == (who, port)]:
            self.sockets.pop(key).close()
        return []

    def hear(self, who, port, patience=5 * SLOW):
        """hear WHO PORT [SECONDS]: what came there next, from where: a datagram or an ICMP error; or "nothing"."""
        heard = select.select([sock for key, sock in self.sockets.items() if key[:2] == (who, port)],
                              [], [], float(patience))[0]
        if not heard:
            return ["nothing"]
        error = icmp_error(heard[0])
        if error:
            return [error]
        datagram, peer = heard[0].recvfrom(65535)
        return [f"{place(*peer[:2])} {to_words(datagram)}"]

    def flows(self, host):
        """flows HOST: conntrack's entries of UDP."""
        return self.table(host).flows()

    def expected(self, host):
        """expected HOST: conntrack's expectations."""
        return self.table(host).expectations()

    def counts(self, *hosts):
        """counts HOST...: how many these are."""
        return [" ".join(str(len(self.expected(host))) for host in hosts)]

    def forget(self, *hosts):
        """forget HOST...: the flows there, what they expect, its events, and all that is open."""
        for sock in self.sockets.values():
            sock.close()
        self.sockets = {}
        for host in hosts:
            self.table(host).forget()
            self.events(host)
        return []

    def leave(self, host):
        """leave HOST: keeps nothing of that namespace open, so that it can go."""
        for key in [key for key in self.sockets if key[0] == host]:
            self.sockets.pop(key).close()
        for tables in (self.tables, self.watches):
            if host in tables:
                tables.pop(host).sock.close()
        return []

    def events(self, host):
        """events HOST: what became of expectations since the last call, which is the first to listen."""
        if host not in self.watches:
            self.watches[host] = Conntrack(host, EXPECTATION_NEW | EXPECTATION_GONE)
        return self.watches[host].events()


def play():
    Stage().play()


# --- serve


def answer(sock, peer, fields, content):
    """One transfer, from a port of its own."""
    options = {name.lower(): value for name, value in zip(fields[2::2], fields[3::2])}
    sock.connect(peer)
    sock.settimeout(5)
    block, window = int(options.get(b"blksize", 512)), int(options.get(b"windowsize", 1))
    blocks = [content[offset:offset + block] for offset in range(0, len(content) + 1, block)]
    if options:
        options[b"tsize"] = str(len(content)).encode()
        sock.send(struct.pack("!H", OACK) + b"".join(name + b"\0" + value + b"\0" for name, value in options.items()))
        sock.recv(4)
    done = 0
    while done < len(blocks):
        for count, piece in enumerate(blocks[done:done + window], done + 1):
            sock.send(struct.pack("!HH", DATA, count) + piece)
        done = struct.unpack("!HH", sock.recv(4))[1]


def serve(port, file):
    with open(file, "rb") as opened:
        content = opened.read()
    # For both IP versions.
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("::", int(port)))
    print("ready", flush=True)
    while True:
        request, peer = sock.recvfrom(LONGEST)
        if is_request(request) and request[1] == READ:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own:
                try:
                    answer(own, peer, request[2:-1].split(b"\0"), content)
                except OSError as error:
                    print(f"{place(*peer[:2])}: {error}", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["play"], ["serve"]):
        sys.exit(__doc__.strip())
    globals()[sys.argv[1]](*sys.argv[2:])
