// SPDX-License-Identifier: GPL-2.0

//! The text of iptables-save.

use std::{borrow::Cow, collections::BTreeSet};

/// A rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its words, without `-A` and the chain, and without quotes.
    pub words: Vec<String>,
}

impl Rule {
    /// Returns the word after the option, if the rule has the option without a `!`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.value(name)
            .and_then(|(value, negated)| (!negated).then_some(value))
    }

    /// Returns the word after the option, and whether a `!` negates it.
    fn value(&self, name: &str) -> Option<(&str, bool)> {
        let at = self.words.iter().position(|word| word == name)?;
        let negated = at > 0 && self.words[at - 1] == "!";
        Some((self.words.get(at + 1)?, negated))
    }

    /// Returns the rule as a shell takes it, with the command `-A` or `-D` in front of the chain.
    pub fn text(&self, command: &str) -> String {
        let mut words = vec!["-t", &self.table, command, &self.chain];
        words.extend(self.words.iter().map(String::as_str));
        let words: Vec<_> = words.into_iter().map(quoted).collect();
        words.join(" ")
    }

    /// Returns whether the rule accepts RELATED packets, at least those that the helper expects.
    fn accepts_related(&self, helper: &str) -> bool {
        if self.option("-j") != Some("ACCEPT") {
            return false;
        }
        match self.value("--ctstate").or(self.value("--state")) {
            Some((states, negated)) => states.split(',').any(|state| state == "RELATED") != negated,
            // The match "helper" looks at the flow that a RELATED one belongs to.
            None => self.words.len() == 2 || self.option("--helper") == Some(helper),
        }
    }
}

/// A ruleset of one family and one front end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ruleset {
    /// The rules, in their order.
    pub rules: Vec<Rule>,
    /// The chains that drop what no rule decides about, each with its table.
    pub dropping: Vec<(String, String)>,
    /// The tables that iptables cannot list, because other programs changed them.
    pub incompatible: Vec<String>,
}

impl Ruleset {
    /// Parses the output of iptables-save.
    pub fn parse(mut text: &str) -> Self {
        let mut ruleset = Self::default();
        let mut table = String::new();
        while !text.is_empty() {
            if text.starts_with("-A ") {
                let (words, rest) = split(text);
                text = rest;
                let mut words = words.into_iter().skip(1);
                if let Some(chain) = words.next() {
                    ruleset.rules.push(Rule {
                        table: table.clone(),
                        chain,
                        words: words.collect(),
                    });
                }
                continue;
            }
            let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
            text = rest;
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split(' ');
                if let (Some(name), Some("DROP")) = (words.next(), words.next()) {
                    ruleset.dropping.push((table.clone(), name.to_owned()));
                }
            } else if let Some((name, said)) = line
                .strip_prefix("# Table `")
                .and_then(|rest| rest.split_once("' "))
            {
                // "is incompatible", or "contains incompatible base-chains"
                if said.contains("incompatible") {
                    ruleset.incompatible.push(name.to_owned());
                }
            }
        }
        ruleset
    }

    /// Returns the rules with the target.
    pub fn with_target<'a>(&'a self, target: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.option("-j") == Some(target))
    }

    /// Returns the rules that packets of the built-in chain may meet, in the chain or in those that it jumps to.
    fn met<'a>(&'a self, table: &'a str, chain: &'a str) -> Vec<&'a Rule> {
        let mut chains = vec![chain];
        let mut seen = BTreeSet::from([chain]);
        let mut met = Vec::new();
        while let Some(chain) = chains.pop() {
            for rule in &self.rules {
                if rule.table != table || rule.chain != chain {
                    continue;
                }
                let next = rule.option("-j").or(rule.option("-g"));
                chains.extend(next.filter(|next| seen.insert(next)));
                met.push(rule);
            }
        }
        met
    }

    /// Returns the chain of the filter that drops the flows which the helper expects, if there is one: FORWARD drops
    /// those of other hosts, and INPUT drops the router's own.
    pub fn drops_related(&self, helper: &str) -> Option<&'static str> {
        [("PREROUTING", "FORWARD"), ("OUTPUT", "INPUT")]
            .into_iter()
            .find_map(|(requests, answers)| {
                let asks = |rule: &&Rule| {
                    rule.option("-j") == Some("CT") && rule.option("--helper") == Some(helper)
                };
                let drops = self
                    .dropping
                    .iter()
                    .any(|(table, chain)| table == "filter" && chain == answers)
                    && self.met("raw", requests).iter().any(asks)
                    && !self
                        .met("filter", answers)
                        .into_iter()
                        .any(|rule| rule.accepts_related(helper));
                drops.then_some(answers)
            })
    }
}

