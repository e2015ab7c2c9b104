// SPDX-License-Identifier: GPL-2.0

//! Reports of what was lost, summed.

use std::time::{Duration, Instant};

/// Losses are reported once in this time, at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// Sums what is lost until it is reported.
#[derive(Debug)]
pub struct Lost {
    what: &'static str,
    count: u64,
    /// There were more, a number that nobody knows.
    uncounted: bool,
    reported: Option<Instant>,
}

impl Lost {
    /// Returns a sum of nothing. `what` names what is lost, in the plural.
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            count: 0,
            uncounted: false,
            reported: None,
        }
    }

    /// Adds a loss, `None` if its number is not known.
    pub fn add(&mut self, count: Option<u64>) {
        match count {
            Some(count) => self.count = self.count.saturating_add(count),
            None => self.uncounted = true,
        }
    }

    /// Returns the report that is due, if there is one.
    pub fn due(&mut self, now: Instant) -> Option<String> {
        let is_recent = |last| now.saturating_duration_since(last) < INTERVAL;
        if self.reported.is_some_and(is_recent) {
            return None;
        }
        let message = self.rest()?;
        self.reported = Some(now);
        Some(message)
    }

    /// Returns a report of all that was not reported, if there is something.
    pub fn rest(&mut self) -> Option<String> {
        let count = match (self.count, self.uncounted) {
            (0, false) => return None,
            (0, true) => "some".to_owned(),
            (count, false) => count.to_string(),
            (count, true) => format!("more than {count}"),
        };
        (self.count, self.uncounted) = (0, false);
        Some(format!(
            "{count} {} were lost: they came faster than rustmasq reads",
            self.what
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what a report begins with.
    fn number(message: Option<String>) -> Option<String> {
        Some(message?.split_once(" events were lost: ")?.0.to_owned())
    }

    #[test]
    fn reports_are_a_second_apart_and_their_sum_is_exact() {
        let mut lost = Lost::new("events");
        let begin = Instant::now();
        let mut sum = 0;
        let mut times = Vec::new();
        // A loss every 30 ms, for 4.5 s.
        for step in 0..150 {
            lost.add(Some(step + 1));
            let at = Duration::from_millis(30 * step);
            if let Some(message) = lost.due(begin + at) {
                sum += number(Some(message)).map_or(0, |count| count.parse().unwrap_or(0));
                times.push(at.as_millis());
            }
        }
        assert_eq!(times, [0, 1020, 2040, 3060, 4080]);
        sum += number(lost.rest()).map_or(0, |count| count.parse().unwrap_or(0));
        assert_eq!(sum, 150 * 151 / 2);
        assert_eq!(lost.rest(), None);
    }

    #[test]
    fn a_loss_of_an_unknown_number() {
        let mut lost = Lost::new("events");
        assert_eq!(lost.due(Instant::now()), None);
        lost.add(None);
        assert_eq!(number(lost.rest()).as_deref(), Some("some"));
        lost.add(None);
        lost.add(Some(u64::MAX));
        lost.add(Some(1));
        let most = format!("more than {}", u64::MAX);
        assert_eq!(number(lost.rest()), Some(most));
    }
}
