// SPDX-License-Identifier: GPL-2.0

//! `rustmasq`: see rustmasq(8).

use clap::Parser;
use rustmasq::{
    arguments::{self, Arguments, Command},
    mappings, output, stat, status, watch, End,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Arguments::try_parse() {
        Ok(arguments) => match arguments.command {
            Command::Watch(options) => watch::run(&options).map(|()| 0),
            Command::Mappings(options) => mappings::run(&options).map(|()| 0),
            Command::Stat(options) => stat::run(&options).map(|()| 0),
            Command::Status(options) => status::run(&options),
        },
        Err(error) => arguments::explain(&error).map(|()| 0),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(End::Wanted) => ExitCode::SUCCESS,
        Err(End::Failed(failure)) => {
            output::say(&failure.message);
            ExitCode::from(failure.status)
        }
    }
}
