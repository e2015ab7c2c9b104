// SPDX-License-Identifier: GPL-2.0
// error[E0499]: a segment is not rewritten while its payload is borrowed.

use crate::{
    net::Family,
    netfilter::segment::Segment, //
};
use kernel::prelude::*;

fn repeat<F: Family>(segment: &mut Segment<'_, '_, F, [u8; 32]>) -> Result {
    let (payload, _) = segment.payload_and_memory();
    segment.rewrite(0..1, payload, false)
}
