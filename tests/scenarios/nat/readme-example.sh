#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# Kernels: plain
#
# The example in tests/README.md runs as printed there. This scenario writes it to a file beside itself; the guest's
# copy of the tests is writable. The example itself shows what happens without a rule.
example=$(dirname "$0")/example.sh
awk '/^```bash$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$(dirname "$0")/../../README.md" > "$example"
exec bash "$example"
