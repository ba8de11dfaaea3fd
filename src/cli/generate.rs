//! `wayleave generate`: what a package has besides the program, made of the program itself, so that it can't
//! say anything else: man pages and completions of `--help`, wayleave.toml(5) of the reference configuration.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{Cli, Error};

/// Every setting with its comment; `config::tests::samples` holds it to what the parser knows.
const REFERENCE: &str = include_str!("../../config/wayleave.toml");
/// Shown in the head of each page.
const MANUAL: &str = "System administration";

/// Write man pages or shell completions into a folder, for packages
#[derive(Debug, Args)]
pub(super) struct Generate {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// wayleave(8), one page for each subcommand, wayleave.toml(5)
    Man {
        /// Where to
        folder: PathBuf,
    },
    /// For bash, zsh and fish, named as these look for them
    Completions {
        /// Where to
        folder: PathBuf,
    },
}

impl Generate {
    pub(super) fn run(&self) -> Result<ExitCode, Error> {
        match &self.what {
            What::Man { folder } => man(folder)?,
            What::Completions { folder } => completions(folder)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn man(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // Without the page of the subcommand `help`, which says nothing of its own.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    pages(&command, folder)?;
    reference().to_writer(&mut File::create(folder.join("wayleave.toml.5"))?)
}

/// The page of a command, and those of its subcommands: wayleave(8), wayleave-lease(8), wayleave-lease-all(8).
fn pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    let source = format!("wayleave {}", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).section("8").manual(MANUAL).source(source);
    page.render(&mut File::create(folder.join(page.get_filename()))?)?;
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|command| pages(command, folder))
}

fn completions(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (shell, file) in [(Shell::Bash, "wayleave"), (Shell::Zsh, "_wayleave"), (Shell::Fish, "wayleave.fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "wayleave", &mut text);
        File::create(folder.join(file))?.write_all(&text)?;
    }
    Ok(())
}

/// The reference as a page: a heading for each table, a paragraph for each comment, settings in bold.
fn reference() -> Roff {
    let mut page = Roff::new();
    let source = format!("wayleave {}", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["wayleave.toml", "5", "", &source, "File formats"]);
    page.control("SH", ["NAME"]);
    page.text([roman("wayleave.toml - configuration of wayleave(8)")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([roman("/etc/wayleave/wayleave.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    let mut comment: Vec<&str> = Vec::new();
    for line in REFERENCE.lines() {
        match line.strip_prefix('#').map(|text| text.strip_prefix(' ').ok_or(text)) {
            Some(Ok(text)) => comment.push(text),
            Some(Err("")) | None if line.trim_start_matches('#').is_empty() => flush(&mut comment, &mut page),
            // A setting; behind a `#` one that is an example.
            _ => setting(line.trim_start_matches('#'), &mut comment, &mut page),
        }
    }
    flush(&mut comment, &mut page);
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("wayleave"),
        roman("(8), "),
        bold("wayleave-check"),
        roman("(8), "),
        bold("wayleave-run"),
        roman("(8)"),
    ]);
    page
}

/// A comment that is about nothing that follows.
fn flush(comment: &mut Vec<&str>, page: &mut Roff) {
    if !comment.is_empty() {
        page.control("PP", []);
        page.text(prose(comment));
        comment.clear();
    }
}

fn setting(line: &str, comment: &mut Vec<&str>, page: &mut Roff) {
    if line.starts_with('[') {
        page.control("SH", [line]);
        flush(comment, page);
    } else {
        page.control("TP", []);
        page.text([bold(line)]);
        page.text(if comment.is_empty() { vec![roman("As above.")] } else { prose(comment) });
        comment.clear();
    }
}

/// Lines that are indented, as in a list, stay lines.
fn prose(comment: &[&str]) -> Vec<Inline> {
    let mut text = Vec::new();
    for line in comment {
        if line.starts_with(' ') {
            text.push(clap_mangen::roff::line_break());
        }
        text.push(roman(format!("{} ", line.trim())));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(generate: fn(&Path) -> io::Result<()>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        generate(dir.path()).unwrap();
        dir
    }

    #[test]
    fn every_subcommand_has_its_page_and_is_completed() {
        let (man, shells) = (made(man), made(completions));
        let text = |dir: &tempfile::TempDir, name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (bash, zsh, fish) = (text(&shells, "wayleave"), text(&shells, "_wayleave"), text(&shells, "wayleave.fish"));
        assert!(text(&man, "wayleave.8").contains("Exit codes"), "what is true of all is in the first");
        let mut count = 0;
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let page = text(&man, &format!("wayleave-{name}.8"));
            let options = command.get_arguments().filter_map(clap::Arg::get_long);
            for option in options {
                assert!(page.contains(&option.replace('-', "\\-")), "{name}: --{option}");
                assert!(bash.contains(&format!("--{option}")), "{name}: --{option}");
            }
            assert!(bash.contains(name) && zsh.contains(name) && fish.contains(name), "{name}");
            count += 1;
        }
        assert!(count >= 10, "{count}");
        assert!(man.path().join("wayleave-lease-reclaim.8").exists(), "subcommands of subcommands too");
        assert!(!man.path().join("wayleave-generate.8").exists(), "for packages, not for people");
    }

    #[test]
    fn every_setting_is_in_the_manual() {
        let page = reference().to_roff();
        let settings = REFERENCE.lines().filter_map(|line| {
            let (key, _) = line.trim_start_matches('#').split_once(" = ")?;
            key.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some(key)
        });
        let mut count = 0;
        for key in settings {
            assert!(page.contains(&format!(".TP\n\\fB{} = ", key.replace('-', "\\-"))), "{key} in\n{page}");
            count += 1;
        }
        assert!(count > 60, "{count}");
        for table in ["[network]", "[[bgp.peers]]", "[[bgp.policies.from-border]]"] {
            assert!(page.contains(&format!(".SH {table}")) || page.contains(&format!(".SH \"{table}\"")), "{table}");
        }
        assert!(page.contains("Source\\-NAT for container traffic"), "with what is said about it");
    }
}
