#!/usr/bin/env -S python3 -I -S
# SPDX-License-Identifier: GPL-2.0
"""Makes each memory allocation of the module fail once, and checks the outcome; runs in the guest.

Usage: tests/tools/faults.py PART...

  module     the module is loaded and unloaded, trace events are enabled and disabled, and namespaces are created and
             removed
  rules      rules of iptables and ip6tables, legacy and nft, are added and removed
  packets    target, hooks and helper handle packets that the router sends itself and that it forwards; then the flush
  pools      a destination is crowded, so that the module makes a pool of ports for it
  mappings   a rule with --full-cone is added, of whose many allocations some fail; with --address-restricted-cone a
             client begins a flow, which makes a mapping, and is spoken to
  pulls      no allocation fails, but packets' data moves whenever code calls pskb_may_pull()

The parts packets, pools, mappings and pulls need the network of setup_lan with IPv6. Prints TAP.

An allocation is one of the module's if the module's code is on the stack, also if it is further up. While the module is
being loaded, do_one_initcall is looked for instead, because the address of the module's code is not known before.
Allocations of the kernel's memory checkers are not counted.

Allocations of this thread fail by /proc/thread-self/fail-nth: the first one, then the second one, and so on, until
none fails and the operation succeeds. fail-nth does not reach softirqs and workers. Their allocations fail by the
setting `space` of failslab, the number of bytes that are allocated before failures begin. (`interval` would count
allocations, but one cannot read how far it has counted.)
"""

import collections
import contextlib
import ctypes
import errno
import glob
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
# Numbers of system calls on x86-64.
FINIT_MODULE, DELETE_MODULE = 313, 176
LIBC = ctypes.CDLL(None, use_errno=True)
MANY = 1 << 30
NO_MEMORY = os.strerror(errno.ENOMEM)
FINE = "nothing was wrong"
# How the two front ends of iptables report ENOMEM.
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
    """Runs the operation. Returns "", or the error's text."""
    try:
        operation()
    except OSError as error:
        return error.strerror
    return ""


# --- Failing allocations


class Failslab:
    """The kernel's failslab, set up to fail only allocations of the module."""

    # The memory checkers' own caches: a checker that gets no memory turns itself off.
    CHECKERS = {"kmemleak_object", "kmemleak_scan_area", "debug_objects_cache"}

    def __init__(self):
        for name in set(os.listdir("/sys/kernel/slab")) - self.CHECKERS:
            write(f"/sys/kernel/slab/{name}/failslab", 1)
        self.code = 0, 0
        self.set(probability=0, interval=1, verbose=0, ignore_gfp_wait="N", cache_filter="Y", times=MANY)
        # fail-nth counts the other kinds of failures, too, such as a memory pool's while a program is read from the
        # disk. An address range that is never on the stack excludes them.
        for kind in set(self.kinds()) - {"failslab"}:
            self.limit(kind, 1, 1)

    def set(self, **knobs):
        for name, value in knobs.items():
            write(f"{DEBUG}/failslab/{name.replace('_', '-')}", value)

    @staticmethod
    def kinds():
        """Returns the names of all kinds of failures that the kernel can inject."""
        return [os.path.basename(os.path.dirname(path)) for path in glob.glob(f"{DEBUG}/fail*/require-start")]

    @staticmethod
    def limit(kind, start, end):
        write(f"{DEBUG}/{kind}/stacktrace-depth", 32)
        write(f"{DEBUG}/{kind}/require-start", start)
        write(f"{DEBUG}/{kind}/require-end", end)

    def only(self, start, end):
        """Fails only allocations with this code on the stack."""
        self.code = start, end
        self.limit("failslab", start, end)

    @contextlib.contextmanager
    def only_within(self, start, end):
        """Does the same as only(), for the duration of a block."""
        before = self.code
        self.only(start, end)
        try:
            yield
        finally:
            self.only(*before)

    @staticmethod
    def nth(n):
        """Makes this thread's n-th allocation from now on fail; 0 stands for none."""
        write("/proc/thread-self/fail-nth", n)

    def failed(self):
        """Returns how many allocations failed since the last call."""
        failed = MANY - int(read(f"{DEBUG}/failslab/times"))
        self.set(times=MANY)
        return failed

    @contextlib.contextmanager
    def for_all(self, times, space):
        """Makes up to `times` allocations of all threads fail, after `space` bytes were allocated."""
        self.set(times=times, space=space, probability=100)
        try:
            yield
        finally:
            self.set(probability=0)

    def left(self):
        """Returns how many bytes of `space` are left."""
        return int(read(f"{DEBUG}/failslab/space"))

    def reset(self):
        self.set(probability=0, times=1, space=0, cache_filter="N", ignore_gfp_wait="Y")
        for kind in self.kinds():
            self.limit(kind, 0, (1 << 64) - 1)


