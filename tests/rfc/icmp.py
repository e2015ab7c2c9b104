# SPDX-License-Identifier: GPL-2.0
"""RFC 5508: ICMP."""

import common
from frames import ICMP, TCP, UDP
from network import GATEWAY, INSIDE, OUTSIDE, ROUTER, A, C, datagram, error, finished, host, query
from requirements import Remedy, requirement, sysctl, untested

MAPS = "conntrack gives an identifier to a flow, not to an endpoint"
MAY = "allows something, and requires nothing"
# The queries, and their answers: echo, timestamp, address mask.
ANSWERS = {8: 0, 13: 14, 17: 18}
# Hosts that the router has sent no error to. It limits the rate of errors to a host, and of hairpinned packets it would
# also send redirects, which NAT drops.
UNHEARD = iter(range(60, 77))


def answered(net, source, target, number, kind=0):
    """Returns whether the answer to a query comes in."""
    seen = net.comes_in(query((target, number), (ROUTER, 0), kind), source)
    return bool(seen) and seen.intact and (seen.source, seen.kind) == (target, kind)


@requirement(5508, "1", "MUST", "queries of inside hosts and their answers pass: echo, timestamp, address mask", "yes")
def queries(net):
    for kind, answer in ANSWERS.items():
        source = host(2), net.port()
        out = net.begin(ICMP, source, (A, 0), kind=kind)
        if not out or not out.intact or not answered(net, source, A, out.ports[0], answer):
            return f"type {kind}: the answer does not come in"
    return ""


@requirement(5508, "1a", "SHOULD", "a query's identifier becomes the same one for all destinations", "no no yes", MAPS)
def mapping(net):
    return common.mapping(net, ICMP)


def answered_after(net, seconds):
    source = host(2), net.port()
    number = net.outside_port(ICMP, source, (A, 0))
    net.wait(seconds)
    return "" if answered(net, source, A, number) else f"the answer does not come in after {seconds} s"


@requirement(5508, "2", "MUST NOT", "an answer may take 60 s", "set", "conntrack forgets a query after 30 s",
             sysctl(icmp_timeout=60))
def minute(net):
    return answered_after(net, 59)


@requirement(5508, "2a", "RECOMMENDED", "... which is configurable", "yes")
def configurable(net):
    with net.settings(netfilter__nf_conntrack_icmp_timeout=100):
        longer = answered_after(net, 99)
    with net.settings(netfilter__nf_conntrack_icmp_timeout=10):
        return longer or ("" if answered_after(net, 15) else "an answer comes in after 15 s, with a timer of 10 s")


# --- Errors


def broken(packet, place):
    """Returns the packet with a byte changed, and checksums as they were."""
    return packet[:place] + bytes([packet[place] ^ 0x55]) + packet[place + 1:]


@requirement(5508, "3", "SHOULD", "an ICMP error with a wrong checksum is dropped silently", "yes")
def wrong_checksum(net):
    source, _, out = common.quoted_flow(net, UDP)
    made = error(A, ROUTER, 3, 3, out.packet[:28])
    seen = net.through(OUTSIDE, broken(made, 22))
    return f"{seen[0]}" if seen else "" if error_arrives(net, source, out) else "the correct one does not come in"


def error_arrives(net, source, out, made=None):
    """Returns the error about a flow as it arrived inside, or None."""
    return common.error_comes_in(net, source, made or error(A, ROUTER, 3, 3, out.packet[:28]))


@requirement(5508, "3a", "SHOULD", "one that quotes a packet with a wrong IP checksum is dropped silently", "no",
             "conntrack does not look at that checksum")
def wrong_quoted_checksum(net):
    source, _, out = common.quoted_flow(net, UDP)
    quoted = broken(out.packet, 10)[:28]
    return "it comes in" if error_arrives(net, source, out, error(A, ROUTER, 3, 3, quoted)) else ""


@requirement(5508, "3b", "MUST", "the quoted packet may have IP options", "yes")
def options(net):
    source, target, out = common.quoted_flow(net, UDP, options=b"\1\1\1\0")
    seen = error_arrives(net, source, out, error(A, ROUTER, 3, 3, out.packet[:32]))
    quoted = seen and seen.quoted
    return "" if quoted and (quoted.source, quoted.ports) == (source[0], (source[1], target[1])) else f"{seen}"


@requirement(5508, "3c", "SHOULD NOT", "its transport checksum is not looked at", "yes")
def transport_checksum(net):
    source, _, out = common.quoted_flow(net, UDP)
    quoted = broken(out.packet, 26)[:28]
    return "" if error_arrives(net, source, out, error(A, ROUTER, 3, 3, quoted)) else "the error does not come in"