/// Splits the text into words, up to a line's end that is not in quotes. Returns what follows it, too.
///
/// iptables-save quotes a word with unusual characters by `"`, and `"`, `\` and `'` in it by a backslash. A comment
/// may contain a line's end.
fn split(text: &str) -> (Vec<String>, &str) {
    let mut words = Vec::new();
    // None between words, so that "" is one.
    let mut word: Option<String> = None;
    let mut in_quotes = false;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                in_quotes = !in_quotes;
                word.get_or_insert_default();
            }
            '\\' if in_quotes => {
                if let Some((_, c)) = chars.next() {
                    word.get_or_insert_default().push(c);
                }
            }
            ' ' if !in_quotes => words.extend(word.take()),
            '\n' if !in_quotes => {
                words.extend(word);
                return (words, &text[at + 1..]);
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (words, "")
}

/// Returns the word as a shell takes it.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || "_-+./:,=@%".contains(c);
    if word == "!" || !word.is_empty() && word.chars().all(is_usual) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.11 on Thu Nov 26 06:00:00 2026
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 69 -j CT --helper rustmasq-tftp
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2000
-A POSTROUTING -o wan1 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [12:345]
-A FORWARD -i lan0 -j ACCEPT
COMMIT
# Table `mangle' is incompatible, use 'nft' tool.
# Table `security' contains incompatible base-chains, use 'nft' tool to list them.
";

    #[test]
    fn rules_with_their_options() {
        let ruleset = Ruleset::parse(SAVED);
        let texts: Vec<_> = ruleset
            .with_target("RUSTMASQ")
            .map(|rule| rule.text("-D"))
            .collect();
        assert_eq!(
            texts,
            ["-t nat -D POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2000"]
        );
        let devices: Vec<_> = ruleset
            .rules
            .iter()
            .filter_map(|rule| rule.option("-o"))
            .collect();
        assert_eq!(devices, ["wan0", "wan1"]);
        assert_eq!(ruleset.rules[0].option("--helper"), Some("rustmasq-tftp"));
        assert_eq!(ruleset.incompatible, ["mangle", "security"]);
    }

    /// Returns a small pseudo-random number (xorshift).
    fn random(state: &mut u64, below: usize) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state >> 33).unwrap_or(0) % below
    }

    fn random_words(state: &mut u64) -> Vec<String> {
        let characters: Vec<char> = "ab-!\"\"\\\\' \n\t$`#;*漢".chars().collect();
        (0..1 + random(state, 6))
            .map(|_| {
                (0..random(state, 8))
                    .map(|_| characters[random(state, characters.len())])
                    .collect()
            })
            .collect()
    }

    /// Writes a word as xtables_save_string() of iptables does.
    fn saved(word: &str) -> String {
        let usual = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if !word.is_empty() && word.chars().all(usual) {
            return word.to_owned();
        }
        let escaped = word
            .replace('\\', r"\\")
            .replace('"', "\\\"")
            .replace('\'', r"\'");
        format!("\"{escaped}\"")
    }

    #[test]
    fn words_are_those_that_were_quoted() {
        let mut state = 1350;
        for _ in 0..2000 {
            let rules: Vec<_> = (0..3).map(|_| random_words(&mut state)).collect();
            let mut text = "*filter\n".to_owned();
            for rule in &rules {
                let words: Vec<_> = rule.iter().map(|word| saved(word)).collect();
                text += &format!("-A FORWARD {}\n", words.join(" "));
            }
            let parsed = Ruleset::parse(&text).rules;
            let parsed: Vec<_> = parsed.into_iter().map(|rule| rule.words).collect();
            assert_eq!(parsed, rules, "{text}");
        }
    }

    #[test]
    fn a_shell_takes_the_text_as_the_words() -> std::io::Result<()> {
        let mut state = 1350;
        for _ in 0..50 {
            let rule = Rule {
                table: "filter".to_owned(),
                chain: "FORWARD".to_owned(),
                words: random_words(&mut state),
            };
            let script = format!(r"printf '%s\0' {}", rule.text("-A"));
            let shell = std::process::Command::new("sh")
                .args(["-c", &script])
                .output()?;
            let mut expected = ["-t", "filter", "-A", "FORWARD", ""].join("\0");
            for word in &rule.words {
                expected += word;
                expected.push('\0');
            }
            assert_eq!(String::from_utf8_lossy(&shell.stdout), expected, "{script}");
        }
        Ok(())
    }

    #[test]
    fn a_comment_is_no_rule_and_no_option() {
        let ruleset = Ruleset::parse(
            "*nat\n-A POSTROUTING -m comment --comment \"a \\\" -j RUSTMASQ\n-A x -j RUSTMASQ\n*x\" \
            ! -o lan0 -j MASQUERADE\n-A POSTROUTING -j RUSTMASQ\n",
        );
        assert_eq!(ruleset.rules.len(), 2);
        assert_eq!(ruleset.rules[0].option("-j"), Some("MASQUERADE"));
        assert_eq!(ruleset.rules[0].option("-o"), None);
        assert_eq!(ruleset.rules[0].table, "nat");
        assert_eq!(ruleset.rules[1].words, ["-j", "RUSTMASQ"]);
    }

    #[test]
    fn a_filter_that_drops_related_packets() {
        let dropping = |text: &str| Ruleset::parse(text).drops_related("rustmasq-tftp");
        assert_eq!(dropping(SAVED), Some("FORWARD"));
        assert_eq!(Ruleset::parse(SAVED).drops_related("tftp"), None);
        let own = SAVED.replace("PREROUTING", "OUTPUT");
        assert_eq!(dropping(&own), None);
        assert_eq!(dropping(&own.replace("FORWARD", "INPUT")), Some("INPUT"));
        for (from, to) in [
            ("FORWARD DROP", "FORWARD ACCEPT"),
            ("-i lan0", "-m conntrack --ctstate RELATED,ESTABLISHED"),
            ("-i lan0", "-m conntrack ! --ctstate INVALID"),
            ("-i lan0", "-m state --state RELATED"),
            ("-i lan0 -j ACCEPT", "-j ACCEPT"),
            ("-i lan0", "-m helper --helper \"rustmasq-tftp\""),
            ("-j CT", "-m helper"),
            (
                "-A FORWARD -i lan0 -j ACCEPT",
                "-A FORWARD -j own\n-A own -g deep\n-A deep -j own\n-A deep -m state --state RELATED -j ACCEPT",
            ),
        ] {
            assert_eq!(dropping(&SAVED.replace(from, to)), None, "{to}");
        }
        for (from, to) in [
            ("-i lan0", "-m conntrack --ctstate ESTABLISHED"),
            ("-i lan0", "-m conntrack ! --ctstate RELATED"),
            ("-i lan0", "-m helper --helper tftp"),
            (
                "-A FORWARD -i lan0 -j ACCEPT",
                "-A own -m state --state RELATED -j ACCEPT",
            ),
            ("-A PREROUTING -p", "-A PREROUTING -j own\n-A own -p"),
        ] {
            assert_eq!(dropping(&SAVED.replace(from, to)), Some("FORWARD"), "{to}");
        }
    }

    #[test]
    fn text_that_is_no_ruleset() {
        for text in [
            "",
            "-A",
            "-A x",
            "-A ",
            "-A \"",
            "-A x \"\\",
            "-A x \"-j RUSTMASQ",
            "-A x ! ! -j",
            ":",
            ":x",
            "*",
            "\n\n",
            "# Table `x",
            "-A x -j",
        ] {
            let ruleset = Ruleset::parse(text);
            assert_eq!(ruleset.with_target("RUSTMASQ").count(), 0, "{text}");
            assert_eq!(ruleset.drops_related("x"), None);
        }
    }

    #[test]
    fn no_change_of_a_character_is_a_panic() {
        for at in 0..SAVED.len() {
            for character in ["\"", "\\", "\n", " ", "!", "*", ":", "漢", ""] {
                let text = format!("{}{character}{}", &SAVED[..at], &SAVED[at + 1..]);
                assert!(Ruleset::parse(&text).rules.len() <= 5);
            }
        }
    }
}
