// SPDX-License-Identifier: GPL-2.0

//! The signals that end the program.

use crate::Failure;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use std::{fs, io};

/// Blocks the signals that end the program, and returns a descriptor that is readable once one came.
///
/// They stay blocked, so that none interrupts the cleanup. A blocked signal is delivered even if it is ignored, as
/// a shell ignores SIGINT for its background processes. nohup ignores SIGHUP, and so must its program.
pub fn block() -> Result<SignalFd, Failure> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        signals.add(signal);
    }
    if !is_ignored(
        Signal::SIGHUP,
        &fs::read_to_string("/proc/self/status").unwrap_or_default(),
    ) {
        signals.add(Signal::SIGHUP);
    }
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    signals
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&signals, flags))
        .map_err(|error| Failure::io("signals", &io::Error::from(error)))
}

/// Returns whether the signal is ignored, by the content of /proc/self/status.
fn is_ignored(signal: Signal, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals() {
        let status =
            "SigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert!(is_ignored(Signal::SIGHUP, status));
        assert!(is_ignored(Signal::SIGPIPE, status));
        assert!(!is_ignored(Signal::SIGINT, status));
        assert!(!is_ignored(Signal::SIGHUP, ""));
        assert!(!is_ignored(Signal::SIGHUP, "SigIgn:\tx\n"));
    }
}
