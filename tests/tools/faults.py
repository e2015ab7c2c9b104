#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""tests/tools/faults.py PART...: fails each allocation of ours once, in the guest, and says in TAP lines what came of
it.

  module     the module comes and goes, the watch is turned on and off, namespaces are born and go
  rules      iptables' and ip6tables' rules, legacy and nft, come and go
  packets    target, hooks and helper, for packets of the router's own and for those that it forwards; the flush
  pulls      nothing fails, but a packet's data moves whenever anybody makes sure that there is enough of it

The parts packets and pulls need the network of `home` with IPv6. What is "ours": allocations that have the module's
text in their stack, whoever makes them for it; of loading it, those below do_one_initcall, for its text has no
address before. Objects that the kernel's checkers make for themselves do not count.

What a thread does is failed by fail-nth: the first allocation, the second, ..., until there is none left and the
operation succeeds. fail-nth does not reach what softirq and workers do: that is failed for all, by failslab's `space`,
which lets so many bytes pass. (Its `interval` would count, but does not say where it stands.)
"""

import collections
import contextlib
import ctypes
import errno
import itertools
import os
import platform
import re
import select
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import (
    EXPECTATION_GONE,
    EXPECTATION_NEW,
    HEADER,
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Conntrack,
    Inside,
    attributes,
    text,
)
from tap import done_testing, result

DEBUG = "/sys/kernel/debug"
EVENTS = "/sys/kernel/tracing/events/rustmasq"
OURS = "/sys/module/rustmasq"
# Of x86-64.
FINIT_MODULE, DELETE_MODULE = 313, 176
LIBC = ctypes.CDLL(None, use_errno=True)
MANY = 1 << 30
NO_MEMORY = os.strerror(errno.ENOMEM)
# What the extension's users see of it: the two front ends' words.
SAYS_NO_MEMORY = re.compile("Cannot allocate memory|Memory allocation problem")


def write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{value}\n")


def read(path):
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def outcome_of(operation):
    """Nothing, or the error's text."""
    try:
        operation()
    except OSError as error:
        return error.strerror
    return ""


# --- What fails


class Failslab:
    """The allocator that fails on demand, for allocations of ours alone."""

    # They have their own ways to do without memory, and would turn themselves off.
    CHECKERS = {"kmemleak_object", "kmemleak_scan_area", "debug_objects_cache"}

    def __init__(self):
        for name in set(os.listdir("/sys/kernel/slab")) - self.CHECKERS:
            write(f"/sys/kernel/slab/{name}/failslab", 1)
        self.code = 0, 0
        self.set(probability=0, interval=1, verbose=0, ignore_gfp_wait="N", cache_filter="Y", times=MANY)
        # These have their turn in fail-nth's count as well. What cannot be in the stack never has.
        for other in ("fail_page_alloc", "fail_skb_realloc"):
            self.limit(other, 1, 1)

    def set(self, **knobs):
        for name, value in knobs.items():
            write(f"{DEBUG}/failslab/{name.replace('_', '-')}", value)

    @staticmethod
    def limit(kind, start, end):
        write(f"{DEBUG}/{kind}/stacktrace-depth", 32)
        write(f"{DEBUG}/{kind}/require-start", start)
        write(f"{DEBUG}/{kind}/require-end", end)

    def only(self, start, end):
        """Only what is called from this code fails."""
        self.code = start, end
        self.limit("failslab", start, end)

    @contextlib.contextmanager
    def instead(self, start, end):
        """The same for a while."""
        before = self.code
        self.only(start, end)
        try:
            yield
        finally:
            self.only(*before)

    @staticmethod
    def nth(n):
        """This thread's n-th allocation from now on fails; 0: none."""
        write("/proc/thread-self/fail-nth", n)

    def failed(self):
        """How many did since the last call."""
        failed = MANY - int(read(f"{DEBUG}/failslab/times"))
        self.set(times=MANY)
        return failed

    @contextlib.contextmanager
    def for_all(self, times, space):
        """So many allocations of anybody's fail, as soon as so many bytes were had."""
        self.set(times=times, space=space, probability=100)
        try:
            yield
        finally:
            self.set(probability=0)

    def left(self):
        return int(read(f"{DEBUG}/failslab/space"))

    def reset(self):
        self.set(probability=0, times=1, space=0, cache_filter="N", ignore_gfp_wait="Y")
        for kind in ("failslab", "fail_page_alloc", "fail_skb_realloc"):
            self.limit(kind, 0, (1 << 64) - 1)


