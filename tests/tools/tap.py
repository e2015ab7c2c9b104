# SPDX-License-Identifier: GPL-2.0
"""Prints results as TAP lines, for tools that check something themselves.

Scenarios run such tools with run_tap (tests/lib/tap.sh).
"""

results = []


def result(what, finding=None):
    """Prints one result: a failure if there is a finding, which says what is wrong, otherwise a success."""
    results.append(not finding)
    print(f"not ok - {what}\n    # {finding}" if finding else f"ok - {what}", flush=True)


def done_testing():
    """Prints the plan. run_tap takes a tool that prints no plan for one that ended early."""
    print(f"1..{len(results)}", flush=True)
