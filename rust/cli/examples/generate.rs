// SPDX-License-Identifier: GPL-2.0

//! `generate FOLDER`: writes the manual pages and the completions for bash, fish and zsh into the folder.

use clap::{Command, CommandFactory};
use clap_complete::{generate_to, Shell};
use clap_mangen::Man;
use rustmasq::arguments::Arguments;
use std::{fs, io, path::Path};

/// The sections of a page before and after its options.
const RUSTMASQ: [&str; 2] = ["", include_str!("../man/rustmasq.roff")];
const MAPPINGS: [&str; 2] = [
    include_str!("../man/mappings-description.roff"),
    include_str!("../man/mappings-output.roff"),
];
const STAT: [&str; 2] = [
    include_str!("../man/stat-description.roff"),
    include_str!("../man/stat-output.roff"),
];
const STATUS: [&str; 2] = [
    include_str!("../man/status-description.roff"),
    include_str!("../man/status-output.roff"),
];
const WATCH: [&str; 2] = [
    include_str!("../man/watch-description.roff"),
    include_str!("../man/watch-output.roff"),
];

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = folder.ok_or_else(|| io::Error::other("usage: generate FOLDER"))?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let mut program = Arguments::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut program, "rustmasq", folder)?;
    }
    // The pages have the texts of the help that do not belong to an option in sections of their own.
    let mut program = program.mut_subcommands(|command| command.after_help(None::<&str>));
    program.build();
    write_page(folder, program.clone(), "rustmasq", RUSTMASQ)?;
    for command in program
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
    {
        let name = format!("rustmasq-{}", command.get_name());
        let sections = match command.get_name() {
            "mappings" => MAPPINGS,
            "stat" => STAT,
            "status" => STATUS,
            "watch" => WATCH,
            other => {
                return Err(io::Error::other(format!(
                    "the command {other} has no manual page"
                )))
            }
        };
        write_page(folder, command.clone(), &name, sections)?;
    }
    Ok(())
}

fn write_page(folder: &Path, command: Command, name: &str, sections: [&str; 2]) -> io::Result<()> {
    let source = concat!("rustmasq ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command)
        .title(name.to_uppercase())
        .section("8")
        .source(source)
        .manual("System Manager's Manual");
    let mut page = b".\\\" SPDX-License-Identifier: GPL-2.0\n".to_vec();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    page.extend(sections[0].bytes());
    man.render_options_section(&mut page)?;
    if name == "rustmasq" {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend(sections[1].bytes());
    fs::write(folder.join(format!("{name}.8")), page)
}
