// SPDX-License-Identifier: GPL-2.0

//! `rustmasq stat`: shows the module's counters, and the pools of crowded destinations.

use crate::{
    arguments, json,
    output::{finish, new_table, printable, reason, say, screen_width, Output},
    prometheus,
    readers::ports::{sort_by_fill, Counters, Pool},
    signals, End, Failure,
};
use nix::{
    errno::Errno,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::signalfd::SignalFd,
};
use serde::Serialize;
use std::{
    fs,
    io::{self, IsTerminal, Write as _},
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// The files, of this thread's network namespace.
const COUNTERS: &str = "/proc/thread-self/net/rustmasq";
const POOLS: &str = "/proc/thread-self/net/rustmasq_pools";
/// The number of pools that people see.
const FULLEST: usize = 10;
/// The time from one look to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// Moves to the upper left corner, and clears the screen from there on.
const CLEAR: &str = "\x1b[H\x1b[J";

/// The counters and the pools of a namespace.
#[derive(Debug, Serialize)]
pub struct Stat {
    /// The counters.
    pub counters: Counters,
    /// The pools, the fullest first; `None` if they may not be seen.
    pub pools: Option<Vec<Pool>>,
}

/// Shows the counters and the pools, once or again and again.
pub fn run(options: &arguments::Stat) -> Result<(), End> {
    if options.watch {
        return watch();
    }
    let stat = Stat::look()?;
    let text = if options.json {
        let mut text = Vec::new();
        json::append_line(&mut text, &stat).map_err(|error| Failure::io("JSON", &error))?;
        text
    } else if options.prometheus {
        prometheus::format(&stat).into_bytes()
    } else {
        table(&stat, None, screen_width()).into_bytes()
    };
    match io::stdout().write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("standard output", &error).into())
        }
        _ => Ok(()),
    }
}

impl Stat {
    fn look() -> Result<Self, Failure> {
        let text = fs::read_to_string(COUNTERS).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Failure::new("the module rustmasq is not loaded (modprobe rustmasq)")
            } else {
                Failure::io("/proc/net/rustmasq", &error)
            }
        })?;
        let counters = Counters::parse(&text).map_err(|name| {
            Failure::new(format!(
                "/proc/net/rustmasq has no {name}: program and module are of different versions"
            ))
        })?;
        let pools = match fs::read_to_string(POOLS) {
            Ok(text) => Some(Self::parse_pools(&text)?),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                say(&format!(
                    "the pools are not shown: /proc/net/rustmasq_pools: {}: run it as root",
                    reason(&error)
                ));
                None
            }
            Err(error) => return Err(Failure::io("/proc/net/rustmasq_pools", &error)),
        };
        Ok(Self { counters, pools })
    }

    fn parse_pools(text: &str) -> Result<Vec<Pool>, Failure> {
        let mut pools = Pool::parse_all(text).map_err(|line| {
            Failure::new(format!(
                "/proc/net/rustmasq_pools: '{line}' is no pool: program and module are of different versions"
            ))
        })?;
        sort_by_fill(&mut pools);
        Ok(pools)
    }
}

/// Shows the counters each second, with what they have changed by, until a signal comes or nobody reads any more.
fn watch() -> Result<(), End> {
    let signals = signals::block()?;
    let mut output = Output::new(&signals);
    let clear = if io::stdout().is_terminal() {
        CLEAR
    } else {
        ""
    };
    let mut before: Option<(Counters, Instant)> = None;
    let mut next = Instant::now();
    loop {
        let stat = Stat::look()?;
        let now = Instant::now();
        let since = before.map(|(counters, at)| (counters, now - at));
        let text = table(&stat, Some(since), screen_width());
        let end = if clear.is_empty() { "\n" } else { "" };
        output.write(format!("{clear}{text}{end}").as_bytes())?;
        before = Some((stat.counters, now));
        next = (next + INTERVAL).max(now);
        wait(next, &signals)?;
    }
}