def symbols(wanted=""):
    """Yields (address, name) of each function of a module or, sorted by address, of the kernel itself."""
    with open("/proc/kallsyms", encoding="utf-8", errors="replace") as file:
        for line in file:
            address, kind, name, *module = line.split()
            if kind in "tTwW" and module == ([f"[{wanted}]"] if wanted else []):
                yield int(address, 16), name


def function(wanted, module="", argument=""):
    """Returns the address of a function and of the next one.

    A mangled Rust name matches by its last part, behind the length of that part. The arguments of a generic function
    may follow, of which `argument` is one.
    """
    part, of = f"{len(wanted)}{wanted}", f"{len(argument)}{argument}" if argument else ""
    # A module's functions are not sorted. The kernel's are, so there is no need to read all of them.
    found = iter(sorted(symbols(module))) if module else symbols()
    start = next(address for address, name in found
                 if name == wanted or name.endswith(part) or (f"{part}N" in name and of in name))
    return start, next((address for address, _ in found if address > start), start + 4096)


def our_text():
    """Returns the start of the module's text, and the end of the page in which its last function begins."""
    ours = [address for address, _ in symbols("rustmasq")]
    return min(ours), (max(ours) | 4095) + 1


class Faults:
    """Makes the allocations of an attempt fail, one after the other.

    An attempt is a function that returns its outcome: "" if all went well, else a few words. With by_thread, it gets
    the number of the allocation to fail, which it passes to Failslab.nth in this thread or in a child process.
    """

    def __init__(self):
        self.slab = Failslab()
        self.total = 0

    def by_thread(self, attempt, step=1):
        """Returns the outcomes of the attempts in which an allocation failed, then that of the one without failure.

        Every `step`-th allocation fails.
        """
        outcomes = [attempt(1)]
        while self.slab.failed():
            outcomes.append(attempt(len(outcomes) * step + 1))
        return outcomes

    def by_all(self, attempt, before=lambda: None):
        """Does the same for attempts whose work is done in softirqs and by workers, the last allocation first.

        Calls `before` before each attempt, without failures. Allocations succeed until `space` bytes were allocated.
        The rest of `space` when one fails shows where that allocation began, and so how much to allow the next time.
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
        """Reports outcomes. They must match `expected`, except the last one, without failure, which must be `usual`."""
        *outcomes, last = outcomes
        counted = collections.Counter(outcome or FINE for outcome in outcomes)
        self.total += len(outcomes)
        problem = next((f"when allocation {n} failed: {outcome or FINE}"
                        for n, outcome in enumerate(outcomes, 1) if not re.fullmatch(expected, outcome)), None)
        if last != usual:
            problem = problem or f"when nothing failed: {last or FINE}"
        if len(outcomes) < least:
            problem = problem or f"only {len(outcomes)} allocations failed, expected {least} or more"
        summary = ", ".join(f"{count} x {outcome}" for outcome, count in counted.items()) or "there are none"
        result(f"{what}: each allocation failed once: {summary}", problem)

    def all_at_once(self, what, attempt, expected, least=1, before=lambda: None):
        """Makes every allocation of the module fail during one attempt, and reports the outcome."""
        before()
        with self.slab.for_all(MANY, 0):
            outcome = attempt()
            failed = MANY - int(read(f"{DEBUG}/failslab/times"))
        self.slab.failed()
        problem = None if re.fullmatch(expected, outcome) else outcome or FINE
        if failed < least:
            problem = problem or f"only {failed} allocations failed, expected {least} or more"
        result(f"{what}: every allocation failed, {failed} in all: {outcome or FINE}", problem)


def logged(words):
    """Returns how often the kernel's log has these words."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=False).stdout
    return log.count(words)


