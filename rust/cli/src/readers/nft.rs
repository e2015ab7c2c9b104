// SPDX-License-Identifier: GPL-2.0

//! The JSON of nft.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An object of nftables that stands for a helper, which its rules can give to flows.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HelperObject {
    /// The family of its table.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The helper.
    #[serde(rename(deserialize = "type"))]
    pub helper: String,
}

/// A chain of nftables with a rule that masquerades.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct MasqueradeChain {
    /// The family of its table.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
}

/// The parts of a ruleset that the program asks for.
#[derive(Debug, Default)]
pub struct Ruleset {
    /// The objects that stand for helpers.
    pub helpers: Vec<HelperObject>,
    /// The chains with the statement `masquerade`, once for each rule.
    pub masquerades: Vec<MasqueradeChain>,
}

#[derive(Deserialize)]
struct List {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "ct helper")]
    object: Option<HelperObject>,
    rule: Option<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(flatten)]
    chain: MasqueradeChain,
    #[serde(default)]
    expr: Vec<Value>,
}

impl Ruleset {
    /// Parses the output of `nft -j list ruleset`. Keeps the objects of those helpers that `wanted` says.
    pub fn parse(json: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, serde_json::Error> {
        let List { nftables } = serde_json::from_slice(json)?;
        let mut found = Self::default();
        for Item { object, rule } in nftables {
            found
                .helpers
                .extend(object.filter(|object| wanted(&object.helper)));
            let masquerades = |rule: &Rule| {
                let mut statements = rule.expr.iter();
                statements.any(|statement| statement.get("masquerade").is_some())
            };
            found
                .masquerades
                .extend(rule.filter(masquerades).map(|rule| rule.chain));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of nft 1.1.3.
    const PRINTED: &str = include_str!("../../tests/data/nft_ruleset.json");

    #[test]
    fn objects_of_the_helper_alone() -> Result<(), serde_json::Error> {
        let names = |helper: &str| -> Result<Vec<_>, serde_json::Error> {
            let helpers = Ruleset::parse(PRINTED.as_bytes(), |name| name == helper)?.helpers;
            Ok(helpers
                .into_iter()
                .map(|object| [object.family, object.table, object.name].join(" "))
                .collect())
        };
        assert_eq!(names("rustmasq-tftp")?, ["inet t x"]);
        assert_eq!(names("tftp")?, ["inet t y"]);
        assert!(names("ftp")?.is_empty());
        Ok(())
    }

    #[test]
    fn chains_that_masquerade() -> Result<(), serde_json::Error> {
        let found = Ruleset::parse(
            br#"{"nftables": [
                {"rule": {"family": "inet", "table": "t", "chain": "a", "handle": 1, "expr": [
                    {"counter": {"packets": 0, "bytes": 0}}, {"masquerade": {"port": 7000}}]}},
                {"rule": {"family": "ip", "table": "t", "chain": "b", "handle": 2, "expr": [{"masquerade": null}]}},
                {"rule": {"family": "ip", "table": "nat", "chain": "c", "handle": 3, "expr": [
                    {"xt": {"type": "target", "name": "MASQUERADE"}}]}},
                {"rule": {"family": "ip", "table": "t", "chain": "d", "handle": 4, "comment": "masquerade"}}]}"#,
            |_| true,
        )?;
        let chains: Vec<_> = found.masquerades.iter().map(|found| &found.chain).collect();
        assert_eq!(chains, ["a", "b"]);
        Ok(())
    }

    #[test]
    fn text_that_is_no_ruleset_is_an_error() {
        let parse = |text: &[u8]| Ruleset::parse(text, |_| true).map(|found| found.helpers);
        assert!(parse(b"{\"nftables\": []}").is_ok_and(|found| found.is_empty()));
        for text in [
            "",
            "[]",
            "{}",
            "{\"nftables\": 1}",
            "{\"nftables\": [1]}",
            "{\"nftables\": [{\"ct helper\": {}}]}",
            "{\"nftables\": [{\"ct helper\": {\"family\": 1, \"table\": \"\", \"name\": \"\", \"type\": \"\"}}]}",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        for end in 0..PRINTED.trim_end().len() {
            assert!(parse(&PRINTED.as_bytes()[..end]).is_err());
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
