// SPDX-License-Identifier: GPL-2.0

//! Readers of FTP's control connection, one for what the client sends and one for what the server sends.
//!
//! They read a stream, not packets: the bytes of one direction come in order, in pieces that may be cut anywhere, and
//! what a reader knows between two pieces takes seven bytes. (Conntrack has 32 bytes for the state of a helper.) A line
//! may have any length and may contain any bytes.
//!
//! A reader announces a port only if it is above 1023 and if the argument names the host that sent it. Anything that it
//! cannot read passes silently, as servers and clients answer with an error or ignore it.

mod client;
mod commands;
mod extended;
mod numbers;
mod server;

pub(super) use client::ClientReader;
pub(super) use server::ServerReader;

use crate::{
    net::AnyAddress,
    netfilter::tuple::Direction, //
};
use core::ops::Range;
use kernel::prelude::*;

/// The command or reply that announces a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// The command `PORT h1,h2,h3,h4,p1,p2` (RFC 959).
    Port,
    /// The command `EPRT |protocol|address|port|` (RFC 2428).
    Eprt,
    /// The reply `227 Entering Passive Mode (h1,h2,h3,h4,p1,p2)` (RFC 959).
    Pasv,
    /// The reply `229 Entering Extended Passive Mode (|||port|)` (RFC 2428).
    Epsv,
}

impl Kind {
    /// Returns the direction of what announces a port in this way.
    pub(super) fn direction(self) -> Direction {
        match self {
            Kind::Port | Kind::Eprt => Direction::Original,
            Kind::Pasv | Kind::Epsv => Direction::Reply,
        }
    }

    /// Returns the kind of a number, which `kind as u8` made.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Kind::Port, Kind::Eprt, Kind::Pasv, Kind::Epsv]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// A port at which the sender waits for a data connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Announcement {
    pub(super) kind: Kind,
    /// The port in host order, 1024 or above.
    pub(super) port: u16,
    /// The length of the argument in bytes: for 227 that of the numbers, else with the outer delimiters.
    pub(super) len: u8,
    /// The place right behind the argument, counted from the start of the piece; negative if it is in an earlier one.
    pub(super) end: isize,
}

impl Announcement {
    /// Returns the place of the argument in the piece, or `None` if it begins in an earlier one.
    pub(super) fn place(self) -> Option<Range<usize>> {
        let start = usize::try_from(self.end - isize::from(self.len)).ok()?;
        Some(start..start + usize::from(self.len))
    }
}

/// The reader of one direction.
pub(super) trait Reader {
    /// Reads the next piece of the stream, and returns the last announcement that is complete with a byte of it.
    ///
    /// `own` is the sender's address, the one that an argument has to name.
    fn read(&mut self, piece: &[u8], own: AnyAddress) -> Option<Announcement>;

    /// Goes on behind the next LF, because bytes before the next piece are unknown.
    fn skip_line(&mut self);
}

/// The lowest port that may be announced: those below belong to services.
const FIRST_PORT: u16 = 1024;

/// The result of reading more bytes of an argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// The argument goes on.
    Inside,
    /// The argument is complete.
    Complete,
    /// This is no argument, or one that announces nothing.
    Broken,
}

/// Reads bytes by `step` as long as the argument goes on, and returns the last result and the number of bytes before
/// the one that made it.
#[inline(always)]
fn read_steps(bytes: &[u8], mut step: impl FnMut(u8) -> Step) -> (Step, usize) {
    for (n, byte) in bytes.iter().enumerate() {
        match step(*byte) {
            Step::Inside => {}
            last => return (last, n),
        }
    }
    (Step::Inside, bytes.len())
}

