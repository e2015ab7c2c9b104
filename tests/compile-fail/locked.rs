// SPDX-License-Identifier: GPL-2.0
// error[E0499]: what is called under a lock of the table does not sleep.

use crate::netfilter::{
    conntrack,
    net::Net,
    *, //
};
use core::cell::RefCell;

fn walk(net: &Net, context: &mut ProcessContext) {
    let shared = RefCell::new(&mut *context);
    let sleeps = || Net::next(None, |_| true, &mut shared.borrow_mut()).is_some();
    conntrack::forget(net, |_| sleeps(), context);
}
