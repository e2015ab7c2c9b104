#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Makes many TCP connections: the client sends a byte, the server returns it, and the client resets the connection.

Usage: tests/tools/connections.py serve ADDRESS PORTS
       tests/tools/connections.py open COUNT ADDRESS PORTS
       tests/tools/connections.py close SEQUENCE ADDRESS PORT SOURCE,...

serve listens at PORTS ports from 7000 on and prints "ready". At SIGTERM it prints a line "COUNT ADDRESS" for each
client address that it saw.

open makes COUNT connections to these ports, one after the other, and prints how many of them got an answer.

close makes a connection from PORT of each SOURCE to the first of these ports, with the initial sequence number
SEQUENCE, closes it in order, so that it is in TIME_WAIT, and prints how many of them got an answer. A SOURCE is like
that of flows.py.
"""

import collections
import os
import selectors
import signal
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from flows import expand, set_sequence

FIRST = 7000
# Seconds.
TIMEOUT = 20
# SO_LINGER with a time of 0: close() resets the connection, so that its port is free again at once.
RESET = struct.pack("ii", 1, 0)


class Ended(Exception):
    pass


def end(*_):
    raise Ended


def serve(address, ports):
    seen, ready = collections.Counter(), selectors.DefaultSelector()
    for port in range(FIRST, FIRST + int(ports)):
        ready.register(socket.create_server((address, port), backlog=4096), selectors.EVENT_READ)
    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    try:
        while True:
            for key, _ in ready.select():
                if isinstance(key.data, str):
                    answer(key.fileobj, ready)
                else:
                    accept(key.fileobj, seen, ready)
    except Ended:
        for source, count in seen.items():
            print(count, source)


def accept(listener, seen, ready):
    connection, peer = listener.accept()
    seen[peer[0]] += 1
    ready.register(connection, selectors.EVENT_READ, "connection")


def answer(connection, ready):
    """Returns the client's byte, and closes the connection once the client has reset it."""
    try:
        question = connection.recv(1)
        connection.sendall(question)
    except ConnectionResetError:
        question = b""
    if not question:
        ready.unregister(connection)
        connection.close()


def open_one(address, port):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.connect((address, port))
        sock.sendall(b"?")
        return sock.recv(1) == b"?"


def open_all(count, address, ports):
    answered = 0
    for number in range(int(count)):
        try:
            answered += open_one(address, FIRST + number % int(ports))
        except OSError as error:
            print(f"connection {number}: {error}", file=sys.stderr)
    print(answered)


def close_one(sequence, address, source, port):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.settimeout(TIMEOUT)
        sock.bind((source, port))
        set_sequence(sock, sequence)
        sock.connect((address, FIRST))
        sock.sendall(b"?")
        return sock.recv(1) == b"?"


def close_all(sequence, address, port, sources):
    sources = [source for word in sources.split(",") for source in expand(word)]
    print(sum(close_one(int(sequence), address, source, int(port)) for source in sources))


if __name__ == "__main__":
    {"serve": serve, "open": open_all, "close": close_all}[sys.argv[1]](*sys.argv[2:])
