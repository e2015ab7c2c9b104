# SPDX-License-Identifier: GPL-2.0
# Rules with RUSTMASQ for IPv4 and IPv6. tests/tools/rule_cases.py describes the format.
:POSTROUTING
*nat

# --- Options
-j RUSTMASQ;=;OK
-o wan0 -j RUSTMASQ;=;OK
-j RUSTMASQ --random;=;OK
-j RUSTMASQ --random-fully;=;OK
-j RUSTMASQ --random --random-fully;=;OK
-j RUSTMASQ --random-fully --random;-j RUSTMASQ --random --random-fully;OK
-p tcp -j RUSTMASQ --to-ports 1024;=;OK
-p tcp -j RUSTMASQ --to-ports 1024-65535;=;OK
-p udp -j RUSTMASQ --to-ports 55666-55680;=;OK
-p sctp -j RUSTMASQ --to-ports 9000-9001;=;OK
-p udp -j RUSTMASQ --to-ports 1000-2000 --random;=;OK
-p udp -j RUSTMASQ --to-ports 1000-2000 --random-fully;=;OK
-p udp -j RUSTMASQ --to-ports 1000-2000 --random --random-fully;=;OK
-p udp -j RUSTMASQ --random --to-ports 1000-2000;-p udp -j RUSTMASQ --to-ports 1000-2000 --random;OK
-p tcp -m tcp --dport 80 -j RUSTMASQ --to-ports 1024;=;OK
-p udp -m udp --sport 53 -j RUSTMASQ --random;=;OK
-m mark --mark 0x1 -j RUSTMASQ;=;OK
-o wan0 -p udp -m comment --comment "two words" -j RUSTMASQ --to-ports 7;=;OK
! -o lan0 -j RUSTMASQ;=;OK

# --- When all ports are taken
-j RUSTMASQ --when-full reject;=;OK
-j RUSTMASQ --when-full drop;-j RUSTMASQ;OK
-p udp -j RUSTMASQ --to-ports 1000-2000 --random --random-fully --when-full reject;=;OK
-p udp -j RUSTMASQ --when-full reject --to-ports 7;-p udp -j RUSTMASQ --to-ports 7 --when-full reject;OK
! -p tcp -j RUSTMASQ --when-full reject;=;OK
-j RUSTMASQ --when-full wait;--when-full: "wait" is unknown. allowed: drop or reject;FAIL
-j RUSTMASQ --when-full REJECT;--when-full: "REJECT" is unknown. allowed: drop or reject;FAIL
-j RUSTMASQ --when-full "";--when-full: "" is unknown. allowed: drop or reject;FAIL
-j RUSTMASQ --when-full;"--when-full" requires an argument;FAIL
-j RUSTMASQ --when-full reject --when-full reject;--when-full: .* one too many. allowed: --when-full once;FAIL
-j RUSTMASQ --when-full drop --when-full reject;--when-full: .* one too many. allowed: --when-full once;FAIL
-j RUSTMASQ ! --when-full reject;--when-full: .* not allowed. allowed: --when-full without "!";FAIL

# --- Mappings
-j RUSTMASQ --full-cone;=;OK
-j RUSTMASQ --port-restricted-cone;=;OK
-p udp -j RUSTMASQ --full-cone --when-full reject --to-ports 1000-2000;-p udp -j RUSTMASQ --to-ports 1000-2000 --when-full reject --full-cone;OK
-j RUSTMASQ --full-cone --random;-j RUSTMASQ --random --full-cone;OK
-j RUSTMASQ --full-cone --port-restricted-cone;--port-restricted-cone: not allowed after --full-cone. allowed: one of them;FAIL
-j RUSTMASQ --full-cone --full-cone;--full-cone: .* one too many. allowed: --full-cone once;FAIL
-j RUSTMASQ ! --full-cone;--full-cone: .* not allowed. allowed: --full-cone without "!";FAIL

# Without --to-ports, a rule may be for any protocol.
-p 47 -j RUSTMASQ;=;OK
! -p tcp -j RUSTMASQ --random;=;OK

