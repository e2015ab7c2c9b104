// SPDX-License-Identifier: GPL-2.0

//! The table and the chain that a command line puts a rule into.
//!
//! libxtables tells an extension neither of them, and of the kernel's refusal iptables shows only
//! `Invalid argument`. So the words of iptables' own command line are read. They are read with
//! caution, for an argument of another extension may look like an option: a word decides only if
//! it is the only one of its kind and names a built-in table or chain. In any other case the kernel
//! decides.

use std::fmt;

/// The tables of iptables, except `nat`.
const OTHER_TABLES: [&str; 4] = ["filter", "mangle", "raw", "security"];

/// The built-in chains of iptables, except `POSTROUTING`.
const OTHER_CHAINS: [&str; 4] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT"];

/// A place where the target is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongPlace<'a> {
    /// `-t` names another table than `nat`.
    Table(&'a str),
    /// Without `-t` the table is `filter`.
    NoTable,
    /// A built-in chain other than `POSTROUTING`.
    Chain(&'a str),
}

/// Returns why the target is not valid where a command line adds its rule, or `None` if it may be.
///
/// `words` are the command line without the program's name.
pub(crate) fn wrong_place<'a>(words: &[&'a str]) -> Option<WrongPlace<'a>> {
    let chain = Only::of(
        words,
        &[("-A", "--append"), ("-I", "--insert"), ("-R", "--replace")],
    );
    // Other commands (-C, -D) change nothing, or the rule cannot be there.
    let chain = match chain {
        Only::Value(chain) => chain,
        Only::Missing | Only::Unclear => return None,
    };
    if OTHER_CHAINS.contains(&chain) {
        return Some(WrongPlace::Chain(chain));
    }
    match Only::of(words, &[("-t", "--table")]) {
        Only::Value(table) => OTHER_TABLES
            .contains(&table)
            .then_some(WrongPlace::Table(table)),
        Only::Missing if !words.iter().any(|word| may_be_table(word)) => Some(WrongPlace::NoTable),
        Only::Missing | Only::Unclear => None,
    }
}

/// Names the place and what is allowed.
impl fmt::Display for WrongPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => {
                write!(f, "table \"{table}\" has no such target; allowed: -t nat")
            }
            Self::NoTable => {
                f.write_str("table \"filter\", the default, has no such target; allowed: -t nat")
            }
            Self::Chain(chain) => write!(
                f,
                "chain \"{chain}\" has no such target; allowed: POSTROUTING of table nat, \
                 and user-defined chains that only it leads to"
            ),
        }
    }
}

/// The value of an option that can be given once.
enum Only<'a> {
    Missing,
    Value(&'a str),
    /// The option is given more than once, or has no value.
    Unclear,
}

