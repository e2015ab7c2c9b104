// SPDX-License-Identifier: GPL-2.0

//! The reader of what an FTP client sends: lines that begin with a command.

use super::{
    after_line_feed,
    commands::{
        self,
        command, //
    },
    extended::Eprt,
    numbers::{
        self,
        Numbers, //
    },
    Announcement,
    Input,
    Kind,
    Reader,
    Step, //
};
use crate::net::AnyAddress;
use kernel::prelude::*;
use pin_init::Zeroable;

/// The state of a client's stream between two pieces of it; all bytes are 0 where it begins.
///
/// A line ends with LF. It begins with a command, in small or capital letters, then a blank, a tab, CR or LF. Empty
/// lines are harmless, and so are Telnet commands before a command of FTP or in it (`IAC IP IAC DM ABOR`, RFC 959,
/// section 4.1.3). A line that begins with anything else shows that the client does not speak FTP: a browser that is
/// made to send the announcement of a port, for example, has to send `POST` first. Nothing more is read then.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Zeroable)]
#[repr(C)]
pub(in crate::ftp) struct ClientReader {
    /// The part that is read next: one of the constants below.
    phase: u8,
    /// The state of that part; all bytes are 0 at its beginning.
    memory: [u8; 6],
}

const _: () = assert!(size_of::<ClientReader>() <= 7 && align_of::<ClientReader>() == 1);

/// The command. The memory has its letters so far, in capitals.
const WORD: u8 = 0;
/// The byte behind IAC, within or before a command.
const TELNET: u8 = 1;
/// The last byte of a Telnet option.
const OPTION: u8 = 2;
/// The rest of a line.
const TEXT: u8 = 3;
/// The argument of PORT, or blanks before it. The memory has the numbers.
const PORT: u8 = 4;
/// The argument of EPRT, or blanks before it. The memory has what is known of it.
const EPRT: u8 = 5;
/// The blanks behind the argument of PORT. The memory has the argument's length, the port, and the number of blanks.
const AFTER_PORT: u8 = 6;
/// The same for EPRT.
const AFTER_EPRT: u8 = 7;
/// Nothing any more, for a line was none of FTP.
const NOT_FTP: u8 = 8;

/// Interpret As Command, the byte that begins a Telnet command (RFC 854).
const IAC: u8 = 255;
/// The Telnet command WILL, the first of four that one more byte follows.
const WILL: u8 = 251;
/// The Telnet command DON'T, the last of these.
const DONT: u8 = 254;

impl Reader for ClientReader {
    /// An argument of PORT or EPRT, which blanks and tabs may follow, is complete with the CR or LF behind it.
    fn read(&mut self, piece: &[u8], own: AnyAddress) -> Option<Announcement> {
        let rest = self.skip_plain_lines(piece);
        if rest.is_empty() {
            return None;
        }
        let mut input = Input::new(piece, rest);
        let port = self.read_last_port(&mut input, own);
        port.or_else(|| self.read_all(input, own))
    }

    fn skip_line(&mut self) {
        if self.is_ftp() {
            self.enter(TEXT);
        }
    }
}

impl ClientReader {
    /// Returns whether each line so far has begun with a command of FTP.
    pub(in crate::ftp) fn is_ftp(&self) -> bool {
        self.phase != NOT_FTP
    }