# --- The module

# A helper that is registered when the module's init can fail no more.
NO_FTP = "no helper rustmasq-ftp"


def load(n, parameters=""):
    """Loads the module, with the n-th allocation failing. It makes the system call itself, so nothing else can fail."""
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


def require(outcome):
    """Ends the tool if the outcome of something that must work is not ""."""
    if outcome:
        result("faults: the preparations work", outcome)
        sys.exit(1)


def users():
    return int(read(f"{OURS}/refcnt"))


def hooks(host=None):
    """Returns how many hooks of the module a namespace has; without a name, the current one."""
    with Inside(host) if host else contextlib.nullcontext():
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    count = 0
    with sock:
        for family, point in itertools.product((socket.AF_INET, socket.AF_INET6), range(5)):
            count += sum(module == "rustmasq" for module in hooks_at(sock, family, point))
    return count


def hooks_at(sock, family, point):
    """Yields the modules of the hooks at a point, from nfnetlink_hook (linux/netfilter/nfnetlink_hook.h)."""
    subsystem, number, module_name = 12, 1, 5
    attribute = struct.pack("=HHI", 8, number, socket.htonl(point))
    size = HEADER.size + len(attribute)
    sock.send(HEADER.pack(size, subsystem << 8, NLM_F_REQUEST | NLM_F_DUMP, 0, 0, family, 0, 0) + attribute)
    while True:
        data = sock.recv(1 << 16)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                return
            yield text(attributes(data[HEADER.size:length]).get(module_name, b""))
            data = data[length + 3 & ~3:]


def left_behind():
    """Returns a list of the module's leftovers. It must be empty while the module is not loaded."""
    found = [table for table in ("ip", "ip6") if "RUSTMASQ" in read(f"/proc/net/{table}_tables_targets").split()]
    found += [path for path in (OURS, EVENTS) if os.path.exists(path)]
    found += [f"{count} hooks" for count in (hooks(), hooks("other")) if count]
    return found


class Loading:
    """A way to load the module, and the number of hooks in each namespace afterwards.

    `event` is a trace event to enable when the module is loaded.
    """

    def __init__(self, what, hooks_each, parameters="", event=""):
        self.what, self.hooks_each, self.parameters, self.event = what, hooks_each, parameters, event

    def load(self, n=0):
        if self.event:
            # Set each time, because the kernel forgets it when the module is loaded.
            write("/sys/kernel/tracing/set_event", f"rustmasq:{self.event}:mod:rustmasq")
        before = logged(NO_FTP)
        error = load(n, self.parameters)
        left = [] if not error else left_behind()
        if not error and logged(NO_FTP) > before:
            require(unload())
            return NO_FTP
        return f"{error}, but {left} exist" if left else error

    def unload(self, n):
        if not os.path.exists(OURS):
            require(self.load())
        error = unload(n)
        left = [] if error else left_behind()
        return error or (f"{left} exist" if left else "unloaded")

    def check_loading(self, faults):
        faults.slab.only(*function("do_one_initcall"))
        # Allocations for both helpers, the notifier, the list of namespaces, and each hook in each of two namespaces.
        faults.each(f"{self.what} is loaded", faults.by_thread(self.load), f"{NO_MEMORY}|{NO_FTP}",
                    least=4 + 2 * self.hooks_each)
        there = hooks(), hooks("other")
        result(f"{self.what} is loaded: ... then its hooks exist",
               None if there == (self.hooks_each, self.hooks_each) else f"{there}, expected {self.hooks_each} each")
        faults.slab.only(*our_text())