impl<'a> Only<'a> {
    /// Looks for options that exclude each other, by their short and long names. The value follows
    /// as a word, or after a long name and `=`.
    fn of(words: &[&'a str], names: &[(&str, &str)]) -> Self {
        let mut values = words.iter().enumerate().filter_map(|(position, word)| {
            names.iter().find_map(|&(short, long)| {
                if *word == short || *word == long {
                    Some(words.get(position + 1).copied())
                } else {
                    word.strip_prefix(long)?.strip_prefix('=').map(Some)
                }
            })
        });
        match (values.next(), values.next()) {
            (None, _) => Self::Missing,
            (Some(Some(value)), None) => Self::Value(value),
            (Some(_), _) => Self::Unclear,
        }
    }
}

/// Returns whether getopt may read the word as one that names the table: `-tnat`, `-vt`, `--tab=nat`.
fn may_be_table(word: &str) -> bool {
    if let Some(long) = word.strip_prefix("--") {
        let name = long.split('=').next().unwrap_or(long);
        return !name.is_empty() && "table".starts_with(name);
    }
    word.strip_prefix('-')
        .is_some_and(|rest| rest.contains('t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<WrongPlace<'_>> {
        let words: Vec<_> = line.split(' ').collect();
        wrong_place(&words)
    }

    #[test]
    fn right_places() {
        for line in [
            "-t nat -A POSTROUTING -j RUSTMASQ",
            "-w -t nat -I POSTROUTING 1 -j RUSTMASQ",
            "--table nat --append POSTROUTING -j RUSTMASQ",
            "--table=nat --append=POSTROUTING -j RUSTMASQ",
            "-t nat -A leave -j RUSTMASQ",
            "-A POSTROUTING -j RUSTMASQ -t nat",
            "-A POSTROUTING -j RUSTMASQ --table=nat",
        ] {
            assert_eq!(None, of(line), "{line}");
        }
    }

    #[test]
    fn wrong_chains() {
        for chain in ["PREROUTING", "INPUT", "FORWARD", "OUTPUT"] {
            for line in [
                "-t nat -A",
                "-vt nat -I",
                "-tnat -R",
                "-t nat --append",
                "-A",
            ] {
                let line = format!("{line} {chain} -j RUSTMASQ");
                assert_eq!(Some(WrongPlace::Chain(chain)), of(&line), "{line}");
            }
            let line = format!("-t nat --insert={chain} 1 -j RUSTMASQ");
            assert_eq!(Some(WrongPlace::Chain(chain)), of(&line), "{line}");
        }
    }

    #[test]
    fn wrong_tables() {
        for table in ["filter", "mangle", "raw", "security"] {
            for line in [
                "-t TABLE -A POSTROUTING",
                "--table=TABLE -I own 3",
                "-R own 1 --table TABLE",
            ] {
                let line = format!("{} -j RUSTMASQ", line.replace("TABLE", table));
                assert_eq!(Some(WrongPlace::Table(table)), of(&line), "{line}");
            }
        }
    }

    #[test]
    fn no_table_is_filter() {
        for line in [
            "-A POSTROUTING -j RUSTMASQ",
            "-w -I own 1 -p tcp -j RUSTMASQ --random",
            "-A own -m mark --mark 1 -j RUSTMASQ",
            "-A own -p tcp -j RUSTMASQ --to-ports 5",
        ] {
            assert_eq!(Some(WrongPlace::NoTable), of(line), "{line}");
        }
    }

    #[test]
    fn words_that_may_name_the_table() {
        for line in [
            "-tnat -A POSTROUTING -j RUSTMASQ",
            "-vt nat -A POSTROUTING -j RUSTMASQ",
            "--tab nat -A POSTROUTING -j RUSTMASQ",
            "--tab=nat -A POSTROUTING -j RUSTMASQ",
            // It does not, but whoever wants to be sure has to know all options.
            "-A POSTROUTING -m comment --comment -text -j RUSTMASQ",
        ] {
            assert_eq!(None, of(line), "{line}");
        }
    }

    #[test]
    fn arguments_that_look_like_options() {
        for line in [
            "-t nat -A POSTROUTING -m comment --comment -A -j RUSTMASQ",
            "-t nat -A POSTROUTING -m comment --comment -t -j RUSTMASQ",
            "-t nat -A POSTROUTING -m comment --comment -AFORWARD -j RUSTMASQ",
            "-t nat -A POSTROUTING -m comment --comment -tfilter -j RUSTMASQ",
            "-t nat -A POSTROUTING -m comment --comment --table=filter -j RUSTMASQ",
            "-t nat -A POSTROUTING -m comment --comment FORWARD -j RUSTMASQ",
            "-t nat -A POSTROUTING -j RUSTMASQ -m comment --comment -t",
        ] {
            assert_eq!(None, of(line), "{line}");
        }
    }

    #[test]
    fn other_tables_and_commands() {
        for line in [
            "-t foo -A POSTROUTING -j RUSTMASQ",
            "-t nat -C PREROUTING -j RUSTMASQ",
            "-t mangle -D POSTROUTING -j RUSTMASQ",
            "-j RUSTMASQ",
            "-A",
            "-t",
            "",
        ] {
            assert_eq!(None, of(line), "{line}");
        }
    }

    #[test]
    fn texts_name_the_place_and_what_is_allowed() {
        assert_eq!(
            "table \"raw\" has no such target; allowed: -t nat",
            WrongPlace::Table("raw").to_string()
        );
        assert_eq!(
            "table \"filter\", the default, has no such target; allowed: -t nat",
            WrongPlace::NoTable.to_string()
        );
        assert_eq!(
            "chain \"INPUT\" has no such target; allowed: POSTROUTING of table nat, \
             and user-defined chains that only it leads to",
            WrongPlace::Chain("INPUT").to_string()
        );
    }
}
