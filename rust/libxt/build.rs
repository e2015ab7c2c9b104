// SPDX-License-Identifier: GPL-2.0

//! Generates the bindings for libxtables and for a rule's binary form, and links libxtables.
//!
//! The environment variables `BINDGEN` and `PKG_CONFIG` name these programs if they are not in
//! `PATH`.

#![deny(unsafe_code)]

use std::env;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::Command;

/// The C types whose members the extension reads or writes.
const TYPES: &str = "xtables_target|xt_entry_target|ipt_entry|ip6t_entry|option|xt_rustmasq_info.*\
    |xt_xlate_tg_params";

/// The C types that occur only behind pointers.
///
/// Their layout differs between versions of libxtables (`xt_option_entry` has grown, for example),
/// so the extension must not depend on it.
const OPAQUE: &str = "xt_option_call|xt_option_entry|xt_fcheck_call";

const FUNCTIONS: &str = "xtables_register_targets|xtables_service_to_port\
    |xt_xlate_add|xt_xlate_(add|get)_comment|printf";

const VARIABLES: &str = "XTABLES_VERSION|XT_RUSTMASQ_.*|xt_params|optarg\
    |NFPROTO_(UNSPEC|IPV[46])|IPT_INV_PROTO|IP6T_INV_PROTO|(no|required)_argument";

const ENUMS: &str = "xtables_exittype";

fn main() {
    let inputs = ["bindings.h", "../uapi/xt_RUSTMASQ.h", "build.rs"];
    for input in inputs {
        println!("cargo::rerun-if-changed={}", beside(input).display());
    }
    for variable in ["BINDGEN", "PKG_CONFIG"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }

    let out_dir = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let mut bindgen = Command::new(program("BINDGEN", "bindgen"));
    bindgen
        .arg(beside("bindings.h"))
        .arg("--output")
        .arg(PathBuf::from(out_dir).join("bindings.rs"))
        .args(["--allowlist-type", TYPES])
        .args(["--allowlist-type", ENUMS])
        .args(["--allowlist-function", FUNCTIONS])
        .args(["--allowlist-var", VARIABLES])
        .args(["--opaque-type", OPAQUE])
        .args(["--default-enum-style", "consts"])
        .args(["--enable-function-attribute-detection"])
        .args([
            "--generate-cstr",
            "--no-doc-comments",
            "--no-prepend-enum-name",
        ])
        .arg("--")
        .args(pkg_config("--cflags"));
    run(&mut bindgen);

    for flag in pkg_config("--libs") {
        match (flag.strip_prefix("-L"), flag.strip_prefix("-l")) {
            (Some(path), _) => println!("cargo::rustc-link-search=native={path}"),
            (_, Some(library)) => println!("cargo::rustc-link-lib=dylib={library}"),
            _ => println!("cargo::rustc-link-arg={flag}"),
        }
    }
}

/// Returns the path of the file `name` relative to this file.
///
/// Cargo's working directory does not do: the package of the fuzz targets, in another folder, uses
/// this build script as well.
fn beside(name: &str) -> PathBuf {
    Path::new(file!()).with_file_name(name)
}

/// Returns the flags that pkg-config has for libxtables.
fn pkg_config(which: &str) -> Vec<String> {
    let mut command = Command::new(program("PKG_CONFIG", "pkg-config"));
    run(command.args([which, "xtables"]))
        .split_whitespace()
        .map(String::from)
        .collect()
}

/// Returns the program that the environment variable names, or `default`.
fn program(variable: &str, default: &str) -> String {
    env::var(variable).unwrap_or_else(|_| default.into())
}

/// Runs `command` and returns its output; its error messages go to cargo's log.
fn run(command: &mut Command) -> String {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}