def symbols(wanted=""):
    """(address, name) of each function of a module's, or of the kernel's own; the latter in their order."""
    with open("/proc/kallsyms", encoding="utf-8", errors="replace") as file:
        for line in file:
            address, kind, name, *module = line.split()
            if kind in "tTwW" and module == ([f"[{wanted}]"] if wanted else []):
                yield int(address, 16), name


def function(wanted, module=""):
    """Where a function begins, and where the next one does. Of Rust's names the last part counts, with its length."""
    # Those of a module have no order; of the kernel's need not be read further than that.
    found = iter(sorted(symbols(module))) if module else symbols()
    start = next(address for address, name in found if name == wanted or name.endswith(f"{len(wanted)}{wanted}"))
    return start, next((address for address, _ in found if address > start), start + 4096)


def our_text():
    """Where the module's text begins, and the end of the page that its last function begins in."""
    ours = [address for address, _ in symbols("rustmasq")]
    return min(ours), (max(ours) | 4095) + 1


class Faults:
    """Fails what an attempt allocates, one allocation after the other.

    An attempt is a function that says what came of it: nothing, if all went well, or in a few words. It is given the
    number of the allocation that is to fail, for what this thread or a process of its own does.
    """

    def __init__(self):
        self.slab = Failslab()
        self.total = 0

    def by_thread(self, attempt):
        """What came of each attempt in which an allocation failed, and then of the one in which none did."""
        outcomes = [attempt(1)]
        while self.slab.failed():
            outcomes.append(attempt(len(outcomes) + 1))
        return outcomes

    def by_all(self, attempt, before=lambda: None):
        """The same for what is done in softirq and by workers, the last allocation first; `before` each attempt
        something is done in which none fails.

        `space` lets allocations pass until as many bytes were had as it says; what is left of it when one fails
        tells where that one began.
        """
        before()
        with self.slab.for_all(MANY, MANY):
            attempt()
            space = MANY - self.slab.left()
        outcomes = []
        while space > 0:
            before()
            with self.slab.for_all(1, space):
                outcomes.append(attempt())
                space -= self.slab.left()
        self.slab.failed()
        before()
        return [*outcomes, attempt()]

    def each(self, what, outcomes, expected, usual="", least=1):
        """Says what the outcomes were. They must match what is expected; but the last, where nothing failed, is to be
        as usual."""
        *outcomes, last = outcomes
        counted = collections.Counter(said or "nothing was amiss" for said in outcomes)
        self.total += len(outcomes)
        problem = next((f"when allocation {n} failed: {said or 'nothing was amiss'}"
                        for n, said in enumerate(outcomes, 1) if not re.fullmatch(expected, said)), None)
        if last != usual:
            problem = problem or f"when nothing failed: {last or 'nothing was amiss'}"
        if len(outcomes) < least:
            problem = problem or f"only {len(outcomes)} allocations failed, expected {least} or more"
        told = ", ".join(f"{count} x {said}" for said, count in counted.items()) or "there is none"
        result(f"{what}: each allocation failed once: {told}", problem)

    def all_at_once(self, what, attempt, expected, least=1, before=lambda: None):
        """Every allocation of ours fails while the attempt lasts."""
        before()
        with self.slab.for_all(MANY, 0):
            said = attempt()
            failed = MANY - int(read(f"{DEBUG}/failslab/times"))
        self.slab.failed()
        problem = None if re.fullmatch(expected, said) else said or "nothing was amiss"
        if failed < least:
            problem = problem or f"only {failed} allocations failed, expected {least} or more"
        result(f"{what}: every allocation failed, {failed} in all: {said or 'nothing was amiss'}", problem)


# --- The module


def load(n, parameters=""):
    """Loads the module; by the call itself, so that nothing but that can fail."""
    path = f"/lib/modules/{platform.release()}/updates/rust/rustmasq.ko"
    with open(path, "rb") as file:
        Failslab.nth(n)
        error = LIBC.syscall(FINIT_MODULE, file.fileno(), parameters.encode(), 0) and ctypes.get_errno()
        Failslab.nth(0)
    return os.strerror(error) if error else ""


