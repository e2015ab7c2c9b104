# SPDX-License-Identifier: GPL-2.0
"""RFC 4787: UDP."""

import contextlib
import os

import common
import frames
from common import ENDS
from frames import UDP
from network import INSIDE, OUTSIDE, ROUTER, A, B, C, datagram, finished, fragments, host
from requirements import requirement, sysctl, untested
from tcp import Connection

MAPS = "conntrack gives a port to a flow, not to an endpoint"
MAY = "allows something, and requires nothing"
# A request to read a file by TFTP.
REQUEST = b"\0\1firmware\0octet\0"


@requirement(4787, "1", "MUST", "an inside endpoint keeps one outside port for all destinations", "no no yes", MAPS)
def mapping(net):
    return common.mapping(net, UDP)


@requirement(4787, "2", "RECOMMENDED", "a router with two outside addresses uses one of them for an inside host", "yes")
def paired(net):
    for number in (2, 3):
        seen = [net.begin(UDP, (host(number), net.port()), end) for end in ENDS]
        addresses = {each and each.source for each in seen}
        if len(addresses) > 1:
            return f"outside addresses {addresses}"
    return ""


@requirement(4787, "3", "MUST NOT", "no two endpoints share an outside port", "no no yes", MAPS)
def overloading(net):
    return common.overloading(net, UDP)


@requirement(4787, "3a", "RECOMMENDED", "a port below 1024 becomes one below 1024, another becomes another", "yes")
def port_class(net):
    for port, ports in ((500, range(1, 1024)), (900, range(1, 1024)), (net.port(), range(1024, 65536))):
        seen = [net.outside_port(UDP, (host(number), port), ENDS[0]) for number in (3, 2)]
        if seen[0] == seen[1] or not all(each in ports for each in seen):
            return f"{port} becomes {seen}"
    return ""


@requirement(4787, "4", "RECOMMENDED", "an even port becomes an even one, an odd one an odd one", "no",
             "the port is random where the own one is taken; RFC 7857 lets a NAT do so")
def parity(net):
    for port in (net.port(), net.port() + 1):
        seen = [net.outside_port(UDP, (host(number), port), ENDS[0]) for number in range(3, 28)]
        if None in seen or {each % 2 for each in seen} != {port % 2}:
            return f"{port} becomes {seen}"
    return ""


def answered_after(net, seconds):
    """Sends one datagram. The answer comes after so many seconds."""
    source, target = (host(2), net.port()), (A, 5000)
    own = net.outside_port(UDP, source, target)
    net.wait(seconds)
    return "" if net.comes_in(datagram(target, (ROUTER, own)), source) else f"no answer comes in after {seconds} s"


@requirement(4787, "5", "MUST", "an answer may take two minutes", "set set yes",
             "conntrack forgets a flow without an answer after 30 s", sysctl(udp_timeout=120))
def two_minutes(net):
    return answered_after(net, 119)


untested(4787, "5a", "MAY", "shorter for well-known ports", MAY)
untested(4787, "5b", "MAY", "configurable", MAY)


@requirement(4787, "5c", "RECOMMENDED", "an answer may take five minutes", "set set yes",
             "conntrack forgets a flow without an answer after 30 s", sysctl(udp_timeout=300))
def five_minutes(net):
    return answered_after(net, 299)


@requirement(4787, "6", "MUST", "what goes out keeps the mapping", "yes")
def outbound_refresh(net):
    source, target = (host(2), net.port()), (A, 5000)
    own = net.outside_port(UDP, source, target)
    for _ in range(30):
        net.wait(20)
        if net.outside_port(UDP, source, target) != own:
            return "the port changes"
    net.wait(20)
    return "" if net.comes_in(datagram(target, (ROUTER, own)), source) else "no answer comes in"


untested(4787, "6a", "MAY", "what comes in keeps the mapping, too", MAY)
untested(4787, "7", "MUST", "inside and outside networks with the same addresses",
         "the addresses of the networks are given by others than the target")


@requirement(4787, "8", "RECOMMENDED", "anybody may send to a mapping, or any port of a host that was spoken to",
             "no no yes", "conntrack knows the one end of the flow")
def filtering(net):
    return common.filtering(net, UDP)


untested(4787, "8a", "MAY", "configurable", MAY)


@requirement(4787, "9", "MUST", "inside hosts reach each other by their outside ports (hairpin)", "no no yes",
             "to the router, a packet to its own address is its own")
def hairpins(net):
    return common.hairpins(net, UDP)


@requirement(4787, "9a", "MUST", "... and are seen with their outside addresses and ports", "no no yes",
             "the packet does not arrive")
def hairpin_source(net):
    return common.hairpin_source(net, UDP)


@requirement(4787, "10", "SHOULD", "no helper (ALG) without being asked for", "yes")
def helpers_off(net):
    seen = net.begin(UDP, (host(2), net.port()), (A, 69), content=REQUEST)
    if seen.body[8:] != REQUEST:
        return "the request is changed"
    return "\n".join(net.expectations())


