// SPDX-License-Identifier: GPL-2.0

//! `rustmasq mappings`: lists which outside port belongs to which inside address and port.

use crate::{
    arguments, json,
    output::{finish, new_table, printable, screen_width},
    readers::mappings::Mapping,
    End, Failure,
};
use std::{
    fs,
    io::{self, Write as _},
};

/// The file, of this thread's network namespace.
const MAPPINGS: &str = "/proc/thread-self/net/rustmasq_mappings";

/// Lists the mappings.
pub fn run(options: &arguments::Mappings) -> Result<(), End> {
    let mappings = look()?;
    let text = if options.json {
        let mut text = Vec::new();
        for mapping in &mappings {
            json::append_line(&mut text, mapping).map_err(|error| Failure::io("JSON", &error))?;
        }
        text
    } else {
        table(&mappings, screen_width()).into_bytes()
    };
    match io::stdout().write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("standard output", &error).into())
        }
        _ => Ok(()),
    }
}

fn look() -> Result<Vec<Mapping>, Failure> {
    let text = fs::read_to_string(MAPPINGS).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Failure::new("the module rustmasq is not loaded (modprobe rustmasq)")
        } else {
            Failure::io("/proc/net/rustmasq_mappings", &error)
        }
    })?;
    let device = |index| {
        let name = nix::net::if_::if_indextoname(index).ok()?;
        Some(name.to_string_lossy().into_owned())
    };
    let mut mappings = Mapping::parse_all(&text, device).map_err(|line| {
        Failure::new(format!(
            "/proc/net/rustmasq_mappings: '{line}' is no mapping: program and module are of different versions"
        ))
    })?;
    mappings.sort_by_key(|mapping| (mapping.inside, mapping.protocol.clone(), mapping.outside));
    Ok(mappings)
}

/// Returns the text for people. `width` is that of the terminal, if the output is one.
fn table(mappings: &[Mapping], width: Option<usize>) -> String {
    let mut table = new_table(width);
    table.add_row([
        "PROTO", "INSIDE", "OUTSIDE", "DEVICE", "CONE", "FLOWS", "INBOUND", "AGE", "UNUSED",
    ]);
    for mapping in mappings {
        let zone = match mapping.zone {
            0 => String::new(),
            zone => format!(" zone {zone}"),
        };
        table.add_row([
            printable(&mapping.protocol).into_owned(),
            format!("{}{zone}", mapping.inside),
            mapping.outside.to_string(),
            printable(&mapping.device).into_owned(),
            printable(&mapping.cone).into_owned(),
            mapping.flows.to_string(),
            mapping.inbound.to_string(),
            format!("{} s", mapping.age),
            format!("{} s", mapping.unused),
        ]);
    }
    finish(table, 5..9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::mappings::tests::{device, MAPPINGS};

    #[test]
    fn a_line_for_each_mapping() {
        let mappings = Mapping::parse_all(MAPPINGS, device).unwrap();
        let expected = "\
PROTO  INSIDE                    OUTSIDE               DEVICE  CONE  FLOWS  INBOUND    AGE  UNUSED
udp    172.18.0.2:4000           203.0.113.1:4001      wan0    full      2        1    9 s     3 s
tcp    [fd00:18::2]:4000 zone 5  [2001:db8:1::1]:4000  8       port      0        0  400 s   200 s
";
        assert_eq!(table(&mappings, None), expected);
    }
}
