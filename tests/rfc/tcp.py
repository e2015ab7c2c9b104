# SPDX-License-Identifier: GPL-2.0
"""RFC 5382: TCP."""

import common
from frames import ACK_FLAG, FIN, ICMP, PSH, RST, SYN, TCP
from network import INSIDE, OUTSIDE, ROUTER, A, B, host, segment
from requirements import Remedy, requirement, sysctl, untested

MAPS = "conntrack gives a port to a flow, not to an endpoint"
MAY = "allows something, and requires nothing"
# The client's sequence numbers begin at 1000, the server's at 5000.
FIRST = {INSIDE: 1000, OUTSIDE: 5000}


class Connection:
    """A connection between an inside and an outside end, which sends segments and sees whether they arrive."""

    def __init__(self, net, inside, outside):
        self.net, self.inside, self.outside = net, inside, outside
        self.next = dict(FIRST)
        self.port = None

    def send(self, where, flags, content=b""):
        """Sends a segment from one side. Returns whether it reached the other side as it should."""
        other = OUTSIDE if where == INSIDE else INSIDE
        source, target = (self.inside, self.outside) if where == INSIDE else (self.outside, (ROUTER, self.port))
        acknowledged = self.next[other] if flags & ACK_FLAG else 0
        made = segment(source, target, flags, self.next[where], acknowledged, content)
        self.next[where] += len(content) + bool(flags & (SYN | FIN))
        for seen in self.net.through(where, made):
            if seen.where == other and seen.protocol == TCP and seen.intact and seen.flags == flags:
                return self.arrived(seen, other)
        return False

    def arrived(self, seen, where):
        """Returns whether the segment has the right ends on that side. The first one tells the outside port."""
        if where == INSIDE:
            return (seen.source, seen.ports[0], seen.target, seen.ports[1]) == (*self.outside, *self.inside)
        self.port = self.port or seen.ports[0]
        return (seen.source, seen.ports[0], seen.target, seen.ports[1]) == (ROUTER, self.port, *self.outside)

    def open(self):
        """Opens it from inside. Returns whether all segments arrived."""
        return all([self.send(INSIDE, SYN), self.send(OUTSIDE, SYN | ACK_FLAG), self.send(INSIDE, ACK_FLAG)])

    def talk(self):
        """Returns whether content passes both ways."""
        return all([self.send(INSIDE, ACK_FLAG | PSH, b"question"), self.send(OUTSIDE, ACK_FLAG | PSH, b"answer")])

    def close(self, first=INSIDE, second=OUTSIDE):
        """Closes it in order, with content after the first end. Returns whether all segments arrived."""
        return all([self.send(first, FIN | ACK_FLAG), self.send(second, ACK_FLAG | PSH, b"more"),
                    self.send(first, ACK_FLAG), self.send(second, FIN | ACK_FLAG), self.send(first, ACK_FLAG)])

    def announce(self):
        """Announces a data connection of FTP."""
        self.open()
        self.send(INSIDE, ACK_FLAG | PSH, f"PORT {self.inside[0].replace('.', ',')},200,10\r\n".encode())


def connection(net):
    return Connection(net, (host(2), net.port()), (A, 5000))


@requirement(5382, "1", "MUST", "an inside endpoint keeps one outside port for all destinations", "no no yes", MAPS)
def mapping(net):
    return common.mapping(net, TCP)


@requirement(5382, "2", "MUST", "all valid sequences of segments pass, also from outside if it may connect", "yes")
def sequences(net):
    for first, second in ((INSIDE, OUTSIDE), (OUTSIDE, INSIDE)):
        made = connection(net)
        if not (made.open() and made.talk() and made.close(first, second)):
            return f"a connection is not complete that the {first} end closes first"
    for side in (INSIDE, OUTSIDE):
        made = connection(net)
        if not (made.open() and made.send(side, RST | ACK_FLAG)):
            return f"a reset from {side} does not pass"
    return from_outside(net)


def from_outside(net):
    """A connection from outside works if it may come in."""
    known = connection(net)
    known.open()
    made = Connection(net, known.inside, (B, 6000))
    made.port = known.port
    if not made.send(OUTSIDE, SYN):
        return ""
    steps = [made.send(INSIDE, SYN | ACK_FLAG), made.send(OUTSIDE, ACK_FLAG), made.talk(), made.close(OUTSIDE, INSIDE)]
    return "" if all(steps) else "a connection from outside is not complete"


@requirement(5382, "2a", "MUST", "two ends may open a connection at the same time", "yes")
def simultaneous_open(net):
    made = connection(net)
    steps = [made.send(INSIDE, SYN), made.send(OUTSIDE, SYN)]
    # Each SYN is repeated, and acknowledges the other one.
    made.next[INSIDE] -= 1
    steps.append(made.send(INSIDE, SYN | ACK_FLAG))
    made.next[OUTSIDE] -= 1
    steps += [made.send(OUTSIDE, SYN | ACK_FLAG), made.send(INSIDE, ACK_FLAG), made.talk()]
    return "" if all(steps) else f"the segments that arrive: {steps}"


