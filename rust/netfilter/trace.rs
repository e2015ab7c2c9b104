// SPDX-License-Identifier: GPL-2.0

//! Trace events, `events/rustmasq/` in tracefs.
//!
//! Each event of the flow watch has a [`Switch`], which is on while the event is enabled. Their C side is
//! `helpers/rustmasq_events.h`.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)

use super::{
    conntrack::{
        Conn,
        CtInfo,
        State, //
    },
    helper::HelperContext,
    hook::{
        HookContext,
        Switch, //
    },
    nat::PortRange,
    tuple::{
        Direction,
        End,
        Ends,
        Tuple, //
    },
};
use crate::{
    bindings,
    net::{
        device::Device,
        AnyAddress,
        Family, //
    },
};
use core::net::Ipv4Addr;
use kernel::{
    error::from_result,
    prelude::*, //
};

/// The switch of hooks that are registered while the event `flow_new` is enabled.
pub(crate) static FLOW_NEW: Switch = Switch::new();
/// The switch of hooks that are registered while the event `flow_confirm` is enabled.
pub(crate) static FLOW_CONFIRM: Switch = Switch::new();
/// The switch of hooks that are registered while the event `packet` is enabled.
pub(crate) static PACKET: Switch = Switch::new();

/// Defines the two functions that the kernel calls when an event is enabled and disabled.
///
/// It calls them in process context, under locks of tracing, possibly before module init and after module
/// exit.
macro_rules! event_callbacks {
    ($switch:ident, $reg:ident, $unreg:ident) => {
        #[no_mangle]
        extern "C" fn $reg() -> c_int {
            from_result(|| $switch.turn_on().map(|()| 0))
        }

        #[no_mangle]
        extern "C" fn $unreg() {
            $switch.turn_off();
        }
    };
}

event_callbacks!(FLOW_NEW, rustmasq_flow_new_reg, rustmasq_flow_new_unreg);
event_callbacks!(
    FLOW_CONFIRM,
    rustmasq_flow_confirm_reg,
    rustmasq_flow_confirm_unreg
);
event_callbacks!(PACKET, rustmasq_packet_reg, rustmasq_packet_unreg);

/// The parts of a flow's tuple that NAT has changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Moved {
    /// The source address changed.
    pub(crate) source_address: bool,
    /// The source port or query identifier changed.
    pub(crate) source_port: bool,
    /// The destination address changed.
    pub(crate) destination_address: bool,
    /// The destination port changed.
    pub(crate) destination_port: bool,
}

impl Moved {
    fn bits(self) -> u8 {
        let bit = |set: bool, bit: u32| if set { bit as u8 } else { 0 };
        let bits = bit(self.source_address, bindings::RUSTMASQ_MOVED_SOURCE_ADDRESS)
            | bit(self.source_port, bindings::RUSTMASQ_MOVED_SOURCE_PORT)
            | bit(
                self.source_port && !self.source_address,
                bindings::RUSTMASQ_MOVED_SOURCE_PORT_ALONE,
            )
            | bit(
                self.destination_address,
                bindings::RUSTMASQ_MOVED_DESTINATION_ADDRESS,
            )
            | bit(
                self.destination_port,
                bindings::RUSTMASQ_MOVED_DESTINATION_PORT,
            );
        bits | bit(bits == 0, bindings::RUSTMASQ_MOVED_NOTHING)
    }
}

/// Emits `flow_new`: the flow as conntrack first saw it.
pub(crate) fn flow_new<F: Family>(context: &HookContext<'_, F>, conn: &Conn<'_, F>) {
    let flow = flow(context, conn);
    // SAFETY: `flow` lives for the call, and probes of this event read it during the call only; without a
    // probe the function does nothing. It does not sleep.
    unsafe { bindings::rust_do_trace_flow_new(&flow) };
}

/// The translation of a flow by NAT.
pub(crate) struct Translation {
    /// The ends of the reply tuple that the flow would have without NAT.
    pub(crate) untranslated: Ends,
    /// The parts of the reply tuple that differ from that.
    pub(crate) moved: Moved,
    /// The source of the flow that has the tuple which would have kept the source port.
    pub(crate) taken_by: Option<End>,
    /// The source address that NAT chose is one of the output device's, or not. `None` if it chose none.
    pub(crate) source_is_own: Option<bool>,
}

