// SPDX-License-Identifier: GPL-2.0
// error[E0499]: a function that is called under a lock of the table does not sleep.

use crate::{
    net::{
        namespace::Net,
        *, //
    },
    netfilter::conntrack,
};
use core::cell::RefCell;

fn walk(net: &Net, context: &mut ProcessContext) {
    let shared = RefCell::new(&mut *context);
    let sleeps = || Net::next_after(None, |_| true, &mut shared.borrow_mut()).is_some();
    conntrack::cleanup(net, |_| sleeps(), context);
}
