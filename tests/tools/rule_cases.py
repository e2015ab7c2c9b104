#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the cases of .t files with an iptables program such as ip6tables-nft.

Usage: tests/tools/rule_cases.py IPTABLES FILE...

A .t file has the format of the iptables project:

    # a comment
    :CHAIN,...              the chains in which each of the cases below runs
    *TABLE                  their table
    RULE;EXPECTED;OK        the rule is accepted; EXPECTED is its form in the list of rules, "=" if unchanged
    RULE;MESSAGE;FAIL       iptables or its extension refuses the command line: status 2 and one error that matches
                            MESSAGE, a regular expression (with "." for each ";")
    RULE;;FAIL              the kernel refuses the rule: one error of iptables, and status 1 or 4

An accepted rule is appended, listed, checked (-C) in its original form, and deleted in its listed form. A refused rule
must not change the table. Prints TAP.

Run it in a network namespace without rules. It leaves no rules behind.
"""

import os
import re
import shlex
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from tap import done_testing, result, results

# Lines to ignore: the hint that iptables adds to errors, and the warning about another front end's tables.
NOISE = re.compile(r"Try `|# Warning: iptables-legacy tables present")
# The exit statuses for a rule that the kernel refuses: one of iptables-legacy, one of iptables-nft.
REFUSED_BY_KERNEL = (1, 4)


class Finding(Exception):
    """A case failed; the text says why."""


class Table:
    """A table of one iptables program."""

    def __init__(self, program, name):
        self.program = program
        self.name = name
        self.untouched = self.rules()

    def run(self, *arguments):
        """Runs the program. Returns its status, stdout, and the lines of stderr."""
        command = [self.program, "-w", "-t", self.name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, [line for line in done.stderr.splitlines() if not NOISE.match(line)]

    def do(self, *arguments):
        """Runs the program, which must succeed. Returns its stdout."""
        status, out, errors = self.run(*arguments)
        if status != 0:
            raise Finding(f"{shlex.join(arguments)}: status {status}: {' '.join(errors)}")
        if errors:
            raise Finding(f"{shlex.join(arguments)}: {' '.join(errors)}")
        return out

    def rules(self):
        return self.do("-S").splitlines()

    def check_untouched(self):
        rules = self.rules()
        if rules != self.untouched:
            self.do("-F")
            raise Finding("it left rules behind: " + "; ".join(rules))


def check_accepted(table, chain, rule, expected):
    table.do("-A", chain, *shlex.split(rule))
    shown = [line for line in table.rules() if line not in table.untouched]
    wanted = f"-A {chain} {expected}"
    if shown != [wanted]:
        table.do("-F", chain)
        raise Finding(f"expected '{wanted}', listed is '{'; '.join(shown)}'")
    table.do("-C", chain, *shlex.split(rule))
    table.do("-D", *shlex.split(shown[0])[1:])


def check_refused(table, chain, rule, message):
    status, out, errors = table.run("-A", chain, *shlex.split(rule))
    table.check_untouched()
    if status == 0:
        raise Finding("it was accepted")
    if out or len(errors) != 1:
        raise Finding("expected one error, got " + repr([out, *errors]))
    if message:
        if status != 2:
            raise Finding(f"expected status 2, got {status}: {errors[0]}")
        if not re.search(message, errors[0]):
            raise Finding(f"expected an error that matches '{message}', got '{errors[0]}'")
    elif status not in REFUSED_BY_KERNEL:
        raise Finding(f"expected a refusal by the kernel, got status {status}: {errors[0]}")


def cases(path):
    """Yields (table, chain, rule, expected, verdict) for each case in the file."""
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
                    check_accepted(table, chain, rule, rule if expected == "=" else expected)
                else:
                    check_refused(table, chain, rule, expected)
                result(what)
            except Finding as finding:
                result(what, str(finding) or "failed")
    for table in tables.values():
        if table and table.rules() != table.untouched:
            result(f"{program}: every rule of table {table.name} was deleted", "rules are left")
    done_testing()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
