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
-p tcp -j RUSTMASQ --to-ports 5-;--to-ports: "5-" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports -5;--to-ports: "-5" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports -;--to-ports: "-" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports "";--to-ports: "" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports " 80";--to-ports: " 80" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports "80 ";--to-ports: "80 " .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports 80%n%s;--to-ports: "80%n%s" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports;"--to-ports" requires an argument;FAIL

# --- Lists of ranges, which ascend
-p tcp -j RUSTMASQ --to-ports 1024-2047,4096-8191,50000;=;OK
-p tcp -j RUSTMASQ --to-ports 1,3,65535;=;OK
-p udp -j RUSTMASQ --to-ports 50000,1024-2047;-p udp -j RUSTMASQ --to-ports 1024-2047,50000;OK
-p tcp -j RUSTMASQ --to-ports 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29;=;OK
-p tcp -j RUSTMASQ --to-ports http,8000-8999;-p tcp -j RUSTMASQ --to-ports 80,8000-8999;OK
-p tcp -j RUSTMASQ --to-ports 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31;--to-ports: 16 ranges are too many. allowed: up to 15;FAIL
-p tcp -j RUSTMASQ --to-ports 1,2;--to-ports: 1 and 2 touch. allowed: 1-2, or ranges with a port between them;FAIL
-p tcp -j RUSTMASQ --to-ports 100-200,50-150;--to-ports: 50-150 and 100-200 overlap. allowed: ranges with a port between them;FAIL
-p tcp -j RUSTMASQ --to-ports 7,7;--to-ports: 7 and 7 overlap. allowed: ranges with a port between them;FAIL
-p tcp -j RUSTMASQ --to-ports 1,70000;--to-ports: "70000" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports 1,,3;--to-ports: "" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports 1,;--to-ports: "" .* allowed: PORT or PORT-PORT;FAIL
-p tcp -j RUSTMASQ --to-ports "1, 3";--to-ports: " 3" .* allowed: PORT or PORT-PORT;FAIL

# --- Port sets of MAP
-p tcp -j RUSTMASQ --psid 6/8/52;=;OK
-p udp -j RUSTMASQ --psid 0/0/0 --random;=;OK
-p udp -j RUSTMASQ --psid 16/0/0;=;OK
-p udp -j RUSTMASQ --psid 0/16/65535;=;OK
-p udp -j RUSTMASQ --except-ports 1232-1233 --psid 6/8/52;-p udp -j RUSTMASQ --psid 6/8/52 --except-ports 1232-1233;OK
-p tcp -j RUSTMASQ --psid 6/8;--psid: "6/8" is no port set. allowed: OFFSET/LENGTH/PSID, three numbers in decimal;FAIL
-p tcp -j RUSTMASQ --psid 6/8/0x34;--psid: "6/8/0x34" is no port set. allowed: OFFSET/LENGTH/PSID;FAIL
-p tcp -j RUSTMASQ --psid "";--psid: "" is no port set. allowed: OFFSET/LENGTH/PSID;FAIL
-p tcp -j RUSTMASQ --psid 6/8/-1;--psid: "6/8/-1" is no port set. allowed: OFFSET/LENGTH/PSID;FAIL
-p tcp -j RUSTMASQ --psid 9/8/1;--psid: "9/8/1" has 17 bits. allowed: OFFSET \+ LENGTH <= 16;FAIL
-p tcp -j RUSTMASQ --psid 6/8/256;--psid: the PSID 256 has more than 8 bits. allowed: 0 to 255;FAIL
-p tcp -j RUSTMASQ --psid 0/16/0;--psid: "0/16/0" is port 0 alone. allowed: a set with another port;FAIL
-p tcp -j RUSTMASQ --to-ports 5 --psid 6/8/52;--psid: not allowed after --to-ports. allowed: one of them;FAIL
-p tcp -j RUSTMASQ --psid 6/8/52 --to-ports 5;--to-ports: not allowed after --psid. allowed: one of them;FAIL
-p tcp -j RUSTMASQ --psid 6/8/52 --psid 6/8/53;--psid: .* one too many. allowed: --psid once;FAIL
-p tcp -j RUSTMASQ ! --psid 6/8/52;--psid: .* not allowed. allowed: --psid without "!";FAIL
-j RUSTMASQ --psid 6/8/52;--psid: "6/8/52" is allowed only after -p tcp, udp, sctp or .*every protocol;FAIL

# --- Exceptions
-j RUSTMASQ --except-ports 30000-32767;=;OK
-j RUSTMASQ --except-ports 8080,30000-32767 --except-reserved;=;OK
-j RUSTMASQ --except-reserved;=;OK
-p tcp -j RUSTMASQ --to-ports 1024-65535 --except-ports 8080 --random;=;OK
-j RUSTMASQ --except-ports ssh;-j RUSTMASQ --except-ports 22;OK
! -p tcp -j RUSTMASQ --except-ports 5;=;OK
-j RUSTMASQ --except-ports 0;--except-ports: "0" is no port range. allowed: PORT or PORT-PORT;FAIL
-j RUSTMASQ --except-ports 5-9,9;--except-ports: 5-9 and 9 overlap. allowed: ranges;FAIL
-j RUSTMASQ --except-ports 1-65535;--except-ports: --except-ports 1-65535 leaves no port. allowed: a list that leaves one;FAIL
-p tcp -j RUSTMASQ --to-ports 5-9,20 --except-ports 1-10,20;--except-ports: .* leaves no port. allowed: a list;FAIL
-p tcp -j RUSTMASQ --except-ports 1-10,20 --to-ports 5-9,20;--to-ports: .* leaves no port. allowed: a list;FAIL
-j RUSTMASQ --except-ports;"--except-ports" requires an argument;FAIL
-j RUSTMASQ --except-reserved --except-reserved;--except-reserved: .* one too many. allowed: --except-reserved once;FAIL

# --- Shares and source addresses
-j RUSTMASQ --max-flows-per-host 1;=;OK
-j RUSTMASQ --max-flows-per-host 4294967295;=;OK
-j RUSTMASQ --max-flows-per-host 0;--max-flows-per-host: "0" is no number of flows. allowed: 1 to 4294967295;FAIL
-j RUSTMASQ --max-flows-per-host 4294967296;--max-flows-per-host: "4294967296" .* allowed: 1 to 4294967295;FAIL
-j RUSTMASQ --max-flows-per-host many;--max-flows-per-host: "many" is no number of flows. allowed: 1 to 4294967295;FAIL
-j RUSTMASQ --max-flows-per-host 5 --max-flows-per-host 6;--max-flows-per-host: .* one too many;FAIL
-j RUSTMASQ --route-source;=;OK
-j RUSTMASQ --keep-own;=;OK
-j RUSTMASQ ! --keep-own;--keep-own: .* not allowed. allowed: --keep-own without "!";FAIL
-p udp -j RUSTMASQ --keep-own --route-source --max-flows-per-host 9 --full-cone --when-full reject --random --except-reserved --except-ports 7 --to-ports 5-9,20;-p udp -j RUSTMASQ --to-ports 5-9,20 --except-ports 7 --except-reserved --random --when-full reject --full-cone --max-flows-per-host 9 --route-source --keep-own;OK

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
