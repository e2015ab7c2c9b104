// SPDX-License-Identifier: GPL-2.0

//! The outside addresses that the inside endpoints of mappings speak to, for address-dependent filtering.

use super::{
    endpoint::Endpoint,
    table::{
        Table,
        PARTS, //
    },
};
use crate::net::{
    context::BottomHalvesOff,
    random::WordsHash, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock, //
    },
};

/// An outside address that the inside endpoint of a mapping speaks to.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Peer {
    /// The number of the mapping.
    mapping: u32,
    address: [u64; 2],
}

/// The flows to a peer.
struct Conversation {
    peer: Peer,
    /// The outside endpoint of the mapping.
    outside: Endpoint,
    flows: u32,
}

/// The conversations of all mappings of a namespace.
pub(super) struct Conversations {
    hash: WordsHash,
    table: Table<Conversation>,
    count: Atomic<u32>,
}

impl Conversations {
    /// Returns no conversations. Errors: ENOMEM. Process context.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            hash: WordsHash::random(),
            table: Table::new(|part| new_spinlock!(part))?,
            count: Atomic::new(0),
        })
    }

    fn hash(&self, peer: &Peer) -> u32 {
        let [low, high] = peer.address;
        self.hash.hash([[low, peer.mapping.into()]], [high, 0])
    }

    /// Returns the number of peers that are known.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn count(&self) -> u32 {
        self.count.load(Relaxed)
    }

    /// Counts a flow to an address that begins, from the mapping with the number and the outside endpoint. Any context.
    ///
    /// Without memory the peer may answer in its flow alone.
    pub(super) fn begin(&self, mapping: u32, outside: Endpoint, address: [u64; 2]) {
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer { mapping, address };
        let hash = self.hash(&peer);
        self.table.with(hash, &no_softirq, |part| {
            if let Some(conversation) = part.get_mut(hash, |known| known.peer == peer) {
                conversation.flows = conversation.flows.saturating_add(1);
            } else if part.reserve(|known| self.hash(&known.peer)).is_ok() {
                let conversation = Conversation {
                    peer,
                    outside,
                    flows: 1,
                };
                part.put(conversation, hash);
                self.count.fetch_add(1_u32, Relaxed);
            }
        });
    }

    /// Counts a flow to an address, of the mapping with a number, that has ended. Any context.
    pub(super) fn end(&self, mapping: u32, address: [u64; 2]) {
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer { mapping, address };
        let hash = self.hash(&peer);
        self.table.with(hash, &no_softirq, |part| {
            let is_it = |known: &Conversation| known.peer == peer;
            let Some(conversation) = part.get_mut(hash, is_it) else {
                return;
            };
            conversation.flows = conversation.flows.saturating_sub(1);
            if conversation.flows == 0 {
                part.take(hash, is_it, |known| self.hash(&known.peer));
                self.count.fetch_sub(1_u32, Relaxed);
            }
        });
    }

    /// Returns whether the inside endpoint of the mapping with a number speaks to the address. Any context.
    pub(super) fn has(&self, mapping: u32, address: [u64; 2]) -> bool {
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer { mapping, address };
        let hash = self.hash(&peer);
        let found = self.table.with(hash, &no_softirq, |part| {
            part.get(hash, |known| known.peer == peer).is_some()
        });
        found.unwrap_or(false)
    }

    /// Removes the conversations for which `is_there` says that there is no mapping with the outside endpoint and the
    /// number: nobody tells of the end of their flows. Any context.
    pub(super) fn forget(&self, is_there: impl Fn(&Endpoint, u32) -> bool) {
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let hash_of = |known: &Conversation| self.hash(&known.peer);
        self.table.take_all(0..PARTS, hash_of, |known| {
            let has_gone = !is_there(&known.outside, known.peer.mapping);
            if has_gone {
                self.count.fetch_sub(1_u32, Relaxed);
            }
            has_gone
        });
    }
}
