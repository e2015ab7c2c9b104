// SPDX-License-Identifier: GPL-2.0

//! Compiles `src/iptables.c` and generates the bindings for `src/iptables.h`.
//!
//! The environment variable `BINDGEN` names that program if it is not in `PATH`, and `CC` names the
//! C compiler.

#![deny(unsafe_code)]

use std::env;
use std::path::PathBuf;
use std::process::Command;

const HEADER: &str = "src/iptables.h";
const SOURCE: &str = "src/iptables.c";

fn main() {
    for input in [HEADER, SOURCE, "../../../uapi/xt_RUSTMASQ.h", "build.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-env-changed=BINDGEN");

    let out_dir = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let bindgen = env::var_os("BINDGEN").unwrap_or_else(|| "bindgen".into());
    let status = Command::new(bindgen)
        .arg(HEADER)
        .arg("--output")
        .arg(PathBuf::from(out_dir).join("bindings.rs"))
        .args(["--allowlist-file", ".*/(iptables|xt_RUSTMASQ)\\.h"])
        .args(["--default-enum-style", "consts", "--no-prepend-enum-name"])
        .status()
        .expect("bindgen can be run");
    assert!(status.success(), "bindgen: {status}");

    cc::Build::new()
        .file(SOURCE)
        .warnings_into_errors(true)
        .compile("iptables");
}
