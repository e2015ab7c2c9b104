// SPDX-License-Identifier: GPL-2.0

//! Flows for people: aligned columns, which fold on a narrow terminal.

use crate::{
    ends::{Both, FlowEnd},
    output::printable,
    readers::events::{Flow, Tuple, Zones},
};
use anstyle::{AnsiColor, Style};
use jiff::{tz::TimeZone, Timestamp};
use std::borrow::Cow;
use unicode_width::UnicodeWidthStr;

const COLUMNS: usize = 8;
const NAMES: [&str; COLUMNS] = [
    "TIME",
    "NAMESPACE",
    "PROTO",
    "IN",
    "OUT",
    "ORIGINAL",
    "BECAME",
    "MOVED",
];
/// The longest IPv4 flow, 255.255.255.255:65535->255.255.255.255:65535, has 44 characters.
const WIDTHS: [usize; COLUMNS] = [12, 9, 6, 5, 5, 44, 44, 0];
/// The width that the last column should have at least, for it to stay on the line.
const LAST: usize = 32;
const GAP: usize = 2;
/// The lines after the first of a folded flow begin below the column NAMESPACE.
const INDENT: usize = WIDTHS[0] + GAP;

const HEADER: Style = Style::new().bold();
const UNIMPORTANT: Style = Style::new().dimmed();
const NOTICEABLE: Style = AnsiColor::Yellow.on_default();
const CONSPICUOUS: Style = AnsiColor::Red.on_default().bold();

/// Text with its style.
struct Cell<'a> {
    text: Cow<'a, str>,
    style: Style,
}

impl<'a> Cell<'a> {
    fn plain(text: impl Into<Cow<'a, str>>) -> Self {
        Self {
            text: text.into(),
            style: Style::new(),
        }
    }
}

/// Aligns the columns of flows. A longer cell widens its column for good.
pub struct Table {
    widths: [usize; COLUMNS],
    /// The width of the terminal, if the output is one.
    screen: Option<usize>,
    coloured: bool,
    time_zone: TimeZone,
}

impl Table {
    /// Returns a table without a line.
    pub fn new(screen: Option<usize>, coloured: bool, time_zone: TimeZone) -> Self {
        Self {
            widths: WIDTHS,
            screen,
            coloured,
            time_zone,
        }
    }

    /// Sets the width of the terminal. Returns whether it changed.
    pub fn resize(&mut self, screen: Option<usize>) -> bool {
        std::mem::replace(&mut self.screen, screen) != screen
    }

    /// Appends the header.
    pub fn append_header(&mut self, to: &mut Vec<u8>) {
        self.append(
            to,
            &NAMES.map(|name| Cell {
                text: name.into(),
                style: HEADER,
            }),
        );
    }

    /// Appends a flow that began.
    pub fn append_begin(&mut self, to: &mut Vec<u8>, flow: &Flow<'_>) {
        let device = |name: Option<&str>| printable(name.unwrap_or("-")).into_owned();
        let head = [
            namespace(flow.namespace, flow.netns, flow.zone),
            printable(flow.proto),
            device(flow.input).into(),
            device(flow.output).into(),
        ];
        self.append_flow(
            to,
            flow.time,
            head,
            [flow.original, flow.reply],
            moved(flow),
        );
    }

    /// Appends a flow that ended.
    pub fn append_end(&mut self, to: &mut Vec<u8>, end: &FlowEnd<'_>) {
        let head = [
            namespace(end.namespace, end.netns, end.zone),
            printable(&end.proto),
            "-".into(),
            "-".into(),
        ];
        self.append_flow(to, end.time, head, [end.original, end.reply], ended(end));
    }

