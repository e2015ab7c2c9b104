// SPDX-License-Identifier: GPL-2.0

//! Messages, and text that is safe to show.

use crate::{End, Failure};
use comfy_table::{presets, CellAlignment, ColumnConstraint, ContentArrangement, Table};
use nix::{
    errno::Errno,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::signalfd::SignalFd,
};
use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write as _},
    os::fd::AsFd,
};
use unicode_width::UnicodeWidthChar;

/// Writes a message to standard error.
pub fn say(message: &str) {
    // Standard error may be closed.
    let _ = io::stderr().write_all(format!("rustmasq: {}\n", printable(message)).as_bytes());
}

/// Returns the reason of an error, without the number that the standard library adds.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// Returns the text with invisible characters escaped: a device's name may contain them.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_visible = |c: char| c.width().is_some_and(|width| width > 0);
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    for c in text.chars() {
        match u32::from(c) {
            _ if is_visible(c) => shown.push(c),
            0xa => shown.push_str("\\n"),
            code @ 0..=0xff => _ = write!(shown, "\\x{code:02x}"),
            code => _ = write!(shown, "\\u{code:04x}"),
        }
    }
    Cow::Owned(shown)
}

/// Returns the bytes as text, with those that are no UTF-8 escaped.
pub fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    Cow::Owned(text)
}

/// Returns the width of the terminal, if standard output is one.
pub fn screen_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// A pipe that is ready takes as many bytes without waiting (PIPE_BUF).
const CHUNK: usize = 4096;

/// Standard output, which a signal interrupts while it takes nothing.
///
/// There is no buffer: the program must not wait at its end to flush one.
pub struct Output<'a> {
    stdout: io::Stdout,
    signals: &'a SignalFd,
}

impl<'a> Output<'a> {
    /// Returns standard output. `signals` is readable once a signal came.
    pub fn new(signals: &'a SignalFd) -> Self {
        Self {
            stdout: io::stdout(),
            signals,
        }
    }

    /// Writes all of the data. Ends if a signal comes or nobody reads any more.
    pub fn write(&mut self, mut data: &[u8]) -> Result<(), End> {
        while !data.is_empty() {
            self.wait()?;
            match nix::unistd::write(&self.stdout, &data[..data.len().min(CHUNK)]) {
                Ok(count) => data = &data[count..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE) => return Err(End::Wanted),
                Err(error) => return Err(Failure::io("standard output", &error.into()).into()),
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), End> {
        let mut ready = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stdout.as_fd(), PollFlags::POLLOUT),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) if ready[0].any() == Some(true) => Err(End::Wanted),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(Failure::io("poll", &error.into()).into()),
        }
    }
}

/// Returns an empty table for people. `width` is that of the terminal, if the output is one.
pub fn new_table(width: Option<usize>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    }
    table
}

/// Returns the table as text. Columns of numbers are aligned to the right.
pub fn finish(mut table: Table, numbers: std::ops::Range<usize>) -> String {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_control_characters_stays() {
        assert!(matches!(printable("wan0 é 漢"), Cow::Borrowed("wan0 é 漢")));
    }

    #[test]
    fn control_characters_and_invisible_ones_are_escaped() {
        assert_eq!(
            printable("a\u{1b}[7m\n\u{85}\u{202e}"),
            "a\\x1b[7m\\n\\x85\\u202e"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped() {
        assert_eq!(text_of(b"eth\xff\xc3\xa9\xc3"), "eth\\xff\u{e9}\\xc3");
        assert!(matches!(text_of(b"eth0"), Cow::Borrowed("eth0")));
    }
}
