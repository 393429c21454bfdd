//! The images that builds leave with the engine, and their removal.

use mecapy_engine::Engine;
use tokio_util::task::TaskTracker;

/// Removes the images that builds leave with the engine, beside the builds.
#[derive(Debug, Clone)]
pub struct Broom {
    engine: Engine,
    removals: TaskTracker,
}

impl Broom {
    pub fn new(engine: &Engine) -> Self {
        Self { engine: engine.clone(), removals: TaskTracker::new() }
    }

    /// A name that no other step, process or machine has.
    pub fn scratch(&self, purpose: &str) -> Scratch {
        self.scratch_named(format!("mecapy-build/{purpose}:{}", uuid::Uuid::now_v7().simple()))
    }

    pub fn scratch_named(&self, name: String) -> Scratch {
        Scratch { broom: self.clone(), name }
    }

    /// Waits until what was to be removed is gone.
    pub async fn finish(&self) {
        self.removals.close();
        self.removals.wait().await;
        self.removals.reopen();
    }
}

/// An image that is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    broom: Broom,
    pub name: String,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (engine, name) = (self.broom.engine.clone(), std::mem::take(&mut self.name));
        let removal = async move {
            if let Err(error) = engine.remove_image(&name).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(image = name, error, "an image of a build could not be removed");
            }
        };
        self.broom.removals.spawn_on(removal, &runtime);
    }
}