    fn append_flow(
        &mut self,
        to: &mut Vec<u8>,
        time: f64,
        head: [Cow<'_, str>; 4],
        [original, reply]: [Tuple; 2],
        last: Cell<'_>,
    ) {
        let [namespace, protocol, input, output] = head.map(Cell::plain);
        let time = Cell {
            text: self.time(time).into(),
            style: UNIMPORTANT,
        };
        let original = Cell::plain(original.to_string());
        // The flow's packets as the host that answers sees them.
        let became = Cell::plain(reply.reversed().to_string());
        self.append(
            to,
            &[
                time, namespace, protocol, input, output, original, became, last,
            ],
        );
    }

    /// Returns the time of day in the table's time zone.
    fn time(&self, seconds: f64) -> String {
        // CAST: A number that is out of range, which no clock shows, becomes one at its end.
        let time =
            Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap_or(Timestamp::UNIX_EPOCH);
        let time = self.time_zone.to_datetime(time);
        let milliseconds = time.subsec_nanosecond() / 1_000_000;
        format!(
            "{:02}:{:02}:{:02}.{milliseconds:03}",
            time.hour(),
            time.minute(),
            time.second()
        )
    }

    fn append(&mut self, to: &mut Vec<u8>, cells: &[Cell<'_>; COLUMNS]) {
        for (width, cell) in self.widths.iter_mut().zip(cells).take(COLUMNS - 1) {
            *width = (*width).max(cell.text.width());
        }
        let begins = self.line_begins();
        let mut column = 0;
        // The blanks that are due before the next cell.
        let mut blanks = 0;
        for (n, cell) in cells.iter().enumerate() {
            if begins[n] {
                to.push(b'\n');
                (column, blanks) = (0, INDENT);
            }
            column += blanks;
            to.resize(to.len() + blanks, b' ');
            if n == COLUMNS - 1 {
                self.append_folded(to, cell, column);
            } else {
                self.append_cell(to, &cell.text, cell.style);
            }
            column += self.widths[n];
            blanks = self.widths[n].saturating_sub(cell.text.width()) + GAP;
            column -= blanks - GAP;
        }
        to.push(b'\n');
    }

    /// Returns the columns that begin another line, for the terminal's width.
    fn line_begins(&self) -> [bool; COLUMNS] {
        let mut begins = [false; COLUMNS];
        let Some(screen) = self.screen else {
            return begins;
        };
        let mut used = 0;
        for (n, width) in self.widths.iter().enumerate() {
            let needed = if n == COLUMNS - 1 { LAST } else { *width };
            if n > 0 && used + GAP + needed > screen {
                begins[n] = true;
                used = INDENT + needed;
            } else {
                used += GAP + needed;
            }
        }
        begins
    }

    /// Appends the last cell from the column on, folded after its commas where the terminal ends.
    fn append_folded(&self, to: &mut Vec<u8>, cell: &Cell<'_>, column: usize) {
        let Some(screen) = self.screen else {
            return self.append_cell(to, &cell.text, cell.style);
        };
        let mut used = column;
        for part in cell.text.split_inclusive(',') {
            if used > column && used + part.width() > screen {
                to.push(b'\n');
                to.resize(to.len() + column, b' ');
                used = column;
            }
            self.append_cell(to, part, cell.style);
            used += part.width();
        }
    }

    fn append_cell(&self, to: &mut Vec<u8>, text: &str, style: Style) {
        if self.coloured && style != Style::new() {
            to.extend_from_slice(format!("{style}{text}{style:#}").as_bytes());
        } else {
            to.extend_from_slice(text.as_bytes());
        }
    }
}

/// Returns the column NAMESPACE, with the conntrack zones if there are any.
fn namespace(name: Option<&str>, inode: u64, zone: Zones) -> Cow<'_, str> {
    let name = match name {
        Some(name) => printable(name),
        None => inode.to_string().into(),
    };
    match (zone.original, zone.reply) {
        (0, 0) => name,
        (original, reply) if original == reply => format!("{name} zone {original}").into(),
        (original, reply) => format!("{name} zone {original}/{reply}").into(),
    }
}

/// Returns what takes the place of the column MOVED when a flow ended.
fn ended(end: &FlowEnd<'_>) -> Cell<'static> {
    let mut text = "ended".to_owned();
    if let Some(duration) = end.duration {
        text.push_str(&format!(" after {duration:.3} s"));
    }
    for (counts, unit) in [(end.packets, "packets"), (end.bytes, "bytes")] {
        if let Some(Both { original, reply }) = counts {
            text.push_str(&format!(", {original}+{reply} {unit}"));
        }
    }
    Cell {
        text: text.into(),
        style: UNIMPORTANT,
    }
}

/// Returns the column MOVED.
fn moved<'a>(flow: &Flow<'a>) -> Cell<'a> {
    if flow.moved.is_empty() {
        return Cell {
            text: "nothing".into(),
            style: UNIMPORTANT,
        };
    }
    let mut parts = flow.moved.join(",");
    let is_foreign = flow.source == Some("foreign");
    if is_foreign {
        parts.push_str(",foreign-source");
    }
    if let Some(holder) = flow.taken_by {
        parts.push_str(&format!(",taken-by={holder}"));
    }
    let (mark, style) = if flow.taken_by.is_some() || flow.moved.contains(&"source-port-alone") {
        ("!! ", CONSPICUOUS)
    } else if is_foreign {
        ("! ", NOTICEABLE)
    } else {
        ("", Style::new())
    };
    Cell {
        text: format!("{mark}{parts}").into(),
        style,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::namespaces::Namespaces;

    const LINE: &str = "x-1 [000] ..s.. 3661.0625: flow_confirm: netns=7 id=1 proto=udp \
        original=172.18.0.2:40001->203.0.113.2:53 \
        reply=203.0.113.2:53->203.0.113.1:50001 untranslated=203.0.113.2:53->172.18.0.2:40001 \
        moved=source-address|source-port in=lan0 out=wan0 hook=POSTROUTING status=SRC_NAT mark=0x0 icmp=0/0 \
        zone=0/0 source=own taken_by=0.0.0.0:0";

    /// Returns the header and a flow for each line, in a table for a terminal of this width.
    fn table(screen: Option<usize>, coloured: bool, lines: &[&str]) -> String {
        let mut table = Table::new(screen, coloured, TimeZone::UTC);
        let mut shown = Vec::new();
        table.append_header(&mut shown);
        for line in lines {
            let namespaces = Namespaces::default();
            let Some(flow) = Flow::parse(line, &namespaces, 0.0) else {
                panic!("{line}")
            };
            table.append_begin(&mut shown, &flow);
        }
        String::from_utf8_lossy(&shown).into_owned()
    }

    #[test]
    fn columns_are_aligned() {
        let original = format!("{:44}", "172.18.0.2:40001->203.0.113.2:53");
        let became = format!("{:44}", "203.0.113.1:50001->203.0.113.2:53");
        let expected = format!(
            "TIME          NAMESPACE  PROTO   IN     OUT    {:44}  {:44}  MOVED\n\
             01:01:01.062  7          udp     lan0   wan0   {original}  {became}  source-address,source-port\n",
            "ORIGINAL", "BECAME"
        );
        assert_eq!(table(None, false, &[LINE]), expected);
    }

    #[test]
    fn ipv4_flows_of_any_length_keep_the_columns() {
        let long = LINE.replace(
            "172.18.0.2:40001->203.0.113.2:53",
            "255.255.255.255:65535->255.255.255.255:65535",
        );
        let shown = table(None, false, &[LINE, &long, LINE]);
        let columns: Vec<_> = shown
            .lines()
            .skip(1)
            .map(|line| line.find("203.0.113.1:50001"))
            .collect();
        assert_eq!(columns, [columns[0]; 3]);
    }

    #[test]
    fn a_longer_cell_widens_its_column_for_good() {
        let device = LINE.replace("in=lan0", "in=fifteenletters0");
        let shown = table(None, false, &[LINE, &device, LINE]);
        let columns: Vec<_> = shown
            .lines()
            .skip(1)
            .filter_map(|line| line.find("wan0"))
            .collect();
        assert_eq!(columns, [columns[0], columns[0] + 10, columns[0] + 10]);
    }

    #[test]
    fn a_narrow_terminal_folds() {
        let expected = "\
            TIME          NAMESPACE  PROTO   IN     OUT\n\
            \x20             ORIGINAL\n\
            \x20             BECAME\n\
            \x20             MOVED\n\
            01:01:01.062  7          udp     lan0   wan0\n\
            \x20             172.18.0.2:40001->203.0.113.2:53\n\
            \x20             203.0.113.1:50001->203.0.113.2:53\n\
            \x20             source-address,source-port\n";
        assert_eq!(table(Some(80), false, &[LINE]), expected);
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        let all = LINE.replace("moved=", "moved=destination-address|destination-port|");
        for screen in 60..300 {
            for line in table(Some(screen), false, &[&all]).lines() {
                assert!(line.width() <= screen, "{screen}: {line}");
            }
        }
    }

    #[test]
    fn colours_add_nothing_but_escape_sequences() {
        let alone = LINE.replace("|source-port", "|source-port|source-port-alone");
        for screen in [None, Some(80), Some(160)] {
            let coloured = table(screen, true, &[LINE, &alone]);
            assert!(coloured.contains('\u{1b}'));
            let plain = anstream::adapter::strip_str(&coloured).to_string();
            assert_eq!(plain, table(screen, false, &[LINE, &alone]));
        }
    }

    #[test]
    fn a_source_port_that_moved_alone_is_marked() {
        let alone = LINE.replace(
            "source-address|source-port",
            "source-port|source-port-alone",
        );
        assert!(table(None, false, &[&alone]).ends_with("  !! source-port,source-port-alone\n"));
        let nothing = LINE.replace("source-address|source-port", "nothing");
        assert!(table(None, false, &[&nothing]).ends_with("  nothing\n"));
    }

    #[test]
    fn a_port_that_was_taken_is_marked_with_its_holder() {
        let taken = LINE.replace("taken_by=0.0.0.0:0", "taken_by=172.18.0.9:40001");
        let expected = "  !! source-address,source-port,taken-by=172.18.0.9:40001\n";
        assert!(table(None, false, &[&taken]).ends_with(expected));
    }

    #[test]
    fn a_foreign_source_is_marked() {
        let foreign = LINE.replace("source=own", "source=foreign");
        let expected = "  ! source-address,source-port,foreign-source\n";
        assert!(table(None, false, &[&foreign]).ends_with(expected));
    }

    #[test]
    fn zones_are_shown_where_there_are_any() {
        for (zones, shown) in [
            ("5/5", "7 zone 5  "),
            ("5/0", "7 zone 5/0  "),
            ("0/5", "7 zone 0/5  "),
        ] {
            let line = LINE.replace("zone=0/0", &format!("zone={zones}"));
            assert!(table(None, false, &[&line]).contains(shown), "{zones}");
        }
    }
}
