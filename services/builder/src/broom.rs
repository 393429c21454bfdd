//! The images that builds leave with the engine, and their removal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mecapy_engine::Engine;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::Error;

/// Our names on the engine are `mecapy-build/{purpose}:{id}`; the id tells when it was given.
const OURS: &str = "mecapy-build/";

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
        self.scratch_named(format!("{OURS}{purpose}:{}", Uuid::now_v7().simple()))
    }

    pub fn scratch_named(&self, name: String) -> Scratch {
        Scratch { broom: self.clone(), name }
    }

    /// Removes what builders that died have left: names that are older than any build becomes.
    pub async fn sweep(&self, older_than: Duration) -> Result<(), Error> {
        let listed = self.engine.image_names(&format!("{OURS}*")).await;
        let listed = listed.map_err(Error::engine("looking for what builds have left"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for name in listed {
            if given(&name).is_some_and(|given| given + older_than < now) {
                drop(self.scratch_named(name));
            }
        }
        Ok(())
    }

    /// Waits until what was to be removed is gone.
    pub async fn finish(&self) {
        self.removals.close();
        self.removals.wait().await;
        self.removals.reopen();
    }
}

/// When a scratch name was given, since 1970. None: it is another name.
fn given(name: &str) -> Option<Duration> {
    let (_, id) = name.strip_prefix(OURS)?.split_once(':')?;
    let (seconds, nanoseconds) = Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    Some(Duration::new(seconds, nanoseconds))
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

#[cfg(test)]
mod tests {
    use mecapy_registry::ImageRef;
    use uuid::Timestamp;

    use super::*;

    fn named(purpose: &str, age: Duration) -> String {
        let given = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - age;
        let given = Timestamp::from_unix_time(given.as_secs(), 0, 0, 0);
        format!("{OURS}{purpose}:{}", Uuid::new_v7(given).simple())
    }

    #[tokio::test]
    async fn what_a_dead_builder_left_goes_and_what_a_build_may_still_use_stays() {
        let engine = Engine::connect(&mecapy_engine::Options::default()).await.unwrap();
        let broom = Broom::new(&engine);
        let purpose = mecapy_testkit::unique("swept");
        let (old, new) =
            (named(&purpose, Duration::from_secs(3600)), named(&purpose, Duration::from_secs(60)));
        let kept = format!("{OURS}{purpose}:3.11-slim-0123abcd");
        for name in [&old, &new, &kept] {
            let name: ImageRef = name.parse().unwrap();
            engine.tag("mecapy/base/python:3.11-slim", &name).await.unwrap();
        }
        broom.sweep(Duration::from_secs(1800)).await.unwrap();
        broom.finish().await;
        let mut left = engine.image_names(&format!("{OURS}{purpose}:*")).await.unwrap();
        left.sort();
        for name in &left {
            engine.remove_image(name).await.unwrap();
        }
        let mut expected = [new, kept];
        expected.sort();
        assert_eq!(left, expected);
    }
}
