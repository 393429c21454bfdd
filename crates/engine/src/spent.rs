//! What is left of a container after its run, until there is time to remove it.

use std::sync::Arc;
use std::time::Duration;

use bollard::container::AttachContainerResults;
use bollard::query_parameters::WaitContainerOptions;
use bytes::Bytes;
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::park::{Parked, await_first_words};
use crate::{Engine, Error, RunRequest};

/// Tells the runner that there will be another turn.
const ANOTHER_TURN: &[u8] = b"a";
/// How long it may take to clear away what the last turn left, and to start anew: that is nobody's task, and in no limit.
const AGAIN_WITHIN: Duration = Duration::from_secs(5);
/// How long a container may take to end when its stdin has. What does not is killed.
const END_WITHIN: Duration = Duration::from_secs(1);

/// A container whose function has ended. Dropping this removes it, beside whatever comes next.
#[derive(Debug)]
#[must_use = "dropped at once, its removal takes the machine while the result is kept"]
pub struct Spent {
    /// None: there was none.
    container: Option<Owned>,
    /// Of one whose function came to its end. Closing them ends the container's last process, which costs the machine
    /// time as well, but less than to have it killed.
    streams: Option<AttachContainerResults>,
    /// Of one that was parked.
    request: Option<Box<RunRequest>>,
}

/// A container that is removed when this goes.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) engine: Engine,
    pub(crate) id: Arc<str>,
    is_going: bool,
}

impl Spent {
    /// `streams` of one that ends with its stdin.
    pub(crate) fn new(container: Owned, streams: Option<AttachContainerResults>) -> Self {
        Self { container: Some(container), streams, request: None }
    }

    pub(crate) fn of_parked(parked: Parked) -> Self {
        let Parked { container, request, streams, .. } = parked;
        // What the last turn had, the next one has of its own.
        let request = RunRequest { stdin: Bytes::new(), live: None, ..request };
        Self { container: Some(container), streams, request: Some(Box::new(request)) }
    }

    /// Has a parked container whose function ended well wait for another turn, with the same code in its place: a new
    /// interpreter, after everything was removed that the last one wrote, and ended that it left. `Err`: the container goes.
    pub async fn park_again(mut self) -> Result<Parked, Error> {
        let (Some(container), Some(mut streams), Some(request)) =
            (self.container.take(), self.streams.take(), self.request.take())
        else {
            return Err(Error::Interrupted { call: "park a container again" });
        };
        // Where it has ended, what it said last tells more than this could.
        let _ = streams.input.write_all(ANOTHER_TURN).await;
        let _ = streams.input.flush().await;
        let words = await_first_words(&mut streams, &request, AGAIN_WITHIN).await?;
        Ok(Parked { container, request: *request, streams: Some(streams), words, had_turns: true })
    }

    /// Of a run that never had a container.
    pub(crate) fn nothing() -> Self {
        Self { container: None, streams: None, request: None }
    }

    /// Returns when the container is gone, or left to the next sweep by label. Who stops waiting does not stop it.
    pub async fn remove(mut self) {
        if let Some(removal) = self.begin_removal() {
            let _ = removal.await;
        }
    }

    fn begin_removal(&mut self) -> Option<JoinHandle<()>> {
        let (container, streams) = (self.container.take()?, self.streams.take());
        let runtime = Handle::try_current().ok()?;
        Some(runtime.spawn(async move {
            if let Some(streams) = streams {
                drop(streams);
                container.wait_for_its_end().await;
            }
            container.remove().await;
        }))
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.begin_removal();
    }
}

impl Owned {
    pub(crate) fn new(engine: &Engine, id: String) -> Self {
        Self { engine: engine.clone(), id: id.into(), is_going: false }
    }

    pub(crate) async fn remove(mut self) {
        if let Some(removal) = self.begin_removal() {
            let _ = removal.await;
        }
    }

    async fn wait_for_its_end(&self) {
        let ended = self.engine.docker.wait_container(&self.id, None::<WaitContainerOptions>);
        // How it ended, or why that can't be told, is nobody's question any more.
        let _ = tokio::time::timeout(END_WITHIN, std::pin::pin!(ended).next()).await;
    }

    fn begin_removal(&mut self) -> Option<JoinHandle<()>> {
        if std::mem::replace(&mut self.is_going, true) {
            return None;
        }
        let (engine, id) = (self.engine.clone(), Arc::clone(&self.id));
        // Without a runtime the process is ending: the next start of its owner removes what carries its label.
        let runtime = Handle::try_current().ok()?;
        Some(runtime.spawn(async move { engine.remove_or_leave(&id).await }))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.begin_removal();
    }
}
