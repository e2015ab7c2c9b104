// SPDX-License-Identifier: GPL-2.0

//! The TFTP helper, which expects the server's answer to a request.
//!
//! The server answers from a new port (RFC 1350, section 4). NAT and filters for established flows
//! let that answer in only if a helper has announced it.

use crate::{
    module_parameters,
    net::{
        Family,
        Ipv4,
        Ipv6, //
    },
    netfilter::{
        expect::Expectation,
        helper::{
            ConntrackHelper,
            Helper,
            HelperContext, //
        },
        hook::{
            Hook,
            HookContext,
            HookHandler,
            Inbound,
            Point,
            Priority,
            Switch, //
        },
        tuple::Direction,
        Verdict, //
    },
};
use kernel::prelude::*;

/// The helper, for rules that name it.
pub(crate) static HELPER: ConntrackHelper = ConntrackHelper::new::<Tftp>();

struct Tftp;

impl Helper for Tftp {
    /// The kernel's own helper has the name "tftp".
    const NAME: &'static CStr = c"rustmasq-tftp";
    const MAX_EXPECTED: u8 = 1;
    const TIMEOUT: u32 = 5 * 60;

    fn help<F: Family>(context: &HelperContext<'_, F>) -> Verdict {
        if context.direction() != Direction::Original
            || context.with_payload::<MAX_REQUEST, _>(is_request) != Some(true)
        {
            return Verdict::Accept;
        }
        let conn = context.conn();
        let answer = conn.tuple(Direction::Reply);
        let Some(mut expectation) = Expectation::from_any_port(context, &answer) else {
            return context.drop_because(c"no memory for an expectation");
        };
        if conn.has_nat() {
            expectation = expectation.follow_nat(Direction::Reply);
        }
        match expectation.register() {
            Ok(()) => Verdict::Accept,
            Err(_) => context.drop_because(c"the expectation cannot be added"),
        }
    }
}

/// The length of the longest request, in bytes (RFC 2347).
const MAX_REQUEST: usize = 512;

/// Returns whether a datagram is a request to read or to write a file.
///
/// A request (RFC 1350, section 5; options: RFC 2347) consists of an opcode, a file name, a mode, and pairs
/// of an option's name and value. Each of them but the opcode ends with NUL, and only a value may be empty.
/// A request has at most [`MAX_REQUEST`] bytes.
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

/// Splits off the first field, which ends with NUL, and returns it and the bytes behind the NUL.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (field, rest) = bytes.split_at_checked(bytes.iter().position(|byte| *byte == 0)?)?;
    Some((field, rest.get(1..)?))
}

