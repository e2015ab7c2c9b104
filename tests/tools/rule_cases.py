#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""tests/tools/rule_cases.py IPTABLES FILE...: runs .t files with a program such as ip6tables-nft.

A .t file has the form of the iptables project's:

    # a comment
    :CHAIN,...              the chains that the cases below are for, each of them
    *TABLE                  their table
    RULE;EXPECTED;OK        the rule is accepted; EXPECTED is how it is shown, "=" if as it stands
    RULE;MESSAGE;FAIL       the command line is refused: status 2 and one error that matches
                            MESSAGE, an extended regular expression ("." where it has a ";")
    RULE;;FAIL              the kernel refuses the rule: iptables' own words, and status 1 or 4

Whatever is refused must leave everything as it was. An accepted rule is appended, shown, checked (-C)
as it was given and deleted as it was shown. To be run in a network namespace without rules, for
it says its results in TAP lines and leaves nothing behind.
"""

import os
import re
import shlex
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from tap import done_testing, result, results

# What iptables adds to its errors, and what it says of another front end's tables.
NOISE = re.compile(r"Try `|# Warning: iptables-legacy tables present")
# iptables-legacy has one status for what the kernel refuses, iptables-nft another.
REFUSED_BY_KERNEL = (1, 4)


class Wrong(Exception):
    """What a case found."""


class Table:
    """A table of a program's."""

    def __init__(self, program, name):
        self.program = program
        self.name = name
        self.untouched = self.rules()

    def run(self, *arguments):
        """Status, stdout, and the lines of stderr."""
        command = [self.program, "-w", "-t", self.name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, [line for line in done.stderr.splitlines() if not NOISE.match(line)]

    def do(self, *arguments):
        status, out, errors = self.run(*arguments)
        if status != 0:
            raise Wrong(f"{shlex.join(arguments)}: status {status}: {' '.join(errors)}")
        if errors:
            raise Wrong(f"{shlex.join(arguments)}: {' '.join(errors)}")
        return out

    def rules(self):
        return self.do("-S").splitlines()

    def check_untouched(self):
        rules = self.rules()
        if rules != self.untouched:
            self.do("-F")
            raise Wrong("it left something behind: " + "; ".join(rules))


def accepted(table, chain, rule, expected):
    table.do("-A", chain, *shlex.split(rule))
    shown = [line for line in table.rules() if line not in table.untouched]
    wanted = f"-A {chain} {expected}"
    if shown != [wanted]:
        table.do("-F", chain)
        raise Wrong(f"expected '{wanted}', shown is '{'; '.join(shown)}'")
    table.do("-C", chain, *shlex.split(rule))
    table.do("-D", *shlex.split(shown[0])[1:])


def refused(table, chain, rule, message):
    status, out, errors = table.run("-A", chain, *shlex.split(rule))
    table.check_untouched()
    if status == 0:
        raise Wrong("it was accepted")
    if out or len(errors) != 1:
        raise Wrong("expected one error, got " + repr([out, *errors]))
    if message:
        if status != 2:
            raise Wrong(f"expected status 2, got {status}: {errors[0]}")
        if not re.search(message, errors[0]):
            raise Wrong(f"expected an error that matches '{message}', got '{errors[0]}'")
    elif status not in REFUSED_BY_KERNEL:
        raise Wrong(f"expected a refusal by the kernel, got status {status}: {errors[0]}")


def cases(path):
    """(table, chain, rule, expected, verdict) of each case in the file."""
    chains, table = [], None
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            line = text.rstrip("\n")
            if not line or line.startswith("#"):
                continue
            if line.startswith(":"):
                chains = line[1:].split(",")
                continue
            if line.startswith("*"):
                table = line[1:]
                continue
            fields = line.split(";")
            if len(fields) != 3 or fields[2] not in ("OK", "FAIL") or not table or not chains:
                sys.exit(f"{path}:{number}: not of the form RULE;EXPECTED;OK or RULE;MESSAGE;FAIL")
            yield from ((table, chain, *fields) for chain in chains)


def main():
    program, *paths = sys.argv[1:]
    tables = {}
    for path in paths:
        for name, chain, rule, expected, verdict in cases(path):
            what = f"{program}, {os.path.basename(path)}: -t {name} -A {chain} {rule}: {verdict}"
            try:
                table = tables.setdefault(name, None) or Table(program, name)
                tables[name] = table
                if verdict == "OK":
                    accepted(table, chain, rule, rule if expected == "=" else expected)
                else:
                    refused(table, chain, rule, expected)
                result(what)
            except Wrong as finding:
                result(what, str(finding) or "wrong")
    for table in tables.values():
        if table and table.rules() != table.untouched:
            result(f"{program}: every rule of table {table.name} was deleted", "rules are left")
    done_testing()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
