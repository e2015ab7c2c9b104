// SPDX-License-Identifier: GPL-2.0

//! The two streams of a control connection, put together from segments that come late, twice, or not at all.

use super::reader::{
    ClientReader,
    Kind,
    Reader,
    ServerReader, //
};
use crate::{
    net::{
        skb::ahead_of,
        AnyAddress, //
    },
    netfilter::tuple::Direction, //
};
use core::ops::Range;
use kernel::prelude::*;
use pin_init::Zeroable;

/// What the helper remembers of a control connection; all bytes are 0 where it begins.
///
/// Sequence numbers are those of the sender.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub(super) struct Streams {
    client: Stream<ClientReader>,
    server: Stream<ServerReader>,
    /// The argument that was rewritten last.
    rewritten: Rewritten,
}

const _: () = assert!(size_of::<Streams>() == 32);

/// The stream of one direction.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
struct Stream<R> {
    /// The sequence number of the next byte to read.
    next: u32,
    reader: R,
    /// 0 until the beginning was seen.
    begun: u8,
}

/// An argument that was rewritten.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
struct Rewritten {
    /// The sequence number of its first byte.
    sequence: u32,
    /// The port that was written, in host order; 0 if nothing has been rewritten.
    port: u16,
    /// Its length in bytes before it was rewritten.
    len: u8,
    /// A [`Kind`].
    kind: u8,
}

/// A port that a segment announces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Announced {
    pub(super) kind: Kind,
    /// The port in host order, 1024 or above.
    pub(super) port: u16,
    /// The place of the argument in the segment's payload, or `None` if a part of it has gone before.
    pub(super) place: Option<Range<usize>>,
}

/// A part of a segment that is to be rewritten.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rewriting {
    pub(super) kind: Kind,
    /// The port to write, in host order.
    pub(super) port: u16,
    /// The place in the segment's payload.
    pub(super) place: Range<usize>,
}

impl Streams {
    /// Begins the stream of a direction, unless it has begun; `first` is the sequence number of its first byte.
    pub(super) fn begin(&mut self, direction: Direction, first: u32) {
        match direction {
            Direction::Original => self.client.begin(first),
            Direction::Reply => self.server.begin(first),
        }
    }

    /// Reads a segment's payload, as far as it is new, and returns the last announcement that is complete with it.
    ///
    /// `own` is the sender's address. Nothing is announced before the server has greeted the client, nor in a connection
    /// that is not, or no more, a readable one of FTP.
    pub(super) fn read(
        &mut self,
        direction: Direction,
        sequence: u32,
        payload: &[u8],
        own: AnyAddress,
    ) -> Option<Announced> {
        let found = match direction {
            Direction::Original => self.client.read(sequence, payload, own),
            Direction::Reply => self.server.read(sequence, payload, own),
        };
        found.filter(|_| self.is_readable())
    }

    /// Returns whether announcements of this connection count.
    fn is_readable(&self) -> bool {
        let server = &self.server.reader;
        server.has_greeted() && !server.is_tls() && self.client.reader.is_ftp()
    }

    /// Notes that the argument of a segment was rewritten.
    pub(super) fn note(&mut self, sequence: u32, rewriting: &Rewriting) {
        let Range { start, end } = rewriting.place;
        self.rewritten = Rewritten {
            // CAST: A place in a packet.
            sequence: sequence.wrapping_add(start as u32),
            port: rewriting.port,
            // CAST: Readers announce no longer arguments.
            len: (end - start) as u8,
            kind: rewriting.kind as u8,
        };
    }

    /// Returns the direction of the argument that was rewritten last, and the sequence number behind it.
    pub(super) fn rewritten_until(&self) -> Option<(Direction, u32)> {
        let Rewritten {
            sequence,
            port,
            len,
            kind,
        } = self.rewritten;
        let direction = Kind::from_number(kind)?.direction();
        (port != 0).then(|| (direction, sequence.wrapping_add(len.into())))
    }

    /// Returns what has to be rewritten in a segment that repeats the whole argument that was rewritten last.
    pub(super) fn again(
        &self,
        direction: Direction,
        sequence: u32,
        payload_len: usize,
    ) -> Option<Rewriting> {
        let Rewritten {
            sequence: first,
            port,
            len,
            kind,
        } = self.rewritten;
        if port == 0 {
            return None;
        }
        let kind = Kind::from_number(kind).filter(|kind| kind.direction() == direction)?;
        // CAST: The difference is a place in the segment, or it is out of reach.
        let start = first.wrapping_sub(sequence) as usize;
        let place = start..start.checked_add(len.into())?;
        (place.end <= payload_len).then_some(Rewriting { kind, port, place })
    }
}

