# SPDX-License-Identifier: GPL-2.0
# Rules with RUSTMASQ for IPv6 only. tests/tools/rule_cases.py describes the format.
:POSTROUTING
*nat
-s fd00:18::/64 -o wan0 -p tcp -j RUSTMASQ --to-ports 55666-55680;=;OK
-s fd00:18::/64 ! -d fd00:18::/64 -j RUSTMASQ;=;OK
-p ipv6-icmp -j RUSTMASQ;=;OK
-p ipv6-icmp -j RUSTMASQ --to-ports 1000-1010;=;OK
-p icmpv6 -j RUSTMASQ --to-ports 7;-p ipv6-icmp -j RUSTMASQ --to-ports 7;OK
-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j RUSTMASQ --to-ports 1000-1010 --random;=;OK
-p ipv6-icmp -j RUSTMASQ --to-ports 0-10;--to-ports: "0-10" .* allowed: .* 1 <= PORT <= 65535;FAIL
# ICMP is not valid here.
-p icmp -j RUSTMASQ --to-ports 7;--to-ports: "7" is allowed only after -p tcp, udp, sctp or ipv6-icmp.*icmp;FAIL