/// Returns whether the mode is one that the opcode allows: `mail` can only be written.
fn is_mode(mode: &[u8], opcode: u8) -> bool {
    let is = |name: &[u8]| {
        // A capital letter differs from its small letter in this bit alone.
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

/// Returns whether the bytes are pairs of an option's name and value, or none.
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

/// The switch of the hooks below, on if the module parameter `tftp_port` names a port.
static ATTACH: Switch = Switch::new();

/// The hooks that assign the helper to a flow as soon as its real server is known.
pub(crate) static HOOKS: [Hook; 4] = [
    attach::<Ipv4>(Point::PRE_ROUTING),
    attach::<Ipv4>(Point::LOCAL_OUT),
    attach::<Ipv6>(Point::PRE_ROUTING),
    attach::<Ipv6>(Point::LOCAL_OUT),
];

const fn attach<F: Family>(point: Point<Inbound>) -> Hook {
    Hook::new::<F, Attach, _>(point, Priority::after_dnat(), &ATTACH)
}

/// Makes the hooks assign the helper to flows to the port in the module parameter `tftp_port`, unless it is 0.
///
/// Errors: see [`Switch::turn_on`]. Process context.
pub(crate) fn enable_by_port() -> Result {
    if module_parameters::tftp_port.value() == 0 {
        return Ok(());
    }
    ATTACH.turn_on()
}

struct Attach;

impl HookHandler for Attach {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        let port = module_parameters::tftp_port.value();
        if let Some(flow) = context.conntrack().new_flow() {
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
    fn read_request() {
        assert!(is_request(b"\0\x01file\0octet\0"));
    }

    #[test]
    fn write_request() {
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
    fn truncated_before_the_file_name() {
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
    fn mail_may_be_written() {
        assert!(is_request(b"\0\x02user\0mail\0"));
    }

    #[test]
    fn mail_may_not_be_read() {
        assert!(!is_request(b"\0\x01user\0mail\0"));
    }

    #[test]
    fn unknown_modes() {
        assert!(!is_request(b"\0\x01file\0octets\0"));
        assert!(!is_request(b"\0\x01file\0octe\0"));
        assert!(!is_request(b"\0\x01file\0binary\0"));
    }

    #[test]
    fn empty_mode() {
        assert!(!is_request(b"\0\x01file\0\0"));
    }

    #[test]
    fn empty_file_name() {
        assert!(!is_request(b"\0\x01\0octet\0"));
    }

    #[test]
    fn file_name_without_mode() {
        assert!(!is_request(b"\0\x01file\0"));
        assert!(!is_request(b"\0\x01file"));
    }

    #[test]
    fn mode_without_nul() {
        assert!(!is_request(b"\0\x01file\0octet"));
    }

    #[test]
    fn any_bytes_in_a_file_name() {
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
    fn unknown_and_repeated_options() {
        assert!(is_request(b"\0\x01file\0octet\0x\0y\0x\0y\0"));
    }

    #[test]
    fn option_without_value() {
        assert!(!is_request(b"\0\x01file\0octet\0blksize\0"));
    }

    #[test]
    fn option_with_empty_value() {
        assert!(is_request(b"\0\x01file\0octet\0blksize\0\0"));
    }

    #[test]
    fn option_without_name() {
        assert!(!is_request(b"\0\x01file\0octet\0\x001468\0"));
    }

    #[test]
    fn option_without_nul() {
        assert!(!is_request(b"\0\x01file\0octet\0blksize\x001468"));
        assert!(!is_request(b"\0\x01file\0octet\0blksize"));
    }

    #[test]
    fn nothing_follows_the_last_nul() {
        assert!(!is_request(b"\0\x01file\0octet\0\0"));
        assert!(!is_request(b"\0\x01file\0octet\0x"));
        assert!(!is_request(b"\0\x01file\0octet\0blksize\x001468\0\0"));
    }

    /// Returns a request whose first `length` bytes are complete.
    fn request_of(length: usize) -> [u8; MAX_REQUEST + 1] {
        let mut datagram = [b'x'; MAX_REQUEST + 1];
        datagram[..2].copy_from_slice(b"\0\x01");
        datagram[length - 7..length].copy_from_slice(b"\0octet\0");
        datagram
    }

    #[test]
    fn longest_request() {
        assert!(is_request(&request_of(MAX_REQUEST)[..MAX_REQUEST]));
    }

    #[test]
    fn request_that_is_too_long() {
        assert!(!is_request(&request_of(MAX_REQUEST + 1)));
    }

    #[test]
    fn truncated_at_each_byte() {
        let whole = b"\0\x02file\0netascii\0blksize\x001468\0";
        // A request may end after its mode or after an option's value.
        let mode_ends = b"\0\x02file\0netascii\0".len();
        for length in 0..=whole.len() {
            let expected = length == mode_ends || length == whole.len();
            assert_eq!(is_request(&whole[..length]), expected);
        }
    }

    /// The same grammar, written as a state machine over single bytes.
    fn model_accepts(datagram: &[u8]) -> bool {
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

    /// A pseudo-random sequence that is the same in each run (xorshift32).
    struct Random(u32);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            self.0 as usize % limit
        }
    }

    /// Joins valid and invalid parts of requests, in an order that makes many of the results valid.
    fn random_datagram(random: &mut Random, buffer: &mut [u8]) -> usize {
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
        add(OPCODES[random.below(OPCODES.len())]);
        add(ANY[random.below(ANY.len())]);
        add(b"\0");
        add(MODES[random.below(MODES.len())]);
        for _ in 0..random.below(6) {
            add(b"\0");
            add(ANY[random.below(ANY.len())]);
        }
        if random.below(8) != 0 {
            add(b"\0");
        }
        length
    }

    #[test]
    fn parser_equals_the_model() {
        let mut random = Random(0x5eed_0069);
        let mut buffer = [0; 96];
        let mut accepted = 0;
        for _ in 0..20_000 {
            let length = random_datagram(&mut random, &mut buffer);
            assert_eq!(
                is_request(&buffer[..length]),
                model_accepts(&buffer[..length])
            );
            accepted += usize::from(is_request(&buffer[..length]));
            // Replace one byte.
            buffer[random.below(length)] = random.below(256) as u8;
            assert_eq!(
                is_request(&buffer[..length]),
                model_accepts(&buffer[..length])
            );
        }
        // Both verdicts are frequent.
        assert!((2_000..18_000).contains(&accepted));
    }

    #[test]
    fn random_bytes() {
        let mut random = Random(0x5eed_1350);
        let mut buffer = [0; MAX_REQUEST + 8];
        for _ in 0..200 {
            for byte in &mut buffer {
                *byte = random.below(256) as u8;
            }
            // Random bytes would rarely begin with a valid opcode.
            buffer[..2].copy_from_slice(b"\0\x01");
            let length = random.below(buffer.len() + 1);
            assert_eq!(
                is_request(&buffer[..length]),
                model_accepts(&buffer[..length])
            );
        }
    }
}