@requirement(5508, "3d", "MUST", "ICMP extensions (RFC 4884) are no part of it", "yes")
def extensions(net):
    source, target, out = common.quoted_flow(net, UDP)
    # The quoted packet is padded to 128 bytes, 32 words. An MPLS label follows.
    extension = bytes.fromhex("2000") + bytes(2) + bytes.fromhex("00080101") + bytes.fromhex("00064140")
    made = error(A, ROUTER, 11, 0, out.packet.ljust(128, b"\0") + extension, b"\0\x20\0\0")
    seen = error_arrives(net, source, out, made)
    if not seen or not seen.intact:
        return f"{seen}"
    quoted = seen.quoted
    right = (quoted.source, quoted.ports) == (source[0], (source[1], target[1])) and seen.body.endswith(extension)
    return "" if right and finished(quoted.packet) == quoted.packet else "the quoted packet or the extension is damaged"


@requirement(5508, "4", "SHOULD", "an error from outside about no flow is dropped silently", "yes")
def about_nothing(net):
    quoted = datagram((ROUTER, net.port()), (A, 5000))
    seen = net.through(OUTSIDE, error(A, ROUTER, 3, 3, quoted[:28]))
    return f"{seen[0]}" if seen else ""


@requirement(5508, "4a", "MUST", "one about a flow quotes the packet as its host sent it", "yes")
def quotes_inside(net):
    for protocol in (UDP, TCP, ICMP):
        wrong = quotes(net, protocol)
        if wrong:
            return f"protocol {protocol}: {wrong}"
    return ""


def quotes(net, protocol):
    source, target, out = common.quoted_flow(net, protocol)
    seen = error_arrives(net, source, out, error(C, ROUTER, 11, 0, out.packet))
    if not seen or not seen.intact:
        return f"{seen}"
    quoted = seen.quoted
    right = (quoted.source, quoted.ports[0], quoted.target) == (*source, target[0])
    return "" if right and finished(quoted.packet) == quoted.packet else f"{seen}"


@requirement(5508, "4b", "MUST", "... with its type and code", "yes")
def kinds(net):
    source, _, out = common.quoted_flow(net, UDP)
    for kind, code in ((3, 1), (3, 13), (11, 1), (12, 0)):
        seen = error_arrives(net, source, out, error(A, ROUTER, kind, code, out.packet[:28]))
        if not seen or (seen.kind, seen.code) != (kind, code):
            return f"{kind} {code}: {seen}"
    return ""


@requirement(5508, "4c", "MUST", "... and reaches that host", "yes")
def destination(net):
    source, _, out = common.quoted_flow(net, UDP)
    seen = error_arrives(net, source, out, error(C, ROUTER, 11, 0, out.packet[:28]))
    return "" if seen and seen.target == source[0] == seen.quoted.source else f"{seen}"


def error_goes_out(net, origin, kind=3, code=3):
    """Lets a host inside send an error about an answer. Returns the answer's end, its flow's port, and the error."""
    source, target, out = common.quoted_flow(net, UDP)
    came = net.comes_in(datagram(target, (ROUTER, out.ports[0])), source)
    seen = [each for each in net.through(INSIDE, error(origin, target[0], kind, code, came.packet[:28]))
            if each.where == OUTSIDE]
    return target, out.ports[0], seen[0] if seen else None