def part_module(faults):
    # The kernel's own allocations for its first helper come before the test.
    require(load(0))
    require(unload())
    Loading("the module", 0).check_loading(faults)
    watch(faults)
    require(unload())
    both = Loading("the module with tftp_port and an enabled event", 8, "tftp_port=69", "flow_new")
    both.check_loading(faults)
    faults.each(f"{both.what} is unloaded", faults.by_thread(both.unload), "unloaded", "unloaded", 8)
    require(load(0, "tftp_port=69"))
    faults.slab.only(*our_text())
    namespaces(faults, 20)
    require(unload())


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
            return error if there == wanted else f"{error or 'no error'}, with {there} hooks"

        def turning_off(n, event=event):
            require(enable(event, True))
            return enable(event, False, n) or (f"{hooks()} hooks are left" if hooks() else "off")

        faults.each(f"enabling {event}", faults.by_thread(turning_on), NO_MEMORY, least=2 * hooks_each)
        result(f"enabling {event}: ... then its hooks exist",
               None if hooks("other") == hooks_each else f"{hooks('other')} hooks")
        require(enable(event, False))
        faults.each(f"disabling {event}", faults.by_thread(turning_off), "off", "off", 0)


# --- Namespaces


@contextlib.contextmanager
def namespace_restored():
    """Returns to the original network namespace at the end of a block."""
    original = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        Failslab.nth(0)
        os.setns(original, os.CLONE_NEWNET)
        os.close(original)


def objects(cache):
    """Returns the number of objects of a slab cache that are in use."""
    write(f"/sys/kernel/slab/{cache}/shrink", 1)
    with open("/proc/slabinfo", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(cache + " "))


def make_and_remove_namespace():
    with namespace_restored():
        require(outcome_of(lambda: os.unshare(os.CLONE_NEWNET)))


def count_namespaces():
    """Returns the number of namespaces besides the initial one.

    The kernel keeps the memory of the last removed namespace until it removes another one.
    """
    make_and_remove_namespace()
    time.sleep(0.5)
    return objects("net_namespace") - 1


def namespaces(faults, hooks_each):
    def making(n):
        with namespace_restored():
            Failslab.nth(n)
            error = outcome_of(lambda: os.unshare(os.CLONE_NEWNET))
            Failslab.nth(0)
            there = 0 if error else hooks()
        return error if error or there == hooks_each else f"no error, but {there} hooks"

    def removing():
        make_and_remove_namespace()
        gone = wait_until(lambda: count_namespaces() == before)
        return "" if gone else f"it is not gone: {count_namespaces()}, expected {before}"

    before = len(os.listdir("/run/netns"))
    for event in ("flow_new", "flow_confirm", "packet"):
        require(enable(event, True))
    what = f"a namespace with {hooks_each} hooks"
    faults.each(f"{what} is made", faults.by_thread(making), NO_MEMORY, least=hooks_each)
    gone = wait_until(lambda: count_namespaces() == before)
    result(f"{what} is made: ... and afterwards all of them are removed, with and without failure",
           None if gone else f"{count_namespaces()} namespaces, expected {before}")
    # Making the namespace must not fail here.
    with faults.slab.only_within(*function("net_pre_exit", "rustmasq")):
        faults.all_at_once(f"{what} is removed", removing, "")
    for event in ("flow_new", "flow_confirm", "packet"):
        require(enable(event, False))
    require("" if hooks() == hooks("other") == hooks_each - 16 else "hooks of trace events are left")


# --- Rules


def rule(n, front, *arguments):
    """Runs a front end, whose n-th allocation fails: fail-nth survives exec. Returns "" or its error."""
    done = subprocess.run([front, "-w", "-t", "nat", *arguments], preexec_fn=lambda: Failslab.nth(n),
                          capture_output=True, text=True, errors="replace", check=False)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"status {done.returncode}"


FRONT_ENDS = "iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"


def part_rules(faults):
    require(load(0))
    faults.slab.only(*our_text())
    for front in FRONT_ENDS:
        faults.each(f"{front}: a rule is added", faults.by_thread(adding(front)), NO_MEMORY, least=4)
    # Hooks are removed in the process of iptables-legacy, or by nftables' worker. The module is not on the stack then.
    faults.slab.only(*function("nf_ct_netns_put", "nf_conntrack"))
    for front in FRONT_ENDS:
        faults.all_at_once(f"{front}: a rule is removed", lambda front=front: removing(front), "removed")
    require(unload())


def unused():
    return wait_until(lambda: users() == 0)


