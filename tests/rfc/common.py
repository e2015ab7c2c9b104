# SPDX-License-Identifier: GPL-2.0
"""The tests that RFC 4787, 5382 and 5508 share."""

from frames import ACK_FLAG, ICMP, SYN, TCP
from network import ERRORS, INSIDE, OUTSIDE, ROUTER, A, B, C, error, first, host, query, segment

# The ends outside: two ports of a host, and other hosts.
ENDS = ((A, 5000), (A, 5001), (B, 5000), (C, 5002))
# ICMP errors that a flow may meet: type and code.
HARMFUL = [(kind, code) for kind, code in ((3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (4, 0), (5, 1), (11, 0),
                                           (11, 1), (12, 0)) if kind in ERRORS]


def outside_ports(net, protocol, endpoint, ends=ENDS):
    """Returns the outside ports that an endpoint inside gets towards each of the ends."""
    return [net.outside_port(protocol, endpoint, end) for end in ends]


def depends(ports):
    """Returns the ports as text if they are not all the same port."""
    return "" if len(set(ports)) == 1 and None not in ports else f"outside ports {ports}"


def mapping(net, protocol):
    """An endpoint keeps one outside port for all destinations, also where another has its port towards one of them."""
    port = net.port()
    ports = outside_ports(net, protocol, (host(2), port), ENDS[-1:])
    net.begin(protocol, (host(3), port), ENDS[0])
    return depends(ports + outside_ports(net, protocol, (host(2), port)))


def overloading(net, protocol):
    """No two endpoints have the same outside port, whatever they talk to."""
    port = net.port()
    ports = [net.outside_port(protocol, (host(number), port), end) for number, end in ((2, (A, 5000)), (3, (B, 5001)))]
    return f"two endpoints have the port {ports[0]}" if ports[0] == ports[1] or None in ports else ""


def answer(protocol, source, target):
    """Returns the packet that answers the first one of a flow."""
    if protocol == TCP:
        return segment(source, target, SYN | ACK_FLAG, 5000, 1001)
    if protocol == ICMP:
        return query(source, target, kind=0)
    return first(protocol, source, target)


def filtering(net, protocol):
    """Anybody outside may send to a mapping (endpoint-independent), or any port of a host that was spoken to."""
    port = net.port()
    own = net.outside_port(protocol, (host(2), port), (A, 5000))
    for source in ((B, 6000), (A, 6001)):
        if own and net.comes_in(first(protocol, source, (ROUTER, own)), (host(2), port)):
            return ""
    return "nobody but the end that was spoken to may send"


def hairpin(net, protocol, target=2):
    """Sends from host 3 to the outside end of host 2 or of itself, and answers.

    Returns the packet as it arrived, the outside port of host 3, and the answer as it arrived; None if one did not.
    """
    port, other = net.port(), net.port()
    endpoint, asking = (host(target), port), (host(3), other)
    own = net.outside_port(protocol, endpoint, (A, 5000))
    seen = next((seen for seen in net.through(INSIDE, first(protocol, asking, (ROUTER, own)))
                 if (seen.where, seen.target, seen.ports[1]) == (INSIDE, *endpoint)), None)
    if not seen:
        return None, None, None
    reply = answer(protocol, endpoint, (seen.source, seen.ports[0]))
    back = next((back for back in net.through(INSIDE, reply) if back.where == INSIDE and
                 (back.source, back.target, back.ports) == (ROUTER, asking[0], (own, other))), None)
    return seen, net.outside_port(protocol, asking, (B, 5001)), back


def hairpins(net, protocol):
    """A host inside reaches the mapping of another, and its own, and the answers come back.

    No redirect tells a host to send the next packet to the other one, which would not take it.
    """
    net.log.clear()
    for target in (2, 3):
        seen, _, back = hairpin(net, protocol, target)
        if not back:
            return f"{'its own' if target == 3 else 'another'} mapping: {'no answer' if seen else 'not reached'}"
    redirects = [each for each in net.log if each.kind == 5]
    return f"the router sends a redirect: {redirects[0]}" if redirects else ""


def hairpin_source(net, protocol):
    """It is seen with its own outside address and port."""
    seen, own, _ = hairpin(net, protocol)
    if not seen:
        return "not reached"
    return "" if (seen.source, seen.ports[0]) == (ROUTER, own) else f"seen as {seen.source}:{seen.ports[0]}"


def quoted_flow(net, protocol, **more):
    """Begins a flow. Returns its inside end, the end outside, and its first packet as it came out."""
    source, target = (host(2), net.port()), (A, 5000)
    return source, target, net.begin(protocol, source, target, **more)


def error_comes_in(net, source, made):
    """Sends an ICMP error from outside. Returns it as it reached the inside end of its flow, or None."""
    for seen in net.through(OUTSIDE, made):
        if seen.where == INSIDE and seen.target == source[0] and seen.protocol == ICMP:
            return seen
    return None


def unreachable(net, protocol, origin=A):
    """An ICMP error "port unreachable" about a flow reaches its host, which recognises the packet that it quotes."""
    source, target, out = quoted_flow(net, protocol)
    seen = error_comes_in(net, source, error(origin, ROUTER, 3, 3, out.packet[:28]))
    if not seen:
        return "no error arrives"
    quoted = seen.quoted
    if quoted and (quoted.source, quoted.ports[0], quoted.target) == (*source, target[0]) and seen.intact:
        return ""
    return f"it arrives as {seen}"


def send_errors(net, out):
    """Sends an ICMP error of each kind about a packet that came out."""
    net.through(OUTSIDE, *(error(A, ROUTER, kind, code, out.packet[:28]) for kind, code in HARMFUL))


def helper(net, name):
    """Returns the name of the target's helper."""
    return name if net.target == "MASQUERADE" else f"rustmasq-{name}"
