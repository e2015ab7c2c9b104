// SPDX-License-Identifier: GPL-2.0

//! Files of /proc.

/// Conntrack's counters, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct ConntrackCounters {
    /// Flows that could not be put into conntrack's table, because another has their tuple.
    pub insert_failed: u64,
    /// Packets that were dropped because no entry or no tuple was left.
    pub drop: u64,
    /// Flows that were removed to make room for others.
    pub early_drop: u64,
}

/// Parses /proc/net/stat/nf_conntrack: a line of names, and a line of hexadecimal numbers for each CPU.
pub fn parse_conntrack_counters(text: &str) -> Option<ConntrackCounters> {
    let mut lines = text.lines();
    let names: Vec<_> = lines.next()?.split_whitespace().collect();
    let column = |wanted| names.iter().position(|name| *name == wanted);
    let columns = [
        column("insert_failed")?,
        column("drop")?,
        column("early_drop")?,
    ];
    let mut sums = [0_u64; 3];
    for line in lines {
        let numbers: Vec<_> = line.split_whitespace().collect();
        for (sum, column) in sums.iter_mut().zip(columns) {
            *sum = sum.checked_add(u64::from_str_radix(numbers.get(column)?, 16).ok()?)?;
        }
    }
    let [insert_failed, drop, early_drop] = sums;
    Some(ConntrackCounters {
        insert_failed,
        drop,
        early_drop,
    })
}

/// Returns a counter of /proc/net/netstat: pairs of lines, one of names and one of numbers.
pub fn parse_netstat(text: &str, wanted: &str) -> Option<u64> {
    let lines: Vec<_> = text.lines().collect();
    lines.chunks_exact(2).find_map(|pair| {
        let at = pair[0].split(' ').position(|name| name == wanted)?;
        pair[1].split(' ').nth(at)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_cpus_are_summed() {
        let text = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop\n\
            00000005  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 0000000a 00000001 00000000\n\
            00000005  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000010 00000002 00000003\n";
        let expected = ConntrackCounters {
            insert_failed: 26,
            drop: 3,
            early_drop: 3,
        };
        assert_eq!(parse_conntrack_counters(text), Some(expected));
        for wrong in [
            "",
            "drop early_drop\n1 2\n",
            "insert_failed drop early_drop\n1 2\n",
            "insert_failed drop early_drop\n1 2 x\n",
        ] {
            assert_eq!(parse_conntrack_counters(wrong), None);
        }
    }

    #[test]
    fn a_counter_of_netstat() {
        let text = "TcpExt: SyncookiesSent IPReversePathFilter\nTcpExt: 1 23\nIpExt: InNoRoutes\nIpExt: 4\n";
        assert_eq!(parse_netstat(text, "IPReversePathFilter"), Some(23));
        assert_eq!(parse_netstat(text, "InNoRoutes"), Some(4));
        assert_eq!(parse_netstat(text, "Other"), None);
        assert_eq!(parse_netstat("a b\na", "b"), None);
    }
}
