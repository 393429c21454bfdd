//! `mecapy mirror`: the copy on the fallback registry.

use clap::Subcommand;
use mecapy_proto::v1::MirrorRequested;

use crate::exit::Exit;
use crate::servers::Servers;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask for it
    Run,
}

pub async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    let bus = servers.bus().await?;
    match command {
        Command::Run => {
            let requested = MirrorRequested { reason: "manual".to_owned(), ..Default::default() };
            bus.publish(&requested).await?;
            Ok(Exit::Done)
        }
    }
}