    /// Skips whole lines that announce nothing, and the next command if that is whole. Returns what is left.
    ///
    /// Most packets are one such line, and leave the state as it is.
    #[inline(always)]
    fn skip_plain_lines<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let mut rest = piece;
        if self.phase != WORD || self.word() != 0 {
            return rest;
        }
        while let Some((word, len)) = whole_command(rest) {
            rest = rest.get(len..).unwrap_or_default();
            let phase = argument_of(word);
            if phase != TEXT {
                self.phase = phase;
                break;
            }
            let Some(next) = after_line_feed(rest) else {
                self.phase = TEXT;
                return &[];
            };
            rest = next;
        }
        rest
    }

    /// Reads the rest of a piece if that is the argument of PORT, in its usual form, and the end of its line.
    ///
    /// Most announcements are one such line.
    #[inline(always)]
    fn read_last_port(&mut self, input: &mut Input<'_>, own: AnyAddress) -> Option<Announcement> {
        let (PORT, [0, 0, 0, 0, 0, 0], AnyAddress::V4(own)) = (self.phase, self.memory, own) else {
            return None;
        };
        let argument = input.rest.strip_prefix(b" ")?;
        let (port, len) = numbers::read_whole(argument, own.octets())?;
        let behind = argument.get(len.into()..)?;
        if behind != b"\r\n" {
            return None;
        }
        self.phase = WORD;
        input.rest = behind;
        Some(Announcement {
            kind: Kind::Port,
            port,
            len,
            end: input.place(),
        })
    }

    #[inline(never)]
    fn read_all(&mut self, mut input: Input<'_>, own: AnyAddress) -> Option<Announcement> {
        let mut found = None;
        while !input.rest.is_empty() && self.is_ftp() {
            match self.phase {
                WORD | TELNET | OPTION => self.read_word(&mut input),
                TEXT => self.read_text(&mut input),
                PORT => self.read_port(&mut input, own),
                EPRT => self.read_eprt(&mut input, own),
                _ => found = self.read_end(&mut input).or(found),
            }
        }
        found
    }

    fn enter(&mut self, phase: u8) {
        *self = Self {
            phase,
            memory: [0; 6],
        };
    }

    fn read_word(&mut self, input: &mut Input<'_>) {
        while let Some(byte) = input.peek() {
            self.phase = match (self.phase, byte) {
                (TELNET, WILL..=DONT) => OPTION,
                (TELNET, IAC) => NOT_FTP,
                (TELNET | OPTION, _) => WORD,
                (_, IAC) => TELNET,
                (_, b'\r' | b'\n') if self.word() == 0 => WORD,
                (_, byte) if ends_word(byte) => return self.end_word(),
                (_, byte) if self.add_letter(byte) => WORD,
                _ => NOT_FTP,
            };
            if !self.is_ftp() {
                return;
            }
            input.skip(1);
        }
    }

    /// Returns the letters of the command so far as a number.
    fn word(&self) -> u32 {
        let [a, b, c, d, ..] = self.memory;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Adds a letter or digit to the command, and returns whether it is one and has a place.
    fn add_letter(&mut self, byte: u8) -> bool {
        let free = self.memory.iter_mut().take(4).find(|letter| **letter == 0);
        match free {
            Some(letter) if byte.is_ascii_alphanumeric() => *letter = byte.to_ascii_uppercase(),
            _ => return false,
        }
        true
    }

    /// Ends the command before the byte that does not belong to it.
    fn end_word(&mut self) {
        let word = self.word();
        self.enter(if commands::is_command(word) {
            argument_of(word)
        } else {
            NOT_FTP
        });
    }

    fn read_text(&mut self, input: &mut Input<'_>) {
        if input.skip_line() {
            self.enter(WORD);
        }
    }

    fn read_port(&mut self, input: &mut Input<'_>, own: AnyAddress) {
        let AnyAddress::V4(own) = own else {
            return self.enter(TEXT);
        };
        self.skip_blanks(input);
        let [a, b, c, d, ..] = self.memory;
        let mut numbers = Numbers::load([a, b, c, d]);
        let (step, len) = numbers.read(input.rest, own.octets());
        input.skip(len);
        match step {
            Step::Inside => {
                let [a, b, c, d] = numbers.store();
                self.memory = [a, b, c, d, 0, 0];
            }
            Step::Complete => self.end_argument(AFTER_PORT, numbers.len(), numbers.port()),
            Step::Broken => self.enter(TEXT),
        }
    }

    fn read_eprt(&mut self, input: &mut Input<'_>, own: AnyAddress) {
        self.skip_blanks(input);
        let mut argument = Eprt::load(self.memory);
        let (step, len) = argument.read(input.rest, own);
        input.skip(len);
        match step {
            Step::Inside => self.memory = argument.store(),
            Step::Complete => {
                input.skip(1);
                self.end_argument(AFTER_EPRT, argument.len(), argument.port());
            }
            Step::Broken => self.enter(TEXT),
        }
    }

    /// Skips blanks before an argument of which nothing is known yet.
    fn skip_blanks(&self, input: &mut Input<'_>) {
        if self.memory == [0; 6] {
            let end = input.rest.iter().position(|byte| !is_blank(*byte));
            input.skip(end.unwrap_or(input.rest.len()));
        }
    }

    /// Goes on behind an argument, to `phase` if it announces a port.
    fn end_argument(&mut self, phase: u8, len: u8, port: Option<u16>) {
        let Some(port) = port else {
            return self.enter(TEXT);
        };
        let [high, low] = port.to_be_bytes();
        self.phase = phase;
        self.memory = [len, high, low, 0, 0, 0];
    }

    /// Reads the blanks behind an argument and the byte behind these, with which the announcement is complete.
    fn read_end(&mut self, input: &mut Input<'_>) -> Option<Announcement> {
        let [len, high, low, mut blanks, ..] = self.memory;
        while input.peek().is_some_and(is_blank) {
            let Some(more) = blanks.checked_add(1) else {
                self.enter(TEXT);
                return None;
            };
            blanks = more;
            input.skip(1);
        }
        self.memory = [len, high, low, blanks, 0, 0];
        let kind = match self.phase {
            AFTER_PORT => Kind::Port,
            _ => Kind::Eprt,
        };
        let byte = input.peek()?;
        self.enter(TEXT);
        matches!(byte, b'\r' | b'\n').then(|| Announcement {
            kind,
            port: u16::from_be_bytes([high, low]),
            len,
            end: input.place() - isize::from(blanks),
        })
    }
}

