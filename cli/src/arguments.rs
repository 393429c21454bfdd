//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use mecapy_proto::{BuildId, FunctionId, TaskId};
use mecapy_service::Secret;
use uuid::Uuid;

use crate::{advisories, base, cleanup, duration, exit, mirror, webhooks, workers};

/// Submits Python functions to MecaPy, runs them, and looks after the pipeline
#[derive(Debug, Parser)]
#[command(name = "mecapy", version, after_help = exit::HELP, infer_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print the result as JSON on standard output, and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress while waiting
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// The gateway
    #[arg(
        long,
        global = true,
        env = "MECAPY_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub url: String,
    /// The API token; other users of this machine see it in the list of processes: better as a file [env: MECAPY_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN", value_parser = secret, conflicts_with = "token_file")]
    pub token: Option<Secret>,
    /// A file with the API token [env: MECAPY_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The services' configuration file, for what operators do without the gateway: all of setup, status, dlq, base,
    /// mirror and cleanup, and the list of workers; MECAPY_* variables come on top of it
    #[arg(long, global = true, env = "MECAPY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make streams, consumers, buckets and the schema; can be run again
    Setup(Setup),
    /// Submit functions, look at them, delete them
    #[command(subcommand)]
    Functions(Functions),
    /// Run functions
    #[command(subcommand)]
    Tasks(Tasks),
    /// Show how a build or a task went, step by step, as a waterfall
    #[command(after_help = exit::HELP)]
    Trace {
        /// The UUID of a build or a task
        #[arg(value_name = "BUILD_ID|TASK_ID")]
        id: Uuid,
    },
    /// Have URLs called when something becomes of functions and tasks
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    /// Look at messages that could not be handled, send them again, or drop them
    #[command(subcommand)]
    Dlq(Dlq),
    /// Build the base images, and the functions that stand on older ones
    #[command(subcommand)]
    Base(base::Command),
    /// Copy images to the fallback registry, and try out the recovery
    #[command(subcommand)]
    Mirror(mirror::Command),
    /// Plan, apply and undo the cleanup of the registry; a plan changes nothing
    #[command(subcommand)]
    Cleanup(cleanup::Command),
    /// Make the database of advisories that the scanner matches with, and look at it
    #[command(subcommand)]
    Advisories(advisories::Command),
    /// Show how much work waits, and whether services are ready
    Status(Status),
    /// Show the workers that live, and what they have; have one take no more tasks
    Workers {
        #[command(subcommand)]
        command: Option<workers::Command>,
    },
    /// Print completions for a shell
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
pub struct Setup {
    /// How long to wait for NATS, PostgreSQL and S3
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = duration::parse)]
    pub wait: Duration,
    /// Copies of each stream, in a NATS cluster of at least as many servers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,
    /// Tasks that may wait to be run; more are refused
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(1..))]
    pub max_queued_tasks: i64,
}

