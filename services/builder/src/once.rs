//! What many builds need is made by one of them, over all replicas of the builder, and found by the others.

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::replicas::{Lease, Replicas, Turn};
use crate::single_flight::SingleFlight;
use crate::work::unless_cancelled;

#[derive(Debug)]
pub struct Once<T> {
    flights: SingleFlight<T>,
    replicas: Option<Replicas>,
}

impl<T: Clone> Once<T> {
    pub fn new(replicas: Option<Replicas>) -> Self {
        Self { flights: SingleFlight::default(), replicas }
    }

    /// What `find` finds; else what `make` makes, in one of the `slots`. True: it was made here.
    pub async fn get<F: Future<Output = Result<Option<T>, Error>>>(
        &self,
        key: &str,
        slots: &Semaphore,
        cancel: &CancellationToken,
        find: impl Fn() -> F,
        make: impl Future<Output = Result<T, Error>>,
    ) -> Result<(T, bool), Error> {
        if let Some(found) = find().await? {
            return Ok((found, false));
        }
        let mut alone = unless_cancelled(cancel, self.flights.enter(key)).await?;
        if let Some(made) = &*alone {
            return Ok((made.clone(), false));
        }
        let (made, is_new) = match self.turn(key, slots, cancel, find).await? {
            Turn::Made(found) => (found, false),
            Turn::Ours(_until_made) => (make.await?, true),
        };
        *alone = Some(made.clone());
        Ok((made, is_new))
    }

    async fn turn<'a, F: Future<Output = Result<Option<T>, Error>>>(
        &self,
        key: &str,
        slots: &'a Semaphore,
        cancel: &CancellationToken,
        find: impl Fn() -> F,
    ) -> Result<Turn<T, (SemaphorePermit<'a>, Option<Lease>)>, Error> {
        if let Some(replicas) = &self.replicas {
            return Ok(match replicas.turn(key, slots, cancel, find).await? {
                Turn::Made(found) => Turn::Made(found),
                Turn::Ours((slot, lease)) => Turn::Ours((slot, Some(lease))),
            });
        }
        // It may have been made right before.
        if let Some(found) = find().await? {
            return Ok(Turn::Made(found));
        }
        let slot = unless_cancelled(cancel, slots.acquire()).await?;
        Ok(Turn::Ours((slot.map_err(|_| Error::Interrupted)?, None)))
    }
}
