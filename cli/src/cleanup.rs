//! `mecapy cleanup`: what the janitor would delete, deletes, and puts back.

use clap::Subcommand;
use mecapy_proto::v1::CleanupRequested;

use crate::exit::Exit;
use crate::servers::Servers;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask for it
    Plan,
}

pub async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    let bus = servers.bus().await?;
    match command {
        Command::Plan => {
            let requested = CleanupRequested {
                reason: "manual".to_owned(),
                dry_run: true,
                ..Default::default()
            };
            bus.publish(&requested).await?;
            Ok(Exit::Done)
        }
    }
}
