# SPDX-License-Identifier: GPL-2.0
"""Results as TAP lines, for tools that check something themselves. Scenarios run them by run_tap (tests/lib/tap.sh)."""

results = []


def result(what, finding=None):
    """Prints one result. It is a failure if there is a finding, which explains it."""
    results.append(not finding)
    print(f"not ok - {what}\n    # {finding}" if finding else f"ok - {what}", flush=True)


def done_testing():
    """Prints the plan. A tool that ends without it has not run to its end."""
    print(f"1..{len(results)}", flush=True)
