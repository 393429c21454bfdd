//! What is left of a container after its run, until there is time to remove it.

use std::sync::Arc;

use bollard::container::AttachContainerResults;
use tokio::task::JoinHandle;

use crate::Engine;

/// A container whose function has ended. Dropping this removes it, beside whatever comes next.
#[derive(Debug)]
#[must_use = "dropped at once, its removal takes the machine while the result is kept"]
pub struct Spent {
    /// None: there was none.
    container: Option<Owned>,
    /// Closing them would end the container's last process, which costs the machine time as well.
    _streams: Option<AttachContainerResults>,
}

/// A container that is removed when this goes.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) engine: Engine,
    pub(crate) id: Arc<str>,
    is_going: bool,
}

impl Spent {
    pub(crate) fn new(container: Owned, streams: Option<AttachContainerResults>) -> Self {
        Self { container: Some(container), _streams: streams }
    }

    /// Of a run that never had a container.
    pub(crate) fn nothing() -> Self {
        Self { container: None, _streams: None }
    }

    /// Returns when the container is gone, or left to the next sweep by label. Who stops waiting does not stop it.
    pub async fn remove(self) {
        if let Some(container) = self.container {
            container.remove().await;
        }
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

    fn begin_removal(&mut self) -> Option<JoinHandle<()>> {
        if std::mem::replace(&mut self.is_going, true) {
            return None;
        }
        let (engine, id) = (self.engine.clone(), Arc::clone(&self.id));
        // Without a runtime the process is ending: the next start of its owner removes what carries its label.
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        Some(runtime.spawn(async move { engine.remove_or_leave(&id).await }))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.begin_removal();
    }
}