def unload(n=0):
    Failslab.nth(n)
    error = LIBC.syscall(DELETE_MODULE, b"rustmasq", os.O_NONBLOCK) and ctypes.get_errno()
    Failslab.nth(0)
    return os.strerror(error) if error else ""


def must(said):
    """For what must work before anything can be tried."""
    if said:
        result("faults: what comes before a failure works", said)
        sys.exit(1)


def users():
    return int(read(f"{OURS}/refcnt"))


def hooks(host=None):
    """How many hooks of ours a namespace has; without a name, the one that we are in."""
    with Inside(host) if host else contextlib.nullcontext():
        asked = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    count = 0
    with asked:
        for family, point in itertools.product((socket.AF_INET, socket.AF_INET6), range(5)):
            count += sum(module == "rustmasq" for module in hooks_at(asked, family, point))
    return count


def hooks_at(asked, family, point):
    """The modules of the hooks at a point, by nfnetlink_hook (include/uapi/linux/netfilter/nfnetlink_hook.h)."""
    subsystem, number, module_name = 12, 1, 5
    which = struct.pack("=HHI", 8, number, socket.htonl(point))
    asked.send(HEADER.pack(HEADER.size + len(which), subsystem << 8, NLM_F_REQUEST | NLM_F_DUMP, 0, 0, family, 0, 0) +
               which)
    while True:
        data = asked.recv(1 << 16)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                return
            yield text(attributes(data[HEADER.size:length]).get(module_name, b""))
            data = data[length + 3 & ~3:]


def left_behind():
    """What of the module is there although it is not loaded."""
    found = [table for table in ("ip", "ip6") if "RUSTMASQ" in read(f"/proc/net/{table}_tables_targets").split()]
    found += [path for path in (OURS, EVENTS) if os.path.exists(path)]
    found += [f"{count} hooks" for count in (hooks(), hooks("other")) if count]
    return found


class Loading:
    """A way to load the module, and how many hooks a namespace has then."""

    def __init__(self, what, hooks_each, parameters="", awaited=""):
        self.what, self.hooks_each, self.parameters, self.awaited = what, hooks_each, parameters, awaited

    def load(self, n=0):
        if self.awaited:
            # The kernel forgets it with each time that the module comes.
            write("/sys/kernel/tracing/set_event", f"rustmasq:{self.awaited}:mod:rustmasq")
        error = load(n, self.parameters)
        left = [] if not error else left_behind()
        return f"{error}, but {left} is there" if left else error

    def unload(self, n):
        if not os.path.exists(OURS):
            must(self.load())
        error = unload(n)
        left = [] if error else left_behind()
        return error or (f"{left} is there" if left else "unloaded")

    def is_loaded(self, faults):
        faults.slab.only(*function("do_one_initcall"))
        # The helper, the listener, the list of namespaces; and each hook in each of the two namespaces.
        faults.each(f"{self.what} is loaded", faults.by_thread(self.load), NO_MEMORY, least=3 + 2 * self.hooks_each)
        there = hooks(), hooks("other")
        result(f"{self.what} is loaded: ... then its hooks are there",
               None if there == (self.hooks_each, self.hooks_each) else f"{there}, expected {self.hooks_each} each")
        faults.slab.only(*our_text())


def part_module(faults):
    # What the kernel does once, when its first helper comes, is none of ours.
    must(load(0))
    must(unload())
    Loading("the module", 0).is_loaded(faults)
    watch(faults)
    must(unload())
    both = Loading("the module with tftp_port, which the watch waits for,", 8, "tftp_port=69", "flow_new")
    both.is_loaded(faults)
    faults.each(f"{both.what} is unloaded", faults.by_thread(both.unload), "unloaded", "unloaded", 8)
    must(load(0, "tftp_port=69"))
    faults.slab.only(*our_text())
    namespaces(faults, 20)
    must(unload())


# --- The watch


