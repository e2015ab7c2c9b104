// SPDX-License-Identifier: GPL-2.0

//! The TFTP helper: the server answers a request from a new port (RFC 1350, section 4), so a NAT or
//! a filter lets the answer in only if the request announced it.

use crate::{
    module_parameters,
    netfilter::{
        expect::Expectation,
        helper::{
            ConntrackHelper,
            Exchange,
            Helper, //
        },
        hook::{
            Handler,
            Hook,
            Hooked,
            Inbound,
            Point,
            Priority,
            Switch, //
        },
        tuple::Direction,
        Family,
        Ipv4,
        Ipv6,
        Verdict, //
    },
};
use kernel::prelude::*;

/// The helper, for rules that name it.
pub(crate) static HELPER: ConntrackHelper = ConntrackHelper::new::<Tftp>();

struct Tftp;

impl Helper for Tftp {
    /// Not "tftp": that is the kernel's own.
    const NAME: &'static CStr = c"rustmasq-tftp";
    const MAX_EXPECTED: u8 = 1;
    const TIMEOUT: u32 = 5 * 60;

    fn help<F: Family>(exchange: &Exchange<'_, F>) -> Verdict {
        if exchange.direction() != Direction::Original
            || exchange.with_payload::<MAX_REQUEST, _>(is_request) != Some(true)
        {
            return Verdict::Accept;
        }
        let entry = exchange.entry();
        let answer = entry.tuple(Direction::Reply);
        let Some(mut expectation) = Expectation::from_any_port(exchange, &answer) else {
            return exchange.drop_because(c"no memory for an expectation");
        };
        if entry.has_nat() {
            expectation = expectation.follow_nat(Direction::Reply);
        }
        match expectation.register() {
            Ok(()) => Verdict::Accept,
            Err(_) => exchange.drop_because(c"the expectation cannot be added"),
        }
    }
}

/// The longest request, in bytes (RFC 2347).
const MAX_REQUEST: usize = 512;

/// Whether a datagram is a request to read or to write (RFC 1350, section 5, with the options of RFC
/// 2347): an opcode, the name of a file, a mode, and pairs of an option's name and its value, each of
/// which ends in NUL; no more than [`MAX_REQUEST`] bytes. Only a value may be empty.
fn is_request(datagram: &[u8]) -> bool {
    let [0, opcode @ (1 | 2), fields @ ..] = datagram else {
        return false;
    };
    if datagram.len() > MAX_REQUEST {
        return false;
    }
    let Some((name, fields)) = field(fields) else {
        return false;
    };
    let Some((mode, options)) = field(fields) else {
        return false;
    };
    !name.is_empty() && is_mode(mode, *opcode) && are_options(options)
}

/// Splits off the first field: what is before its NUL, and what is after that.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (field, rest) = bytes.split_at_checked(bytes.iter().position(|byte| *byte == 0)?)?;
    Some((field, rest.get(1..)?))
}

/// Mail can be sent, that is written; it cannot be read.
fn is_mode(mode: &[u8], opcode: u8) -> bool {
    let is = |name: &[u8]| {
        // What differs from a small letter in this bit alone is the capital.
        mode.iter()
            .zip(name)
            .all(|(byte, letter)| byte | 0x20 == *letter)
    };
    match mode.len() {
        5 => is(b"octet"),
        8 => is(b"netascii"),
        4 => opcode == 2 && is(b"mail"),
        _ => false,
    }
}

fn are_options(mut options: &[u8]) -> bool {
    while !options.is_empty() {
        let Some((name, rest)) = field(options) else {
            return false;
        };
        let Some((_value, rest)) = field(rest) else {
            return false;
        };
        if name.is_empty() {
            return false;
        }
        options = rest;
    }
    true
}

/// On while the helper is attached by itself: with the module's parameter `tftp_port`.
static ATTACHING: Switch = Switch::new();

/// What attaches the helper: as soon as the real server is known.
pub(crate) static HOOKS: [Hook; 4] = [
    attach::<Ipv4>(Point::PRE_ROUTING),
    attach::<Ipv4>(Point::LOCAL_OUT),
    attach::<Ipv6>(Point::PRE_ROUTING),
    attach::<Ipv6>(Point::LOCAL_OUT),
];

const fn attach<F: Family>(point: Point<Inbound>) -> Hook {
    Hook::new::<F, Attach, _>(point, Priority::after_dnat(), &ATTACHING)
}

/// Begins to attach the helper to flows to the port that the module's parameter names, if it does.
pub(crate) fn attach_if_asked() -> Result {
    if module_parameters::tftp_port.value() == 0 {
        return Ok(());
    }
    ATTACHING.turn_on()
}

struct Attach;

impl Handler for Attach {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        let port = module_parameters::tftp_port.value();
        if let Some(flow) = hooked.conntrack().beginning() {
            let answer = flow.tuple(Direction::Reply);
            if answer.is_udp() && answer.ends().source.port == port {
                HELPER.attach(&flow);
            }
        }
        Verdict::Accept
    }
}

