//! `mecapy base`: the base images.

use clap::Subcommand;
use mecapy_proto::v1::BaseRequested;

use crate::exit::Exit;
use crate::servers::Servers;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask for it
    Build,
}

pub async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    let bus = servers.bus().await?;
    match command {
        Command::Build => {
            let requested = BaseRequested { reason: "manual".to_owned(), ..Default::default() };
            bus.publish(&requested).await?;
            Ok(Exit::Done)
        }
    }
}
