// SPDX-License-Identifier: GPL-2.0

//! The JSON of nft.

use serde::{Deserialize, Serialize};

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

#[derive(Deserialize)]
struct List {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "ct helper")]
    object: Option<HelperObject>,
}

/// Returns the objects of those helpers that `wanted` says, from the output of `nft -j list ruleset`.
pub fn parse_helpers(
    json: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<HelperObject>, serde_json::Error> {
    let List { nftables } = serde_json::from_slice(json)?;
    let objects = nftables.into_iter().filter_map(|item| item.object);
    Ok(objects.filter(|object| wanted(&object.helper)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of nft 1.1.3.
    const PRINTED: &str = include_str!("../../tests/data/nft_ruleset.json");

    #[test]
    fn objects_of_the_helper_alone() -> Result<(), serde_json::Error> {
        let names = |helper: &str| -> Result<Vec<_>, serde_json::Error> {
            let helpers = parse_helpers(PRINTED.as_bytes(), |name| name == helper)?;
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
    fn text_that_is_no_ruleset_is_an_error() {
        assert!(parse_helpers(b"{\"nftables\": []}", |_| true).is_ok_and(|found| found.is_empty()));
        for text in [
            "",
            "[]",
            "{}",
            "{\"nftables\": 1}",
            "{\"nftables\": [1]}",
            "{\"nftables\": [{\"ct helper\": {}}]}",
            "{\"nftables\": [{\"ct helper\": {\"family\": 1, \"table\": \"\", \"name\": \"\", \"type\": \"\"}}]}",
        ] {
            assert!(parse_helpers(text.as_bytes(), |_| true).is_err(), "{text}");
        }
        for end in 0..PRINTED.trim_end().len() {
            assert!(parse_helpers(&PRINTED.as_bytes()[..end], |_| true).is_err());
        }
        assert!(parse_helpers("[".repeat(100_000).as_bytes(), |_| true).is_err());
    }
}
