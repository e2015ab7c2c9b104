// SPDX-License-Identifier: GPL-2.0

//! The FTP helper, which expects the data connections that a control connection announces.
//!
//! The client or the server tells the other an address and a port at which it waits (PORT and EPRT, replies 227 and 229).
//! Filters let the data connection in only if a helper has announced it, and where NAT translates the teller's address,
//! what it tells has to be rewritten.
//!
//! A data connection is expected at the teller's own address alone, and where the stream so far was that of FTP. What
//! cannot be read passes as it is: the control connection goes on whatever it says.

mod reader;
mod stream;
mod text;

use crate::{
    module_parameters,
    net::{
        random,
        Family, //
    },
    netfilter::{
        attach::{
            self,
            AttachByPort, //
        },
        conntrack::Conn,
        expect::{
            Expectation,
            Registered, //
        },
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
        nat::PortRange,
        segment,
        tuple::{
            Direction,
            End, //
        },
        Verdict, //
    },
};
use kernel::prelude::*;
use reader::Kind;
use stream::{
    Announced,
    Rewriting,
    Streams, //
};
use text::Text;

/// The helper, for rules that name it.
pub(crate) static HELPER: ConntrackHelper = ConntrackHelper::new::<Ftp>();

/// The port from which servers connect to their clients (RFC 959, section 3.2).
const SERVER_DATA_PORT: u16 = 20;
/// The number of ports that are tried if another flow has the announced one.
const TRIES: u32 = 64;

type Segment<'a, 'hook, F> = segment::Segment<'a, 'hook, F, Streams>;

/// The hooks that assign it with the module parameter `ftp_port`.
pub(crate) static HOOKS: [Hook; 4] = attach::hooks::<Ftp>(&ATTACH);

/// Their switch, on if the parameter names a port.
pub(crate) static ATTACH: Switch = Switch::new();

pub(crate) struct Ftp;

impl AttachByPort for Ftp {
    fn helper() -> &'static ConntrackHelper {
        &HELPER
    }

    fn port() -> u16 {
        module_parameters::ftp_port.value()
    }
}

impl Helper for Ftp {
    /// The kernel's own helper has the name "ftp".
    const NAME: &'static CStr = c"rustmasq-ftp";
    const TRANSPORT: Transport = Transport::Tcp;
    const MAX_EXPECTED: u8 = 1;
    const TIMEOUT: u32 = 5 * 60;

    fn help<F: Family>(context: &mut HelperContext<'_, F>) -> Verdict {
        match context.segment::<Streams>() {
            Ok(None) => Verdict::Accept,
            Ok(Some(mut segment)) => match read(&mut segment) {
                Ok(()) => Verdict::Accept,
                Err(reason) => segment.context().drop_because(reason),
            },
            Err(_) => context.drop_because(c"no memory to read a segment"),
        }
    }
}

/// Reads a segment and does what it asks for.
///
/// Returns the reason if the segment has to be dropped; then it counts as not read, and its sender sends it again.
fn read<F: Family>(segment: &mut Segment<'_, '_, F>) -> Result<(), &'static CStr> {
    let direction = segment.context().direction();
    let header = segment.header();
    // A SYN takes a sequence number, too.
    let sequence = header.sequence.wrapping_add(header.syn.into());
    if header.syn && direction == Direction::Original && segment.context().conn().begins_with_syn()
    {
        segment.begin_again();
    }
    let own = F::any(segment.context().conn().source(direction));
    let (payload, streams) = segment.payload_and_memory();
    if header.syn {
        streams.begin(direction, sequence);
    }
    let again = streams.again(direction, sequence, payload.len());
    let before = *streams;
    let found = streams.read(direction, sequence, payload, own);
    let done = match (again, found) {
        (Some(rewriting), _) => rewrite(segment, &rewriting, true).map(|_| ()),
        (None, Some(announced)) => expect(segment, sequence, announced),
        (None, None) => Ok(()),
    };
    if done.is_err() {
        *segment.payload_and_memory().1 = before;
    }
    done
}

