//! A container that serves others for as long as its owner lives: builds join its network, and it talks with its owner
//! over its streams alone.
//!
//! It is as hardened as one of a function, and has no network but its loopback. If its owner dies, the engine closes
//! its stdin: its program is to end then, and the engine removes it.

use std::pin::Pin;

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::io::AsyncWrite;
use tracing::Instrument;

use crate::spent::Owned;
use crate::{Engine, Error, RunRequest, hardening};

/// What the container prints, piece by piece. Its end is the container's.
pub type Output = Pin<Box<dyn Stream<Item = Bytes> + Send>>;
/// The container's stdin.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// The container. Dropping it removes it.
#[derive(Debug)]
pub struct Companion {
    container: Owned,
}

impl Companion {
    pub fn id(&self) -> &str {
        &self.container.id
    }

    /// The network of this container, for whoever is to be in it.
    pub fn network(&self) -> String {
        format!("container:{}", self.container.id)
    }
}

impl Engine {
    /// Starts a container that runs `cmd`. Of the request's limits all count but the time and the streams'.
    /// What it says on stderr goes to our log.
    pub async fn start_companion(
        &self,
        request: RunRequest,
    ) -> Result<(Companion, Output, Input), Error> {
        let engine = self.clone();
        // Not this future's: dropped in between, it would leave a container that nobody knows.
        let start = async move { engine.start_companion_whole(&request).await };
        tokio::spawn(start.in_current_span())
            .await
            .unwrap_or(Err(Error::Interrupted { call: "start a container" }))
    }

    async fn start_companion_whole(
        &self,
        request: &RunRequest,
    ) -> Result<(Companion, Output, Input), Error> {
        let options = CreateContainerOptionsBuilder::default().name(&request.name).build();
        let mut body = hardening::container(request);
        if let Some(host) = &mut body.host_config {
            host.auto_remove = Some(true);
        }
        let create = self.docker.create_container(Some(options), body);
        let id = match self.call("create a container", create).await {
            Ok(created) => created.id,
            Err(Error::Refused { status: 404, .. }) => {
                return Err(Error::ImageNotFound { image: request.image.clone() });
            }
            Err(error @ Error::NoAnswer { .. }) => {
                // It may have been made all the same.
                self.remove_or_leave(&request.name).await;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let container = Owned::new(self, id);
        let AttachContainerResults { output, input } =
            self.attach_and_start(&container.id, request).await?;
        let name = request.name.clone();
        let output = output.filter_map(move |piece| {
            let said = match piece {
                Ok(LogOutput::StdErr { message }) => {
                    let words = String::from_utf8_lossy(&message).trim_end().to_owned();
                    tracing::warn!(container.name = name, words, "a container complains");
                    None
                }
                Ok(piece) => Some(piece.into_bytes()),
                Err(_) => None,
            };
            std::future::ready(said)
        });
        Ok((Companion { container }, Box::pin(output), input))
    }
}