/// Returns the command of letters that the bytes begin with, and its length, if the byte behind it is there, too.
fn whole_command(bytes: &[u8]) -> Option<(u32, usize)> {
    let [a, b, c, d, behind, ..] = *bytes else {
        return None;
    };
    let (name, len) = if ends_word(d) {
        ([a, b, c, 0], 3)
    } else if ends_word(behind) && d != 0 {
        ([a, b, c, d], 4)
    } else {
        return None;
    };
    // Small letters become capitals, and no other byte becomes a letter. Digits become something else: the few commands
    // with one are read byte by byte.
    let word = u32::from_be_bytes(name) & !u32::from_ne_bytes([0x20; 4]);
    commands::is_command(word).then_some((word, len))
}

/// Returns the phase behind a command.
fn argument_of(word: u32) -> u8 {
    const PORT_COMMAND: u32 = command(b"PORT");
    const EPRT_COMMAND: u32 = command(b"EPRT");
    match word {
        PORT_COMMAND => PORT,
        EPRT_COMMAND => EPRT,
        _ => TEXT,
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn ends_word(byte: u8) -> bool {
    is_blank(byte) || matches!(byte, b'\r' | b'\n')
}

#[kunit_tests(rustmasq_ftp_client)]
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

    /// Returns what a client's first bytes announce, and where the argument is.
    fn said_by(own: AnyAddress, stream: &[u8]) -> Option<(Kind, u16, Range<usize>)> {
        let found = ClientReader::default().read(stream, own)?;
        Some((found.kind, found.port, found.place()?))
    }

    fn said(stream: &[u8]) -> Option<(Kind, u16, Range<usize>)> {
        said_by(IPV4, stream)
    }

    /// Returns whether the stream is FTP, read as a whole and byte by byte, which go different ways through the code.
    fn is_ftp(stream: &[u8]) -> [bool; 2] {
        let mut whole = ClientReader::default();
        whole.read(stream, IPV4);
        let mut bytewise = ClientReader::default();
        for byte in stream {
            bytewise.read(&[*byte], IPV4);
        }
        [whole.is_ftp(), bytewise.is_ftp()]
    }

    #[test]
    fn port() {
        assert_eq!(
            said(b"PORT 10,0,0,2,19,136\r\n"),
            Some((Kind::Port, 5000, 5..20))
        );
        assert_eq!(
            said(b"PORT 10,0,0,2,19,136\n"),
            Some((Kind::Port, 5000, 5..20))
        );
        assert_eq!(
            said(b"PORT 10,0,0,2,19,136\r"),
            Some((Kind::Port, 5000, 5..20))
        );
        assert_eq!(said(b"PORT 10,0,0,2,19,136"), None);
    }

    #[test]
    fn eprt() {
        assert_eq!(
            said(b"EPRT |1|10.0.0.2|5001|\r\n"),
            Some((Kind::Eprt, 5001, 5..22))
        );
        let stream = b"EPRT |2|2001:db8::2|5001|\r\n";
        assert_eq!(said_by(IPV6, stream), Some((Kind::Eprt, 5001, 5..25)));
        assert_eq!(said_by(IPV6, b"EPRT |1|10.0.0.2|5001|\r\n"), None);
    }

    #[test]
    fn other_hosts_and_low_ports() {
        for stream in [
            b"PORT 10,0,0,3,19,136\r\n".as_slice(),
            b"PORT 10,0,0,2,3,255\r\n",
            b"PORT 10,0,0,2,0,0\r\n",
            b"EPRT |1|10.0.0.3|5001|\r\n",
            b"EPRT |1|10.0.0.2|1023|\r\n",
            b"EPRT |1|10.0.0.2||\r\n",
        ] {
            assert_eq!(said(stream), None);
            assert_eq!([true; 2], is_ftp(stream));
        }
    }

    #[test]
    fn port_needs_ipv4() {
        assert_eq!(said_by(IPV6, b"PORT 10,0,0,2,19,136\r\n"), None);
    }

    #[test]
    fn small_letters() {
        assert_eq!(
            said(b"port 10,0,0,2,19,136\r\n"),
            Some((Kind::Port, 5000, 5..20))
        );
        assert_eq!(
            said(b"ePrT |1|10.0.0.2|5001|\r\n"),
            Some((Kind::Eprt, 5001, 5..22))
        );
    }

    #[test]
    fn blanks_and_tabs() {
        assert_eq!(
            said(b"PORT\t10,0,0,2,19,136\r\n"),
            Some((Kind::Port, 5000, 5..20))
        );
        assert_eq!(
            said(b"PORT \t  10,0,0,2,19,136 \t \r\n"),
            Some((Kind::Port, 5000, 8..23))
        );
        assert_eq!(
            said(b"EPRT  |1|10.0.0.2|5001| \n"),
            Some((Kind::Eprt, 5001, 6..23))
        );
        assert_eq!(said(b"PORT10,0,0,2,19,136\r\n"), None);
    }

    #[test]
    fn too_many_blanks_behind_an_argument() {
        for (blanks, expected) in [(255, true), (256, false)] {
            let mut reader = ClientReader::default();
            reader.read(b"PORT 10,0,0,2,19,136", IPV4);
            reader.read([b' '; 256].get(..blanks).unwrap_or_default(), IPV4);
            assert_eq!(reader.read(b"\r\n", IPV4).is_some(), expected);
            assert!(reader.read(b"PORT 10,0,0,2,19,136\r\n", IPV4).is_some());
        }
    }

    #[test]
    fn anything_else_behind_an_argument() {
        for stream in [
            b"PORT 10,0,0,2,19,136 x\r\n".as_slice(),
            b"PORT 10,0,0,2,19,136,\r\n",
            b"PORT 10,0,0,2,19,136\0\r\n",
            b"EPRT |1|10.0.0.2|5001||\r\n",
            b"EPRT |1|10.0.0.2|5001|)\r\n",
            b"PORT\r\n",
            b"EPRT \r\n",
            b"PORT 10,0,0,2,19\r\n",
            b"EPRT |1|10.0.0.2|5001\r\n",
        ] {
            assert_eq!(said(stream), None);
            assert_eq!([true; 2], is_ftp(stream));
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_spoils_no_other() {
        let stream = b"PORT 10,0,0,2,999,136\r\nEPRT |1|\r\nPORT 10,0,0,2,19,136\r\n";
        assert_eq!(said(stream), Some((Kind::Port, 5000, 38..53)));
        assert_eq!(
            said(b"PORT 10\nPORT 10,0,0,2,19,136\n"),
            Some((Kind::Port, 5000, 13..28))
        );
    }

    #[test]
    fn the_last_of_several_counts() {
        let stream =
            b"USER x\r\nPORT 10,0,0,2,19,136\r\nLIST\r\nEPRT |1|10.0.0.2|5001|\r\nNOOP\r\n";
        assert_eq!(said(stream), Some((Kind::Eprt, 5001, 41..58)));
    }

    #[test]
    fn an_announcement_in_the_middle_of_text_is_none() {
        assert_eq!(said(b"CWD PORT 10,0,0,2,19,136\r\n"), None);
        assert_eq!(said(b"STOR x\rPORT 10,0,0,2,19,136\r\n"), None);
    }

    #[test]
    fn an_argument_that_began_in_an_earlier_piece() {
        let mut reader = ClientReader::default();
        assert_eq!(reader.read(b"PORT 10,0,", IPV4), None);
        let found = reader.read(b"0,2,19,136\r\n", IPV4);
        assert_eq!(found.map(|found| (found.len, found.end)), Some((15, 10)));
        assert_eq!(found.and_then(Announcement::place), None);
    }

    #[test]
    fn an_end_that_comes_later() {
        let mut reader = ClientReader::default();
        assert_eq!(reader.read(b"PORT 10,0,0,2,19,136 ", IPV4), None);
        assert_eq!(reader.read(b" ", IPV4), None);
        let found = reader.read(b"\r\n", IPV4);
        assert_eq!(found.map(|found| (found.port, found.end)), Some((5000, -2)));
    }

    #[test]
    fn each_byte_on_its_own() {
        let mut reader = ClientReader::default();
        let stream = b"noop\r\nPORT 10,0,0,2,19,136\r\n";
        for (n, byte) in stream.iter().enumerate() {
            let found = reader.read(&[*byte], IPV4);
            assert_eq!(
                found.map(|found| (found.port, found.end)),
                (n == 26).then_some((5000, 0))
            );
        }
        assert_eq!(reader, ClientReader::default());
    }

    #[test]
    fn sessions_are_ftp() {
        assert_eq!([true; 2], is_ftp(
            b"USER anonymous\r\nPASS x@\r\nSYST\r\nFEAT\r\nOPTS UTF8 ON\r\nPWD\r\nTYPE I\r\nCWD a b\r\n\
            EPSV\r\nMLSD\r\nXMD5 file\r\nmd5 file\r\nABOR\r\nQUIT\r\n"
        ));
    }

    #[test]
    fn empty_lines_are_ftp() {
        assert_eq!([true; 2], is_ftp(b"\r\n\n\r\r\nNOOP\n\nPWD\r\n\r\n"));
        assert_eq!(
            said(b"\r\n\nPORT 10,0,0,2,19,136\r\n"),
            Some((Kind::Port, 5000, 8..23))
        );
    }

    #[test]
    fn other_protocols_are_not_ftp() {
        for stream in [
            b"POST / HTTP/1.1\r\n".as_slice(),
            b"GET / HTTP/1.1\r\n",
            b"NOOP\r\nHost: x\r\n",
            b"NOOP\r\nHOST: x\r\n",
            b"\x16\x03\x01\x02\x00",
            b"\x00\x01\x00\x00!\x12\xa4B",
            b"EHLO example.com\r\n",
            b"REGISTER sip:example.com SIP/2.0\r\n",
            b"NICK x\r\n",
            b"P@SW\r\n",
            b" PWD\r\n",
            b"\tPWD\r\n",
            b"PWDX\r\n",
            b"PW\r\n",
            b"NOOPS\r\n",
            b"PWD\0\r\n",
            b"CWD\0 x\r\n",
            b"XMD\x15 x\r\n",
            b"\0",
            b"@",
        ] {
            assert_eq!([false; 2], is_ftp(stream));
        }
    }

    #[test]
    fn what_may_become_a_command_is_ftp_so_far() {
        for stream in [b"".as_slice(), b"P", b"PORT", b"xyz", b"POST", b"\r"] {
            assert_eq!([true; 2], is_ftp(stream));
        }
    }

    #[test]
    fn nothing_is_read_after_a_line_of_another_protocol() {
        let mut reader = ClientReader::default();
        let stream = b"POST / HTTP/1.1\r\nPORT 10,0,0,2,19,136\r\n";
        assert_eq!(reader.read(stream, IPV4), None);
        assert_eq!(reader.read(b"PORT 10,0,0,2,19,136\r\n", IPV4), None);
        assert!(!reader.is_ftp());
    }

    #[test]
    fn an_announcement_before_such_a_line_is_told() {
        let mut reader = ClientReader::default();
        let found = reader.read(b"PORT 10,0,0,2,19,136\r\nHost: x\r\n", IPV4);
        assert_eq!(found.map(|found| found.port), Some(5000));
        assert!(!reader.is_ftp());
    }

    #[test]
    fn telnet_commands() {
        let port = Some((Kind::Port, 5000, 9..24));
        assert_eq!(said(b"\xff\xf4\xff\xf2PORT 10,0,0,2,19,136\r\n"), port);
        assert_eq!(said(b"PO\xff\xf4\xff\xf2RT 10,0,0,2,19,136\r\n"), port);
        assert_eq!(said(b"PORT\xff\xf4\xff\xf2 10,0,0,2,19,136\r\n"), port);
        assert_eq!(
            said(b"\xff\xfb\x01\xff\nPORT 10,0,0,2,19,136\r\n"),
            Some((Kind::Port, 5000, 10..25))
        );
        assert_eq!(
            [true; 2],
            is_ftp(b"\xff\xf4\xff\xf2ABOR\r\n\xff\xfe\xffNOOP\r\n")
        );
    }

    #[test]
    fn telnet_commands_in_an_argument() {
        assert_eq!(said(b"PORT 10,0,0,2,\xff\xf219,136\r\n"), None);
        assert_eq!([true; 2], is_ftp(b"PORT 10,0,0,2,\xff\xf219,136\r\n"));
    }

    #[test]
    fn a_byte_255_is_not_ftp() {
        assert_eq!([false; 2], is_ftp(b"\xff\xffPWD\r\n"));
        assert_eq!([false; 2], is_ftp(b"PW\xff\xffD\r\n"));
    }

    #[test]
    fn long_lines() {
        let mut reader = ClientReader::default();
        reader.read(b"CWD ", IPV4);
        for _ in 0..1000 {
            assert_eq!(reader.read(&[b'x'; 100], IPV4), None);
        }
        let found = reader.read(b"\r\nPORT 10,0,0,2,19,136\r\n", IPV4);
        assert_eq!(found.map(|found| found.end), Some(22));
    }
}