/// The bytes of a piece that are not read yet.
struct Input<'a> {
    /// The length of the whole piece.
    len: usize,
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Returns the input of a piece, of which only the rest is left.
    fn new(piece: &'a [u8], rest: &'a [u8]) -> Self {
        Self {
            len: piece.len(),
            rest,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Skips all before the first byte that is marked, or all there is (see [`find`]).
    fn skip_to(&mut self, marks: impl Fn(u64) -> u64) {
        self.rest = find(self.rest, marks).unwrap_or_default();
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Returns the place of the next byte in the piece.
    fn place(&self) -> isize {
        // CAST: A slice has at most isize::MAX bytes.
        (self.len - self.rest.len()) as isize
    }

    /// Skips all up to and including the next LF, and returns whether there is one.
    fn skip_line(&mut self) -> bool {
        let next = after_line_feed(self.rest);
        self.rest = next.unwrap_or_default();
        next.is_some()
    }
}

/// Returns the bytes behind the first LF.
#[inline(always)]
fn after_line_feed(bytes: &[u8]) -> Option<&[u8]> {
    let found = if bytes.len() < 8 {
        // Many commands have no argument.
        let place = bytes.iter().position(|byte| *byte == b'\n')?;
        bytes.get(place..)?
    } else {
        find(bytes, |word| equal(word, b'\n'))?
    };
    found.get(1..)
}

/// Returns the bytes from the first one on that `marks` marks, looking at eight bytes at a time.
///
/// It gets a word, the lowest byte of which is the first one, and sets the highest bit of the bytes that it marks. It
/// marks no byte that is zero. Marks behind the first one may be wrong.
#[inline(always)]
fn find(bytes: &[u8], marks: impl Fn(u64) -> u64) -> Option<&[u8]> {
    let mut rest = bytes;
    while let Some((word, more)) = rest.split_first_chunk() {
        if let Some(place) = first_mark(marks(u64::from_le_bytes(*word))) {
            return rest.get(place..);
        }
        rest = more;
    }
    match bytes.last_chunk() {
        // The last few bytes are looked at together with some that have no mark.
        Some(last) => last.get(first_mark(marks(u64::from_le_bytes(*last)))?..),
        None => {
            let place = bytes.iter().position(|byte| marks((*byte).into()) != 0)?;
            bytes.get(place..)
        }
    }
}

fn first_mark(marks: u64) -> Option<usize> {
    // CAST: Below 8.
    (marks != 0).then(|| (marks.trailing_zeros() / 8) as usize)
}

/// Marks the bytes of a word that are equal to `byte`, for [`find`].
fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

/// Marks the decimal digits of a word, for [`find`].
fn digit(word: u64) -> u64 {
    below(word ^ (ONES * u64::from(b'0')), 10)
}

/// Marks the bytes of a word that are below `limit`, which is at most 128, for [`find`].
fn below(word: u64, limit: u8) -> u64 {
    // Only a byte that is below the limit borrows from the next one, whose mark may be wrong then.
    word.wrapping_sub(ONES * u64::from(limit)) & !word & ONES << 7
}

/// A word whose bytes are all 1.
const ONES: u64 = u64::from_ne_bytes([1; 8]);

#[kunit_tests(rustmasq_ftp_reader)]
mod tests {
    use super::*;
    use crate::net::AnyAddress;
    use core::net::{
        Ipv4Addr,
        Ipv6Addr, //
    };

    const IPV4: AnyAddress = AnyAddress::V4(Ipv4Addr::new(10, 0, 0, 2));
    const IPV6: AnyAddress = AnyAddress::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

    #[test]
    fn first_line_feed_of_any_place() {
        for len in 0..30 {
            for place in 0..len {
                // Bytes that a sloppy search in words takes for LF, or overlooks LF behind.
                for other in [0, 9, 11, b'x', 0x8a, 0xff] {
                    let mut bytes = [other; 30];
                    bytes[place] = b'\n';
                    bytes[len - 1] = b'\n';
                    let rest = after_line_feed(&bytes[..len]).map(<[u8]>::len);
                    assert_eq!(rest, Some(len - place - 1));
                    assert_eq!(after_line_feed(&bytes[..place]), None);
                }
            }
        }
    }

    #[test]
    fn first_digit_of_any_value() {
        for byte in 0..=u8::MAX {
            for place in 0..20 {
                let mut bytes = [b'/'; 20];
                bytes[place] = byte;
                let rest = find(&bytes, digit).map(<[u8]>::len);
                assert_eq!(rest, byte.is_ascii_digit().then_some(20 - place));
            }
        }
    }

    #[test]
    fn arguments_in_the_piece_have_a_place() {
        let place = |len, end| {
            let announcement = Announcement {
                kind: Kind::Port,
                port: 5000,
                len,
                end,
            };
            announcement.place()
        };
        assert_eq!(place(17, 22), Some(5..22));
        assert_eq!(place(17, 17), Some(0..17));
        assert_eq!(place(17, 16), None);
        assert_eq!(place(17, 0), None);
        assert_eq!(place(17, -255), None);
    }

    /// Parts of what a client sends.
    const CLIENT_PARTS: [&[u8]; 27] = [
        b"PORT ",
        b"port\t",
        b"EPRT ",
        b"eprt  ",
        b"PORT 10,0,0,2,4,0\r\n",
        b"EPRT |1|10.0.0.2|5001|\r\n",
        b"EPRT |2|2001:db8::2|5001|\r\n",
        b"10,0,0,2,",
        b"10,0,0,3,",
        b"19,136",
        b"3,255",
        b"|1|10.0.0.2|",
        b"|2|2001:db8::2|",
        b"!2!2001:DB8:0:0::2!",
        b"65535|",
        b"65536!",
        b"5001|",
        b" ",
        b"\t",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"NOOP\r\n",
        b"CWD dir\n",
        b"\xff\xf4\xff\xf2",
        b"\xff\xfb\n",
    ];

    /// Parts of what a server sends.
    const SERVER_PARTS: [&[u8]; 21] = [
        b"227 (10,0,0,2,4,0)\r\n",
        b"227 ",
        b"227-",
        b"10,0,0,2,",
        b"10,0,0,3,",
        b"19,136",
        b"Mode 3 (",
        b"229 (|||5001|)\r\n",
        b"229 (",
        b"229-text (",
        b"|||",
        b"65535|",
        b"5001!",
        b"!!!",
        b")\r\n",
        b"\r\n",
        b"\n",
        b"220 ready\r\n",
        b"220-",
        b"226 done\r\n",
        b"2",
    ];

    /// Numbers that a seed determines (Knuth's MMIX).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
            self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % limit
        }

        /// Puts a stream of such parts, and a few other bytes, into the buffer and returns its length.
        fn fill(&mut self, buffer: &mut [u8; 512], parts: &[&[u8]]) -> usize {
            let mut len = 0;
            for _ in 0..self.below(16) {
                for byte in parts[self.below(parts.len())] {
                    buffer[len] = *byte;
                    len += 1;
                }
                if self.below(30) == 0 {
                    buffer[len] = self.below(256) as u8;
                    len += 1;
                }
            }
            len
        }
    }

    type Feed<'a> = &'a mut dyn FnMut(&[u8]) -> Option<Announcement>;

    /// Reads a stream in pieces of at most so many bytes. Returns the last announcement, with its place in the stream.
    fn read_in_pieces(
        stream: &[u8],
        numbers: &mut Numbers,
        most: usize,
        read: Feed<'_>,
    ) -> Option<Announcement> {
        let mut rest = stream;
        let mut last = None;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(1 + numbers.below(most)));
            let found = read(piece).map(|found| Announcement {
                end: found.end + (stream.len() - rest.len()) as isize,
                ..found
            });
            last = found.or(last);
            rest = more;
        }
        last
    }

    /// How many streams the properties are tested with, and how many of these have to announce something.
    const STREAMS: usize = 10_000;
    const ANNOUNCING: usize = 300;

    #[test]
    fn client_says_the_same_in_any_pieces() {
        let mut numbers = Numbers(959);
        let mut buffer = [0; 512];
        let mut announcing = 0;
        for n in 0..STREAMS {
            let len = numbers.fill(&mut buffer, &CLIENT_PARTS);
            let stream = &buffer[..len];
            let own = if n % 2 == 0 { IPV4 } else { IPV6 };
            let mut whole = ClientReader::default();
            let said = whole.read(stream, own);
            announcing += usize::from(said.is_some());
            for most in [1, 3, 40] {
                let mut reader = ClientReader::default();
                let read: Feed<'_> = &mut |piece| reader.read(piece, own);
                assert!(read_in_pieces(stream, &mut numbers, most, read) == said);
                assert!(reader == whole);
            }
        }
        assert!(announcing > ANNOUNCING);
    }

    #[test]
    fn server_says_the_same_in_any_pieces() {
        let mut numbers = Numbers(2428);
        let mut buffer = [0; 512];
        let mut announcing = 0;
        for n in 0..STREAMS {
            let len = numbers.fill(&mut buffer, &SERVER_PARTS);
            let stream = &buffer[..len];
            let own = if n % 2 == 0 { IPV4 } else { IPV6 };
            let mut whole = ServerReader::default();
            let said = whole.read(stream, own);
            announcing += usize::from(said.is_some());
            for most in [1, 3, 40] {
                let mut reader = ServerReader::default();
                let read: Feed<'_> = &mut |piece| reader.read(piece, own);
                assert!(read_in_pieces(stream, &mut numbers, most, read) == said);
                assert!(reader == whole);
            }
        }
        assert!(announcing > ANNOUNCING);
    }
}