def enable(event, on, n=0):
    path = f"{EVENTS}/{event}/enable"
    file = os.open(path, os.O_WRONLY)
    Failslab.nth(n)
    error = outcome_of(lambda: os.write(file, b"1" if on else b"0"))
    Failslab.nth(0)
    os.close(file)
    return error


def watch(faults):
    for event, hooks_each in (("flow_new", 4), ("flow_confirm", 4), ("packet", 8)):
        def turning_on(n, event=event, hooks_each=hooks_each):
            error = enable(event, True, n)
            there, wanted = hooks(), 0 if error else hooks_each
            return error if there == wanted else f"{error or 'no error'} with {there} hooks"

        def turning_off(n, event=event):
            must(enable(event, True))
            return enable(event, False, n) or (f"{hooks()} hooks are there" if hooks() else "off")

        faults.each(f"turning {event} on", faults.by_thread(turning_on), NO_MEMORY, least=2 * hooks_each)
        result(f"turning {event} on: ... then it is",
               None if hooks("other") == hooks_each else f"{hooks('other')} hooks")
        must(enable(event, False))
        faults.each(f"turning {event} off", faults.by_thread(turning_off), "off", "off", 0)


# --- Namespaces


@contextlib.contextmanager
def home_again():
    """Back into the namespace that we came from, whichever we are in then."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        Failslab.nth(0)
        os.setns(home, os.CLONE_NEWNET)
        os.close(home)


def objects(cache):
    """How many objects of a slab cache are in use."""
    write(f"/sys/kernel/slab/{cache}/shrink", 1)
    with open("/proc/slabinfo", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(cache + " "))


def born_and_gone():
    with home_again():
        must(outcome_of(lambda: os.unshare(os.CLONE_NEWNET)))


def living():
    """How many namespaces there are beside the first one; the last that went keeps its memory until
    another one goes."""
    born_and_gone()
    time.sleep(0.5)
    return objects("net_namespace") - 1


def namespaces(faults, hooks_each):
    def being_born(n):
        with home_again():
            Failslab.nth(n)
            error = outcome_of(lambda: os.unshare(os.CLONE_NEWNET))
            Failslab.nth(0)
            there = 0 if error else hooks()
        return error if error or there == hooks_each else f"no error, but {there} hooks"

    def passing():
        born_and_gone()
        return "" if wait_until(lambda: living() == before) else f"it is not gone: {living()}, expected {before}"

    before = len(os.listdir("/run/netns"))
    for event in ("flow_new", "flow_confirm", "packet"):
        must(enable(event, True))
    what = f"a namespace with {hooks_each} hooks"
    faults.each(f"{what} is born", faults.by_thread(being_born), NO_MEMORY, least=hooks_each)
    gone = wait_until(lambda: living() == before)
    result(f"{what} is born: ... and those that failed are gone, as is the one that did not",
           None if gone else f"{living()} namespaces, expected {before}")
    # The new namespace itself must not fail here.
    with faults.slab.instead(*function("net_pre_exit", "rustmasq")):
        faults.all_at_once(f"{what} goes", passing, "")
    for event in ("flow_new", "flow_confirm", "packet"):
        must(enable(event, False))
    must("" if hooks() == hooks("other") == hooks_each - 16 else "hooks of the watch are left")


# --- Rules


def rule(n, front, *arguments):
    """A rule by its command, whose n-th allocation fails; fail-nth survives exec."""
    done = subprocess.run([front, "-w", "-t", "nat", *arguments], preexec_fn=lambda: Failslab.nth(n),
                          capture_output=True, text=True, errors="replace", check=False)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"status {done.returncode}"


FRONT_ENDS = "iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"


def part_rules(faults):
    must(load(0))
    faults.slab.only(*our_text())
    for front in FRONT_ENDS:
        faults.each(f"{front}: a rule is added", faults.by_thread(adding(front)), NO_MEMORY, least=4)
    # In legacy's own process or by nftables' worker; nothing of ours is left on the stack then.
    faults.slab.only(*function("nf_ct_netns_put", "nf_conntrack"))
    for front in FRONT_ENDS:
        faults.all_at_once(f"{front}: a rule is removed", lambda front=front: removing(front), "removed")
    must(unload())


def unused():
    return wait_until(lambda: users() == 0)


def adding(front):
    """Each attempt in a namespace of its own: conntrack keeps defragmentation when its own hooks fail."""
    def attempt(n):
        with home_again():
            os.unshare(os.CLONE_NEWNET)
            said = rule(n, front, "-A", "POSTROUTING", "-j", "RUSTMASQ")
            if not said:
                return ""
            if users():
                return f"{said}, but {users()} users are left"
            again = rule(0, front, "-A", "POSTROUTING", "-j", "RUSTMASQ")
            if again:
                return f"{said}, and a second try: {again}"
            must("" if users() == 1 else f"a rule makes {users()} users")
        must("" if unused() else "a namespace's end does not remove its rule")
        return NO_MEMORY if SAYS_NO_MEMORY.search(said) else said
    return attempt


def removing(front):
    with home_again():
        os.unshare(os.CLONE_NEWNET)
        must(rule(0, front, "-A", "POSTROUTING", "-j", "RUSTMASQ"))
        said = rule(0, front, "-F", "POSTROUTING")
        return said or ("removed" if unused() else f"{users()} users are left")


# --- Packets

# By IP version: the LAN's host, the router towards it and outside, the server.
ADDRESSES = {4: ("172.18.0.2", "172.18.0.1", "203.0.113.1", "203.0.113.2"),
             6: ("fd00:18::2", "fd00:18::1", "2001:db8:1::1", "2001:db8:1::2")}
DISCARD, TFTP = 9, 69
REQUEST = b"\0\1boot\0octet\0"
# ctnetlink's group for flows that go.
FLOW_GONE = 1 << 2
# What a helper's request can come to.
DROPPED = "dropped, and counted"
UNHELPED = "without the helper"


def bound(host, address, port, kind=socket.SOCK_DGRAM):
    with Inside(host):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    return sock


class Network:
    """Sends packets, and says what became of them."""

    def __init__(self):
        self.router = Conntrack("router")
        self.port = 20000
        self.servers = {(version, port): bound("server", ADDRESSES[version][3], port)
                        for version in ADDRESSES for port in (DISCARD, TFTP)}
        for version, own, port in itertools.product(ADDRESSES, (True, False), (DISCARD, TFTP)):
            # The neighbours shall know each other; and what conntrack does once is none of ours.
            must(self.send(version, own, port))

    def send(self, version, own, port, n=0):
        """A new flow's first packet, of the router's own or from the LAN: nothing, or what is amiss."""
        client, within, outside, server = ADDRESSES[version]
        drops = self.drops()
        with self.open("router" if own else "lan", within if own else client) as sock:
            Failslab.nth(n)
            refused = outcome_of(lambda: sock.sendto(REQUEST, (server, port)))
            Failslab.nth(0)
        if refused or not self.arrived(version, port, drops):
            flow = [line for line in self.router.flows() if f":{self.port}>" in line]
            return f"not there, but {flow} is" if flow else DROPPED if self.drops() > drops else "dropped"
        return self.translated(port, outside)

    def arrived(self, version, port, drops):
        """Whether the last packet came to the server; no need to wait once it was counted as dropped."""
        server, end = self.servers[version, port], time.monotonic() + 3
        while time.monotonic() < end:
            if select.select([server], [], [], 0.1)[0]:
                if server.recvfrom(2048)[1][1] == self.port:
                    return True
            elif self.drops() > drops:
                return False
        return False

    def translated(self, port, outside):
        """What is amiss with the last flow's entry."""
        line = next((line for line in self.router.flows() if f":{self.port}>" in line), "no entry")
        original, reply = [*line.split(), "", ""][:2]
        if outside not in reply.partition(">")[2]:
            return f"not masqueraded: {line}"
        if port == TFTP and "helper rustmasq-tftp" not in line:
            return UNHELPED
        if port == TFTP and (outside, self.port) not in self.router.expected():
            return f"nothing is expected: {original}"
        return ""

    def open(self, host, address, kind=socket.SOCK_DGRAM):
        """A socket with a port of its own."""
        self.port += 1
        sock = bound(host, address, self.port, kind)
        sock.settimeout(5)
        return sock

    def leave(self, source, target):
        """A packet of a new flow to somebody who is not there."""
        with self.open("lan", source) as sock:
            sock.sendto(REQUEST, (target, DISCARD))

    def leaves(self, address):
        """Whether the last flow is there, and leaves with that address."""
        return any(f":{self.port}>" in line and address in line.split()[1].partition(">")[2]
                   for line in self.router.flows())

    def unseen(self):
        """Nothing, if the watch showed the last flow's confirmation."""
        with open("/sys/kernel/tracing/trace", encoding="utf-8", errors="replace") as file:
            seen = any("flow_confirm:" in line and f":{self.port}->" in line for line in file)
        return "" if seen else f"the watch did not show the flow from port {self.port}"

    @staticmethod
    def drops():
        with Inside("router"), open("/proc/thread-self/net/stat/nf_conntrack", encoding="ascii") as file:
            names = next(file).split()
            return sum(int(line.split()[names.index("drop")], 16) for line in file)