@requirement(5382, "3", "RECOMMENDED", "anybody may connect to a mapping, or any port of a host that was spoken to",
             "no no yes", "conntrack knows the one end of the flow")
def filtering(net):
    return common.filtering(net, TCP)


untested(5382, "3a", "MAY", "configurable", MAY)
untested(5382, "3b", "MAY", "other than for UDP", MAY)


def unsolicited(net):
    """Sends a SYN that nobody asked for. Returns what is sent in answer within 6 s, and the SYN's target port."""
    port = net.port()
    net.forget()
    net.log.clear()
    if not net.through(OUTSIDE, segment((A, 7000), (ROUTER, port), SYN, 5000)):
        net.wait(6.5)
        net.forget()
    answers = [each for each in net.log if each.target == A and each.protocol in (TCP, ICMP)]
    return f"answer at once: {answers[0]}" if answers else "", port


@requirement(5382, "4", "MUST NOT", "a SYN that nobody asked for gets no answer for 6 s", "set",
             "the router itself answers by a reset, as the address is its own",
             Remedy("a filter: `iptables -A INPUT -i wan0 -p tcp --syn -j DROP`",
                    rule=("filter", "INPUT", "-i", "wan0", "-p", "tcp", "--syn", "-j", "DROP")))
def silent(net):
    answer, port = unsolicited(net)
    if answer:
        return answer
    # The host inside opens the same connection in the meantime.
    made = Connection(net, (host(2), port), (A, 7000))
    if not (made.send(INSIDE, SYN) and made.port == port and made.send(OUTSIDE, SYN)):
        return "the connection that the host inside opens then does not come up"
    return ""


@requirement(5382, "4a", "MUST", "... nor later, if a filter forbids answers", "yes")
def silent_by_filter(net):
    with net.rule("filter", "INPUT", "-i", "wan0", "-p", "tcp", "--syn", "-j", "DROP"):
        return unsolicited(net)[0]


@requirement(5382, "5", "MUST NOT", "an idle connection lives for 2 hours and 4 minutes", "yes")
def established(net):
    made = connection(net)
    if not made.open():
        return "it is not opened"
    net.wait(2 * 3600 + 4 * 60)
    return "" if made.send(OUTSIDE, ACK_FLAG | PSH, b"late") else "content from outside does not pass any more"


@requirement(5382, "5 (transitory)", "MUST NOT", "one that is half open or half closed lives for 4 minutes", "set",
             "conntrack waits 60 to 120 s",
             sysctl(tcp_timeout_syn_sent=240, tcp_timeout_fin_wait=240, tcp_timeout_close_wait=240))
def transitory(net):
    opening, closing = connection(net), connection(net)
    opening.send(INSIDE, SYN)
    closing.open()
    closing.send(INSIDE, FIN | ACK_FLAG)
    closing.send(OUTSIDE, ACK_FLAG)
    net.wait(239)
    wrong = []
    if not opening.send(OUTSIDE, SYN | ACK_FLAG):
        wrong.append("the answer to a SYN does not come in after 239 s")
    if not closing.send(OUTSIDE, ACK_FLAG | PSH, b"late"):
        wrong.append("content to a half-closed end does not come in after 239 s")
    return ", ".join(wrong)


untested(5382, "5a", "MAY", "configurable", MAY)


@requirement(5382, "6", "RECOMMENDED", "no helper (ALG) without being asked for", "yes")
def helpers_off(net):
    Connection(net, (host(2), net.port()), (A, 21)).announce()
    return "\n".join(net.expectations())


@requirement(5382, "7", "MUST NOT", "no two endpoints share an outside port", "no no yes", MAPS)
def overloading(net):
    return common.overloading(net, TCP)


@requirement(5382, "8", "MUST", "inside hosts reach each other by their outside ports (hairpin)", "no no yes",
             "to the router, a packet to its own address is its own")
def hairpins(net):
    return common.hairpins(net, TCP)


@requirement(5382, "8a", "MUST", "... and are seen with their outside addresses and ports", "no no yes",
             "the segment does not arrive")
def hairpin_source(net):
    return common.hairpin_source(net, TCP)


@requirement(5382, "9", "SHOULD", "ICMP's \"destination unreachable\" comes in", "yes")
def unreachable(net):
    return common.unreachable(net, TCP)


@requirement(5382, "10", "MUST NOT", "no ICMP message ends the mapping or the connection", "yes")
def errors_end_nothing(net):
    made = connection(net)
    made.open()
    out = next(seen for seen in net.through(INSIDE, segment(made.inside, made.outside, ACK_FLAG, 1001, 5001))
               if seen.where == OUTSIDE)
    common.send_errors(net, out)
    return "" if made.talk() and made.close() else "the connection does not go on"
