//! One parked container of the pool, with the file that stands for its code.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use mecapy_engine::{
    Engine, Error as EngineError, Limits, OutputSink, Parked, RunOutcome, Spent, Turn,
};
use mecapy_registry::Digest;
use tokio_util::sync::CancellationToken;

use crate::code_layer::{Code, PoolKey};
use crate::code_place::CodePlace;
use crate::images::Held;

/// A container that waits for its one task, or for the next one of a function that asks for that. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Slot {
    // In this order: the container goes before the file that it sees.
    pub parked: Parked,
    pub place: CodePlace,
    /// Its image stays as long as it runs.
    pub image: Arc<Held>,
    pub name: Name,
    /// Whether it has imported modules ahead.
    pub has_imports: bool,
    /// How its next function is started, as the metrics have it.
    pub path: &'static str,
    /// The turns that it has had.
    pub uses: u32,
}

/// A slot that has had its turn. Dropping it removes the container, and makes room for another.
#[derive(Debug)]
pub(crate) struct Used {
    // In this order: the container goes before the file that it sees.
    spent: Spent,
    place: CodePlace,
    image: Arc<Held>,
    name: Name,
    has_imports: bool,
    /// How its function was started.
    pub path: &'static str,
    /// The turns that it has had.
    pub uses: u32,
    /// The function that may have it once more, and nobody else.
    pub wanted_by: Option<Wanted>,
}

/// A function, by its dependencies and its image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub key: PoolKey,
    pub image: Digest,
}

/// A slot's name, known as long as this lives, so that no sweep takes it for a stray.
#[derive(Debug)]
pub(crate) struct Name {
    pub text: String,
    names: Names,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Names(Arc<Mutex<HashSet<String>>>);

impl Names {
    pub(crate) fn take(&self, text: String) -> Name {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone());
        Name { text, names: self.clone() }
    }

    pub(crate) fn contain(&self, text: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(text)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.names.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.text);
    }
}

/// Why a slot did not run a function.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRun {
    #[error("its code could not be laid out")]
    Code(#[from] std::io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Slot {
    /// Runs a function, whose dependencies are this slot's. On an error it was not run, or not seen to its end. What
    /// is left of the slot is dropped when there is time for it.
    pub(crate) async fn run(
        self,
        code: &Code,
        inputs: Bytes,
        limits: &Limits,
        live: OutputSink,
        cancel: &CancellationToken,
    ) -> Result<(RunOutcome, Used), NotRun> {
        let Self { parked, place, image, name, has_imports, path, uses } = self;
        let began = Instant::now();
        place.fill(code)?;
        let laid_out = began.elapsed();
        let turn =
            Turn { inputs, timeout: limits.timeout, code_sha256: code.sha256(), live: Some(live) };
        let (mut outcome, spent) = parked.run(turn, cancel).await?;
        outcome.timings.start = laid_out;
        let uses = uses + 1;
        let used = Used { spent, place, image, name, has_imports, path, uses, wanted_by: None };
        Ok((outcome, used))
    }

    /// Returns when the container is gone.
    pub(crate) async fn remove(self) {
        self.parked.remove().await;
    }
}

impl Used {
    /// Has it wait for another turn. On an error it goes.
    pub(crate) async fn again(self, engine: &Engine) -> Result<Slot, EngineError> {
        let Self { spent, place, image, name, has_imports, uses, .. } = self;
        let parked = spent.park_again().await?;
        // It may have its last task's name.
        match engine.rename_container(parked.id(), &name.text).await {
            // It has its own.
            Ok(()) | Err(EngineError::Refused { status: 400, .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Slot { parked, place, image, name, has_imports, path: "reused", uses })
    }

    /// Returns when the container is gone.
    pub(crate) async fn remove(self) {
        self.spent.remove().await;
    }
}
