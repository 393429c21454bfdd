//! What the replicas of the builder share: whose turn it is to make something, and what was resolved a short while
//! ago.
//!
//! Whoever waits holds no connection of the database: it looks now and then. Whoever works shows that it lives; when
//! it dies, another goes on after [`LEASE`]. Two that work on the same in spite of it, one of them cut off from the
//! database meanwhile, do no harm: both make an image of the same lock, and the last one pushed is found.

use std::pin::pin;
use std::time::Duration;

use mecapy_store::{PgPool, leases, resolutions};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Error;
use crate::lock::Lock;
use crate::work::unless_cancelled;

/// How long a builder that is not heard of keeps its turn.
const LEASE: Duration = Duration::from_secs(15);
const RENEWED_EVERY: Duration = Duration::from_secs(4);
/// How often those who wait look.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// The replicas that use the same database.
#[derive(Debug, Clone)]
pub struct Replicas {
    pool: PgPool,
}

/// What came of waiting for a turn.
pub enum Turn<T, O> {
    /// It was made meanwhile, or before.
    Made(T),
    Ours(O),
}

/// Our turn. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    pool: PgPool,
    name: String,
    holder: Uuid,
    renewing: JoinHandle<()>,
}

impl Replicas {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Waits for one of our `slots` and until nobody else works on `name`, or until `find` finds what they made. Nobody
    /// takes the turn and then waits for a slot: the slots of others may be free.
    pub async fn turn<'a, T, F: Future<Output = Result<Option<T>, Error>>>(
        &self,
        name: &str,
        slots: &'a Semaphore,
        cancel: &CancellationToken,
        find: impl Fn() -> F,
    ) -> Result<Turn<T, (SemaphorePermit<'a>, Lease)>, Error> {
        let holder = Uuid::now_v7();
        let mut slot = pin!(slots.acquire());
        let mut others_work = false;
        loop {
            let ours = tokio::select! {
                ours = &mut slot => Some(ours.map_err(|_| Error::Interrupted)?),
                () = tokio::time::sleep(LOOK_EVERY) => None,
                () = cancel.cancelled() => return Err(Error::Cancelled),
            };
            let Some(ours) = ours else {
                let worked = others_work;
                others_work = leases::is_held(&self.pool, name).await?;
                if worked
                    && !others_work
                    && let Some(made) = find().await?
                {
                    return Ok(Turn::Made(made));
                }
                continue;
            };
            if leases::take(&self.pool, name, holder, LEASE).await? {
                let lease = self.keep(name.to_owned(), holder);
                // It may have been made right before.
                return Ok(match find().await? {
                    Some(made) => Turn::Made(made),
                    None => Turn::Ours((ours, lease)),
                });
            }
            others_work = true;
            drop(ours);
            slot.set(slots.acquire());
            unless_cancelled(cancel, tokio::time::sleep(LOOK_EVERY)).await?;
        }
    }

    fn keep(&self, name: String, holder: Uuid) -> Lease {
        let (pool, renewed) = (self.pool.clone(), name.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWED_EVERY).await;
                match leases::take(&pool, &renewed, holder, LEASE).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::warn!(
                            name = renewed,
                            "another builder has taken over what this one still makes"
                        );
                        return;
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(name = renewed, error, "a turn could not be renewed");
                    }
                }
            }
        });
        Lease { pool: self.pool.clone(), name, holder, renewing }
    }

    /// What was resolved within `max_age`, and how long ago.
    pub async fn resolution(
        &self,
        key: &str,
        max_age: Duration,
    ) -> Result<Option<(Lock, Duration)>, Error> {
        match resolutions::get(&self.pool, key, max_age).await? {
            Some((lock, age)) => Ok(Some((Lock::parse(&lock)?, age))),
            None => Ok(None),
        }
    }

    pub async fn keep_resolution(&self, key: &str, lock: &Lock) -> Result<(), Error> {
        Ok(resolutions::put(&self.pool, key, &lock.render()).await?)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
        // Without a runtime the process is ending: it runs out by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (pool, name, holder) = (self.pool.clone(), std::mem::take(&mut self.name), self.holder);
        runtime.spawn(async move {
            if let Err(error) = leases::give_back(&pool, &name, holder).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(name, error, "a turn could not be given back; it runs out");
            }
        });
    }
}
