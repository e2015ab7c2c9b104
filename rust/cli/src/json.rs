// SPDX-License-Identifier: GPL-2.0

//! JSON of one line for each object, with a blank after commas and colons.

use serde::Serialize;
use serde_json::{ser::Formatter, Serializer};
use std::io;

/// Appends the value as a line.
pub fn append_line(to: &mut Vec<u8>, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *to, Spaced))?;
    to.push(b'\n');
    Ok(())
}

struct Spaced;

impl Spaced {
    fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
        if first {
            return Ok(());
        }
        writer.write_all(b", ")
    }
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_blanks_after_commas_and_colons() -> io::Result<()> {
        let mut line = Vec::new();
        append_line(
            &mut line,
            &serde_json::json!({"a": [1, 2, []], "b": {"c": null, "d": "x\u{1b}\n"}}),
        )?;
        assert_eq!(
            line,
            b"{\"a\": [1, 2, []], \"b\": {\"c\": null, \"d\": \"x\\u001b\\n\"}}\n"
        );
        Ok(())
    }
}
