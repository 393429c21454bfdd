//! A folder of an image, read without running anything of it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use tracing::Instrument as _;

use crate::spent::Owned;
use crate::{Engine, Error};

/// What containers carry that are only read from.
const LABEL: &str = "org.mecapy.archive";

/// The folder as a tar, piece by piece. Dropping it removes the container that it is read from.
pub struct Archive {
    container: Owned,
    content: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
}

impl Archive {
    /// Returns when nothing uses the image any more.
    pub async fn close(self) {
        let Self { container, content } = self;
        drop(content);
        container.remove().await;
    }
}

impl Stream for Archive {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.content.as_mut().poll_next(context)
    }
}

impl Engine {
    /// The folder at `path` of an image that the engine has: `/opt/venv` as a tar of `venv/…`.
    pub async fn archive(&self, image: &str, path: &str) -> Result<Archive, Error> {
        let (engine, image) = (self.clone(), image.to_owned());
        // Not this future's: dropped in between, it would leave a container that nobody knows.
        let create = async move { engine.create_archive(image).await };
        let container = tokio::spawn(create.in_current_span())
            .await
            .unwrap_or(Err(Error::Interrupted { call: "create a container" }))?;
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let host = self.host.clone();
        let content = self
            .docker
            .download_from_container(&container.id, Some(options))
            .map_err(move |error| Error::of_call("read a folder", &host, error));
        Ok(Archive { container, content: Box::pin(content) })
    }

    async fn create_archive(&self, image: String) -> Result<Owned, Error> {
        let options = CreateContainerOptionsBuilder::default().build();
        let body = ContainerCreateBody {
            image: Some(image.clone()),
            labels: Some([(LABEL.to_owned(), String::new())].into()),
            // Never started; it could do nothing if it were.
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let create = self.docker.create_container(Some(options), body);
        match self.call("create a container", create).await {
            Ok(created) => Ok(Owned::new(self, created.id)),
            Err(Error::Refused { status: 404, .. }) => Err(Error::ImageNotFound { image }),
            Err(error) => Err(error),
        }
    }

    /// Removes containers that were read from by a process that died, when they are older than anyone reads.
    pub async fn remove_old_archives(&self, older_than: Duration) -> Result<(), Error> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs() as i64;
        for container in self.containers(&[LABEL]).await? {
            if now - container.created_at > older_than.as_secs() as i64 {
                self.remove_container(&container.id).await?;
            }
        }
        Ok(())
    }
}