def adding(front, *options):
    """Returns an attempt that adds a rule with these options, in a new namespace.

    The namespace is new because conntrack keeps defragmentation enabled when its own hooks fail.
    """
    def attempt(n):
        with namespace_restored():
            os.unshare(os.CLONE_NEWNET)
            error = rule(n, front, "-A", "POSTROUTING", "-j", "RUSTMASQ", *options)
            if not error:
                return ""
            if users():
                return f"{error}, but {users()} users are left"
            again = rule(0, front, "-A", "POSTROUTING", "-j", "RUSTMASQ", *options)
            if again:
                return f"{error}, and a second try: {again}"
            require("" if users() == 1 else f"a rule makes {users()} users")
        require("" if unused() else "a namespace's end does not remove its rule")
        return NO_MEMORY if SAYS_NO_MEMORY.search(error) else error
    return attempt


def removing(front):
    with namespace_restored():
        os.unshare(os.CLONE_NEWNET)
        require(rule(0, front, "-A", "POSTROUTING", "-j", "RUSTMASQ"))
        error = rule(0, front, "-F", "POSTROUTING")
        return error or ("removed" if unused() else f"{users()} users are left")


# --- Packets

# By IP version: the addresses of the LAN's host, of the router towards the LAN and outside, and of the server.
ADDRESSES = {4: ("172.18.0.2", "172.18.0.1", "203.0.113.1", "203.0.113.2"),
             6: ("fd00:18::2", "fd00:18::1", "2001:db8:1::1", "2001:db8:1::2")}
DISCARD, TFTP = 9, 69
REQUEST = b"\0\1boot\0octet\0"
# ctnetlink's group for destroyed flows.
FLOW_GONE = 1 << 2
# Outcomes of a request.
DROPPED = "dropped, and counted"
UNHELPED = "without the helper"


def bound(host, address, port, kind=socket.SOCK_DGRAM):
    with Inside(host):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    return sock


class Network:
    """Sends packets, and returns their outcomes."""

    def __init__(self):
        self.router = Conntrack("router")
        self.port = 20000
        self.servers = {(version, port): bound("server", ADDRESSES[version][3], port)
                        for version in ADDRESSES for port in (DISCARD, TFTP)}
        for version, own, port in itertools.product(ADDRESSES, (True, False), (DISCARD, TFTP)):
            # Fill the neighbour tables, and let conntrack make its own first allocations.
            require(self.send(version, own, port))

    def send(self, version, own, port, n=0):
        """Sends a new flow's first packet, from the router itself or from the LAN. Returns "", or what is wrong."""
        client, within, outside, server = ADDRESSES[version]
        drops = self.drops()
        with self.open("router" if own else "lan", within if own else client) as sock:
            Failslab.nth(n)
            refused = outcome_of(lambda: sock.sendto(REQUEST, (server, port)))
            Failslab.nth(0)
        if refused or not self.arrived(version, port, drops):
            flow = [line for line in self.router.flows() if f":{self.port}>" in line]
            return f"did not arrive, but {flow} exists" if flow else DROPPED if self.drops() > drops else "dropped"
        return self.translated(port, outside)

    def arrived(self, version, port, drops):
        """Returns whether the last packet reached the server. Does not wait once it was counted as dropped."""
        server, end = self.servers[version, port], time.monotonic() + 3
        while time.monotonic() < end:
            if select.select([server], [], [], 0.1)[0]:
                if server.recvfrom(2048)[1][1] == self.port:
                    return True
            elif self.drops() > drops:
                return False
        return False

    def translated(self, port, outside):
        """Returns "", or what is wrong with the last flow's entry."""
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
        """Returns a socket with a new port."""
        self.port += 1
        sock = bound(host, address, self.port, kind)
        sock.settimeout(5)
        return sock

    def start_flow(self, source, target):
        """Sends a packet of a new flow to an address that nobody has."""
        with self.open("lan", source) as sock:
            sock.sendto(REQUEST, (target, DISCARD))

    def is_masqueraded_to(self, address):
        """Returns whether the last flow exists and is masqueraded to that address."""
        return any(f":{self.port}>" in line and address in line.split()[1].partition(">")[2]
                   for line in self.router.flows())

    def unseen(self):
        """Returns "" if the event flow_confirm reported the last flow, else what is wrong."""
        with open("/sys/kernel/tracing/trace", encoding="utf-8", errors="replace") as file:
            seen = any("flow_confirm:" in line and f":{self.port}->" in line for line in file)
        return "" if seen else f"no event flow_confirm reported the flow from port {self.port}"

    @staticmethod
    def drops():
        """Returns conntrack's counter of drops on the router."""
        with Inside("router"), open("/proc/thread-self/net/stat/nf_conntrack", encoding="ascii") as file:
            names = next(file).split()
            return sum(int(line.split()[names.index("drop")], 16) for line in file)