@requirement(4787, "10a", "RECOMMENDED", "each helper can be turned on alone", "yes")
def helpers_alone(net):
    rule = ("raw", "PREROUTING", "-p", "udp", "--dport", "69", "-j", "CT", "--helper", common.helper(net, "tftp"))
    with net.rule(*rule):
        net.begin(UDP, (host(2), net.port()), (A, 69), content=REQUEST)
        Connection(net, (host(2), net.port()), (A, 21)).announce()
    expected = net.expectations()
    net.conntrack.forget()
    return "" if len(expected) == 1 and "tftp" in expected[0] else f"expectations {expected}"


@requirement(4787, "11", "MUST", "the mapping is as ever when a port is taken (deterministic)", "no no yes",
             "a flow keeps its port only while nobody else has it towards the same end")
def deterministic(net):
    free = common.depends(common.outside_ports(net, UDP, (host(2), net.port())))
    taken = common.mapping(net, UDP)
    return "" if bool(free) == bool(taken) else f"{taken}, but one port where nobody else has it"


@requirement(4787, "12", "MUST NOT", "no ICMP message ends the mapping", "yes")
def errors_end_nothing(net):
    source, target, out = common.quoted_flow(net, UDP)
    common.send_errors(net, out)
    return "" if net.comes_in(datagram(target, (ROUTER, out.ports[0])), source) else "no answer comes in"


@requirement(4787, "12a", "SHOULD NOT", "ICMP errors come in from whomever", "yes")
def errors_of_others(net):
    return common.unreachable(net, UDP, C)


@requirement(4787, "12b", "RECOMMENDED", "ICMP's \"destination unreachable\" comes in", "yes")
def unreachable(net):
    return common.unreachable(net, UDP)


@contextlib.contextmanager
def small_mtu(net):
    net.run("ip", "link", "set", "wan0", "mtu", "600")
    try:
        yield
    finally:
        net.run("ip", "link", "set", "wan0", "mtu", "1500")


@requirement(4787, "13", "MUST", "a packet that is too big and must not be fragmented is answered by ICMP", "yes")
def too_big(net):
    with small_mtu(net):
        packet = datagram((host(2), net.port()), ENDS[0], bytes(1400), dont_fragment=True)
        seen = net.through(INSIDE, packet)
    errors = [each for each in seen if each.where == INSIDE and (each.kind, each.code) == (3, 4)]
    return "" if errors and errors[0].target == host(2) else f"{len(seen)} other packets"


@requirement(4787, "13a", "MUST", "one that may be is sent in fragments, in order", "yes")
def fragments_in_order(net):
    content = os.urandom(1400)
    with small_mtu(net):
        seen = net.through(INSIDE, datagram((host(2), net.port()), ENDS[0], content))
    places = [each.offset for each in seen if each.where == OUTSIDE and each.source == ROUTER]
    if len(places) < 3 or places != sorted(places):
        return f"fragments at {places}"
    return "" if joined(seen, OUTSIDE) == content else "it is damaged"


def joined(seen, where):
    """Returns the content of a datagram from its fragments."""
    parts = {each.offset: each.body for each in seen if each.where == where and each.protocol == UDP}
    return b"".join(parts[offset] for offset in sorted(parts))[8:]


def crosses(net, pick):
    """Sends a datagram in fragments out, and one in. `pick` chooses the fragments and their order."""
    source, content = (host(2), net.port()), os.urandom(2500)
    seen = net.through(INSIDE, *pick(fragments(datagram(source, ENDS[0], content), 1000)))
    if joined(seen, OUTSIDE) != content:
        return "it does not go out"
    own = net.outside_port(UDP, source, ENDS[0])
    seen = net.through(OUTSIDE, *pick(fragments(datagram(ENDS[0], (ROUTER, own), content), 1000)))
    return "" if joined(seen, INSIDE) == content else "it does not come in"


@requirement(4787, "14", "MUST", "fragments may arrive in any order", "yes")
def any_order(net):
    for name, pick in (("in order", list), ("reversed", lambda parts: parts[::-1]),
                       ("turned", lambda parts: parts[1:] + parts[:1])):
        wrong = crosses(net, pick)
        if wrong:
            return f"{name}: {wrong}"
    return ""


@requirement(4787, "14a", "MUST", "many fragments of nothing do no harm to others", "no",
             "the kernel takes no more fragments once those that wait for the rest fill `net.ipv4.ipfrag_high_thresh`, "
             "for 30 s")
def flood(net):
    # With less memory a small flood fills it.
    with net.settings(ipv4__ipfrag_low_thresh=1 << 17, ipv4__ipfrag_high_thresh=1 << 18):
        # About packets without a first fragment no error is sent.
        packet = frames.ip(frames.packed(B), frames.packed(ROUTER), UDP, bytes(64), where=64 | 1)
        flood = [finished(packet[:4] + n.to_bytes(2, "big") + packet[6:]) for n in range(1, 600)]
        net.through(OUTSIDE, *flood)
        if not net.outside_port(UDP, (host(2), net.port()), ENDS[0]):
            return "no whole packet passes"
        return crosses(net, list)
