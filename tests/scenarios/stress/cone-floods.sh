#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# Floods to mappings from outside cost no more than conntrack's table allows: one from many sources to a mapping, and a
# scan of all ports. Neither makes a mapping, keeps one alive or fills the log, and the inside host goes on.
# The network is that of setup_lan. The full effort is a flood of 100,000 flows.
. "$(dirname "$0")/../../lib/lib.sh"

flood=$(($(scaled 100000) / slow)) scanned=$((65534 / slow / slow))
capacity=$((flood / 4))

modprobe -a nf_conntrack pktgen || bail "modules"
limit=/proc/sys/net/netfilter/nf_conntrack_max
limit_before=$(< $limit)
trap 'echo "$limit_before" > $limit; cleanup' EXIT
echo 262144 > $limit

setup_lan
add_rule -o wan0 -j RUSTMASQ --full-cone || bail "the rule"
serve server UDP 5000
# The LAN's host counts what comes from strangers, and what comes from the server to other ports than those of answers.
ns_exec lan "$IPTABLES-restore" -w <<-END || bail "the counters"
	*raw
	-A PREROUTING -p udp -s 198.51.0.0/16 -j DROP
	-A PREROUTING -p udp -s 203.0.113.2 --sport 7777 -j DROP
	COMMIT
END
# from_strangers, from_scanner: print how many packets reached the LAN's host.
counted_at() { ns_exec lan "$IPTABLES" -w -t raw -L PREROUTING -vxn | awk -v row="$1" 'NR == row + 2 { print $1 }'; }
from_strangers() { counted_at 1; }
from_scanner() { counted_at 2; }

# mapping_of_client: prints the mapping of port 4000 of the LAN's host, as lines of NAME=VALUE.
mapping_of_client() { ns_exec router grep 'inside=172.18.0.2 port=4000 ' /proc/net/rustmasq_mappings | tr ' ' '\n'; }
# value_of NAME: prints one of its values.
value_of() { mapping_of_client | sed -n "s/^$1=//p"; }
is_unused_for() { (($(value_of unused) >= $1)); }
# all_mapped: prints all mappings, without what changes by itself.
all_mapped() { ns_exec router sed -E 's/ (age|unused|flows|inbound)=.*//' /proc/net/rustmasq_mappings; }

# client_asks: the client asks the server, from its port 4000. Prints its outside address and port.
client_asks() { probe lan UDP 203.0.113.2 5000 sourceport=4000,reuseaddr; }

logged_lines() { dmesg | wc -l; }
logged_by_module() { dmesg | grep -c rustmasq; }
# check_log: checks what was logged since the lines `lines` and `by_module`.
check_log() {
	check_equal "$1: the module logs nothing" "$by_module" "$(logged_by_module)"
	check "$1: little is logged" test $(($(logged_lines) - lines)) -lt 40
}

# generate COUNT COMMAND...: sends so many UDP packets to the router from outside, by the kernel's packet generator.
generate() {
	local line
	while read -r line; do
		ns_exec server tee "/proc/net/pktgen/${line%% *}" <<< "${line#* }" > /dev/null || bail "pktgen: $line"
	done <<-END
		kpktgend_0 rem_device_all
		kpktgend_0 add_device eth0
		eth0 dst_mac $(ip -n router -br link show wan0 | awk '{ print $3 }')
		eth0 dst 203.0.113.1
		eth0 count $1
		$(printf 'eth0 %s\n' "${@:2}")
		pgctrl start
		kpktgend_0 rem_device_all
	END
}
# flood_mapping COUNT: sends from so many sources to the port of the mapping.
flood_mapping() {
	generate "$1" "src_min 198.51.100.1" "src_max 198.51.100.251" "udp_src_min 1000" "udp_src_max 60999" \
		"udp_dst_min 4000" "udp_dst_max 4000"
}

check_equal "the client has a mapping" 203.0.113.1:4000 "$(client_asks)"
lines=$(logged_lines) by_module=$(logged_by_module)

# --- A flood to the mapping

ns_exec router conntrack -F 2> /dev/null
check "the mapping stays without a flow, and is unused for a while" wait_until is_unused_for 2
mapped=$(all_mapped) unused=$(value_of unused)
echo $capacity > $limit
flood_mapping $flood
reached=$(from_strangers)
flows=$(ns_exec router cat /proc/sys/net/netfilter/nf_conntrack_count)
echo "# of $flood packets, $reached came in; $flows flows"
check "a flood: some of it comes in" test "$reached" -ge $((capacity / 2))
check "... it is bounded by conntrack's table" test "$flows" -le $((capacity + 10))
check "... what comes in is counted" test "$(value_of inbound)" -ge "$reached"
check_equal "... and are none of the client's" 0 "$(value_of flows)"
check_equal "... no mapping is made or lost" "$mapped" "$(all_mapped)"
check "... it does not refresh the mapping" is_unused_for "$unused"
check_log "a flood"
ns_exec router conntrack -F 2> /dev/null
echo 262144 > $limit
check_equal "the client still has its port" 203.0.113.1:4000 "$(client_asks)"
check "... which refreshes its mapping" test "$(value_of unused)" -le $((3 * slow))

# --- A scan

mapped=$(all_mapped)
((slow == 1)) || first="udp_dst_min 3000"
generate $scanned "src_min 203.0.113.2" "src_max 203.0.113.2" "udp_src_min 7777" "udp_src_max 7777" \
	"${first:-udp_dst_min 1}" "udp_dst_max 65535"
check_equal "a scan of $scanned ports makes no mapping" "$mapped" "$(all_mapped)"
check_equal "... and one packet reaches the client, by its mapping" 1 "$(from_scanner)"
check_log "a scan"
ns_exec router conntrack -F 2> /dev/null

# --- A flood of strangers to a mapping that is not for them

flush_rules
add_rule -o wan0 -j RUSTMASQ --address-restricted-cone || bail "the rule"
check_equal "--address-restricted-cone: the client has its port" 203.0.113.1:4000 "$(client_asks)"
mapped=$(all_mapped) reached=$(from_strangers) counted=$(value_of inbound)
flood_mapping $capacity
check_equal "... no stranger reaches it" "$reached" "$(from_strangers)"
check_equal "... no flow of theirs is counted" "$counted" "$(value_of inbound)"
check_equal "... no mapping is made or lost" "$mapped" "$(all_mapped)"
check_log "a flood of strangers"

flush_rules
check "the module can be unloaded" wait_until unload_module

done_testing
