// SPDX-License-Identifier: GPL-2.0

//! The reader of what an FTP server sends: replies, which begin with a code of three digits.

use super::{
    after_line_feed,
    digit,
    equal,
    extended::Epsv,
    numbers::Numbers,
    Announcement,
    Input,
    Kind,
    Reader,
    Step, //
};
use crate::net::AnyAddress;
use kernel::prelude::*;
use pin_init::Zeroable;

/// The state of a server's stream between two pieces of it; all bytes are 0 where it begins.
///
/// A reply is a line with a code and a blank. Or it has several lines (RFC 959, section 4.2): the first one with the
/// code and a hyphen, the last one with the same code and a blank, and any text between them. CR or LF behind a code
/// is as good as a blank. Clients differ in which line of a reply 227 or 229 they read (curl and lftp the last one,
/// Python and tnftp the first one that fits), so all are read; a line of text only if it does not begin with a digit,
/// which RFC 959 forbids. Lines that are no reply are skipped.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Zeroable)]
#[repr(C)]
pub(in crate::ftp) struct ServerReader {
    /// The part that is read next: one of the constants below.
    phase: u8,
    /// The code of the reply whose last line is to come, or 0, and the bit [`GREETED`]; the high byte first.
    open: [u8; 2],
    /// The state of the part that is read next; all bytes are 0 at its beginning.
    memory: [u8; 4],
}

const _: () = assert!(size_of::<ServerReader>() <= 7 && align_of::<ServerReader>() == 1);

/// The code at a line's start. The memory has the number of digits so far, and their value.
const CODE: u8 = 0;
/// The rest of a line.
const TEXT: u8 = 1;
/// The argument of a reply 227, or text before it. The memory has the numbers.
const PASV: u8 = 2;
/// The text of a reply 229 before the bracket.
const BRACKET: u8 = 3;
/// The argument of a reply 229. The memory has what is known of it.
const EPSV: u8 = 4;
/// Nothing any more, for what follows is encrypted.
const TLS: u8 = 5;

/// The server has said that it is ready.
const GREETED: u16 = 1 << 15;

impl Reader for ServerReader {
    /// The numbers of a reply 227 are complete with the byte behind them, the argument of a reply 229 with its last
    /// delimiter.
    fn read(&mut self, piece: &[u8], own: AnyAddress) -> Option<Announcement> {
        let rest = self.skip_plain_lines(piece);
        if rest.is_empty() {
            return None;
        }
        self.read_all(Input::new(piece, rest), own)
    }

    fn skip_line(&mut self) {
        if !self.is_tls() {
            self.enter(TEXT);
        }
    }
}

impl ServerReader {
    /// Returns whether the server has said that it is ready (reply 220).
    pub(in crate::ftp) fn has_greeted(&self) -> bool {
        u16::from_be_bytes(self.open) & GREETED != 0
    }

    /// Returns whether the server has agreed to encrypt the connection (reply 234, RFC 4217).
    pub(in crate::ftp) fn is_tls(&self) -> bool {
        self.phase == TLS
    }