def part_packets(faults):
    require(load(0, "tftp_port=69"))
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
            require(rule(0, front, "-A", "POSTROUTING", "-o", "wan0", "-j", "RUSTMASQ"))


def requests(faults, network, version):
    for own, whose in ((True, "sent by the router"), (False, "forwarded")):
        what = f"IPv{version}, {whose}"

        def to(port, own=own):
            # This thread sends the router's own packets; a softirq handles those that it forwards.
            if own:
                return faults.by_thread(lambda n: network.send(version, own, port, n))
            return faults.by_all(lambda: network.send(version, own, port))

        faults.each(f"{what}: a new flow", to(DISCARD), "")
        faults.each(f"{what}: a request", to(TFTP), f"{UNHELPED}|{DROPPED}", least=2)
        # An event for a listener needs memory, too. If there is none, the listener learns that it missed events.
        listener = Conntrack("router", EXPECTATION_NEW | EXPECTATION_GONE)
        # With a listener, the flow has one extension more, for which its extension area must grow.
        faults.each(f"{what}: a request, and a listener", to(TFTP), f"dropped|{DROPPED}|", least=3)
        listener.sock.close()
        faults.all_at_once(f"{what}: a new flow", lambda own=own: network.send(version, own, DISCARD), "")
        faults.all_at_once(f"{what}: a request", lambda own=own: network.send(version, own, TFTP), UNHELPED)
    # The helper logs why it dropped the packet, although the buffer for that cannot be allocated, either.
    before = reasons_logged()
    with faults.slab.only_within(*function("help", "rustmasq", "Tftp")):
        faults.all_at_once(f"{what}: the helper", lambda: network.send(version, False, TFTP), DROPPED, least=2)
    result(f"{what}: the helper: ... the log contains the reason",
           None if reasons_logged() == before + 1 else "it does not")


def reasons_logged():
    return logged("no memory for an expectation")


# --- Pools of ports


def load_with_rule(front, *options):
    """Loads the module anew, with one rule on the router."""
    with Inside("router"):
        require(rule(0, front, "-F", "POSTROUTING"))
        require("" if not os.path.exists(OURS) or wait_until(lambda: not unload()) else "the module stays")
        require(load(0))
        require(rule(0, front, "-A", "POSTROUTING", "-o", "wan0", "-p", "udp", "-j", "RUSTMASQ", *options))


class Crowd:
    """A rule with one port and, in each attempt, three clients for it. Without memory there is no pool of ports.

    The module is loaded anew for each attempt, because the table of pools and a pool stay for a while.
    """

    SILENT = "the second client is refused without an answer"
    PORT = 7000

    def __init__(self, faults, version):
        self.slab, self.router, self.version = faults.slab, Conntrack("router"), version
        self.front = "iptables-legacy" if version == 4 else "ip6tables-legacy"
        self.client, _, self.outside, self.server = ADDRESSES[version]
        with Inside("router"):
            for limit in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
                write(f"/proc/sys/net/{limit}", 0)

    def prepare(self):
        load_with_rule(self.front, "--to-ports", str(self.PORT), "--when-full", "reject")
        self.slab.only(*our_text())
        self.router.forget()

    def attempt(self):
        """Lets the clients begin flows. Returns "" if the second one alone is refused, and answered."""
        if not self.is_served(20001):
            return "the first client is not served"
        with self.sender(20002) as sock:
            drops = Network.drops()
            sock.send(REQUEST)
            refused = wait_until(lambda: Network.drops() > drops)
            answered = has_error(sock)
        if not refused or self.entry(20002):
            return "the second client is not refused"
        self.router.forget()
        if not self.is_served(20003):
            return "the third client does not get the port that is free again"
        return "" if answered else self.SILENT

    def sender(self, port):
        sock = bound("lan", self.client, port)
        sock.connect((self.server, DISCARD))
        return sock

    def is_served(self, port):
        with self.sender(port) as sock:
            sock.send(REQUEST)
            return wait_until(lambda: self.entry(port))

    def entry(self, port):
        """Returns whether the flow from the client's port is in the table, with the rule's port."""
        return any(f":{port}>" in line and self.outside in line and f":{self.PORT}" in line.split()[1]
                   for line in self.router.flows())