/// Waits until then. Ends if a signal comes or nobody reads any more.
fn wait(until: Instant, signals: &SignalFd) -> Result<(), End> {
    let stdout = io::stdout();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            // Errors, as when nobody reads it, are reported without asking.
            PollFd::new(stdout.as_fd(), PollFlags::empty()),
        ];
        // Rounded up, so that the last wait is not one of 0 ms again and again.
        let left =
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::io("poll", &error.into()).into()),
        }
        if ready.iter().any(|each| each.any().unwrap_or(true)) {
            return Err(End::Wanted);
        }
    }
}

/// Returns the text for people. `since` has the counters of an earlier look and the time since then, if there are to
/// be differences. `width` is that of the terminal, if the output is one.
fn table(stat: &Stat, since: Option<Option<(Counters, Duration)>>, width: Option<usize>) -> String {
    let mut counters = new_table(width);
    let mut head = vec!["COUNTER", "VALUE"];
    head.extend(since.map(|_| "PER SECOND"));
    head.push("MEANING");
    counters.add_row(head);
    let earlier: Vec<_> = match since {
        Some(Some((counters, _))) => counters.iter().map(|(_, value)| Some(value)).collect(),
        _ => stat.counters.iter().map(|_| None).collect(),
    };
    for ((field, value), earlier) in stat.counters.iter().zip(earlier) {
        let mut row = vec![field.name.to_owned(), value.to_string()];
        if let Some(since) = since {
            let time = since.map(|(_, time)| time);
            row.push(
                earlier
                    .zip(time)
                    .map_or("-".to_owned(), |(earlier, time)| rate(earlier, value, time)),
            );
        }
        row.push(field.meaning.to_owned());
        counters.add_row(row);
    }
    let numbers = if since.is_some() { 1..3 } else { 1..2 };
    let mut text = finish(counters, numbers);
    let pools = stat.pools.as_deref().unwrap_or_default();
    if pools.is_empty() {
        return text;
    }
    let mut table = new_table(width);
    table.add_row([
        "PROTO",
        "DESTINATION",
        "SOURCE",
        "RANGE",
        "IN USE",
        "RESTING",
        "FREE",
    ]);
    for pool in pools.iter().take(FULLEST) {
        table.add_row([
            printable(&pool.protocol).into_owned(),
            destination(pool),
            pool.source.to_string(),
            pool.range.clone(),
            pool.in_use.to_string(),
            pool.resting.to_string(),
            pool.free.to_string(),
        ]);
    }
    text += "\n";
    text += &finish(table, 4..7);
    if let Some(more @ 1..) = pools.len().checked_sub(FULLEST) {
        text += &format!("and {more} pools that are less full\n");
    }
    text
}

/// Returns what the flows of a pool go to.
fn destination(pool: &Pool) -> String {
    let mut text = match pool.port {
        0 => pool.destination.to_string(),
        port => std::net::SocketAddr::new(pool.destination, port).to_string(),
    };
    if pool.zone != 0 {
        text += &format!(" zone {}", pool.zone);
    }
    text
}