    /// Skips whole replies of one line that say nothing of interest, and returns what is left.
    ///
    /// Most packets are one such reply, and leave the state as it is.
    #[inline(always)]
    fn skip_plain_lines<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let mut rest = piece;
        if self.phase != CODE || self.memory != [0; 4] || self.open() != 0 {
            return rest;
        }
        while is_plain_reply(rest) {
            let Some(next) = after_line_feed(rest) else {
                self.phase = TEXT;
                return &[];
            };
            rest = next;
        }
        rest
    }

    #[inline(never)]
    fn read_all(&mut self, mut input: Input<'_>, own: AnyAddress) -> Option<Announcement> {
        let mut found = None;
        while !input.rest.is_empty() && !self.is_tls() {
            match self.phase {
                CODE => self.read_code(&mut input),
                TEXT => self.read_text(&mut input),
                PASV => found = self.read_pasv(&mut input, own).or(found),
                BRACKET => self.read_bracket(&mut input),
                _ => found = self.read_epsv(&mut input).or(found),
            }
        }
        found
    }

    fn enter(&mut self, phase: u8) {
        self.phase = phase;
        self.memory = [0; 4];
    }

    fn read_code(&mut self, input: &mut Input<'_>) {
        let [mut digits, high, low, _] = self.memory;
        if let (0, [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', separator, ..]) =
            (digits, input.rest)
        {
            input.skip(3);
            let [a, b, c] = [a, b, c].map(|digit| u16::from(digit - b'0'));
            return self.begin_line(a * 100 + b * 10 + c, *separator);
        }
        let mut code = u16::from_be_bytes([high, low]);
        while let Some(byte) = input.peek() {
            if digits == 3 {
                return self.begin_line(code, byte);
            }
            if !byte.is_ascii_digit() {
                return self.begin_text(digits == 0);
            }
            code = code * 10 + u16::from(byte - b'0');
            digits += 1;
            input.skip(1);
        }
        let [high, low] = code.to_be_bytes();
        self.memory = [digits, high, low, 0];
    }

    /// Begins to read a line behind three digits.
    fn begin_line(&mut self, code: u16, separator: u8) {
        let is_last = matches!(separator, b' ' | b'\r' | b'\n');
        let open = self.open();
        let is_reply = (is_last || separator == b'-') && code >= 100;
        if !is_reply || open != 0 && open != code {
            return self.enter(TEXT);
        }
        let greeted = if code == 220 || self.has_greeted() {
            GREETED
        } else {
            0
        };
        self.open = (greeted | if is_last { 0 } else { code }).to_be_bytes();
        self.enter(argument_of(code));
    }

    /// Begins to read a line that has no code.
    fn begin_text(&mut self, may_announce: bool) {
        match argument_of(self.open()) {
            phase @ (PASV | BRACKET) if may_announce => self.enter(phase),
            _ => self.enter(TEXT),
        }
    }

    /// Returns the code of the reply whose last line is to come, or 0.
    fn open(&self) -> u16 {
        u16::from_be_bytes(self.open) & !GREETED
    }

    fn read_text(&mut self, input: &mut Input<'_>) {
        if input.skip_line() {
            self.enter(CODE);
        }
    }

    /// Looks for six numbers in a line. Other numbers may come before them.
    fn read_pasv(&mut self, input: &mut Input<'_>, own: AnyAddress) -> Option<Announcement> {
        let AnyAddress::V4(own) = own else {
            self.enter(TEXT);
            return None;
        };
        if self.memory == [0; 4] {
            input.skip_to(|word| digit(word) | equal(word, b'\n'));
        }
        let mut numbers = Numbers::load(self.memory);
        let (step, len) = numbers.read(input.rest, own.octets());
        input.skip(len);
        let found = numbers.port().map(|port| Announcement {
            kind: Kind::Pasv,
            port,
            len: numbers.len(),
            end: input.place(),
        });
        match step {
            Step::Inside => self.memory = numbers.store(),
            Step::Broken if input.peek() != Some(b'\n') => self.enter(PASV),
            Step::Complete | Step::Broken => self.enter(TEXT),
        }
        found.filter(|_| step == Step::Complete)
    }

    fn read_bracket(&mut self, input: &mut Input<'_>) {
        input.skip_to(|word| equal(word, b'(') | equal(word, b'\n'));
        match input.peek() {
            Some(b'(') => {
                input.skip(1);
                self.enter(EPSV);
            }
            Some(_) => self.enter(TEXT),
            None => {}
        }
    }

    fn read_epsv(&mut self, input: &mut Input<'_>) -> Option<Announcement> {
        let mut argument = Epsv::load(self.memory);
        let (step, len) = argument.read(input.rest);
        input.skip(len);
        match step {
            Step::Inside => self.memory = argument.store(),
            Step::Complete | Step::Broken => self.enter(TEXT),
        }
        if step != Step::Complete {
            return None;
        }
        input.skip(1);
        argument.port().map(|port| Announcement {
            kind: Kind::Epsv,
            port,
            len: argument.len(),
            end: input.place(),
        })
    }
}

/// Returns whether a line that begins like this is a reply of one line with a code of no interest.
fn is_plain_reply(start: &[u8]) -> bool {
    matches!(start, [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ', ..])
        && !matches!(
            start,
            [b'2', b'2', b'0' | b'7' | b'9', ..] | [b'2', b'3', b'4', ..]
        )
}

/// Returns the phase behind a code.
fn argument_of(code: u16) -> u8 {
    match code {
        227 => PASV,
        229 => BRACKET,
        234 => TLS,
        _ => TEXT,
    }
}

#[kunit_tests(rustmasq_ftp_server)]
mod tests {
    use super::*;
    use core::{
        net::{
            Ipv4Addr,
            Ipv6Addr, //
        },
        ops::Range,
    };

    const IPV4: AnyAddress = AnyAddress::V4(Ipv4Addr::new(10, 0, 0, 2));
    const IPV6: AnyAddress = AnyAddress::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

    /// Returns what a server's first bytes announce, and where the argument is.
    fn said_by(own: AnyAddress, stream: &[u8]) -> Option<(Kind, u16, Range<usize>)> {
        let found = ServerReader::default().read(stream, own)?;
        Some((found.kind, found.port, found.place()?))
    }

    fn said(stream: &[u8]) -> Option<(Kind, u16, Range<usize>)> {
        said_by(IPV4, stream)
    }

    fn has_greeted(stream: &[u8]) -> bool {
        let mut reader = ServerReader::default();
        reader.read(stream, IPV4);
        reader.has_greeted()
    }

    fn is_tls(stream: &[u8]) -> bool {
        let mut reader = ServerReader::default();
        reader.read(stream, IPV4);
        reader.is_tls()
    }

    #[test]
    fn passive_mode() {
        let stream = b"227 Entering Passive Mode (10,0,0,2,19,136).\r\n";
        assert_eq!(said(stream), Some((Kind::Pasv, 5000, 27..42)));
        assert_eq!(
            said(b"227 10,0,0,2,19,136\r\n"),
            Some((Kind::Pasv, 5000, 4..19))
        );
        assert_eq!(
            said(b"227 =10,0,0,2,19,136\n"),
            Some((Kind::Pasv, 5000, 5..20))
        );
        assert_eq!(
            said(b"227 10,0,0,2,19,136,7)\n"),
            Some((Kind::Pasv, 5000, 4..19))
        );
        assert_eq!(said(b"227 10,0,0,2,19,136"), None);
    }

    #[test]
    fn passive_mode_needs_ipv4() {
        assert_eq!(
            said_by(IPV6, b"227 Entering Passive Mode (10,0,0,2,19,136).\r\n"),
            None
        );
        assert_eq!(
            said_by(IPV6, b"227 x\r\n229 (|||5001|)\r\n"),
            Some((Kind::Epsv, 5001, 12..20))
        );
    }

    #[test]
    fn other_numbers_before_the_six() {
        let stream = b"227 Mode 3 of 4,5, x, 1, 2: 10,0,0,2,19,136\r\n";
        assert_eq!(said(stream), Some((Kind::Pasv, 5000, 28..43)));
        assert_eq!(
            said(b"227 1,2,3,4,5 (10,0,0,2,19,136)\r\n"),
            Some((Kind::Pasv, 5000, 15..30))
        );
        assert_eq!(
            said(b"227 300 (10,0,0,2,19,136)\r\n"),
            Some((Kind::Pasv, 5000, 9..24))
        );
    }

    #[test]
    fn the_first_six_numbers_count() {
        assert_eq!(said(b"227 (10,0,0,3,19,136) (10,0,0,2,19,136)\r\n"), None);
        assert_eq!(said(b"227 300,10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b"227 (10,0,0,2,3,0) (10,0,0,2,19,136)\r\n"), None);
    }

    #[test]
    fn extended_passive_mode() {
        let stream = b"229 Entering Extended Passive Mode (|||5001|)\r\n";
        assert_eq!(said(stream), Some((Kind::Epsv, 5001, 36..44)));
        assert_eq!(said_by(IPV6, stream), Some((Kind::Epsv, 5001, 36..44)));
        assert_eq!(said(b"229 (!!!5001!"), Some((Kind::Epsv, 5001, 5..13)));
        assert_eq!(said(b"229 (|||5001"), None);
        assert_eq!(said(b"229 (|||1023|)\r\n"), None);
    }

    #[test]
    fn the_first_bracket_counts() {
        assert_eq!(said(b"229 () (|||5001|)\r\n"), None);
        assert_eq!(said(b"229 |||5001|\r\n"), None);
        assert_eq!(
            said(b"229 (|2|::1|5001|)\r\n229 (|||5002|)\r\n"),
            Some((Kind::Epsv, 5002, 25..33))
        );
        assert_eq!(said(b"229 (\r\n|||5001|)\r\n"), None);
    }

    #[test]
    fn codes_and_separators() {
        assert_eq!(said(b"227\t10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b"227_10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b"2270 10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b" 227 10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b"226 10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b"027 10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b"22 227 10,0,0,2,19,136\r\n"), None);
    }

    #[test]
    fn lines_that_are_no_reply_spoil_no_other() {
        assert_eq!(
            said(b"027-x\r\n227 10,0,0,2,19,136\r\n"),
            Some((Kind::Pasv, 5000, 11..26))
        );
        let stream = b"\r\n\n22\r\n2\n\xff\0\n227\r\n227 10,0,0,2,19,136\r\n";
        assert_eq!(said(stream), Some((Kind::Pasv, 5000, 21..36)));
    }

    #[test]
    fn the_last_of_several_counts() {
        let stream = b"227 10,0,0,2,19,136\r\n226 done\r\n229 (|||5001|)\r\n226 done\r\n";
        assert_eq!(said(stream), Some((Kind::Epsv, 5001, 36..44)));
    }

    #[test]
    fn each_line_of_a_reply_227_is_read() {
        let expected = |start: usize| Some((Kind::Pasv, 5000, start..start + 15));
        assert_eq!(said(b"227-10,0,0,2,19,136\r\n"), expected(4));
        assert_eq!(said(b"227-Entering\r\n10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b"227-Entering\r\n 10,0,0,2,19,136\r\n"), expected(15));
        assert_eq!(said(b"227-Entering\r\n(10,0,0,2,19,136\r\n"), expected(15));
        assert_eq!(
            said(b"227-Entering\r\n227-10,0,0,2,19,136\r\n"),
            expected(18)
        );
        assert_eq!(
            said(b"227-Entering\r\n227 10,0,0,2,19,136\r\n"),
            expected(18)
        );
        assert_eq!(
            said(b"227-Entering\r\n227 Mode\r\n 10,0,0,2,19,136\r\n"),
            None
        );
    }

    #[test]
    fn each_line_of_a_reply_229_is_read() {
        let expected = |start: usize| Some((Kind::Epsv, 5001, start..start + 8));
        assert_eq!(said(b"229-(|||5001|)\r\n"), expected(5));
        assert_eq!(said(b"229-Entering\r\n(|||5001|)\r\n"), expected(15));
        assert_eq!(
            said(b"229-Entering\r\n\r\n229 (|||5001|)\r\n"),
            expected(21)
        );
        assert_eq!(said(b"229-Entering\r\n3 (|||5001|)\r\n"), None);
    }

    #[test]
    fn text_of_other_replies_is_not_read() {
        for stream in [
            b"211-Features:\r\n227 (10,0,0,2,19,136)\r\n".as_slice(),
            b"211-Features:\r\n229 (|||5001|)\r\n211-229 (|||5001|)\r\n (|||5001|)\r\n",
            b"220-Welcome\r\n227-10,0,0,2,19,136\r\n 10,0,0,2,19,136\r\n",
        ] {
            assert_eq!(said(stream), None);
        }
    }

    #[test]
    fn the_last_line_of_a_reply() {
        for last in [b"211 End\r\n".as_slice(), b"211 \n", b"211\r\n", b"211\n"] {
            let mut reader = ServerReader::default();
            assert_eq!(
                reader.read(b"211-Features:\r\n211-\r\n212 x\r\n EPSV\r\n", IPV4),
                None
            );
            assert_eq!(reader.read(b"227 10,0,0,2,19,136\r\n", IPV4), None);
            assert_eq!(reader.read(last, IPV4), None);
            assert!(reader.read(b"227 10,0,0,2,19,136\r\n", IPV4).is_some());
        }
    }

    #[test]
    fn greeting() {
        assert!(has_greeted(b"220 ready\r\n"));
        assert!(has_greeted(b"220-Welcome"));
        assert!(has_greeted(b"220\r\n"));
        assert!(has_greeted(b"120 Soon\r\n220 ready\r\n"));
        assert!(has_greeted(b"220 ready\r\n331 Password\r\n211-x\r\n"));
    }

    #[test]
    fn no_greeting() {
        for stream in [
            b"".as_slice(),
            b"220",
            b"120 Soon\r\n",
            b"421 Too many\r\n",
            b"220_\r\n",
            b"2200 \r\n",
            b" 220 \r\n",
            b"120-\r\n220 text\r\n",
            b"SSH-2.0-220 \r\n",
        ] {
            assert!(!has_greeted(stream));
        }
    }

    #[test]
    fn tls() {
        assert!(is_tls(b"220 ready\r\n234 AUTH TLS successful\r\n"));
        assert!(is_tls(b"234 Proceed\r\n"));
        assert!(is_tls(b"234-Proceed\r\n"));
        assert!(!is_tls(b"334 Continue\r\n235 Done\r\n534 No\r\n234"));
        assert!(!is_tls(b"211-Features:\r\n234 text\r\n"));
    }

    #[test]
    fn nothing_is_read_after_tls() {
        let mut reader = ServerReader::default();
        let stream = b"220 ready\r\n234 AUTH TLS successful\r\n227 10,0,0,2,19,136\r\n";
        assert_eq!(reader.read(stream, IPV4), None);
        assert_eq!(reader.read(b"227 10,0,0,2,19,136\r\n", IPV4), None);
        assert!(reader.is_tls() && reader.has_greeted());
    }

    #[test]
    fn an_announcement_before_tls_is_told() {
        assert_eq!(
            said(b"229 (|||5001|)\r\n234 Proceed\r\n"),
            Some((Kind::Epsv, 5001, 5..13))
        );
    }

    #[test]
    fn an_argument_that_began_in_an_earlier_piece() {
        let mut reader = ServerReader::default();
        assert_eq!(reader.read(b"227 (10,0,0,2,19,13", IPV4), None);
        let found = reader.read(b"6)\r\n", IPV4);
        assert_eq!(
            found.map(|found| (found.port, found.len, found.end)),
            Some((5000, 15, 1))
        );
        assert_eq!(found.and_then(Announcement::place), None);
    }

    #[test]
    fn numbers_that_end_with_their_piece() {
        let mut reader = ServerReader::default();
        assert_eq!(reader.read(b"227 (10,0,0,2,19,136", IPV4), None);
        let found = reader.read(b")\r\n", IPV4);
        assert_eq!(found.map(|found| (found.port, found.end)), Some((5000, 0)));
    }

    #[test]
    fn each_byte_on_its_own() {
        let mut reader = ServerReader::default();
        let stream = b"226 done\r\n229 (|||5001|)\r\n";
        for (n, byte) in stream.iter().enumerate() {
            let found = reader.read(&[*byte], IPV4);
            assert_eq!(
                found.map(|found| (found.port, found.end)),
                (n == 22).then_some((5001, 1))
            );
        }
        assert_eq!(reader, ServerReader::default());
    }

    #[test]
    fn long_lines() {
        let mut reader = ServerReader::default();
        reader.read(b"227 ", IPV4);
        for _ in 0..1000 {
            assert_eq!(reader.read(&[b'x'; 100], IPV4), None);
        }
        let found = reader.read(b"10,0,0,2,19,136\r\n", IPV4);
        assert_eq!(found.map(|found| found.end), Some(15));
    }
}