def part_packets(faults):
    must(load(0, "tftp_port=69"))
    masquerade()
    write("/proc/sys/net/netfilter/nf_log_all_netns", 1)
    network = Network()
    faults.slab.only(*our_text())
    for version in ADDRESSES:
        requests(faults, network, version)
    flush(faults, network)
    write("/proc/sys/net/netfilter/nf_log_all_netns", 0)


def masquerade():
    for front in ("iptables-legacy", "ip6tables-legacy"):
        with Inside("router"):
            must(rule(0, front, "-A", "POSTROUTING", "-o", "wan0", "-j", "RUSTMASQ"))


def requests(faults, network, version):
    for own, whose in ((True, "of the router's own"), (False, "forwarded")):
        what = f"IPv{version}, {whose}"

        def to(port, own=own):
            # The router's own are sent by this thread.
            if own:
                return faults.by_thread(lambda n: network.send(version, own, port, n))
            return faults.by_all(lambda: network.send(version, own, port))

        faults.each(f"{what}: a new flow", to(DISCARD), "")
        faults.each(f"{what}: a request", to(TFTP), f"{UNHELPED}|{DROPPED}", least=2)
        # Whoever listens to events gets them from memory of ours; without it, he is told that he missed one.
        listener = Conntrack("router", EXPECTATION_NEW | EXPECTATION_GONE)
        # With him, the flow's extensions are too many for what was got for the first.
        faults.each(f"{what}: a request, and a listener", to(TFTP), f"dropped|{DROPPED}|", least=3)
        listener.sock.close()
        faults.all_at_once(f"{what}: a new flow", lambda own=own: network.send(version, own, DISCARD), "")
        faults.all_at_once(f"{what}: a request", lambda own=own: network.send(version, own, TFTP), UNHELPED)
    # Why the helper dropped it goes to the log, by a buffer that has no memory then, either.
    before = reasons_logged()
    with faults.slab.instead(*function("rustmasq_help", "rustmasq")):
        faults.all_at_once(f"{what}: the helper", lambda: network.send(version, False, TFTP), DROPPED, least=2)
    result(f"{what}: the helper: ... the log says why", None if reasons_logged() == before + 1 else "it does not")


