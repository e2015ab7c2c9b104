// SPDX-License-Identifier: GPL-2.0

//! `rustmasq`: see rustmasq(8).

use clap::Parser;
use rustmasq::{
    arguments::{self, Arguments, Command},
    output, watch, End,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Arguments::try_parse() {
        Ok(arguments) => match arguments.command {
            Command::Watch(options) => watch::run(&options),
        },
        Err(error) => arguments::explain(&error),
    };
    match result {
        Ok(()) | Err(End::Wanted) => ExitCode::SUCCESS,
        Err(End::Failed(failure)) => {
            output::say(&failure.message);
            ExitCode::from(failure.status)
        }
    }
}
