// SPDX-License-Identifier: GPL-2.0

//! The argument of PORT and of the reply 227: an IPv4 address and a port as six numbers.

use super::{
    read_steps,
    Step,
    FIRST_PORT, //
};
use kernel::prelude::*;

/// The numbers of `h1,h2,h3,h4,p1,p2` (RFC 959, section 5.3.2) that have been read.
///
/// Numbers may have leading zeros, and blanks and tabs may follow a comma, as most servers and clients read them with
/// `sscanf` or the like. Numbers of another host, or above 255, are read to their end as well, so that the caller
/// knows where that is; they announce nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Numbers {
    /// How many numbers are complete, 0 to 5.
    complete: u8,
    /// The number that is being read has a digit.
    has_digit: bool,
    /// The numbers are not those of an announcement.
    foreign: bool,
    /// The number that is being read; [`TOO_LARGE`] stands for all above it, too.
    value: u32,
    /// The fifth number, which is the high byte of the port.
    high: u8,
    /// How many bytes have been read.
    len: u8,
}

const TOO_LARGE: u32 = 256;

/// The bits of the first byte in [`Numbers::store`] beside the number of complete numbers.
const HAS_DIGIT: u8 = 0x10;
const FOREIGN: u8 = 0x20;

impl Numbers {
    pub(super) fn load(memory: [u8; 4]) -> Self {
        let [bits, value, high, len] = memory;
        Self {
            complete: bits & !(HAS_DIGIT | FOREIGN),
            has_digit: bits & HAS_DIGIT != 0,
            foreign: bits & FOREIGN != 0,
            value: value.into(),
            high,
            len,
        }
    }

    pub(super) fn store(self) -> [u8; 4] {
        let has_digit = if self.has_digit { HAS_DIGIT } else { 0 };
        // A number that is too large makes the numbers foreign. It stays large with more digits.
        let (value, foreign) = match u8::try_from(self.value) {
            Ok(value) => (value, self.foreign),
            Err(_) => (u8::MAX, true),
        };
        let foreign = if foreign { FOREIGN } else { 0 };
        [
            self.complete | has_digit | foreign,
            value,
            self.high,
            self.len,
        ]
    }

    /// Reads bytes up to the one behind the numbers, or one that does not fit, and returns how many precede that.
    #[inline(always)]
    pub(super) fn read(&mut self, bytes: &[u8], own: [u8; 4]) -> (Step, usize) {
        let (step, len) = read_steps(bytes, |byte| self.step(byte, own));
        match u8::try_from(usize::from(self.len) + len) {
            Ok(len) => self.len = len,
            Err(_) => self.foreign = true,
        }
        (step, len)
    }

    /// Returns the port, if all numbers are complete, unless they announce none.
    pub(super) fn port(self) -> Option<u16> {
        let low = u8::try_from(self.value).ok()?;
        let port = u16::from_be_bytes([self.high, low]);
        (!self.foreign && port >= FIRST_PORT).then_some(port)
    }

    /// Returns the number of bytes that have been read.
    pub(super) fn len(self) -> u8 {
        self.len
    }

    #[inline(always)]
    fn step(&mut self, byte: u8, own: [u8; 4]) -> Step {
        match byte {
            b'0'..=b'9' => {
                self.has_digit = true;
                // At most ten times 256 and 9: nothing wraps.
                let digit = u32::from(byte).wrapping_sub(b'0'.into());
                let value = self.value.wrapping_mul(10).wrapping_add(digit);
                self.value = TOO_LARGE.min(value);
            }
            b',' if self.has_digit && self.complete < 5 => self.end_number(own),
            b' ' | b'\t' if !self.has_digit && self.complete > 0 => {}
            _ if self.has_digit && self.complete == 5 => return Step::Complete,
            _ => return Step::Broken,
        }
        Step::Inside
    }

    fn end_number(&mut self, own: [u8; 4]) {
        let fits = match own.get(usize::from(self.complete)) {
            Some(own) => self.value == u32::from(*own),
            None => self.value < TOO_LARGE,
        };
        self.foreign |= !fits;
        self.high = u8::try_from(self.value).unwrap_or(u8::MAX);
        self.value = 0;
        self.has_digit = false;
        self.complete += 1;
    }
}

/// Reads all numbers at once, if they are there without any blanks, and announce a port of the host `own`.
///
/// Returns the port and the number of bytes: what [`Numbers::read`] finds, in less time.
#[inline(always)]
pub(super) fn read_whole(bytes: &[u8], own: [u8; 4]) -> Option<(u16, u8)> {
    let mut rest = bytes;
    for own in own {
        let (number, behind) = read_number(rest)?;
        rest = behind.strip_prefix(b",").filter(|_| number == own)?;
    }
    let (high, behind) = read_number(rest)?;
    let (low, behind) = read_number(behind.strip_prefix(b",")?)?;
    let port = u16::from_be_bytes([high, low]);
    let len = u8::try_from(bytes.len() - behind.len()).ok()?;
    (port >= FIRST_PORT).then_some((port, len))
}

/// Reads a number of one byte, and returns it and the bytes behind its last digit.
#[inline(always)]
fn read_number(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = bytes;
    let mut number: u8 = 0;
    while let [digit @ b'0'..=b'9', behind @ ..] = rest {
        number = number.checked_mul(10)?.checked_add(digit - b'0')?;
        rest = behind;
    }
    (rest.len() < bytes.len()).then_some((number, rest))
}

#[kunit_tests(rustmasq_ftp_numbers)]
mod tests {
    use super::*;

    const OWN: [u8; 4] = [10, 0, 0, 2];