#[kunit_tests(rustmasq_tftp)]
mod tests {
    use super::*;

    #[test]
    fn to_read() {
        assert!(is_request(b"\0\x01file\0octet\0"));
    }

    #[test]
    fn to_write() {
        assert!(is_request(b"\0\x02file\0octet\0"));
    }

    #[test]
    fn other_opcodes() {
        assert!(!is_request(b"\0\0file\0octet\0"));
        assert!(!is_request(b"\0\x03file\0octet\0"));
        assert!(!is_request(b"\0\x06file\0octet\0"));
        assert!(!is_request(b"\0\xfffile\0octet\0"));
    }

    #[test]
    fn an_opcode_is_two_bytes() {
        assert!(!is_request(b"\x01file\0octet\0"));
        assert!(!is_request(b"\x01\0file\0octet\0"));
        assert!(!is_request(b"\x01\x01file\0octet\0"));
    }

    #[test]
    fn nothing_and_next_to_nothing() {
        assert!(!is_request(b""));
        assert!(!is_request(b"\0"));
        assert!(!is_request(b"\0\x01"));
        assert!(!is_request(b"\0\x01\0"));
        assert!(!is_request(b"\0\x01\0\0"));
    }

    #[test]
    fn netascii() {
        assert!(is_request(b"\0\x01file\0netascii\0"));
    }

    #[test]
    fn modes_in_any_case() {
        assert!(is_request(b"\0\x01file\0OCTET\0"));
        assert!(is_request(b"\0\x01file\0NetASCII\0"));
        assert!(is_request(b"\0\x02file\0Mail\0"));
    }

    #[test]
    fn mail_is_written() {
        assert!(is_request(b"\0\x02user\0mail\0"));
    }

    #[test]
    fn mail_is_not_read() {
        assert!(!is_request(b"\0\x01user\0mail\0"));
    }

    #[test]
    fn unknown_modes() {
        assert!(!is_request(b"\0\x01file\0octets\0"));
        assert!(!is_request(b"\0\x01file\0octe\0"));
        assert!(!is_request(b"\0\x01file\0binary\0"));
    }

    #[test]
    fn an_empty_mode() {
        assert!(!is_request(b"\0\x01file\0\0"));
    }

    #[test]
    fn an_empty_name() {
        assert!(!is_request(b"\0\x01\0octet\0"));
    }

    #[test]
    fn a_name_alone() {
        assert!(!is_request(b"\0\x01file\0"));
        assert!(!is_request(b"\0\x01file"));
    }

    #[test]
    fn a_mode_without_end() {
        assert!(!is_request(b"\0\x01file\0octet"));
    }

    #[test]
    fn bytes_of_any_kind_in_a_name() {
        assert!(is_request(b"\0\x01\xff\x01 /../\n\0octet\0"));
    }

    #[test]
    fn one_option() {
        assert!(is_request(b"\0\x01file\0octet\0blksize\x001468\0"));
    }

    #[test]
    fn several_options() {
        assert!(is_request(
            b"\0\x01file\0octet\0blksize\x001468\0tsize\x000\0windowsize\x0016\0"
        ));
    }

    #[test]
    fn unknown_options_and_options_twice() {
        assert!(is_request(b"\0\x01file\0octet\0x\0y\0x\0y\0"));
    }

    #[test]
    fn an_option_without_value() {
        assert!(!is_request(b"\0\x01file\0octet\0blksize\0"));
    }

    #[test]
    fn an_option_with_an_empty_value() {
        assert!(is_request(b"\0\x01file\0octet\0blksize\0\0"));
    }

    #[test]
    fn an_option_without_name() {
        assert!(!is_request(b"\0\x01file\0octet\0\x001468\0"));
    }

    #[test]
    fn an_option_without_end() {
        assert!(!is_request(b"\0\x01file\0octet\0blksize\x001468"));
        assert!(!is_request(b"\0\x01file\0octet\0blksize"));
    }

    #[test]
    fn nothing_follows_the_last_nul() {
        assert!(!is_request(b"\0\x01file\0octet\0\0"));
        assert!(!is_request(b"\0\x01file\0octet\0x"));
        assert!(!is_request(b"\0\x01file\0octet\0blksize\x001468\0\0"));
    }

    /// A request of `length` bytes.
    fn long(length: usize) -> [u8; MAX_REQUEST + 1] {
        let mut datagram = [b'x'; MAX_REQUEST + 1];
        datagram[..2].copy_from_slice(b"\0\x01");
        datagram[length - 7..length].copy_from_slice(b"\0octet\0");
        datagram
    }

    #[test]
    fn the_longest() {
        assert!(is_request(&long(MAX_REQUEST)[..MAX_REQUEST]));
    }

    #[test]
    fn longer_than_that() {
        assert!(!is_request(&long(MAX_REQUEST + 1)));
    }