def has_error(sock):
    """Returns whether an ICMP error comes for the socket."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(1000))


def part_pools(faults):
    for version in ADDRESSES:
        crowd = Crowd(faults, version)
        what = f"IPv{version}: a destination is crowded"
        # The table of pools and its places, a pool, and what it knows of its ports.
        faults.each(what, faults.by_all(crowd.attempt, crowd.prepare), f"|{crowd.SILENT}", least=7)
        faults.all_at_once(what, crowd.attempt, crowd.SILENT, before=crowd.prepare)
        with Inside("router"):
            require(rule(0, crowd.front, "-F", "POSTROUTING"))


class Endpoint:
    """A client behind --address-restricted-cone, which begins a flow in each attempt, and is spoken to.

    The module is loaded anew for each attempt, because a mapping stays for a while.
    """

    UNMAPPED = "leaves without a mapping, which is counted"
    UNKNOWN = "whom the client speaks to may not begin a flow"
    PORT, PEER = 20001, 20002

    def __init__(self, faults, version):
        self.slab, self.router = faults.slab, Conntrack("router")
        self.front = "iptables-legacy" if version == 4 else "ip6tables-legacy"
        self.client, _, self.outside, self.server = ADDRESSES[version]

    def prepare(self):
        load_with_rule(self.front, "--address-restricted-cone")
        self.slab.only(*our_text())
        self.router.forget()

    def attempt(self):
        denied = self.count_denied()
        with bound("lan", self.client, self.PORT) as sock:
            sock.sendto(REQUEST, (self.server, DISCARD))
            if not wait_until(self.has_flow):
                return "the flow does not leave"
            mapped, denied = self.count_mapped(), self.count_denied() - denied
            if (mapped, denied) == (0, 1):
                return self.UNMAPPED
            if (mapped, denied) != (1, 0):
                return f"{mapped} mappings, denied: {denied}"
            with bound("server", self.server, self.PEER) as peer:
                peer.sendto(REQUEST, (self.outside, self.PORT))
            return "" if select.select([sock], [], [], 1)[0] else self.UNKNOWN

    def has_flow(self):
        """Returns whether the client's flow is in the table, by its mapping."""
        return any(f":{self.PORT}>" in line.split()[0] and self.outside in line.split()[1]
                   for line in self.router.flows())

    @staticmethod
    def count_denied():
        with Inside("router"), open("/proc/thread-self/net/rustmasq", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("mappings_denied "))

    @staticmethod
    def count_mapped():
        with Inside("router"), open("/proc/thread-self/net/rustmasq_mappings", encoding="ascii") as file:
            return len(file.readlines())


def part_mappings(faults):
    require(load(0))
    faults.slab.only(*our_text())
    # Hundreds of allocations are for the parts of the tables, which are all alike.
    faults.each("iptables-legacy: a rule with --full-cone is added",
                faults.by_thread(adding("iptables-legacy", "--full-cone"), step=97), NO_MEMORY, least=4)
    for version in ADDRESSES:
        endpoint = Endpoint(faults, version)
        what = f"IPv{version}: a mapping is made"
        # The address with the bitmap of its ports and its lists; a chunk of mappings; and whom the client speaks to.
        faults.each(what, faults.by_all(endpoint.attempt, endpoint.prepare),
                    f"|{endpoint.UNMAPPED}|{endpoint.UNKNOWN}", least=4)
        faults.all_at_once(what, endpoint.attempt, endpoint.UNMAPPED, before=endpoint.prepare)
        with Inside("router"):
            require(rule(0, endpoint.front, "-F", "POSTROUTING"))


# --- The flush, in notifiers and a worker