/// Emits `flow_confirm`: the flow right before its confirmation.
pub(crate) fn flow_confirm<F: Family>(
    context: &HookContext<'_, F>,
    conn: &Conn<'_, F>,
    translation: &Translation,
) {
    let nobody = End {
        address: AnyAddress::V4(Ipv4Addr::UNSPECIFIED),
        port: 0,
    };
    let source = match translation.source_is_own {
        None => bindings::rustmasq_source_RUSTMASQ_SOURCE_NONE,
        Some(true) => bindings::rustmasq_source_RUSTMASQ_SOURCE_OWN,
        Some(false) => bindings::rustmasq_source_RUSTMASQ_SOURCE_FOREIGN,
    };
    let flow = bindings::rustmasq_flow {
        reply: raw_ends(conn.tuple(Direction::Reply).ends()),
        untranslated: raw_ends(translation.untranslated),
        zone_original: conn.zone(Direction::Original),
        zone_reply: conn.zone(Direction::Reply),
        taken_by: raw_end(translation.taken_by.unwrap_or(nobody)),
        moved: translation.moved.bits(),
        // CAST: The enumeration has three members.
        source: source as u8,
        ..flow(context, conn)
    };
    // SAFETY: `flow` lives for the call, and probes of this event read it during the call only; without a
    // probe the function does nothing. It does not sleep.
    unsafe { bindings::rust_do_trace_flow_confirm(&flow) };
}

/// The moment at which the event `packet` is emitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum When {
    /// Right before conntrack looks the packet up.
    Before,
    /// Right after conntrack has looked the packet up.
    After,
}

/// Emits `packet`: conntrack's view of a packet.
///
/// `state` is `None` if conntrack has not looked the packet up, or does not at all.
pub(crate) fn packet<F: Family>(
    context: &HookContext<'_, F>,
    ctinfo: &CtInfo<'_, F>,
    when: When,
    state: Option<State>,
) {
    let (protocol, ends) = match Tuple::of_packet(context.packet(), context.net()) {
        Some(tuple) => (tuple.protocol(), tuple.ends()),
        None => {
            let header = context.packet().header();
            let end = |address| End {
                address: F::any(address),
                port: 0,
            };
            let ends = Ends {
                source: end(header.source),
                destination: end(header.destination),
            };
            (header.protocol, ends)
        }
    };
    let raw_state = match state {
        None => bindings::rustmasq_state_RUSTMASQ_STATE_NONE,
        Some(State::New) => bindings::rustmasq_state_RUSTMASQ_STATE_NEW,
        Some(State::Established) => bindings::rustmasq_state_RUSTMASQ_STATE_ESTABLISHED,
        Some(State::Related) => bindings::rustmasq_state_RUSTMASQ_STATE_RELATED,
        Some(State::Invalid) => bindings::rustmasq_state_RUSTMASQ_STATE_INVALID,
        Some(State::Untracked) => bindings::rustmasq_state_RUSTMASQ_STATE_UNTRACKED,
    };
    let raw_direction = match ctinfo.direction() {
        None => bindings::rustmasq_direction_RUSTMASQ_DIRECTION_NONE,
        Some(Direction::Original) => bindings::rustmasq_direction_RUSTMASQ_DIRECTION_ORIGINAL,
        Some(Direction::Reply) => bindings::rustmasq_direction_RUSTMASQ_DIRECTION_REPLY,
    };
    let packet = bindings::rustmasq_packet {
        place: place(context),
        id: ctinfo.conn().map_or(0, Conn::id),
        len: context.packet().len(),
        after: u8::from(when == When::After),
        // CAST: The enumerations have fewer than ten members.
        state: raw_state as u8,
        direction: raw_direction as u8,
        protocol,
        ends: raw_ends(ends),
    };
    // SAFETY: `packet` lives for the call, and probes of this event read it during the call only; without a
    // probe the function does nothing. It does not sleep.
    unsafe { bindings::rust_do_trace_packet(&packet) };
}

/// Counts a datagram that the TFTP helper ignores, and emits `tftp_ignored` if it is enabled.
///
/// The module parameter `tftp_ignored` shows the number.
pub(crate) fn tftp_ignored<F: Family>(context: &HelperContext<'_, F>) {
    // SAFETY: The first function adds to a static counter, atomically; the second reads a static key.
    let enabled = unsafe {
        bindings::rustmasq_inc_tftp_ignored();
        bindings::rustmasq_tftp_ignored_enabled()
    };
    if enabled {
        emit_tftp_ignored(context);
    }
}

