// SPDX-License-Identifier: GPL-2.0

//! The program `rustmasq`: one module for each subcommand, over the readers of what the kernel tells.

use std::{fmt, io};

pub mod arguments;
pub mod ends;
pub mod filter;
pub mod flows;
pub mod json;
pub mod lost;
pub mod mappings;
pub mod output;
pub mod prometheus;
pub mod readers;
pub mod screen;
pub mod signals;
pub mod stat;
pub mod status;
pub mod table;
pub mod watch;

/// An error that ends the program: a message of one line, and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// The message, without the name of the program.
    pub message: String,
    /// The exit status.
    pub status: u8,
}

impl Failure {
    /// Returns an error with status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: 1,
        }
    }

    /// Returns an error of the operating system about `what`, a file's name or another object of the call.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied if !nix::unistd::geteuid().is_root() => {
                ": run it as root"
            }
            _ => "",
        };
        Self::new(format!("{what}: {}{hint}", output::reason(error)))
    }
}

/// The reason for which a subcommand ends early.
#[derive(Debug)]
pub enum End {
    /// A signal came, or nobody reads the output any more. The status is 0.
    Wanted,
    /// An error.
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        End::Failed(failure)
    }
}
