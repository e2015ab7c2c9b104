// SPDX-License-Identifier: GPL-2.0

//! A mapping: the outside port of an inside endpoint.

use super::endpoint::Endpoint;
use kernel::{
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
};

/// The senders that may begin a flow to a mapping from outside.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Filtering {
    /// Anybody (RFC 4787: endpoint-independent filtering).
    EndpointIndependent,
    /// Those with an address that the inside endpoint speaks to (address-dependent filtering).
    AddressDependent,
    /// Nobody: conntrack lets those answer that the inside endpoint has spoken to (address and port-dependent filtering).
    AddressAndPortDependent,
    /// Nobody, and no rule has said so yet: the mapping was made for a flow to another inside endpoint.
    NoRule,
}

/// A mapping of an outside address.
#[derive(Clone, Copy)]
pub(super) struct Mapping {
    pub(super) inside: Endpoint,
    /// The hash of the inside endpoint.
    pub(super) hash: u32,
    /// The outside port, in host order.
    pub(super) port: u16,
    /// The filtering that the rule of the last flow from inside says.
    pub(super) filtering: Filtering,
    /// The index of the device that it leaves by.
    pub(super) device: c_int,
    /// The number of its flows from inside that live.
    flows: u32,
    /// The number of flows from outside that were led in so far; a filter may have dropped some of these.
    inbound: u32,
    /// When it was made, and when a flow of it began or ended last that the inside endpoint wanted; in seconds.
    made: u32,
    used: u32,
    /// The number that tells it from all others, for a long time.
    pub(super) number: u32,
}

impl Mapping {
    /// Returns a mapping that is made now, with one flow. `now` is the time in seconds.
    #[inline(always)]
    pub(super) fn new(inside: Endpoint, hash: u32, port: u16, number: u32, now: u32) -> Self {
        Self {
            inside,
            hash,
            port,
            flows: 1,
            made: now,
            used: now,
            number,
            filtering: Filtering::NoRule,
            device: 0,
            inbound: 0,
        }
    }

    /// Returns it with this filtering, for a device.
    #[inline(always)]
    pub(super) fn with(self, filtering: Filtering, device: c_int) -> Self {
        Self {
            filtering,
            device,
            ..self
        }
    }

    /// Counts a flow from inside that begins.
    #[inline(always)]
    pub(super) fn begin_flow(&mut self, now: u32) {
        self.flows = self.flows.saturating_add(1);
        self.used = now;
    }

    /// Takes the count of a flow back that did not begin. Returns whether the mapping has no flow now.
    pub(super) fn give_up_flow(&mut self) -> bool {
        self.flows = self.flows.saturating_sub(1);
        self.flows == 0
    }

    /// Counts a flow from inside that has ended.
    ///
    /// There may be none: a flow that a rule without mappings let leave by the same port was not counted.
    pub(super) fn end_flow(&mut self, now: u32) {
        self.flows = self.flows.saturating_sub(1);
        self.used = now;
    }

    /// Counts a flow that is led in from outside.
    pub(super) fn count_inbound(&mut self) {
        self.inbound = self.inbound.saturating_add(1);
    }

    /// Returns whether a flow was led in from outside.
    pub(super) fn has_inbound(&self) -> bool {
        self.inbound > 0
    }

    /// Notes that a flow from outside keeps the mapping.
    pub(super) fn refresh(&mut self, now: u32) {
        self.used = now;
    }

    /// Returns whether the mapping is over: it has no flow, and none has begun or ended for its lifetime.
    pub(super) fn is_over(&self, now: u32) -> bool {
        self.flows == 0 && age(self.used, now) >= lifetime(self.inside.protocol())
    }

    /// Prints the mapping as a line.
    pub(super) fn print(&self, file: &SeqFile, outside: &Endpoint, now: u32) {
        let filtering = match self.filtering {
            Filtering::EndpointIndependent => "full",
            Filtering::AddressDependent => "address",
            Filtering::AddressAndPortDependent | Filtering::NoRule => "port",
        };
        seq_print!(
            file,
            "protocol={} inside={} port={} outside={} outside_port={} zone={} device={} \
            cone={filtering} flows={} inbound={} age={} unused={}\n",
            self.inside.protocol(),
            self.inside.address(),
            self.inside.port(),
            outside.address(),
            self.port,
            self.inside.zone_id(),
            self.device,
            self.flows,
            self.inbound,
            age(self.made, now),
            age(self.used, now)
        );
    }
}

/// Returns how long ago a time was, in seconds. It may be later than `now`, as the clock goes on while mappings are looked
/// at: that is 0.
fn age(time: u32, now: u32) -> u32 {
    // CAST: A difference of times that are near each other.
    let age = now.wrapping_sub(time) as i32;
    u32::try_from(age).unwrap_or(0)
}

/// Returns for how many seconds a mapping is kept without a flow (RFC 4787, REQ-5; RFC 5382 and RFC 5508 ask for less).
fn lifetime(protocol: u8) -> u32 {
    const UDP: u8 = 17;
    if protocol == UDP {
        300
    } else {
        240
    }
}

#[kunit_tests(rustmasq_mapping)]
mod tests {
    use super::*;
    use crate::net::AnyAddress;
    use core::net::Ipv4Addr;

    #[test]
    fn a_mapping_lives_as_long_as_its_flows_and_its_lifetime() {
        let inside = Endpoint::of_udp(AnyAddress::V4(Ipv4Addr::new(10, 0, 0, 1)), 5000);
        let mut mapping = Mapping::new(inside, 0, 5000, 0, 100);
        assert!(!mapping.is_over(4000));
        mapping.end_flow(100);
        // The time of a use may be later than that which it is compared with.
        assert!(!mapping.is_over(99) && !mapping.is_over(100));
        assert!(!mapping.is_over(399));
        assert!(mapping.is_over(400));
        mapping.begin_flow(4000);
        assert!(!mapping.is_over(5000));
        mapping.end_flow(5000);
        assert!(!mapping.is_over(5299));
        assert!(mapping.is_over(5300));
        // An end too many does nothing.
        mapping.end_flow(5000);
        assert!(mapping.is_over(5300));
        mapping.begin_flow(5000);
        assert!(mapping.give_up_flow());
    }
}