#[cold]
fn emit_tftp_ignored<F: Family>(context: &HelperContext<'_, F>) {
    let (start, start_len) = payload_start(context);
    let conn = context.conn();
    let ignored = bindings::rustmasq_ignored {
        netns: conn.net().inode(),
        id: conn.id(),
        len: context.payload_len(),
        start,
        start_len,
        original: raw_ends(conn.tuple(Direction::Original).ends()),
    };
    // SAFETY: `ignored` lives for the call, and probes of this event read it during the call only; without a
    // probe the function does nothing. It does not sleep.
    unsafe { bindings::rust_do_trace_tftp_ignored(&ignored) };
}

/// Emits `port_refused`, if it is enabled: the flow gets no port of the range, with which it would leave with the source
/// address `outside`.
pub(crate) fn port_refused<F: Family>(conn: &Conn<'_, F>, outside: F::Address, range: PortRange) {
    // SAFETY: The function reads a static key.
    if unsafe { bindings::rustmasq_port_refused_enabled() } {
        emit_port_refused(conn, outside, range);
    }
}

#[cold]
fn emit_port_refused<F: Family>(conn: &Conn<'_, F>, outside: F::Address, range: PortRange) {
    let original = conn.tuple(Direction::Original);
    let refused = bindings::rustmasq_refused {
        netns: conn.net().inode(),
        id: conn.id(),
        protocol: original.protocol(),
        original: raw_ends(original.ends()),
        outside: raw_end(End {
            address: F::any(outside),
            port: 0,
        }),
        first: range.first(),
        last: range.last(),
    };
    // SAFETY: `refused` lives for the call, and probes of this event read it during the call only; without a
    // probe the function does nothing. It does not sleep.
    unsafe { bindings::rust_do_trace_port_refused(&refused) };
}

/// Returns the first three bytes of the payload, or what there is, and their number.
fn payload_start<F: Family>(context: &HelperContext<'_, F>) -> ([u8; 3], u8) {
    if let Some(start) = context.payload_start() {
        (start, 3)
    } else if let Some([first, second]) = context.payload_start() {
        ([first, second, 0], 2)
    } else if let Some([first]) = context.payload_start() {
        ([first, 0, 0], 1)
    } else {
        ([0; 3], 0)
    }
}

fn flow<F: Family>(context: &HookContext<'_, F>, conn: &Conn<'_, F>) -> bindings::rustmasq_flow {
    let original = conn.tuple(Direction::Original);
    let (icmp_type, icmp_code) = original.icmp_type_and_code();
    bindings::rustmasq_flow {
        place: place(context),
        id: conn.id(),
        status: conn.status(),
        mark: conn.mark(),
        protocol: original.protocol(),
        icmp_type,
        icmp_code,
        original: raw_ends(original.ends()),
        ..pin_init::zeroed()
    }
}

fn place<F: Family>(context: &HookContext<'_, F>) -> bindings::rustmasq_place {
    bindings::rustmasq_place {
        netns: context.net().inode(),
        hook: context.point(),
        in_: device_name(context.input()),
        out: device_name(context.output()),
    }
}

type RawName = [c_char; bindings::RUSTMASQ_DEVICE_LEN as usize];

/// Returns the device's name, or "-" if there is none.
///
/// The last byte is NUL, also when a concurrent rename has mixed the bytes.
fn device_name(device: Option<&Device>) -> RawName {
    let mut raw: RawName = [0; _];
    let name = device.map(Device::name);
    let bytes = name
        .as_ref()
        .map_or(b"-".as_slice(), |name| name.as_bytes());
    let longest = raw.len() - 1;
    for (to, from) in raw.iter_mut().take(longest).zip(bytes) {
        *to = *from as c_char;
    }
    raw
}

fn raw_ends(ends: Ends) -> bindings::rustmasq_ends {
    bindings::rustmasq_ends {
        src: raw_end(ends.source),
        dst: raw_end(ends.destination),
    }
}

type RawEnd = [u8; bindings::RUSTMASQ_SOCKADDR_LEN as usize];
const _: () = assert!(size_of::<RawEnd>() == size_of::<bindings::sockaddr_in6>());