@requirement(5508, "5", "SHOULD", "an error from inside about no flow is dropped silently", "set",
             "the router forwards it as it is, with the inside address",
             Remedy("a filter: `iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP`",
                    rule=("filter", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")))
def from_inside_about_nothing(net):
    quoted = datagram((A, 5000), (host(2), net.port()))
    seen = net.through(INSIDE, error(host(2), A, 3, 3, quoted[:28]))
    return f"{seen[0]}" if seen else ""


@requirement(5508, "5a", "MUST", "one about a flow quotes the packet as it was outside", "yes")
def quotes_outside(net):
    target, own, seen = error_goes_out(net, host(2))
    quoted = seen and seen.quoted
    right = quoted and (quoted.source, quoted.target, quoted.ports) == (target[0], ROUTER, (target[1], own))
    return "" if right and seen.intact else f"{seen}"


@requirement(5508, "5b", "MUST", "... with its type and code", "yes")
def kinds_from_inside(net):
    for kind, code in ((3, 1), (3, 13), (11, 1)):
        _, _, seen = error_goes_out(net, host(2), kind, code)
        if not seen or (seen.kind, seen.code) != (kind, code):
            return f"{kind} {code}: {seen}"
    return ""


@requirement(5508, "5c", "MUST", "... and comes from the router's outside address, whoever inside has sent it", "yes")
def origin(net):
    for number in (2, 77):
        target, _, seen = error_goes_out(net, host(number))
        if not seen or (seen.source, seen.target) != (ROUTER, target[0]):
            return f"from {host(number)}: {seen}"
    return ""


@requirement(5508, "6", "MUST NOT", "an error about a query neither ends nor prolongs it", "yes")
def about_query(net):
    with net.settings(netfilter__nf_conntrack_icmp_timeout=10):
        for late, comes in ((2, True), (8, False)):
            source, _, out = common.quoted_flow(net, ICMP)
            net.wait(6)
            made = error(C, ROUTER, 3, 1, out.packet[:28])
            if not error_arrives(net, source, out, made):
                return "no error comes in"
            net.wait(late)
            if answered(net, source, A, out.ports[0]) != comes:
                return "it prolongs it" if late else "it ends it"
    return ""


def hairpinned_error(net):
    """Host 3 sends to host 2 by its outside port; host 2 answers by an error. Returns the sender and the error."""
    seen, _, _ = common.hairpin(net, UDP)
    if not seen:
        return None
    made = error(host(2), seen.source, 3, 3, seen.packet[:28])
    return next((each for each in net.through(INSIDE, made) if each.where == INSIDE and each.kind == 3), None)


@requirement(5508, "7", "MUST", "ICMP errors pass between inside hosts (hairpin)", "no no yes",
             "no packet passes between them by the outside address")
def hairpin(net):
    seen = hairpinned_error(net)
    return "" if seen and seen.intact and seen.source == ROUTER else f"{seen}"


@requirement(5508, "7a", "MUST", "... and reach the host whose packet they quote", "no no yes",
             "no packet passes between them by the outside address")
def hairpin_destination(net):
    seen = hairpinned_error(net)
    right = seen and seen.target == seen.quoted.source == host(3) and seen.quoted.target == ROUTER
    return "" if right else f"{seen}"


@requirement(5508, "8", "SHOULD", "a flow that cannot begin, as all ports are in use, is refused by ICMP (3, 13)",
             "no set set", "it is dropped silently", Remedy("RUSTMASQ's option `--when-full reject`", only="RUSTMASQ"))
def full(net):
    port, target = net.port(), (A, net.port())
    options = ("--when-full", "reject") if net.remedied else ()
    words = ("-o", "wan0", "-p", "udp", "--dport", str(target[1]), "-j", *net.target.split(), "--to-ports", str(port))
    with net.rule("nat", "POSTROUTING", *words, *options):
        net.begin(UDP, (host(3), port), target)
        seen = net.through(INSIDE, datagram((host(2), port), target))
    if any(each.where == OUTSIDE for each in seen):
        return "it begins"
    return "" if [(each.kind, each.code, each.target) for each in seen] == [(3, 13, host(2))] else "no error comes back"


untested(5508, "9", "MAY", "a policy of whom ICMP messages are sent to", MAY)


@requirement(5508, "10a", "MUST", "the router sends \"unreachable\" and \"time exceeded\", and answers an echo", "yes")
def own_messages(net):
    source = host(next(UNHEARD)), net.port()
    for what, packet, kinds_ in (("time exceeded", datagram(source, (A, 5000), hops=1), [(11, 0)]),
                                 ("unreachable", datagram(source, ("192.0.2.1", 9)), [(3, 0), (3, 1)]),
                                 ("echo reply", query(source, (GATEWAY, 0)), [(0, 0)])):
        seen = net.through(INSIDE, packet)
        if not any((each.kind, each.code) in kinds_ and each.target == source[0] for each in seen):
            return f"no {what}"
    return ""


untested(5508, "10b", "MAY", "redirect, timestamp, source route, address mask, parameter problem, discovery", MAY)


@requirement(5508, "10c", "SHOULD NOT", "it sends no \"source quench\", and answers no information request", "yes")
def obsolete(net):
    seen = net.through(INSIDE, query((host(2), net.port()), (GATEWAY, 0), kind=15))
    seen += net.through(OUTSIDE, query((A, net.port()), (ROUTER, 0), kind=15))
    sent = [each for each in seen + net.log if each.protocol == ICMP and each.kind in (4, 16) and is_own(each)]
    return f"{sent[0]}" if sent else ""


def is_own(seen):
    """Returns whether the router itself sends this packet: it does not translate one of the errors of our hosts."""
    return seen.source == GATEWAY or (seen.source == ROUTER and seen.where == OUTSIDE)


@requirement(5508, "10d", "RECOMMENDED", "its errors have the precedence of network control, or the packet's", "yes")
def precedence(net):
    seen = net.through(INSIDE, datagram((host(2), net.port()), (A, 5000), hops=1, tos=0x50))
    return "" if seen and seen[0].tos >> 5 in (6, 7, 2) else f"{seen and seen[0].tos}"


@requirement(5508, "10e", "RECOMMENDED", "it sends no error about an error or a broadcast", "yes")
def no_errors(net):
    source = host(2), net.port()
    quoted = datagram((A, 5000), source)
    for what, packet in (("an error", error(source[0], A, 3, 3, quoted[:28], hops=1)),
                         ("a broadcast", datagram(source, ("255.255.255.255", 9), hops=1))):
        if any(each.kind in (3, 11) and is_own(each) for each in net.through(INSIDE, packet)):
            return f"an error about {what}"
    return ""


@requirement(5508, "10f", "RECOMMENDED", "it limits the rate of its errors", "yes")
def rate(net):
    source = host(next(UNHEARD)), net.port()
    # The kernel's own values. The other tests turn the limit off.
    with net.settings(ipv4__icmp_ratelimit=1000, ipv4__icmp_ratemask=6168):
        seen = net.through(INSIDE, *[datagram(source, (A, 5000), hops=1)] * 50)
    return "" if 0 < len(seen) < 25 else f"{len(seen)} errors about 50 packets"


untested(5508, "11", "MAY", "other messages of ICMP, which are neither queries nor errors", MAY)
