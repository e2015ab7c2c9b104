// SPDX-License-Identifier: GPL-2.0

//! A module of the netfilter abstractions and one case of this folder, which is compiled, never
//! loaded.

#![allow(dead_code, unused_imports)]

#[path = "../../rust/bindings/mod.rs"]
mod bindings;
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