/// Returns an end as `struct sockaddr_in` or `sockaddr_in6`.
///
/// The family is in host order, the port and the address are in network order.
fn raw_end(end: End) -> RawEnd {
    let mut raw: RawEnd = [0; _];
    let family = match end.address {
        AnyAddress::V4(address) => {
            raw[4..8].copy_from_slice(&address.octets());
            bindings::AF_INET
        }
        AnyAddress::V6(address) => {
            raw[8..24].copy_from_slice(&address.octets());
            bindings::AF_INET6
        }
    };
    // CAST: Both numbers are less than 16.
    raw[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    raw[2..4].copy_from_slice(&end.port.to_be_bytes());
    raw
}

#[kunit_tests(rustmasq_trace)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;

    #[test]
    fn an_ipv4_end_is_a_sockaddr_in() {
        let raw = raw_end(End {
            address: AnyAddress::V4(Ipv4Addr::new(192, 0, 2, 1)),
            port: 0x1234,
        });
        assert_eq!(raw[..2], 2_u16.to_ne_bytes());
        assert_eq!(raw[2..8], [0x12, 0x34, 192, 0, 2, 1]);
        assert_eq!(raw[8..], [0; 20]);
    }

    #[test]
    fn an_ipv6_end_is_a_sockaddr_in6() {
        let raw = raw_end(End {
            address: AnyAddress::V6(Ipv6Addr::LOCALHOST),
            port: 1,
        });
        assert_eq!(raw[..2], 10_u16.to_ne_bytes());
        assert_eq!(raw[2..8], [0, 1, 0, 0, 0, 0]);
        assert_eq!(raw[23..], [1, 0, 0, 0, 0]);
    }

    /// Returns a tuple's text in the format of the events.
    fn text(source: End, destination: End) -> [u8; 64] {
        let ends = raw_ends(Ends {
            source,
            destination,
        });
        let mut text = [0; 64];
        let format = c"%pISpc->%pISpc".as_char_ptr();
        // SAFETY: The function writes at most 64 bytes, NUL included. The format takes pointers to two
        // socket addresses, and both arrays have the size of the larger kind.
        unsafe {
            let to = text.as_mut_ptr().cast();
            bindings::scnprintf(to, text.len(), format, ends.src.as_ptr(), ends.dst.as_ptr())
        };
        text
    }

    fn check_text(source: End, destination: End, expected: &[u8]) {
        let text = text(source, destination);
        assert_eq!(text.split(|byte| *byte == 0).next(), Some(expected));
    }

    #[test]
    fn an_ipv4_tuple_as_text() {
        let end = |address, port| End {
            address: AnyAddress::V4(address),
            port,
        };
        let source = end(Ipv4Addr::new(172, 18, 0, 2), 40000);
        let destination = end(Ipv4Addr::new(203, 0, 113, 2), 53);
        check_text(source, destination, b"172.18.0.2:40000->203.0.113.2:53");
    }

    #[test]
    fn an_ipv6_tuple_as_text() {
        let end = |address, port| End {
            address: AnyAddress::V6(address),
            port,
        };
        let source = end(Ipv6Addr::LOCALHOST, 65535);
        let destination = end(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2), 0);
        check_text(source, destination, b"[::1]:65535->[2001:db8:1::2]:0");
    }

    #[test]
    fn no_device_is_a_dash() {
        let raw = device_name(None);
        assert_eq!(raw[0], b'-' as c_char);
        assert_eq!(raw[1..], [0; 15]);
    }

    #[test]
    fn nothing_moved_has_a_bit_of_its_own() {
        let bits = Moved::default().bits();
        assert_eq!(u32::from(bits), bindings::RUSTMASQ_MOVED_NOTHING);
    }

    #[test]
    fn a_source_port_that_moved_alone_is_marked() {
        let moved = Moved {
            source_port: true,
            ..Moved::default()
        };
        let marked =
            bindings::RUSTMASQ_MOVED_SOURCE_PORT | bindings::RUSTMASQ_MOVED_SOURCE_PORT_ALONE;
        assert_eq!(u32::from(moved.bits()), marked);
    }

    #[test]
    fn a_source_port_that_moved_with_its_address_is_not_marked() {
        let moved = Moved {
            source_address: true,
            source_port: true,
            ..Moved::default()
        };
        let both = bindings::RUSTMASQ_MOVED_SOURCE_ADDRESS | bindings::RUSTMASQ_MOVED_SOURCE_PORT;
        assert_eq!(u32::from(moved.bits()), both);
    }

    #[test]
    fn everything_moved() {
        let moved = Moved {
            source_address: true,
            source_port: true,
            destination_address: true,
            destination_port: true,
        };
        assert_eq!(moved.bits(), 0b1111);
    }
}
