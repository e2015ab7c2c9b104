# SPDX-License-Identifier: GPL-2.0
"""The form of a requirement, and what becomes of it.

A test takes the network and returns what it found wrong, or nothing. The result is "yes", "no", or "set": it is met
once the router has the requirement's remedy, a setting or a rule that an administrator would add.
"""

import contextlib
import dataclasses

from network import Skipped

TARGETS = ("MASQUERADE", "RUSTMASQ", "RUSTMASQ --full-cone")
YES, NO, SET, SKIPPED = "yes", "no", "set", "skipped"
# All requirements.
ALL = []


@dataclasses.dataclass
class Remedy:
    """How an administrator meets a requirement: sysctls, or a rule for a while. `only` names the target that has it."""

    text: str
    settings: dict = dataclasses.field(default_factory=dict)
    rule: tuple = ()
    only: str = ""

    @contextlib.contextmanager
    def applied(self, net):
        with contextlib.ExitStack() as stack:
            if self.settings:
                stack.enter_context(net.settings(**self.settings))
            if self.rule:
                stack.enter_context(net.rule(*self.rule))
            net.remedied = True
            stack.callback(setattr, net, "remedied", False)
            yield


def sysctl(**values):
    """Returns a remedy of settings of conntrack."""
    text = ", ".join(f"`net.netfilter.nf_conntrack_{name}={value}`" for name, value in values.items())
    return Remedy(text, {f"netfilter__nf_conntrack_{name}": value for name, value in values.items()})


@dataclasses.dataclass
class Requirement:
    """A requirement of an RFC.

    The level is the RFC's word. The results are those expected of each target. `why` says why it is not met, or not
    tested.
    """

    rfc: int
    number: str
    level: str
    about: str
    expected: tuple = ()
    test: object = None
    why: str = ""
    remedy: Remedy = None

    @property
    def name(self):
        return f"RFC {self.rfc} REQ-{self.number}"

    def check(self, net):
        """Returns the result, and what was found wrong."""
        try:
            finding = self.test(net)
            if not finding:
                return YES, ""
            if self.remedy and self.remedy.only in net.target:
                with self.remedy.applied(net):
                    left = self.test(net)
                return (NO, f"{finding}; with the remedy: {left}") if left else (SET, finding)
        except Skipped:
            return SKIPPED, ""
        return NO, finding


def requirement(rfc, number, level, about, expected, why="", remedy=None):
    """Makes the decorated test a requirement. `expected` are the results, a word for each target, or one for all."""
    words = tuple(expected.split())
    words *= len(TARGETS) // len(words)

    def add(test):
        ALL.append(Requirement(rfc, number, level, about, words, test, why, remedy))
        return test
    return add


def untested(rfc, number, level, about, why):
    """Lists a requirement that no packet tests."""
    ALL.append(Requirement(rfc, number, level, about, why=why))


# --- Tables


def listed():
    """Returns all requirements, by RFC."""
    return sorted(ALL, key=lambda each: each.rfc)


def row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def heading():
    """Yields the lines above the table of all requirements."""
    yield "<!-- SPDX-License-Identifier: GPL-2.0 -->"
    yield "# The scorecard"
    yield ""
    yield "`make scorecard` writes this file. [README.md](README.md) says how each requirement is tested."
    yield ""
    yield "- **yes**: the requirement is met."
    yield "- **set**: it is met once the router has the setting or rule in the last column."
    yield "- **no**: it is not met."
    yield ""
    yield from counts()
    yield ""


def full_table():
    """Yields the lines of the table of all requirements."""
    yield row("requirement", "", "about", *TARGETS, "why not, and what meets it")
    yield "|---" * (len(TARGETS) + 4) + "|"
    for each in listed():
        notes = [each.why, f"met by {each.remedy.text}" if each.remedy else ""]
        results = each.expected or ("not tested",) * len(TARGETS)
        yield row(each.name, each.level, each.about, *results, "; ".join(filter(None, notes)))


def short_table():
    """Yields the lines of a table that joins requirements of an RFC with the same results."""
    groups = {}
    for each in listed():
        if each.expected:
            groups.setdefault((each.rfc, each.expected), []).append(each)
    yield row("RFC", "requirements", *TARGETS)
    yield "|---" * (len(TARGETS) + 2) + "|"
    # Those that all targets meet come last.
    for (rfc, results), those in sorted(groups.items(), key=lambda item: (item[0][0], set(item[0][1]) == {YES})):
        about = [each.number if set(results) == {YES} else f"{each.number}: {each.about}" for each in those]
        yield row(rfc, "; ".join(about), *results)


def counts():
    """Yields, for each target, how many requirements have which result: a line."""
    for n, target in enumerate(TARGETS):
        results = [each.expected[n] for each in ALL if each.expected]
        yield f"- {target}: {results.count(YES)} yes, {results.count(SET)} set, {results.count(NO)} no"
    yield f"- not tested: {sum(not each.expected for each in ALL)}"


def scorecard():
    """Returns the text of scorecard.md."""
    return "\n".join([*heading(), *full_table(), ""])
