//! `mecapy`: submits functions, runs them, and looks after the pipeline.
//!
//! Invariants:
//! 1. Standard output has the result and nothing else; progress, hints and errors go to standard error.
//! 2. With `--json` the result is one JSON document, an error too, as the server sent it: no key is lost,
//!    no number rounded.
//! 3. The exit code tells a script what happened ([`exit`]).
//! 4. Nothing that users wrote reaches a terminal with control characters in it ([`terminal`]).
//!
//! The way through: [`arguments`] → one module a command, given a [`session`] → [`gateway`] over HTTP, or
//! [`servers`] (NATS, PostgreSQL, S3) for those who run the pipeline → [`terminal`].

mod advisories;
mod arguments;
mod base;
mod cleanup;
mod dead_letters;
mod duration;
mod exit;
mod functions;
mod gateway;
mod json;
mod list;
mod mirror;
mod progress;
mod servers;
mod session;
mod setup;
mod source;
mod status;
mod table;
mod tasks;
mod terminal;
mod trace;
mod watch;
mod webhooks;
mod workers;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::arguments::{Arguments, Command};
use crate::exit::Exit;
use crate::session::Session;

fn main() -> ExitCode {
    mecapy_service::install_tls();
    let Arguments { global, command } = Arguments::parse();
    let session = Session::new(global);
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(command, &session));
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            session.output.problem(&error);
            Exit::of(&error).into()
        }
    }
}

async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    match command {
        Command::Setup(setup) => setup::run(setup, session).await,
        Command::Functions(command) => functions::run(command, session).await,
        Command::Tasks(command) => tasks::run(command, session).await,
        Command::Dlq(command) => dead_letters::run(command, session).await,
        Command::Base(command) => base::run(command, session).await,
        Command::Mirror(command) => mirror::run(command, session).await,
        Command::Cleanup(command) => cleanup::run(command, session).await,
        Command::Advisories(command) => advisories::run(command, session).await,
        Command::Status(status) => status::run(status, session).await,
        Command::Trace { id } => trace::run(id, session).await,
        Command::Webhooks(command) => webhooks::run(command, session).await,
        Command::Workers { command } => workers::run(command, session).await,
        Command::Completions { shell } => {
            // Into memory first: a reader that goes early is no failure.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "mecapy", &mut script);
            session.output.raw(&script);
            Ok(Exit::Done)
        }
    }
}