/// Expects the announced data connection, and rewrites the announcement if NAT asks for it.
fn expect<F: Family>(
    segment: &mut Segment<'_, '_, F>,
    sequence: u32,
    announced: Announced,
) -> Result<(), &'static CStr> {
    let Announced { kind, port, place } = announced;
    let (direction, conn) = (segment.context().direction(), segment.context().conn());
    // A reply 229 tells no address. The others tell the one that the sender knows itself by.
    let moves =
        kind != Kind::Epsv && conn.source(direction) != conn.destination(direction.opposite());
    if moves && place.is_none() {
        // The argument began in a segment that has gone as it was.
        return Ok(());
    }
    if conn.has_nat() && is_rewriting_under_way(segment) {
        return Err(c"an earlier announcement is not acknowledged yet");
    }
    let Some((expected, outside_port)) = register(segment.context(), port, place.is_some())? else {
        return Ok(());
    };
    if !moves && outside_port == port {
        return Ok(());
    }
    let rewriting = Rewriting {
        kind,
        port: outside_port,
        place: place.unwrap_or_default(),
    };
    match rewrite(segment, &rewriting, false) {
        Ok(true) => {
            let (_, streams) = segment.payload_and_memory();
            streams.note(sequence, &rewriting);
            Ok(())
        }
        Ok(false) => {
            expected.withdraw();
            Ok(())
        }
        Err(reason) => {
            expected.withdraw();
            Err(reason)
        }
    }
}

/// Returns whether the other end may not have the argument that was rewritten last.
///
/// If it comes again, it has to be rewritten again. Neither the memory nor conntrack's differences of sequence numbers
/// have room for two such arguments.
fn is_rewriting_under_way<F: Family>(segment: &mut Segment<'_, '_, F>) -> bool {
    let (_, streams) = segment.payload_and_memory();
    streams
        .rewritten_until()
        .is_some_and(|(direction, end)| !segment.is_acknowledged(direction, end))
}

/// Expects a connection to the sender's `port`, and returns the port to which the other end has to connect.
///
/// That is the same one if no other flow has it. Else it is another one if NAT can lead from there to the port, and `moves`
/// says that the announcement can be rewritten. Returns `None` if the connection cannot be expected.
fn register<F: Family>(
    context: &HelperContext<'_, F>,
    port: u16,
    moves: bool,
) -> Result<Option<(Registered, u16)>, &'static CStr> {
    const NO_MEMORY: &CStr = c"no memory for an expectation";
    let (conn, direction) = (context.conn(), context.direction().opposite());
    let mut expectation = Expectation::from_any_port(context, direction).ok_or(NO_MEMORY)?;
    let has_nat = conn.has_nat();
    if has_nat {
        expectation = expectation.follow_nat(direction, port);
    }
    let others = if has_nat && moves { TRIES } else { 0 };
    let at_random = (0..others)
        .map(|_| PortRange::UNPRIVILEGED.nth(random::below(PortRange::UNPRIVILEGED.count())));
    for outside in Iterator::chain(core::iter::once(port), at_random) {
        if others > 0 && leads_elsewhere(conn, direction, outside, port) {
            continue;
        }
        match expectation.with_port(outside).register() {
            Ok(registered) => return Ok(Some((registered, outside))),
            Err((EBUSY, back)) => expectation = back,
            Err((EMFILE, _)) => return Ok(None),
            Err(_) => return Err(c"the expectation cannot be added"),
        }
    }
    Ok(None)
}

/// Returns whether a connection from the usual port of a server to the port `outside` leads to another place than the
/// port `inside` of this client.
///
/// The server could not make the same one again, and its packets would go there.
fn leads_elsewhere<F: Family>(
    conn: &Conn<'_, F>,
    direction: Direction,
    outside: u16,
    inside: u16,
) -> bool {
    if direction == Direction::Original {
        return false;
    }
    let tuple = conn.tuple(direction).with_ports(SERVER_DATA_PORT, outside);
    let client = End {
        address: F::any(conn.source(Direction::Original)),
        port: inside,
    };
    conn.destination_of(&tuple).is_some_and(|end| end != client)
}

/// Rewrites an argument, unless it cannot have the length that it would get. Returns whether it did.
fn rewrite<F: Family>(
    segment: &mut Segment<'_, '_, F>,
    rewriting: &Rewriting,
    again: bool,
) -> Result<bool, &'static CStr> {
    let (direction, conn) = (segment.context().direction(), segment.context().conn());
    // The sender's address as the other end knows it.
    let outside = F::any(conn.destination(direction.opposite()));
    let Some(text) = Text::new(rewriting.kind, outside, rewriting.port) else {
        return Ok(false);
    };
    let text = text.as_bytes();
    if text.len() != rewriting.place.len() && !segment.can_change_length() {
        return Ok(false);
    }
    segment
        .rewrite(rewriting.place.clone(), text, again)
        .map(|()| true)
        .map_err(|_| c"no memory to rewrite a segment")
}