# --- Port ranges
-p tcp -j RUSTMASQ --to-ports 1;=;OK
-p tcp -j RUSTMASQ --to-ports 65535;=;OK
-p tcp -j RUSTMASQ --to-ports 1-65535;=;OK
-p tcp -j RUSTMASQ --to-ports 7-7;-p tcp -j RUSTMASQ --to-ports 7;OK
# With swapped bytes, this range would be reversed.
-p tcp -j RUSTMASQ --to-ports 258-513;=;OK
-p tcp -j RUSTMASQ --to-ports 0;--to-ports: "0" .* allowed: PORT or PORT-PORT with 1 <= PORT <= 65535;FAIL
-p tcp -j RUSTMASQ --to-ports 0-10;--to-ports: "0-10" .* allowed: .* 1 <= PORT <= 65535;FAIL
-p tcp -j RUSTMASQ --to-ports 70000;--to-ports: "70000" .* allowed: .* 1 <= PORT <= 65535;FAIL
-p tcp -j RUSTMASQ --to-ports 65536;--to-ports: "65536" .* allowed: .* 1 <= PORT <= 65535;FAIL
-p tcp -j RUSTMASQ --to-ports 1-65536;--to-ports: "1-65536" .* allowed: .* 1 <= PORT <= 65535;FAIL
# 2^32 + 80
-p tcp -j RUSTMASQ --to-ports 4294967376;--to-ports: "4294967376" .* allowed: .* 1 <= PORT <= 65535;FAIL
-p tcp -j RUSTMASQ --to-ports 5-1;--to-ports: "5-1" .* allowed: .* the lower one first;FAIL
-p tcp -j RUSTMASQ --to-ports a-b;--to-ports: "a-b" .* allowed: .* in decimal;FAIL
-p tcp -j RUSTMASQ --to-ports 0x50;--to-ports: "0x50" .* allowed: .* in decimal;FAIL
-p tcp -j RUSTMASQ --to-ports 080;--to-ports: "080" .* allowed: .* in decimal;FAIL
-p tcp -j RUSTMASQ --to-ports +80;--to-ports: "\+80" .* allowed: .* in decimal;FAIL
-p tcp -j RUSTMASQ --to-ports 1-2-3;--to-ports: "1-2-3" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports 1:2;--to-ports: "1:2" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports 1,2;--to-ports: "1,2" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports 5-;--to-ports: "5-" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports -5;--to-ports: "-5" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports -;--to-ports: "-" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports "";--to-ports: "" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports " 80";--to-ports: " 80" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports "80 ";--to-ports: "80 " .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports 80%n%s;--to-ports: "80%n%s" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports;"--to-ports" requires an argument;FAIL

# --- Names of services, which are listed as numbers
-p tcp -j RUSTMASQ --to-ports http;-p tcp -j RUSTMASQ --to-ports 80;OK
-p tcp -j RUSTMASQ --to-ports http-https;-p tcp -j RUSTMASQ --to-ports 80-443;OK
-p tcp -j RUSTMASQ --to-ports 79-http;-p tcp -j RUSTMASQ --to-ports 79-80;OK
-p tcp -j RUSTMASQ --to-ports http-8080;-p tcp -j RUSTMASQ --to-ports 80-8080;OK
-p tcp -j RUSTMASQ --to-ports ftp-data;-p tcp -j RUSTMASQ --to-ports 20;OK
-p tcp -j RUSTMASQ --to-ports ftp-data-http;-p tcp -j RUSTMASQ --to-ports 20-80;OK
-p udp -j RUSTMASQ --to-ports tftp;-p udp -j RUSTMASQ --to-ports 69;OK
# The service of the rule's protocol comes first: 514 is syslog of UDP and shell of TCP.
-p tcp -j RUSTMASQ --to-ports shell;-p tcp -j RUSTMASQ --to-ports 514;OK
-p udp -j RUSTMASQ --to-ports syslog;-p udp -j RUSTMASQ --to-ports 514;OK
# With MASQUERADE, a name of any protocol will do.
-p udp -j RUSTMASQ --to-ports http;-p udp -j RUSTMASQ --to-ports 80;OK
-p sctp -j RUSTMASQ --to-ports http;-p sctp -j RUSTMASQ --to-ports 80;OK
-p tcp -j RUSTMASQ --to-ports htttp;--to-ports: "htttp" is no port range. allowed: .* or the name of a known service;FAIL
-p tcp -j RUSTMASQ --to-ports http-htttps;--to-ports: "http-htttps" .* or the name of a known service;FAIL
-p tcp -j RUSTMASQ --to-ports http-;--to-ports: "http-" .* or the name of a known service;FAIL
-p tcp -j RUSTMASQ --to-ports https-http;--to-ports: "https-http" .* the lower one first;FAIL
-p tcp -j RUSTMASQ --to-ports HTTP;--to-ports: "HTTP" .* or the name of a known service;FAIL
-j RUSTMASQ --to-ports http;--to-ports: "http" is allowed only after -p tcp, udp, sctp or .*every protocol;FAIL

