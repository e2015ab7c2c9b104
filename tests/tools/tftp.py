#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Sends and receives TFTP packets, valid or not, for the hosts of a scenario; runs in the guest.

Usage: tests/tools/tftp.py peers < COMMANDS (tests/lib/tftp.sh starts it)
       tests/tools/tftp.py serve PORT FILE

peers runs commands. Each line of the standard input is a method of class TftpPeers, with its arguments. Its answer ends
with a line that is a dot.

serve is a server that answers each read request with FILE, in blocks and windows of the requested size (RFC 2348,
RFC 7440). It first prints "ready".

A request to read or to write (RFC 1350, section 5, and RFC 2347) consists of an opcode, a name, a mode and options,
each of them but the opcode with NUL at its end. Servers answer less than that, so a request here is a datagram with one
of the two opcodes and a name that is not empty.
"""

import os
import select
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import Inside, place
from observer import Observer
from peers import SLOW, enable_errors, family, icmp_error

READ, WRITE, DATA, ACK, ERROR, OACK = range(1, 7)
OPCODES = {"read": READ, "write": WRITE, "data": DATA, "ack": ACK, "error": ERROR}
PORT = 69


def is_request(datagram):
    """Returns whether a datagram's content is a request: one of two opcodes, and at least one octet of a name."""
    opcode, name = datagram[:2], datagram[2:].split(b"\0")[0]
    return opcode in (b"\0\1", b"\0\2") and len(name) > 0


# --- peers


def to_datagram(words):
    """Returns the datagram that the words describe.

    They are: read NAME MODE [OPTION VALUE]..., write NAME MODE [OPTION VALUE]..., data BLOCK SIZE, ack BLOCK,
    error CODE, or hex OCTETS.
    """
    if words[0] == "hex":
        return bytes.fromhex(words[1])
    opcode = struct.pack("!H", OPCODES[words[0]])
    if words[0] in ("read", "write"):
        return opcode + b"".join(word.encode() + b"\0" for word in words[1:])
    rest = bytes(int(words[2])) if words[0] == "data" else b"\0" if words[0] == "error" else b""
    return opcode + struct.pack("!H", int(words[1])) + rest


def to_words(datagram):
    """Returns the words that describe the datagram, the reverse of to_datagram."""
    if is_request(datagram) and datagram.endswith(b"\0"):
        name = "read" if datagram[1] == READ else "write"
        return " ".join([name, *(field.decode("latin-1") for field in datagram[2:-1].split(b"\0"))])
    opcode, block = struct.unpack("!HH", datagram[:4].ljust(4, b"\xff"))
    if opcode == DATA:
        return f"data {block} {len(datagram) - 4}"
    if opcode in (ACK, ERROR):
        return f"{'ack' if opcode == ACK else 'error'} {block}"
    return "hex " + datagram.hex()


class TftpPeers(Observer):
    """The commands of peers, besides those of Observer.

    WHO is HOST, or HOST@ADDRESS to use one of the host's addresses. An IPv6 address may have brackets.
    """

    def __init__(self):
        super().__init__(socket.IPPROTO_UDP)
        self.sockets = {}

    def socket(self, who, port, kind):
        key = who, port, kind
        if key not in self.sockets:
            host, _, address = who.partition("@")
            with Inside(host):
                sock = socket.socket(kind, socket.SOCK_DGRAM)
            # A socket for all addresses and one for a single address may share a port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            enable_errors(sock)
            sock.bind((address.strip("[]"), int(port)))
            self.sockets[key] = sock
        return self.sockets[key]

    def open(self, who, port):
        """open WHO PORT: opens a socket that receives there. `send` does so itself."""
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
            # The error of an earlier datagram. It stays in the queue for `hear`, so try again.
            sock.sendto(to_datagram(words), (address, int(target)))
        return []

    def close(self, who, port):
        """close WHO PORT: closes the socket, so that an ICMP error answers packets to this port."""
        for key in [key for key in self.sockets if key[:2] == (who, port)]:
            self.sockets.pop(key).close()
        return []

    def hear(self, who, port, patience=5 * SLOW):
        """hear WHO PORT [SECONDS]: receives. Returns the source and the words of a datagram, an ICMP error, or
        "nothing"."""
        heard = select.select([sock for key, sock in self.sockets.items() if key[:2] == (who, port)],
                              [], [], float(patience))[0]
        if not heard:
            return ["nothing"]
        error = icmp_error(heard[0])
        if error:
            return [error]
        datagram, peer = heard[0].recvfrom(65535)
        return [f"{place(*peer[:2])} {to_words(datagram)}"]

    def forget(self, *hosts):
        """forget HOST...: does what Observer's command does, and closes all sockets."""
        for sock in self.sockets.values():
            sock.close()
        self.sockets = {}
        return super().forget(*hosts)

    def leave(self, host):
        """leave HOST: closes everything in that namespace, so that it can be removed."""
        for key in [key for key in self.sockets if key[0] == host]:
            self.sockets.pop(key).close()
        return super().leave(host)


def peers():
    TftpPeers().run()


# --- serve


def answer(sock, peer, fields, content):
    """Sends the content to a client, in a transfer from a new port."""
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
    # This socket serves both IP versions.
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("::", int(port)))
    print("ready", flush=True)
    while True:
        request, peer = sock.recvfrom(65535)
        if is_request(request) and request[1] == READ:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own:
                try:
                    answer(own, peer, request[2:-1].split(b"\0"), content)
                except OSError as error:
                    print(f"{place(*peer[:2])}: {error}", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["peers"], ["serve"]):
        sys.exit(__doc__.strip())
    globals()[sys.argv[1]](*sys.argv[2:])