def reasons_logged():
    log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=False).stdout
    return log.count("no memory for an expectation")


# --- The flush: notifiers, and a worker


def flush(faults, network):
    for version, address, length, beyond in ((4, "198.51.100.1", 24, "198.51.100.9"),
                                             (6, "2001:db8:2::1", 64, "2001:db8:2::9")):
        def flow(version=version, address=address, length=length, beyond=beyond):
            change("add", address, length)
            network.leave(ADDRESSES[version][0], beyond)
            must("" if network.leaves(address) else "the flow does not leave with the address")

        def gone(address=address, length=length):
            change("del", address, length)
            return "" if wait_until(lambda: not network.leaves(address)) else "the flow stays"

        what = f"IPv{version}: an address goes, and its flow"
        faults.each(what, faults.by_all(gone, flow), "", least=0)
        # Whoever listens to events gets them from memory of the worker's.
        listener = Conntrack("router", FLOW_GONE)
        faults.each(f"{what}, and a listener", faults.by_all(gone, flow), "")
        faults.all_at_once(f"{what}, and a listener", gone, "", before=flow)
        listener.sock.close()


def change(what, address, length):
    """Adds an address of the router's, or deletes it."""
    done = subprocess.run(["ip", "-n", "router", "addr", what, f"{address}/{length}", "dev", "wan0",
                           *(["nodad"] if what == "add" and ":" in address else [])],
                          capture_output=True, text=True, check=False)
    must(done.stderr)


