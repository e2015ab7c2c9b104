#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""A model of the FTP helper's readers: whole streams in, announced ports out. It makes hostile streams, too.

Usage: tests/tools/ftp_model.py SEED COUNT

Writes COUNT test vectors, made at random from SEED, as lines of JSON:

    {"direction": "client", "own": "10.0.0.2", "pieces": ["504f5254...", ...], "expected": [{...}, ...]}

"own" is the address of the host that sends, "pieces" are the octets that it sends, in hexadecimal. "expected" says for
each piece what is known after it: "announced" is the last announcement that is complete with an octet of the piece
(its kind and port, and the start and the end of its argument in the stream), or null; "ftp" tells whether the client
has sent nothing but FTP; "greeted" and "tls" tell whether the server has sent a reply 220 or 234.

The model reads lines with regular expressions and Python's ipaddress; it shares no grammar with the helper, which reads
octet by octet.
"""

import collections
import ipaddress
import json
import random
import re
import sys

# The words that may begin a client's line: those of IANA's registry, and others that programs use.
COMMANDS = set("""
    USER PASS ACCT CWD CDUP SMNT REIN QUIT PORT PASV TYPE STRU MODE RETR STOR STOU APPE ALLO REST RNFR RNTO ABOR DELE
    RMD MKD PWD LIST NLST SITE SYST STAT HELP NOOP XCUP XCWD XMKD XPWD XRMD ADAT AUTH CCC CONF ENC MIC PBSZ PROT FEAT
    OPTS LANG LPRT LPSV EPRT EPSV MDTM MLSD MLST SIZE HOST
    CLNT CSID HASH MACB MD5 MFCT MFF MFMT MMD5 RANG XCRC XMD5 XSHA CPSV PRET SSCN ESTA ESTP SPSV AVBL COMB DSIZ RMDA
    THMB
    """.split())

# `start` and `end` are the place of the argument in the stream, `complete` is that of the octet that completes it.
Announcement = collections.namedtuple("Announcement", "kind address port start end complete")
# What a client's stream says; `alien` is the place of the octet that shows that it is not FTP, or None.
Client = collections.namedtuple("Client", "announcements alien")
# What a server's stream says; `greeted` and `tls` are the places of the octets that complete the replies, or None.
Server = collections.namedtuple("Server", "announcements greeted tls")

PORTS = range(1024, 65536)
# The longest argument that is rewritten, and the most blanks behind it.
LONGEST = 255

TELNET = rb"(?:\xff(?:[\xfb-\xfe].|[^\xfb-\xff]))"
HEAD = re.compile(rb"(?:%b|[\r\n])*((?:[A-Za-z0-9]%b*){0,4})" % (TELNET, TELNET), re.DOTALL)
CUT_TELNET = re.compile(rb"\xff[\xfb-\xfe]?\Z")
PORT_ARGUMENT = re.compile(rb"[ \t]+([0-9]+(?:,[ \t]*[0-9]+){5})([ \t]*)[\r\n]")
EPRT_ARGUMENT = re.compile(rb"[ \t]+([!-~]+)([ \t]*)[\r\n]")
REPLY = re.compile(rb"([1-9][0-9][0-9])([- \r\n])")
PASV_NUMBERS = re.compile(rb"[0-9]+(?:,[ \t]*[0-9]+){5}")
EPSV_ARGUMENT = re.compile(rb"\((([!-/:-~])\2\2([0-9]+)\2)")


def read_client(stream, own):
    """Returns what a client at the address `own` says in all that it has sent."""
    own, announcements, place = ipaddress.ip_address(own), [], 0
    while place < len(stream):
        head = HEAD.match(stream, place)
        place = head.end()
        if place == len(stream) or CUT_TELNET.match(stream, place):
            break
        word = re.sub(TELNET, b"", head[1], flags=re.DOTALL).decode().upper()
        if stream[place] not in b" \t\r\n" or word not in COMMANDS:
            # Two octets 255 stand for one of the line.
            return Client(announcements, place + (stream[place] == 0xFF))
        announcement = read_argument(word, stream, place, own)
        if announcement:
            announcements.append(announcement)
        place = stream.find(b"\n", place) + 1
        if not place:
            break
    return Client(announcements, None)


def read_argument(word, stream, place, own):
    """Returns what the argument behind a command announces, if anything."""
    pattern = {"PORT": PORT_ARGUMENT, "EPRT": EPRT_ARGUMENT}.get(word)
    found = pattern and pattern.match(stream, place)
    if not found or len(found[1]) > LONGEST or len(found[2]) > LONGEST:
        return None
    port = read_port(found[1], own) if word == "PORT" else read_eprt(found[1].decode(), own)
    return port and Announcement(word, str(own), port, *found.span(1), found.end() - 1)


def read_port(text, own):
    """Returns the port in six numbers, if they name the address and a port that may be announced."""
    *host, high, low = [int(number) for number in text.split(b",")]
    port = high * 256 + low
    named = own.version == 4 and host == list(own.packed)
    return port if named and max(high, low) < 256 and port in PORTS else None


def read_eprt(text, own):
    """Returns the port in the argument of EPRT, if it names the address and a port that may be announced."""
    fields = text.split(text[0])
    if text[0].isdigit() or len(fields) != 5 or fields[0] + fields[4] or not re.fullmatch("[0-9]+", fields[3]):
        return None
    _, protocol, host, port, _ = fields
    if protocol != {4: "1", 6: "2"}[own.version]:
        return None
    if own.version == 4:
        numbers = host.split(".")
        named = all(re.fullmatch("[0-9]+", number) for number in numbers) and [*map(int, numbers)] == [*own.packed]
    else:
        try:
            named = re.fullmatch("[0-9A-Fa-f:]*", host) and ipaddress.IPv6Address(host) == own
        except ValueError:
            named = False
    return int(port) if named and int(port) in PORTS else None


def read_server(stream, own):
    """Returns what a server at the address `own` says in all that it has sent."""
    own, announcements, greeted, expected, place = ipaddress.ip_address(own), [], None, None, 0
    for line in re.findall(rb"[^\n]*\n|[^\n]+", stream):
        start, place = place, place + len(line)
        reply = REPLY.match(line)
        if reply and expected in (None, reply[1]):
            code, text = reply[1], reply.end(2) - 1
            expected = code if reply[2] == b"-" else None
        elif expected in (b"227", b"229") and not line[:1].isdigit():
            code, text, reply = expected, 0, None
        else:
            continue
        if code == b"220" and greeted is None:
            greeted = start + text
        if code == b"234":
            return Server(announcements, greeted, start + text)
        announcement = {b"227": read_227, b"229": read_229}.get(code, lambda *_: None)(line, text, own)
        if announcement:
            kind, port, begin, end, complete = announcement
            announcements.append(Announcement(kind, str(own), port, start + begin, start + end, start + complete))
    return Server(announcements, greeted, None)


def read_227(line, place, own):
    """Returns what the first six numbers of a line announce, as read_server wants it."""
    numbers = PASV_NUMBERS.search(line, place)
    if not numbers or numbers.end() == len(line) or len(numbers[0]) > LONGEST:
        return None
    port = read_port(numbers[0], own)
    return port and ("227", port, *numbers.span(), numbers.end())


def read_229(line, place, _):
    """Returns what the first bracket of a line announces, as read_server wants it."""
    argument = EPSV_ARGUMENT.match(line, max(line.find(b"(", place), 0))
    if not argument or len(argument[1]) > LONGEST or int(argument[3]) not in PORTS:
        return None
    return "229", int(argument[3]), *argument.span(1), argument.end() - 1


def expected(direction, own, pieces):
    """Returns what is known after each piece of a stream."""
    known = {"client": read_client, "server": read_server}[direction](b"".join(pieces), own)
    results, end = [], 0
    for piece in pieces:
        start, end = end, end + len(piece)
        said = [one for one in known.announcements if start <= one.complete < end]
        result = {"announced": {name: getattr(said[-1], name) for name in ("kind", "port", "start", "end")}
                  if said else None}
        if direction == "client":
            result["ftp"] = known.alien is None or known.alien >= end
        else:
            result["greeted"] = known.greeted is not None and known.greeted < end
            result["tls"] = known.tls is not None and known.tls < end
        results.append(result)
    return results


# --- Hostile streams

# Addresses of hosts. Those of IPv6 differ in where their zeros are.
IPV4 = ["10.0.0.2", "192.0.2.200", "203.0.113.1", "255.255.255.255"]
IPV6 = ["2001:db8::2", "fd00:18::2", "::1", "2001:db8:1:2:3:4:5:6", "1:0:0:2:0:0:0:3", "2001:db8:0:1:1:1:1:1", "1::",
        "::", "0:0:1::", "fe80::a:0:0:b"]

# What clients say: curl, lftp, tnftp, ftplib, and RFC 959's examples.
CLIENT_LINES = [b"USER anonymous", b"PASS ftp@example.com", b"PWD", b"SYST", b"FEAT", b"CLNT lftp/4.9.2",
                b"OPTS UTF8 ON", b"OPTS MLST type;size;modify;", b"TYPE I", b"TYPE A", b"CWD pub", b"CDUP", b"EPSV",
                b"EPSV ALL", b"EPSV 2", b"PASV", b"LIST", b"LIST -a", b"NLST", b"MLSD", b"MLST file", b"SIZE file",
                b"MDTM file", b"MFMT 20261126120000 file", b"REST 1460", b"RETR file", b"STOR file", b"STOU",
                b"APPE file", b"ABOR", b"NOOP", b"STAT", b"HELP", b"SITE CHMOD 644 file", b"RNFR a", b"RNTO b",
                b"DELE file", b"MKD a dir", b"RMD a dir", b"XPWD", b"HOST ftp.example.com", b"AUTH TLS", b"PBSZ 0",
                b"PROT P", b"LANG en", b"ACCT x", b"STRU F", b"MODE S", b"ALLO 1000", b"QUIT", b"XMKD x", b"CCC",
                b"XMD5 file", b"MD5 file"]
# What is none of FTP, or not at a line's start.
ALIEN_LINES = [b"POST / HTTP/1.1", b"GET / HTTP/1.1", b"Host: 10.0.0.2", b"HOST: x", b"\x16\x03\x01\x02\x00\x01",
               b"\x00\x01\x00\x00!\x12\xa4B", b"REGISTER sip:example.com", b"EHLO example.com", b"NICK x", b" PWD",
               b"\tNOOP", b"PW", b"PWDX", b"PORTS 10,0,0,2,19,136", b"NOOPE", b"US\0ER x", b"CWD\0 x", b"\xff\xffPWD",
               b"P@SW", b"XSHA1 file", b"XMD\x15 x", b"-", b"USER"]
# What servers say: vsftpd, proftpd, pure-ftpd, pyftpdlib, and RFC 959's examples.
SERVER_LINES = [b"220 (vsFTPd 3.0.3)", b"220 ProFTPD Server (Debian) [::ffff:192.0.2.200]",
                b"220---------- Welcome to Pure-FTPd [privsep] ----------", b"220-You are user number 1 of 50 allowed.",
                b"220-This server supports (|||5001|)", b"220 You will be disconnected after 15 minutes.",
                b"220 pyftpdlib 2.0.1 ready.", b"120 Service ready in 5 minutes.", b"331 Please specify the password.",
                b"230 Login successful.", b"230-Your bandwidth usage is restricted", b"230 OK.", b'257 "/" is here',
                b"215 UNIX Type: L8", b"211-Features:", b" EPSV", b" MDTM", b" UTF8", b"211 End", b"211-Status:",
                b"     Connected to 10,0,0,2,19,136", b"200 Switching to Binary mode.", b"200 PORT command successful.",
                b"150 Here comes the directory listing.", b"226 Transfer complete.", b"226 Directory send OK.",
                b"250 Directory successfully changed.", b"425 Failed to establish connection.", b"213 1460",
                b"426 Failure writing network stream.", b"500 OOPS: vsftpd: refused", b"501 Invalid EPRT format.",
                b"502 Command not implemented.", b"522 Network protocol not supported, use (1,2)", b"530 Login first.",
                b"550 Failed to open file.", b"221 Goodbye.", b"234 AUTH TLS successful", b"234-Proceed", b"",
                b"2", b"22", b"227", b"229", b"220", b"0227 x", b"22A text", b"227x (10,0,0,2,19,136)", b"999-x"]
PASV_TEXTS = [b"Entering Passive Mode (%b).", b"Entering Passive Mode (%b)", b"Entering passive mode. %b",
              b"Data transfer will passively listen to %b", b"=%b", b"%b", b"Mode 3 of 4,5: %b", b"at 1,2,3 (%b)",
              b"300 (%b)", b"%b or %b", b"(%b", b"%b,7"]
EPSV_TEXTS = [b"Entering Extended Passive Mode (%b)", b"Entering Extended Passive Mode (%b).", b"EPSV ok (%b)", b"(%b",
              b"%b", b"() (%b)", b"Mode ((%b))", b"(%b) (%b)"]


class Maker:
    """Makes random streams. The same seed makes the same streams."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def likely(self, probability=0.5):
        return self.rng.random() < probability

    def octets(self, least, most):
        return bytes(self.rng.choices(range(256), k=self.rng.randint(least, most)))

    def number(self, number, base=10):
        """Writes a number, with leading zeros at times, or another one."""
        if self.likely(0.03):
            odd = ["", "-1", "+1", "256", "99999", "65536", "1e3", " 1", "1 ", "0x10", "4294967297", "\u00b2", "1_0"]
            return self.rng.choice(odd)
        text = f"{number:x}" if base == 16 else str(number)
        if base == 16 and self.likely(0.2):
            text = text.upper()
        return "0" * self.rng.choice([0] * 50 + [1, 2, 3, 5, 260]) + text

    def port(self):
        return self.rng.choice([20, 0, 1023, 1024, 5000, 5001, 65535, 256 * self.rng.randrange(256),
                                *[self.rng.randrange(65536)] * 6])

    def named(self, own):
        """Returns the host to name: mostly the sender, or one that is almost it."""
        own = ipaddress.ip_address(own)
        if self.likely(0.85):
            return own
        return ipaddress.ip_address((int(own) ^ 1 << self.rng.randrange(own.max_prefixlen)).to_bytes(
            own.max_prefixlen // 8, "big"))

    def numbers(self, own):
        """Writes an argument of PORT or 227."""
        host, port = self.named(own), self.port()
        comma = self.rng.choice([","] * 20 + [", ", ",\t ", " ,", ";", ",,", "."])
        count = self.rng.choice([6] * 30 + [5, 7])
        fields = [*host.packed[:4], port >> 8, port & 255, 1][:count]
        return comma.join(self.number(field) for field in fields).encode()

    def group(self, group):
        return self.number(group, 16) if self.likely(0.9) else f"{group:04x}"

    def ipv6(self, host):
        """Writes an IPv6 address in one of many ways, not all of which are right."""
        style = self.rng.randrange(9)
        groups = [int(group, 16) for group in host.exploded.split(":")]
        if style < 3:
            return [host.compressed, host.exploded, str(host).upper()][style]
        if style == 3:
            return self.rng.choice([str(host) + "%eth0", "::ffff:10.0.0.2", f"[{host}]", str(host) + ":", ":", ":::",
                                    "", ":" + str(host), str(host)[:-1], str(host).replace("::", ":::"), "1::2::3"])
        # Any run of groups becomes `::`, mostly one of zeros.
        zeros = [(start, end) for start in range(8) for end in range(start + 1, 9) if not any(groups[start:end])]
        start = self.rng.randrange(9)
        runs = zeros if zeros and self.likely(0.9) else [(start, self.rng.randint(start, 8))]
        start, end = self.rng.choice(runs)
        if style == 4:
            return ":".join(self.group(group) for group in groups)
        return ":".join(map(self.group, groups[:start])) + "::" + ":".join(map(self.group, groups[end:]))

    def delimiter(self):
        return self.rng.choice("|" * 12 + "!.:,a0~ -")

    def eprt(self, own):
        host, delimiter = self.named(own), self.delimiter()
        if host.version == 6:
            text = self.ipv6(host)
        else:
            text = self.rng.choice("..........,").join(self.number(number) for number in host.packed)
        protocol = self.rng.choice([{4: "1", 6: "2"}[host.version]] * 20 + ["1", "2", "3", "01", ""])
        fields = ["", protocol, text, self.number(self.port()), ""]
        if self.likely(0.04):
            self.rng.choice([fields.pop, fields.reverse, lambda: fields.append("")])()
        return delimiter.join(fields).encode()

    def epsv(self, own):
        delimiter = self.delimiter()
        filled = self.rng.choice([["", ""]] * 20 + [["2", str(own)], ["1", ""]])
        text = delimiter.join(["", *filled, self.number(self.port()), ""])
        return (text if self.likely(0.95) else text[:-1]).encode()

    def blanks(self):
        return self.rng.choice([b" "] * 12 + [b"\t", b"  ", b" \t ", b"", b" " * 300])

    def command(self, own):
        """Makes a client's line, without its end."""
        kind = self.rng.random()
        if kind < 0.35:
            line = self.rng.choice(CLIENT_LINES)
        elif kind < 0.63:
            line = b"PORT" + self.blanks() + self.numbers(own)
        elif kind < 0.96:
            line = b"EPRT" + self.blanks() + self.eprt(own)
        else:
            line = self.rng.choice([*ALIEN_LINES, b"", b"", self.octets(0, 40)])
        if self.likely(0.1):
            line = bytes(octet ^ 0x20 if chr(octet).isalpha() and self.likely() else octet for octet in line)
        if self.likely(0.1):
            line += self.rng.choice([b" ", b"\t", b"  \t", b" x", b"\0", b" " * 255, b" " * 256])
        if self.likely(0.07):
            telnet = self.rng.choice([b"\xff\xf4\xff\xf2", b"\xff\xfb\x01", b"\xff\xfe\n", b"\xff\n", b"\xff\xf4",
                                      b"\xff\xfd\xff", b"\xff\xff"])
            where = self.rng.choice([0, 0, 2, 4, 5, 9])
            line = line[:where] + telnet + line[where:]
        return line

    def reply(self, own):
        """Makes a server's line, without its end."""
        kind = self.rng.random()
        if kind < 0.5:
            return self.rng.choice(SERVER_LINES)
        code, texts, argument = (b"227", PASV_TEXTS, self.numbers) if kind < 0.75 else (b"229", EPSV_TEXTS, self.epsv)
        text = self.rng.choice(texts)
        text %= tuple(argument(own) for _ in range(text.count(b"%b")))
        start = self.rng.choice([code + b" "] * 10 + [code + b"-"] * 4 + [b" ", b"", b"\t", code, b"211-", b"220 "])
        return start + text

    def lines(self, direction, own):
        line = {"client": self.command, "server": self.reply}[direction]
        end = self.rng.choice([b"\r\n"] * 8 + [b"\n", b"\r\r\n", b" \r\n", b"\0\r\n"])
        lines = [line(own) + (end if self.likely(0.97) else self.rng.choice([b"", b"\r", b"\n"]))
                 for _ in range(self.rng.randint(1, 8))]
        return b"".join(lines)

    def changed(self, stream):
        """Changes a few octets of a stream."""
        stream = bytearray(stream)
        for _ in range(self.rng.randint(1, 3)):
            where, how = self.rng.randrange(len(stream) + 1), self.rng.randrange(5)
            if how == 0:
                stream[where:where + 1] = [self.rng.randrange(256)]
            elif how == 1:
                stream.insert(where, self.rng.choice(b"\0\r\n ,|:.(09\xff"))
            elif how == 2:
                del stream[where:where + 1]
            elif how == 3:
                del stream[where:]
            else:
                stream[where:where] = stream[self.rng.randrange(len(stream) + 1):][:self.rng.randrange(30)]
        return bytes(stream)

    def pieces(self, stream):
        """Cuts a stream: not at all, after each octet or each line, or anywhere."""
        how = self.rng.randrange(5)
        if how == 0 or not stream:
            return [stream]
        if how == 1:
            return [stream[n:n + 1] for n in range(len(stream))]
        if how == 2:
            return re.findall(rb"[^\n]*\n|[^\n]+", stream)
        cuts = sorted(self.rng.randrange(len(stream) + 1) for _ in range(self.rng.randint(1, 6)))
        return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)])]

    def vector(self):
        """Makes a stream: direction, address of the sender, and pieces."""
        direction, own = self.rng.choice(["client", "server"]), self.rng.choice(self.rng.choice([IPV4, IPV6]))
        return direction, own, self.stream(direction, own)

    def stream(self, direction, own):
        """Makes the pieces of a stream, for the sender's address."""
        stream = self.octets(0, 60) if self.likely(0.03) else self.lines(direction, own)
        if self.likely(0.25):
            stream = self.changed(stream)
        return self.pieces(stream)


def main():
    if len(sys.argv) != 3 or not all(argument.isdecimal() for argument in sys.argv[1:]):
        sys.exit(__doc__.strip())
    maker = Maker(int(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        direction, own, pieces = maker.vector()
        print(json.dumps({"direction": direction, "own": own, "pieces": [piece.hex() for piece in pieces],
                          "expected": expected(direction, own, pieces)}))


if __name__ == "__main__":
    main()