    /// Reads a text and the byte behind it; returns the result, the number of bytes of the argument, and the port.
    fn read(text: &[u8]) -> (Step, u8, Option<u16>) {
        let mut numbers = Numbers::default();
        let (step, len) = numbers.read(text, OWN);
        let whole = (step, numbers.len(), numbers.port());
        if read_whole(text, OWN).is_some_and(|(port, len)| (Some(port), len) != (whole.2, whole.1))
        {
            return (Step::Broken, 0, None);
        }
        // The same in two pieces, wherever they are cut.
        for cut in 0..=len {
            let (first, second) = text.split_at(cut);
            let mut numbers = Numbers::default();
            numbers.read(first, OWN);
            numbers = Numbers::load(numbers.store());
            let (step, _) = numbers.read(second, OWN);
            if (step, numbers.len(), numbers.port()) != whole {
                return (Step::Broken, 0, None);
            }
        }
        whole
    }

    #[test]
    fn six_numbers() {
        assert_eq!(read(b"10,0,0,2,19,136)"), (Step::Complete, 15, Some(5000)));
        assert_eq!(read(b"10,0,0,2,19,136\n"), (Step::Complete, 15, Some(5000)));
        assert_eq!(read(b"10,0,0,2,19,136,"), (Step::Complete, 15, Some(5000)));
        assert_eq!(
            read(b"10,0,0,2,255,255 "),
            (Step::Complete, 16, Some(65535))
        );
    }

    #[test]
    fn numbers_at_once() {
        for text in [b"10,0,0,2,19,136".as_slice(), b"10,0,0,2,19,136\r\n"] {
            assert_eq!(read_whole(text, OWN), Some((5000, 15)));
        }
        assert_eq!(read_whole(b"010,0,0,2,4,00 ", OWN), Some((1024, 14)));
        for text in [
            b"".as_slice(),
            b"10,0,0,2,19",
            b"10,0,0,2,19,",
            b"10,0,0,2,,136",
            b"10,0,0,2, 19,136",
            b"10,0,0,2,256,136",
            b"10,0,0,2,4294967315,136",
            b"10,0,0,3,19,136",
            b"10,0,0,2,3,255",
            b"x",
        ] {
            assert_eq!(read_whole(text, OWN), None);
        }
        let mut long = [b'0'; 256];
        if let Some(end) = long.last_chunk_mut() {
            *end = *b"10,0,0,2,19,136";
        }
        assert_eq!(read_whole(&long, OWN), None);
        assert_eq!(
            read_whole(long.get(1..).unwrap_or_default(), OWN),
            Some((5000, 255))
        );
    }

    #[test]
    fn numbers_that_go_on() {
        for text in [
            b"".as_slice(),
            b"1",
            b"10,",
            b"10,0,0,2,19",
            b"10,0,0,2,19,",
            b"10,0,0,2,19,136",
        ] {
            assert_eq!(read(text).0, Step::Inside);
        }
    }

    #[test]
    fn leading_zeros_and_blanks_behind_commas() {
        assert_eq!(
            read(b"010,000,0,02,0019,136\r"),
            (Step::Complete, 21, Some(5000))
        );
        assert_eq!(
            read(b"10, 0,\t0, \t2,19,  136\r"),
            (Step::Complete, 21, Some(5000))
        );
    }

    #[test]
    fn what_is_no_number() {
        for text in [
            b",".as_slice(),
            b" 10,0",
            b"-1,0",
            b"10,,",
            b"10 ,",
            b"10,0,0,2,19,\r",
            b"10,0,0,2,19\r",
            b"10,0, \r",
            b"10.0",
            b"10,0,0,2;",
            b"x",
        ] {
            assert_eq!(read(text).0, Step::Broken);
        }
    }

    #[test]
    fn other_hosts_announce_nothing() {
        for text in [
            b"11,0,0,2,19,136 ".as_slice(),
            b"10,1,0,2,19,136 ",
            b"10,0,1,2,19,136 ",
            b"10,0,0,3,19,136 ",
            b"266,0,0,2,19,136 ",
        ] {
            let (step, _, port) = read(text);
            assert_eq!((step, port), (Step::Complete, None));
        }
    }

    #[test]
    fn numbers_above_255_announce_nothing() {
        for text in [
            b"10,0,0,2,256,0 ".as_slice(),
            b"10,0,0,2,19,256 ",
            b"10,0,0,2,275,136 ",
            b"10,0,0,258,19,136 ",
            b"10,0,0,65538,19,136 ",
            b"10,0,0,2,19,99999999999999999999999999 ",
        ] {
            let (step, _, port) = read(text);
            assert_eq!((step, port), (Step::Complete, None));
        }
    }

    #[test]
    fn low_ports_announce_nothing() {
        assert_eq!(read(b"10,0,0,2,3,255 ").2, None);
        assert_eq!(read(b"10,0,0,2,0,0 ").2, None);
        assert_eq!(read(b"10,0,0,2,4,0 ").2, Some(1024));
    }

    #[test]
    fn long_arguments_announce_nothing() {
        // With so many zeros in front the argument has 255 bytes.
        let longest = 255 - b"10,0,0,2,19,136".len();
        for (zeros, port) in [(longest, Some(5000)), (longest + 1, None), (400, None)] {
            let mut numbers = Numbers::default();
            numbers.read([b'0'; 400].get(..zeros).unwrap_or_default(), OWN);
            numbers = Numbers::load(numbers.store());
            let (step, _) = numbers.read(b"10,0,0,2,19,136 ", OWN);
            assert_eq!((step, numbers.port()), (Step::Complete, port));
        }
    }
}
