//! The command's face: reads the command line, runs what it says, and turns the outcome into an exit code.
//!
//! `main` calls [`main_with_args`] and nothing else. Rows go to stdout; everything else a person reads goes to
//! stderr. This is the one module of the library that prints.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;

mod checkpoint;
mod run;

/// The exit code after a command line that cannot be understood.
const USAGE: u8 = 2;

/// Printed below the help: what no option says.
const AFTER_HELP: &str = "\
Exit codes: 0 every flow has ended by itself, 1 something failed, 2 wrong usage, 130 stopped by Ctrl-C or SIGTERM.
Logs go to stderr; MILLSTREAM_LOG sets their filter (default: warn), e.g. MILLSTREAM_LOG=millstream=debug.";

#[derive(Debug, Parser)]
#[command(name = "millstream", version, about, after_help = AFTER_HELP, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the statements of a SQL file until every flow has ended.
    Run {
        /// The file; relative paths in it are relative to the working directory.
        file: PathBuf,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Runs SQL statements given as text; a query that is no stream prints its rows.
    Sql {
        /// The statements, separated by semicolons.
        text: String,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Looks into a checkpoint, copies it or rewinds it.
    Checkpoint {
        #[command(subcommand)]
        action: checkpoint::Action,
    },
}

#[derive(Debug, Default, clap::Args)]
struct RunOptions {
    /// How many parallel lanes a batch runs in [default: one per core; with a memory limit at least 32].
    #[arg(long, value_name = "N")]
    lanes: Option<NonZeroUsize>,
    /// How much memory queries may take, e.g. 512MB or 2GB; larger state is read from disk [default: what there is].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_limit: Option<usize>,
}

/// Reads a number of bytes: `512MB`, `2GB`, `1000000`. A kilobyte is 1024 bytes.
fn bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => Some(1),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse::<usize>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "expected a number of bytes, such as 512MB or 2GB".to_string())
}

/// Runs the command that `arguments` spell (the program's own name first) and returns the process's exit code: 0
/// where it has ended by itself, 1 where something failed, 2 for wrong usage, 130 where Ctrl-C or SIGTERM stopped it.
///
/// Errors are printed to stderr as `error: …`, with the causes that their message does not tell.
pub async fn main_with_args(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => {
            // Help and version come this way, too. Where even printing fails, the exit code has to say it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    let outcome = match line.command {
        Command::Run { file, options } => run::run_file(&file, &options).await,
        Command::Sql { text, options } => run::run_text(&text, &options).await,
        Command::Checkpoint { action } => checkpoint::run(action).await.map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        tell(&in_words(&error));
        ExitCode::FAILURE
    })
}

/// Tells a person something. Where nobody reads it (`millstream … 2>&1 | head`), the exit code has to do.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Tells an error and those of its causes that add something.
fn in_words(error: &Error) -> String {
    let mut text = format!("error: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        // A cause from below is often the message again, with or without the layer's own prefix.
        let own = words.split_once(": ").map_or(words.as_str(), |(_, rest)| rest);
        if !text.contains(own) && !words.contains(error.message()) {
            text.push_str("\n  caused by: ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &str) -> Result<Command, clap::Error> {
        CommandLine::try_parse_from(words.split(' ')).map(|line| line.command)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
        assert!(matches!(
            parse("millstream run a.sql --lanes 4").unwrap(),
            Command::Run { file, options } if file.to_str() == Some("a.sql") && options.lanes == NonZeroUsize::new(4)
        ));
        let limit = |text: &str| match parse(&format!("millstream sql SHOW --memory-limit {text}")).unwrap() {
            Command::Sql { options, .. } => options.memory_limit,
            _ => None,
        };
        assert_eq!([limit("64MB"), limit("2GiB"), limit("512")], [Some(64 << 20), Some(2 << 30), Some(512)]);
        assert!(matches!(parse("millstream sql SHOW").unwrap(), Command::Sql { text, .. } if text == "SHOW"));
        assert!(matches!(
            parse("millstream checkpoint rewind out/c --to 3 --sink out/t").unwrap(),
            Command::Checkpoint { .. }
        ));
    }

    #[test]
    fn wrong_usage_is_exit_code_2() {
        for words in ["0", "x", "12XB", "99999999999999999999", "99999999999GB"] {
            let error = parse(&format!("millstream sql SHOW --memory-limit {words}")).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(USAGE), "{words}");
        }
        for words in
            ["millstream", "millstream run", "millstream run a.sql --lanes 0", "millstream checkpoint rewind c"]
        {
            assert_eq!(parse(words).unwrap_err().exit_code(), i32::from(USAGE), "{words}");
        }
        assert_eq!(parse("millstream --version").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn causes_are_told_once() {
        let disk = std::io::Error::other("disk on fire");
        let error = Error::unavailable("cannot write 'out/t'").with_source(disk).context("flow f");
        assert_eq!(in_words(&error), "error: flow f: unavailable: cannot write 'out/t'\n  caused by: disk on fire");
        let repeated = Error::from(std::io::Error::other("disk on fire"));
        assert_eq!(in_words(&repeated), "error: unavailable: disk on fire");
    }
}
