# SPDX-License-Identifier: GPL-2.0
# Rules with RUSTMASQ for IPv4 only. tests/tools/rule_cases.py describes the format.
:POSTROUTING
*nat
-s 172.18.0.0/16 -o wan0 -p tcp -j RUSTMASQ --to-ports 55666-55680;=;OK
-s 172.18.0.0/16 ! -d 172.18.0.0/16 -j RUSTMASQ;=;OK
-p icmp -j RUSTMASQ;=;OK
-p icmp -j RUSTMASQ --to-ports 1000-1010;=;OK
-p 1 -j RUSTMASQ --to-ports 7;-p icmp -j RUSTMASQ --to-ports 7;OK
-p icmp -m icmp --icmp-type 8 -j RUSTMASQ --to-ports 1000-1010 --random;=;OK
-p icmp -j RUSTMASQ --to-ports 0-10;--to-ports: "0-10" .* allowed: .* 1 <= PORT <= 65535;FAIL
# ICMPv6 is not valid here.
-p ipv6-icmp -j RUSTMASQ --to-ports 7;--to-ports: "7" is allowed only after -p tcp, udp, sctp or icmp.*ipv6-icmp;FAIL
