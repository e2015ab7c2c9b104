#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Runs the example of tests/README.md as it is printed there. The tests that run are a copy, which can be written to.
example=$(dirname "$0")/example.sh
awk '/^```bash$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$(dirname "$0")/../../README.md" > "$example"
exec bash "$example"
