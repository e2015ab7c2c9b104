// SPDX-License-Identifier: GPL-2.0

//! The TFTP helper, which expects the server's answer to a request.
//!
//! The server answers from a new port (RFC 1350, section 4). NAT and filters for established flows
//! let that answer in only if a helper has announced it.

use crate::{
    module_parameters,
    net::Family,
    netfilter::{
        attach::{
            self,
            AttachByPort, //
        },
        expect::Expectation,
        helper::{
            ConntrackHelper,
            Helper,
            HelperContext,
            Transport, //
        },
        hook::{
            Hook,
            Switch, //
        },
        trace,
        tuple::Direction,
        Verdict, //
    },
};
use kernel::prelude::*;

/// The helper, for rules that name it.
pub(crate) static HELPER: ConntrackHelper = ConntrackHelper::new::<Tftp>();

/// The hooks that assign it with the module parameter `tftp_port`.
pub(crate) static HOOKS: [Hook; 4] = attach::hooks::<Tftp>(&ATTACH);

/// Their switch, on if the parameter names a port.
pub(crate) static ATTACH: Switch = Switch::new();

pub(crate) struct Tftp;

impl AttachByPort for Tftp {
    fn helper() -> &'static ConntrackHelper {
        &HELPER
    }

    fn port() -> u16 {
        module_parameters::tftp_port.value()
    }
}

impl Helper for Tftp {
    /// The kernel's own helper has the name "tftp".
    const NAME: &'static CStr = c"rustmasq-tftp";
    const TRANSPORT: Transport = Transport::Udp;
    const MAX_EXPECTED: u8 = 1;
    const TIMEOUT: u32 = 5 * 60;

    fn help<F: Family>(context: &mut HelperContext<'_, F>) -> Verdict {
        if context.direction() != Direction::Original {
            return Verdict::Accept;
        }
        if !context.payload_start().is_some_and(is_request) {
            trace::tftp_ignored(context);
            return Verdict::Accept;
        }
        expect_answer(context)
    }
}

/// Expects the server's answer to the request, from any port.
fn expect_answer<F: Family>(context: &HelperContext<'_, F>) -> Verdict {
    let Some(mut expectation) = Expectation::from_any_port(context, Direction::Reply) else {
        return context.drop_because(c"no memory for an expectation");
    };
    if context.conn().has_nat() {
        let client = context.conn().tuple(Direction::Original).ends().source;
        expectation = expectation.follow_nat(Direction::Reply, client.port);
    }
    match expectation.register() {
        Ok(_) => Verdict::Accept,
        Err(_) => context.drop_because(c"the expectation cannot be added"),
    }
}

/// Returns whether a datagram that begins like this asks to read or to write a file (RFC 1350, section 5).
///
/// It has one of the two opcodes, and the name that follows is not empty. The server judges the rest: servers answer
/// requests without mode, padded ones, and long ones, if only with an error that the client should see. The check
/// need not be stricter, because one answer is let in, to the client that asked, from the address that it asked.
fn is_request(start: [u8; 3]) -> bool {
    matches!(start, [0, 1 | 2, first] if first != 0)
}

#[kunit_tests(rustmasq_tftp)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_one_of_two_opcodes() {
        for opcode in 0..=u16::MAX {
            let [high, low] = opcode.to_be_bytes();
            assert_eq!(is_request([high, low, b'f']), opcode == 1 || opcode == 2);
        }
    }

    #[test]
    fn any_first_byte_of_a_name_but_nul() {
        for first in 0..=u8::MAX {
            assert_eq!(is_request([0, 1, first]), first != 0);
            assert_eq!(is_request([0, 2, first]), first != 0);
        }
    }
}
