// SPDX-License-Identifier: GPL-2.0

//! A module that consists of the abstractions and one case of this folder. It is compiled, never loaded.

#![allow(dead_code, unused_imports)]

#[path = "../../rust/bindings/mod.rs"]
mod bindings;
#[path = "../../rust/net/mod.rs"]
mod net;
#[path = "../../rust/netfilter/mod.rs"]
mod netfilter;

mod case {
    include!(env!("RUSTMASQ_CASE"));
}

use kernel::prelude::*;

module! {
    type: CompileFail,
    name: "compile_fail",
    authors: ["The rustmasq developers"],
    description: "compile-time cases",
    license: "GPL",
}

struct CompileFail;

impl kernel::Module for CompileFail {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}
