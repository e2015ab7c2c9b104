// SPDX-License-Identifier: GPL-2.0

//! The FTP helper, which expects the data connections that a control connection announces.

// The tests use all of it.
#![cfg_attr(
    not(CONFIG_KUNIT = "y"),
    expect(dead_code, unused_imports, reason = "the helper itself is to come")
)]

mod reader;
mod text;