# --- Protocols without port ranges
-j RUSTMASQ --to-ports 80;--to-ports: "80" is allowed only after -p tcp, udp, sctp or .*every protocol;FAIL
-p all -j RUSTMASQ --to-ports 80;--to-ports: "80" is allowed only after -p tcp, udp, sctp or .*every protocol;FAIL
-p 47 -j RUSTMASQ --to-ports 80;--to-ports: "80" is allowed only after -p tcp, udp, sctp or .*47;FAIL
-p 50 -j RUSTMASQ --to-ports 80;--to-ports: "80" is allowed only after -p tcp, udp, sctp or .*50;FAIL
-p 136 -j RUSTMASQ --to-ports 80;--to-ports: "80" is allowed only after -p tcp, udp, sctp or .*136;FAIL
-p 33 -j RUSTMASQ --to-ports 80;--to-ports: "80" is allowed only after -p tcp, udp, sctp or .*33;FAIL
! -p tcp -j RUSTMASQ --to-ports 80;--to-ports: "80" is allowed only after -p tcp, udp, sctp or .*every protocol but tcp;FAIL
# iptables reads from left to right, so the extension does not see a protocol that follows.
-j RUSTMASQ --to-ports 80 -p tcp;--to-ports: "80" is allowed only after -p tcp;FAIL

# --- Repeated, inverted and unknown options
-p tcp -j RUSTMASQ --to-ports 5 --to-ports 5;--to-ports: .* one too many. allowed: --to-ports once;FAIL
-p tcp -j RUSTMASQ --to-ports 5 --to-ports 6-7;--to-ports: .* one too many. allowed: --to-ports once;FAIL
-j RUSTMASQ --random --random;--random: .* one too many. allowed: --random once;FAIL
-j RUSTMASQ --random-fully --random --random-fully;--random-fully: .* one too many. allowed: --random-fully once;FAIL
-p tcp -j RUSTMASQ ! --to-ports 5;--to-ports: .* not allowed. allowed: --to-ports without "!";FAIL
-j RUSTMASQ ! --random;--random: .* not allowed. allowed: --random without "!";FAIL
-j RUSTMASQ ! --random-fully;--random-fully: .* not allowed. allowed: --random-fully without "!";FAIL
-j RUSTMASQ --to-source 192.0.2.1;unknown option "--to-source";FAIL
-j RUSTMASQ --persistent;unknown option "--persistent";FAIL
-j RUSTMASQ --frobnicate;unknown option "--frobnicate";FAIL
-j RUSTMASQ stray;Bad argument `stray';FAIL

# --- Tables and chains where the target is not valid
:PREROUTING,INPUT,OUTPUT
-j RUSTMASQ;chain "(PREROUTING|INPUT|OUTPUT)" .* allowed: POSTROUTING of table nat;FAIL
-p tcp -j RUSTMASQ --to-ports 80;chain "(PREROUTING|INPUT|OUTPUT)" .* allowed: POSTROUTING of table nat;FAIL
:POSTROUTING
*mangle
-j RUSTMASQ;table "mangle" .* allowed: -t nat;FAIL
:FORWARD
*filter
-j RUSTMASQ;chain "FORWARD" .* allowed: POSTROUTING of table nat;FAIL
:PREROUTING
*raw
-p tcp -j RUSTMASQ --to-ports 80;chain "PREROUTING" .* allowed: POSTROUTING of table nat;FAIL