# --- Packets whose data moves


class Moving:
    """While it lasts, a packet's data moves whenever somebody makes sure that a header is there."""

    KNOBS = f"{DEBUG}/fail_skb_realloc"

    def __enter__(self):
        Failslab.limit("fail_skb_realloc", 0, (1 << 64) - 1)
        for name, value in (("verbose", 0), ("interval", 1), ("space", 0), ("times", MANY), ("probability", 100)):
            write(f"{self.KNOBS}/{name}", value)
        return self

    def moved(self):
        return MANY - int(read(f"{self.KNOBS}/times"))

    def __exit__(self, *_):
        write(f"{self.KNOBS}/probability", 0)
        write(f"{self.KNOBS}/times", 1)


def part_pulls(_faults):
    must(load(0, "tftp_port=69"))
    masquerade()
    network = Network()
    for event in ("flow_new", "flow_confirm", "packet"):
        must(enable(event, True))
    write("/sys/kernel/tracing/trace", "")
    with Moving() as moving:
        for version, (client, _, _, server) in ADDRESSES.items():
            for own, port in itertools.product((True, False), (DISCARD, TFTP)):
                whose = "of the router's own" if own else "forwarded"
                result(f"data that moves: IPv{version}, {whose}, port {port}: arrives as it should",
                       network.send(version, own, port) or network.unseen())
            for what, talk in (("a transfer", transfer), ("TCP", stream), ("fragments", fragments)):
                try:
                    problem = talk(network, client, server)
                except OSError as error:
                    problem = f"{type(error).__name__}: {error}"
                result(f"data that moves: IPv{version}, {what}: works", problem or network.unseen())
        result(f"data that moves: it did, {moving.moved()} times", None if moving.moved() > 100 else "too seldom")
    for event in ("flow_new", "flow_confirm", "packet"):
        must(enable(event, False))


def transfer(network, client, server):
    """A request, and the answer from another port."""
    asker, hearer = network.open("lan", client), network.servers[6 if ":" in server else 4, TFTP]
    with asker, bound("server", server, 5001) as answerer:
        asker.sendto(REQUEST, (server, TFTP))
        hearer.settimeout(5)
        seen = hearer.recvfrom(2048)[1]
        answerer.sendto(b"\0\3\0\1data", seen[:2])
        data, peer = asker.recvfrom(2048)
    return None if (data, peer[1]) == (b"\0\3\0\1data", 5001) else f"{data} from port {peer[1]}"


def stream(network, client, server):
    sent = bytes(range(256)) * 40
    with bound("server", server, 7, socket.SOCK_STREAM) as listener, \
            network.open("lan", client, socket.SOCK_STREAM) as asker:
        listener.listen()
        listener.settimeout(5)
        asker.connect((server, 7))
        with listener.accept()[0] as answerer:
            asker.sendall(sent)
            asker.shutdown(socket.SHUT_WR)
            with answerer.makefile("rb") as file:
                answerer.sendall(file.read())
        with asker.makefile("rb") as file:
            back = file.read()
    return None if back == sent else f"{len(back)} of {len(sent)} bytes came back"


def fragments(network, client, server):
    sent = bytes(4000)
    hearer = network.servers[6 if ":" in server else 4, DISCARD]
    with network.open("lan", client) as asker:
        asker.sendto(sent, (server, DISCARD))
        hearer.settimeout(5)
        data = hearer.recv(8192)
    return None if data == sent else f"{len(data)} of {len(sent)} bytes came"


PARTS = {"module": part_module, "rules": part_rules, "packets": part_packets, "pulls": part_pulls}


def main():
    faults = Faults()
    try:
        for name in sys.argv[1:]:
            start = time.monotonic()
            PARTS[name](faults)
            print(f"# faults: {name}: {time.monotonic() - start:.0f} s", flush=True)
    finally:
        faults.slab.reset()
    print(f"# faults: {faults.total} allocations failed, one by one")
    done_testing()


if __name__ == "__main__":
    main()