def flush(faults, network):
    for version, address, length, beyond in ((4, "198.51.100.1", 24, "198.51.100.9"),
                                             (6, "2001:db8:2::1", 64, "2001:db8:2::9")):
        def flow(version=version, address=address, length=length, beyond=beyond):
            change("add", address, length)
            network.start_flow(ADDRESSES[version][0], beyond)
            require("" if network.is_masqueraded_to(address) else "the flow is not masqueraded to the address")

        def gone(address=address, length=length):
            change("del", address, length)
            return "" if wait_until(lambda: not network.is_masqueraded_to(address)) else "the flow stays"

        what = f"IPv{version}: an address is deleted, and its flow is removed"
        faults.each(what, faults.by_all(gone, flow), "", least=0)
        # With a listener, the worker allocates memory for events.
        listener = Conntrack("router", FLOW_GONE)
        faults.each(f"{what}, and a listener", faults.by_all(gone, flow), "")
        faults.all_at_once(f"{what}, and a listener", gone, "", before=flow)
        listener.sock.close()


def change(what, address, length):
    """Adds an address to the router, or deletes it."""
    done = subprocess.run(["ip", "-n", "router", "addr", what, f"{address}/{length}", "dev", "wan0",
                           *(["nodad"] if what == "add" and ":" in address else [])],
                          capture_output=True, text=True, check=False)
    require(done.stderr)


# --- Packets whose data moves


class MovingData:
    """Makes a packet's data move whenever code calls pskb_may_pull(), for the duration of a block."""

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
    require(load(0, "tftp_port=69"))
    masquerade()
    network = Network()
    for event in ("flow_new", "flow_confirm", "packet"):
        require(enable(event, True))
    write("/sys/kernel/tracing/trace", "")
    with MovingData() as moving:
        for version, (client, _, _, server) in ADDRESSES.items():
            for own, port in itertools.product((True, False), (DISCARD, TFTP)):
                whose = "sent by the router" if own else "forwarded"
                result(f"data that moves: IPv{version}, {whose}, port {port}: arrives as it should",
                       network.send(version, own, port) or network.unseen())
            for what, converse in (("a transfer", transfer), ("TCP", stream), ("fragments", fragments)):
                try:
                    problem = converse(network, client, server)
                except OSError as error:
                    problem = f"{type(error).__name__}: {error}"
                result(f"data that moves: IPv{version}, {what}: works", problem or network.unseen())
        result(f"data that moves: it moved {moving.moved()} times", None if moving.moved() > 100 else "too seldom")
    for event in ("flow_new", "flow_confirm", "packet"):
        require(enable(event, False))


def transfer(network, client, server):
    """Sends a request, and the answer from another port."""
    sock, server_sock = network.open("lan", client), network.servers[6 if ":" in server else 4, TFTP]
    with sock, bound("server", server, 5001) as transfer_sock:
        sock.sendto(REQUEST, (server, TFTP))
        server_sock.settimeout(5)
        seen = server_sock.recvfrom(2048)[1]
        transfer_sock.sendto(b"\0\3\0\1data", seen[:2])
        data, peer = sock.recvfrom(2048)
    return None if (data, peer[1]) == (b"\0\3\0\1data", 5001) else f"{data} from port {peer[1]}"


def stream(network, client, server):
    """Sends data through a TCP connection, and back."""
    sent = bytes(range(256)) * 40
    with bound("server", server, 7, socket.SOCK_STREAM) as listener, \
            network.open("lan", client, socket.SOCK_STREAM) as sock:
        listener.listen()
        listener.settimeout(5)
        sock.connect((server, 7))
        with listener.accept()[0] as accepted:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            with accepted.makefile("rb") as file:
                accepted.sendall(file.read())
        with sock.makefile("rb") as file:
            back = file.read()
    return None if back == sent else f"{len(back)} of {len(sent)} bytes came back"


def fragments(network, client, server):
    """Sends a datagram in fragments."""
    sent = bytes(4000)
    server_sock = network.servers[6 if ":" in server else 4, DISCARD]
    with network.open("lan", client) as sock:
        sock.sendto(sent, (server, DISCARD))
        server_sock.settimeout(5)
        data = server_sock.recv(8192)
    return None if data == sent else f"{len(data)} of {len(sent)} bytes arrived"


PARTS = {"module": part_module, "rules": part_rules, "packets": part_packets, "pools": part_pools,
         "mappings": part_mappings, "pulls": part_pulls}


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