/// Returns the change per second.
fn rate(earlier: u64, value: u64, time: Duration) -> String {
    let sign = if value < earlier { "-" } else { "" };
    let per_second = value.abs_diff(earlier) as f64 / time.as_secs_f64();
    if per_second.is_finite() {
        format!("{sign}{per_second:.0}")
    } else {
        "-".to_owned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::readers::ports::tests as recorded;

    /// The content of the recorded files.
    pub fn stat() -> Stat {
        Stat {
            counters: Counters::parse(recorded::COUNTERS).unwrap(),
            pools: Some(Stat::parse_pools(recorded::POOLS).unwrap()),
        }
    }

    #[test]
    fn counters_and_pools_for_people() {
        let mut stat = stat();
        let expected = "\
COUNTER                           VALUE  MEANING
flows_masqueraded                     1  flows that RUSTMASQ gave a source
ports_kept                            2  of these, flows that kept their port
ports_moved                           3  of these, flows that got another port
ports_refused                         4  packets dropped: all ports were taken
flows_over_limit                      5  packets dropped: host has its flows
lookups                               6  conntrack look-ups to choose ports
races_avoided                         7  ports that another flow had just chosen
pools                                 8  crowded destinations with a pool of ports
pools_most                            9  the most pools at any time
pools_denied                         10  pools that were not to be had
mappings                             11  mappings of inside addresses and ports
mappings_denied                      12  flows that got a port, but no mapping
inbound_filtered                     13  packets dropped: not spoken to
flows_flushed                        14  flows forgotten: address or device gone
no_address         18446744073709551615  packets dropped: no address to leave with
";
        let pools = "
PROTO   DESTINATION           SOURCE         RANGE       IN USE  RESTING   FREE
tcp     203.0.113.2:80        203.0.113.1    6000-6019       20        0      0
udp     203.0.113.2:53        203.0.113.1    1024-65535   64000       12    500
icmpv6  2001:db8:1::2 zone 7  2001:db8:1::1  0-65535          1        0  65535
";
        assert_eq!(table(&stat, None, None), format!("{expected}{pools}"));
        assert_eq!(table(&stat, None, Some(200)), format!("{expected}{pools}"));
        for none in [Some(vec![]), None] {
            stat.pools = none;
            assert_eq!(table(&stat, None, None), expected);
        }
    }

    #[test]
    fn more_pools_are_counted() {
        let mut stat = stat();
        let pool = stat.pools.as_ref().unwrap()[0].clone();
        for (count, end) in [(10, "0\n"), (11, "\nand 1 pools that are less full\n")] {
            stat.pools = Some(vec![pool.clone(); count]);
            let text = table(&stat, None, None);
            assert!(text.ends_with(end), "{text}");
            assert_eq!(text.matches("203.0.113.2:80").count(), 10);
        }
    }

    #[test]
    fn differences_are_per_second() {
        let stat = stat();
        let earlier = Counters::parse(
            &recorded::COUNTERS
                .replace("lookups 6", "lookups 0")
                .replace("pools 8", "pools 10"),
        );
        let since = (earlier.unwrap(), Duration::from_millis(500));
        let text = table(&stat, Some(Some(since)), None);
        let row = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let words: Vec<_> = line.unwrap().split_whitespace().skip(1).take(2).collect();
            words.join(" ")
        };
        assert_eq!(row("COUNTER "), "VALUE PER");
        assert_eq!(row("lookups "), "6 12");
        assert_eq!(row("pools "), "8 -4");
        assert_eq!(row("pools_most "), "9 0");
        let first = table(&stat, Some(None), None);
        assert!(
            first
                .lines()
                .any(|line| line.starts_with("pools_most ")
                    && line.contains(" 9           -  the most")),
            "{first}"
        );
    }

    #[test]
    fn rates_of_no_time_are_not_shown() {
        assert_eq!(rate(1, 2, Duration::ZERO), "-");
        assert_eq!(
            rate(0, u64::MAX, Duration::from_secs(1)),
            "18446744073709551616"
        );
    }

    #[test]
    fn a_narrow_terminal_folds() {
        for width in [60, 70, 79] {
            let text = table(&stat(), Some(None), Some(width));
            assert!(text.lines().all(|line| line.len() <= width), "{text}");
        }
    }

    #[test]
    fn json_has_all_of_it() {
        let mut text = Vec::new();
        json::append_line(&mut text, &stat()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["counters"]["no_address"], u64::MAX);
        assert_eq!(value["counters"].as_object().map(|map| map.len()), Some(15));
        assert_eq!(value["pools"][0]["range"], "6000-6019");
        assert_eq!(value["pools"][2]["destination"], "2001:db8:1::2");
        assert!(text.starts_with(b"{\"counters\": {\"flows_masqueraded\": 1, \"ports_kept\": 2, "));
    }
}