    #[test]
    fn truncated_anywhere() {
        let whole = b"\0\x02file\0netascii\0blksize\x001468\0";
        // It may end after the mode, and after the option's value.
        let mode_ends = b"\0\x02file\0netascii\0".len();
        for length in 0..=whole.len() {
            let expected = length == mode_ends || length == whole.len();
            assert_eq!(is_request(&whole[..length]), expected);
        }
    }

    /// The grammar once more, as a machine that reads byte after byte.
    fn accepts(datagram: &[u8]) -> bool {
        #[derive(Clone, Copy, PartialEq)]
        enum At {
            High,
            Opcode,
            Name { empty: bool },
            Mode { start: usize },
            Option { empty: bool },
            Value,
            Nowhere,
        }
        let mut at = At::High;
        for (index, byte) in datagram.iter().enumerate() {
            let end = *byte == 0;
            at = match at {
                At::High if end => At::Opcode,
                At::Opcode if matches!(byte, 1 | 2) => At::Name { empty: true },
                At::Name { empty: false } if end => At::Mode { start: index + 1 },
                At::Name { .. } if !end => At::Name { empty: false },
                At::Mode { start } if end => {
                    let mut mode = [0; 8];
                    let known = index - start <= 8 && {
                        for (to, from) in mode.iter_mut().zip(&datagram[start..index]) {
                            *to = from | 0x20;
                        }
                        let letters = datagram[start..index].iter().all(u8::is_ascii_alphabetic);
                        letters
                            && (mode == *b"netascii"
                                || mode == *b"octet\0\0\0"
                                || (mode == *b"mail\0\0\0\0" && datagram[1] == 2))
                    };
                    if known {
                        At::Option { empty: true }
                    } else {
                        At::Nowhere
                    }
                }
                At::Mode { start } => At::Mode { start },
                At::Option { empty: false } if end => At::Value,
                At::Option { .. } if !end => At::Option { empty: false },
                At::Value if end => At::Option { empty: true },
                At::Value => At::Value,
                _ => At::Nowhere,
            };
        }
        datagram.len() <= MAX_REQUEST && at == At::Option { empty: true }
    }

    /// Numbers that look random, the same in each run (xorshift32).
    struct Numbers(u32);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            self.0 as usize % limit
        }
    }

    /// Joins pieces of requests, good and bad ones, in an order that makes many of them valid.
    fn random_datagram(numbers: &mut Numbers, buffer: &mut [u8]) -> usize {
        const OPCODES: [&[u8]; 6] = [
            b"\0\x01", b"\0\x02", b"\0\x01", b"\0\x02", b"\0\x03", b"\x01",
        ];
        const MODES: [&[u8]; 8] = [
            b"octet",
            b"netascii",
            b"mail",
            b"Octet",
            b"MAIL",
            b"",
            b"octets",
            b"\xefctet",
        ];
        const ANY: [&[u8]; 6] = [b"a", b"blksize", b"1468", b"", b"\xff\x01", b"octet"];
        let mut length = 0;
        let mut add = |piece: &[u8]| {
            for (to, from) in buffer.iter_mut().skip(length).zip(piece) {
                *to = *from;
                length += 1;
            }
        };
        add(OPCODES[numbers.below(OPCODES.len())]);
        add(ANY[numbers.below(ANY.len())]);
        add(b"\0");
        add(MODES[numbers.below(MODES.len())]);
        for _ in 0..numbers.below(6) {
            add(b"\0");
            add(ANY[numbers.below(ANY.len())]);
        }
        if numbers.below(8) != 0 {
            add(b"\0");
        }
        length
    }

    #[test]
    fn exactly_the_grammar() {
        let mut numbers = Numbers(0x5eed_0069);
        let mut buffer = [0; 96];
        let mut accepted = 0;
        for _ in 0..20_000 {
            let length = random_datagram(&mut numbers, &mut buffer);
            assert_eq!(is_request(&buffer[..length]), accepts(&buffer[..length]));
            accepted += usize::from(is_request(&buffer[..length]));
            // One byte of it becomes another.
            buffer[numbers.below(length)] = numbers.below(256) as u8;
            assert_eq!(is_request(&buffer[..length]), accepts(&buffer[..length]));
        }
        // Neither side of the border went untried.
        assert!((2_000..18_000).contains(&accepted));
    }

    #[test]
    fn noise() {
        let mut numbers = Numbers(0x5eed_1350);
        let mut buffer = [0; MAX_REQUEST + 8];
        for _ in 0..200 {
            for byte in &mut buffer {
                *byte = numbers.below(256) as u8;
            }
            // Seldom is noise a request but for its opcode.
            buffer[..2].copy_from_slice(b"\0\x01");
            let length = numbers.below(buffer.len() + 1);
            assert_eq!(is_request(&buffer[..length]), accepts(&buffer[..length]));
        }
    }
}
