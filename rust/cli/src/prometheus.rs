// SPDX-License-Identifier: GPL-2.0

//! The text format of Prometheus, which node_exporter reads from files (its textfile collector).

use crate::{readers::ports::Pool, stat::Stat};
use std::fmt::Write as _;

/// The numbers of a pool: the metric's name, its help, and the number.
type OfPool = (&'static str, &'static str, fn(&Pool) -> u32);

const OF_POOL: [OfPool; 3] = [
    (
        "rustmasq_pool_ports_in_use",
        "Ports of a crowded destination that flows have.",
        |pool| pool.in_use,
    ),
    (
        "rustmasq_pool_ports_resting",
        "Ports of a crowded destination that were freed less than a minute ago.",
        |pool| pool.resting,
    ),
    (
        "rustmasq_pool_ports_free",
        "Ports of a crowded destination that are free.",
        |pool| pool.free,
    ),
];

/// Returns all numbers as metrics.
pub fn format(stat: &Stat) -> String {
    let mut text = String::new();
    for (field, value) in stat.counters.iter() {
        let (end, kind) = if field.grows {
            ("_total", "counter")
        } else {
            ("", "gauge")
        };
        let name = format!("rustmasq_{}{end}", field.name);
        let mut letters = field.meaning.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        let help: String = first.into_iter().chain(letters).collect();
        append_head(&mut text, &name, &format!("{help}."), kind);
        let _ = writeln!(text, "{name} {value}");
    }
    let pools = stat.pools.as_deref().unwrap_or_default();
    for (name, help, number) in OF_POOL {
        if pools.is_empty() {
            break;
        }
        append_head(&mut text, name, help, "gauge");
        for pool in pools {
            // No value has a character that would need an escape: the module's names, addresses and numbers.
            let _ = writeln!(
                text,
                "{name}{{protocol=\"{}\",destination=\"{}\",port=\"{}\",source=\"{}\",zone=\"{}\",range=\"{}\"}} {}",
                pool.protocol,
                pool.destination,
                pool.port,
                pool.source,
                pool.zone,
                pool.range,
                number(pool)
            );
        }
    }
    text
}

fn append_head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}");
    let _ = writeln!(text, "# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::tests::stat;

    #[test]
    fn counters_end_in_total_and_gauges_do_not() {
        let text = format(&stat());
        assert!(text.starts_with(
            "\
# HELP rustmasq_flows_masqueraded_total Flows that RUSTMASQ gave a source.
# TYPE rustmasq_flows_masqueraded_total counter
rustmasq_flows_masqueraded_total 1
# HELP rustmasq_ports_kept_total "
        ));
        assert!(text.contains(
            "
# HELP rustmasq_pools Crowded destinations with a pool of ports.
# TYPE rustmasq_pools gauge
rustmasq_pools 8
"
        ));
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert_eq!(
                line.ends_with("_total counter"),
                line.ends_with(" counter"),
                "{line}"
            );
        }
    }

    #[test]
    fn pools_are_gauges_with_labels() {
        let text = format(&stat());
        assert!(text.contains(
            "
# TYPE rustmasq_pool_ports_free gauge
rustmasq_pool_ports_free{protocol=\"tcp\",destination=\"203.0.113.2\",port=\"80\",source=\"203.0.113.1\",zone=\"0\",\
range=\"6000-6019\"} 0
"
        ));
        let mut stat = stat();
        stat.pools = None;
        assert!(!format(&stat).contains("rustmasq_pool_"));
    }
}