impl<R: Reader> Stream<R> {
    fn begin(&mut self, first: u32) {
        if self.begun == 0 {
            self.next = first;
            self.begun = 1;
        }
    }

    /// Reads the part of a payload that was not read yet.
    fn read(&mut self, sequence: u32, payload: &[u8], own: AnyAddress) -> Option<Announced> {
        if self.begun == 0 {
            return None;
        }
        let behind = ahead_of(self.next, sequence);
        // Where it is negative, something before the payload was lost.
        let old = usize::try_from(behind).unwrap_or(0);
        let piece = payload.get(old..).filter(|piece| !piece.is_empty())?;
        if behind < 0 {
            self.reader.skip_line();
        }
        // CAST: A payload is shorter than a packet.
        self.next = sequence.wrapping_add(payload.len() as u32);
        let found = self.reader.read(piece, own)?;
        let place = found.place();
        Some(Announced {
            kind: found.kind,
            port: found.port,
            place: place.map(|place| place.start + old..place.end + old),
        })
    }
}

#[kunit_tests(rustmasq_ftp_stream)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const CLIENT: AnyAddress = AnyAddress::V4(Ipv4Addr::new(192, 0, 2, 7));
    const SERVER: AnyAddress = AnyAddress::V4(Ipv4Addr::new(203, 0, 113, 2));
    /// The streams of both directions pass the highest sequence number.
    const FIRST: u32 = u32::MAX - 10;
    const PORT: &[u8] = b"PORT 192,0,2,7,19,137\r\n";

    struct Connection {
        streams: Streams,
        client: u32,
        server: u32,
    }

    impl Connection {
        /// Returns a connection whose server has greeted.
        fn new() -> Self {
            let mut streams: Streams = pin_init::zeroed();
            streams.begin(Direction::Original, FIRST);
            streams.begin(Direction::Reply, FIRST);
            let mut connection = Self {
                streams,
                client: FIRST,
                server: FIRST,
            };
            assert_eq!(connection.server_says(b"220 ready\r\n"), None);
            connection
        }

        /// Sends the next bytes of the client. Returns the port that is announced, and the place of the argument.
        fn client_says(&mut self, payload: &[u8]) -> Option<(u16, Option<Range<usize>>)> {
            self.client = self.client.wrapping_add(payload.len() as u32);
            self.client_sends(self.client.wrapping_sub(payload.len() as u32), payload)
        }

        fn client_sends(
            &mut self,
            sequence: u32,
            payload: &[u8],
        ) -> Option<(u16, Option<Range<usize>>)> {
            let found = self
                .streams
                .read(Direction::Original, sequence, payload, CLIENT)?;
            Some((found.port, found.place))
        }

        fn server_says(&mut self, payload: &[u8]) -> Option<u16> {
            let sequence = self.server;
            self.server = self.server.wrapping_add(payload.len() as u32);
            let found = self
                .streams
                .read(Direction::Reply, sequence, payload, SERVER)?;
            Some(found.port)
        }
    }

    #[test]
    fn a_whole_line_is_announced() {
        let mut connection = Connection::new();
        assert_eq!(connection.client_says(b"USER x\r\n"), None);
        assert_eq!(connection.client_says(PORT), Some((5001, Some(5..21))));
    }

    #[test]
    fn a_line_in_pieces_is_announced_without_its_place() {
        let mut connection = Connection::new();
        assert_eq!(connection.client_says(&PORT[..9]), None);
        assert_eq!(connection.client_says(&PORT[9..]), Some((5001, None)));
    }

    #[test]
    fn an_argument_in_one_piece_has_its_place() {
        let mut connection = Connection::new();
        assert_eq!(connection.client_says(&PORT[..5]), None);
        assert_eq!(
            connection.client_says(&PORT[5..]),
            Some((5001, Some(0..16)))
        );
    }

    #[test]
    fn what_was_read_is_not_read_again() {
        let mut connection = Connection::new();
        let start = connection.client;
        assert!(connection.client_says(PORT).is_some());
        assert_eq!(connection.client_sends(start, PORT), None);
        assert_eq!(connection.client_sends(start, &PORT[..4]), None);
        assert!(connection.client_says(PORT).is_some());
    }

    #[test]
    fn of_an_overlapping_segment_the_new_part_is_read() {
        let mut connection = Connection::new();
        let start = connection.client;
        assert_eq!(connection.client_says(b"NOOP\r\n"), None);
        let both = b"NOOP\r\nPORT 192,0,2,7,19,137\r\n";
        let found = connection.client_sends(start, both);
        assert_eq!(found, Some((5001, Some(11..27))));
        // The next byte is the one behind all of it.
        connection.client = start.wrapping_add(29);
        assert!(connection.client_says(PORT).is_some());
    }

    #[test]
    fn an_argument_that_began_in_the_old_part_has_no_place() {
        let mut connection = Connection::new();
        let start = connection.client;
        assert_eq!(connection.client_says(&PORT[..9]), None);
        assert_eq!(connection.client_sends(start, PORT), Some((5001, None)));
    }

    #[test]
    fn behind_a_gap_reading_goes_on_with_the_next_line() {
        let mut connection = Connection::new();
        connection.client = connection.client.wrapping_add(6);
        // This may be the end of a line.
        assert_eq!(connection.client_says(PORT), None);
        assert!(connection.client_says(PORT).is_some());
    }

    #[test]
    fn what_was_missing_is_not_read_late() {
        let mut connection = Connection::new();
        let start = connection.client;
        connection.client = start.wrapping_add(PORT.len() as u32);
        assert_eq!(connection.client_says(b"NOOP\r\n"), None);
        assert_eq!(connection.client_sends(start, PORT), None);
        assert!(connection.client_says(PORT).is_some());
    }

    #[test]
    fn a_stream_whose_beginning_was_not_seen_is_not_read() {
        let mut streams: Streams = pin_init::zeroed();
        streams.begin(Direction::Reply, FIRST);
        let greeting = b"220 ready\r\n";
        assert_eq!(
            streams.read(Direction::Reply, FIRST, greeting, SERVER),
            None
        );
        assert_eq!(streams.read(Direction::Original, FIRST, PORT, CLIENT), None);
    }

    #[test]
    fn a_second_beginning_changes_nothing() {
        let mut connection = Connection::new();
        assert_eq!(connection.client_says(&PORT[..9]), None);
        connection.streams.begin(Direction::Original, 7);
        assert_eq!(connection.client_says(&PORT[9..]), Some((5001, None)));
    }

    #[test]
    fn nothing_is_announced_before_the_greeting() {
        let mut connection = Connection::new();
        connection.streams.server = pin_init::zeroed();
        connection.streams.begin(Direction::Reply, FIRST);
        connection.server = FIRST;
        assert_eq!(connection.client_says(PORT), None);
        assert_eq!(connection.server_says(b"120 in a minute\r\n"), None);
        assert_eq!(connection.client_says(PORT), None);
        assert_eq!(connection.server_says(b"220-ready\r\n220 now\r\n"), None);
        assert!(connection.client_says(PORT).is_some());
    }

    #[test]
    fn nothing_is_announced_after_a_line_that_is_none_of_ftp() {
        let mut connection = Connection::new();
        assert_eq!(connection.client_says(b"POST / HTTP/1.1\r\n"), None);
        assert_eq!(connection.client_says(PORT), None);
        let passive = b"227 Entering Passive Mode (203,0,113,2,19,137).\r\n";
        assert_eq!(connection.server_says(passive), None);
        assert_eq!(Connection::new().server_says(passive), Some(5001));
    }

    #[test]
    fn nothing_is_announced_after_tls_began() {
        let mut connection = Connection::new();
        assert_eq!(connection.client_says(b"AUTH TLS\r\n"), None);
        assert_eq!(connection.server_says(b"234 go on\r\n"), None);
        assert_eq!(connection.client_says(PORT), None);
    }

    #[test]
    fn the_last_rewriting_is_repeated() {
        let mut connection = Connection::new();
        let streams = &mut connection.streams;
        assert_eq!(streams.again(Direction::Original, 0, 100), None);
        assert_eq!(streams.rewritten_until(), None);
        let rewriting = Rewriting {
            kind: Kind::Port,
            port: 6001,
            place: 5..21,
        };
        streams.note(FIRST, &rewriting);
        assert_eq!(
            streams.rewritten_until(),
            Some((Direction::Original, FIRST.wrapping_add(21)))
        );
        let len = PORT.len();
        let again = |direction, sequence, len| streams.again(direction, sequence, len);
        assert_eq!(
            again(Direction::Original, FIRST, len),
            Some(rewriting.clone())
        );
        assert_eq!(again(Direction::Reply, FIRST, len), None);
        // The segment begins earlier, or later.
        let earlier = again(Direction::Original, FIRST.wrapping_sub(6), len + 6);
        assert_eq!(earlier.map(|rewriting| rewriting.place), Some(11..27));
        let later = again(Direction::Original, FIRST.wrapping_add(5), len - 5);
        assert_eq!(later.map(|rewriting| rewriting.place), Some(0..16));
        // It has a part of the argument alone.
        assert_eq!(
            again(Direction::Original, FIRST.wrapping_add(6), len - 6),
            None
        );
        assert_eq!(again(Direction::Original, FIRST, 20), None);
        assert_eq!(again(Direction::Original, FIRST, 21), Some(rewriting));
    }
}