#[derive(Debug, Subcommand)]
pub enum Functions {
    /// Submit a function, or a new version of one, and wait until it is ready
    #[command(after_help = exit::HELP)]
    Submit(Submit),
    /// Show a function as its newest build left it
    Get { id: FunctionId },
    /// List functions
    List {
        /// At most this many
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
    },
    /// Build a function's newest version again, on what is newest by now, and wait until it is ready
    #[command(after_help = exit::HELP)]
    Rebuild {
        id: FunctionId,
        /// Don't wait for the build
        #[arg(long)]
        no_wait: bool,
    },
    /// Delete a function; its images go with the next cleanup
    Delete {
        id: FunctionId,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Print the log of a build, as far as it is stored
    Logs {
        /// A build, or a function for its newest build
        #[arg(value_name = "BUILD_ID|FUNCTION_ID")]
        target: Target,
        /// Show it as it grows, until the build ends: as watch does
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop a build; one that is built already goes on
    Cancel {
        /// A build, or a function for its newest build
        #[arg(value_name = "BUILD_ID|FUNCTION_ID")]
        target: Target,
    },
    /// Follow a build until it ends
    #[command(after_help = exit::HELP)]
    Watch {
        /// A build, or a function for its newest build
        #[arg(value_name = "BUILD_ID|FUNCTION_ID")]
        target: Target,
    },
}

#[derive(Debug, Args)]
pub struct Submit {
    /// A .py file, or a folder with user_function.py or main.py, and requirements.txt
    pub path: PathBuf,
    /// The function's name [default: that of the folder or file]
    #[arg(long)]
    pub name: Option<String>,
    /// What it needs, as pip reads it [default: the folder's requirements.txt]
    #[arg(long, value_name = "FILE")]
    pub requirements: Option<PathBuf>,
    /// The Python version [default: the server's, 3.11]
    #[arg(long, value_name = "VERSION")]
    pub python: Option<String>,
    /// The variant of the base image [default: the server's, slim]
    #[arg(long, value_name = "VARIANT")]
    pub base: Option<String>,
    /// Don't wait for the build
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum Tasks {
    /// Run a function and print its result
    #[command(after_help = exit::HELP)]
    Run(Run),
    /// Show a task
    Get {
        id: TaskId,
        /// Wait until it has ended; the exit code tells how
        #[arg(long)]
        wait: bool,
    },
    /// Print what a task wrote to its standard output and standard error, to ours
    Logs {
        id: TaskId,
        /// Show what it writes as it writes it, both to standard output, until it ends
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop a task
    Cancel { id: TaskId },
}

#[derive(Debug, Args)]
pub struct Run {
    pub id: FunctionId,
    /// The inputs as JSON; - reads them from standard input [default: null]
    #[arg(long, value_name = "JSON", conflicts_with = "inputs_file", allow_hyphen_values = true)]
    pub inputs: Option<String>,
    /// A file with the inputs; - reads them from standard input
    #[arg(long, value_name = "FILE")]
    pub inputs_file: Option<PathBuf>,
    /// How long it may run: 500ms, 30s, 5m [default: the server's]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    pub timeout: Option<Duration>,
    /// Don't wait for the result
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List dead letters, oldest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 100, value_name = "NUMBER")]
        limit: usize,
        /// Those after this one
        #[arg(long, default_value_t = 0, value_name = "ID")]
        after: u64,
    },
    /// Show a dead letter with its message
    Show { id: u64 },
    /// Send messages again to where they were to go
    Replay(Letters),
    /// Forget messages for good
    Drop(Letters),
}

#[derive(Debug, Args)]
pub struct Letters {
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ID")]
    pub ids: Vec<u64>,
    /// All that are there now
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Confirm {
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct Status {
    /// A service's admin address, to ask whether it is ready (more than one may be given)
    #[arg(long, value_name = "NAME=URL")]
    pub service: Vec<NamedUrl>,
}

/// What to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Build(BuildId),
    Function(FunctionId),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self::Build)
            .or_else(|_| text.parse().map(Self::Function))
            .map_err(|_| "must be a build's UUID or a function's number".to_owned())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedUrl {
    pub name: String,
    pub url: String,
}

impl FromStr for NamedUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, url)) if !name.is_empty() && url.starts_with("http") => {
                Ok(Self { name: name.to_owned(), url: url.trim_end_matches('/').to_owned() })
            }
            _ => Err("must be NAME=URL, like worker=http://127.0.0.1:9100".to_owned()),
        }
    }
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("mecapy").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "",
            "functions get 0",
            "functions get x",
            "functions watch x",
            "tasks run 1 --inputs 1 --inputs-file f",
            "tasks run 1 --timeout 0s",
            "tasks get 5",
            "trace",
            "trace 5",
            "dlq drop",
            "workers drain",
            "workers a",
            "functions rebuild",
            "dlq drop 1 --all",
            "setup --replicas 0",
            "status --service worker",
            "--token a --token-file b functions list",
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_build_is_told_from_a_function() {
        assert!(matches!("456".parse(), Ok(Target::Function(_))));
        assert!(matches!("018f4e3e-0000-7000-8000-000000000000".parse(), Ok(Target::Build(_))));
        assert!("-1".parse::<Target>().is_err());
    }

    #[test]
    fn a_token_is_not_shown() {
        let arguments = parse("--token s3cret functions list").unwrap();
        assert!(!format!("{arguments:?}").contains("s3cret"));
    }

    #[test]
    fn exit_codes_are_in_the_help() {
        let help = Arguments::command().render_long_help().to_string();
        for code in ["0  done", "3  the scan", "5  a server", "130  interrupted"] {
            assert!(help.contains(code), "{help}");
        }
    }
}
