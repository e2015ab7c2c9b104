// SPDX-License-Identifier: GPL-2.0

//! Fuzz target: any command line.
//!
//! The input is the words of the command line, separated by NUL bytes. The first word is the
//! program's name; with a `6` in it, the family is IPv6, and with a `0`, the kernel has only revision 0.

#![no_main]
#![deny(unsafe_code)]

use iptables::{
    oracle,
    parse,
    Family,
    Target, //
};
use libfuzzer_sys::{
    fuzz_mutator,
    fuzz_target,
    fuzzer_mutate, //
};
// Linked only: the extension registers itself.
use xt_RUSTMASQ as _;

/// Words to insert, which mutations of single bytes would take long to find.
const PHRASES: [&str; 40] = [
    "!",
    "!\0-p\x006",
    "-p\x000",
    "-p\x001",
    "-p\x006",
    "-p\x0017",
    "-p\x0058",
    "-p\x00132",
    "--to-ports",
    "--to-ports\x001-65535",
    "--to-ports\x009-10",
    "--to-ports\x0065535",
    "--to-ports\0http",
    "--to-ports\0ftp-data-who",
    "--to-ports\0a-b-c",
    "--to-ports\0syslog-1513",
    "--random",
    "--random-fully",
    "--when-full",
    "--when-full\0drop",
    "--when-full\0reject",
    "--full-cone",
    "--address-restricted-cone",
    "--port-restricted-cone",
    "--to-ports\x001-9,11,4096-8191",
    "--to-ports\x002,4,6,8,10,12,14,16,18,20,22,24,26,28,30",
    "--psid",
    "--psid\x006/8/52",
    "--psid\x000/0/0",
    "--psid\x000/16/65535",
    "--except-ports",
    "--except-ports\0http,30000-32767",
    "--except-ports\x001-65534",
    "--except-reserved",
    "--max-flows-per-host\x004294967295",
    "--keep-own\0--route-source",
    "drop",
    "65536",
    "\u{1b}[31m",
    "\u{202e}",
];

fuzz_target!(|data: &[u8]| {
    let line = oracle::split_words(data);
    let family = match line[0].as_bytes().contains(&b'6') {
        true => Family::Ipv6,
        false => Family::Ipv4,
    };
    let revision = u8::from(!line[0].as_bytes().contains(&b'0'));
    let target = Target { family, revision };
    let outcome = parse(target, &line);
    let rule = oracle::check_options(target, &outcome);
    if let Some(refusal) = &outcome.refusal {
        oracle::check_refusal(
            refusal,
            outcome.options.last().expect("the last option was refused"),
        );
        return;
    }
    assert!(oracle::kernel_accepts(target, &rule), "{rule:?}");
    let saved = oracle::save_text(target, &rule);
    assert_eq!(oracle::parse_saved(target, &saved), rule, "{saved:?}");
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let (choice, seed) = (seed % 3, seed / 3);
    let line = mutate(&data[..size], seed);
    if choice != 0 || line.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..line.len()].copy_from_slice(&line);
    line.len()
});

/// Inserts a phrase, removes a word, or both.
fn mutate(line: &[u8], seed: u32) -> Vec<u8> {
    // CAST: A `usize` has at least 32 bits on the hosts that run the fuzz targets.
    let mut seed = seed as usize;
    let mut pick = |n: usize| {
        let picked = seed % n;
        seed /= n;
        picked
    };
    let (insert, remove) = [(true, false), (false, true), (true, true)][pick(3)];
    let phrase = PHRASES[pick(PHRASES.len())];
    let mut words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
    let position = pick(words.len());
    if remove {
        words.remove(position);
    }
    if insert {
        words.insert(words.len().min(position + 1), phrase.as_bytes());
    }
    words.join(&0)
}
