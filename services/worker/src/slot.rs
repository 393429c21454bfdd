//! One parked container of the pool, with the file that stands for its code.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use mecapy_engine::{Error as EngineError, Limits, OutputSink, Parked, RunOutcome, Spent, Turn};
use tokio_util::sync::CancellationToken;

use crate::code_layer::Code;
use crate::code_place::CodePlace;
use crate::images::Held;

/// A container that waits for its one task. Dropping it removes it.
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
    /// Whether it was there before its task.
    pub has_waited: bool,
}

/// A slot that has had its turn. Dropping it removes the container, and makes room for another.
#[derive(Debug)]
pub(crate) struct Used {
    /// How its function was started, as the metrics have it.
    pub path: &'static str,
    // In this order: the container goes before the file that it sees.
    spent: Spent,
    _place: CodePlace,
    _image: Arc<Held>,
    _name: Name,
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
        let path = if self.has_waited { "parked" } else { "started" };
        let Self { parked, place, image, name, .. } = self;
        let began = Instant::now();
        place.fill(code)?;
        let laid_out = began.elapsed();
        let turn =
            Turn { inputs, timeout: limits.timeout, code_sha256: code.sha256(), live: Some(live) };
        let (mut outcome, spent) = parked.run(turn, cancel).await?;
        outcome.timings.start = laid_out;
        Ok((outcome, Used { path, spent, _place: place, _image: image, _name: name }))
    }

    /// Returns when the container is gone.
    pub(crate) async fn remove(self) {
        self.parked.remove().await;
    }
}

impl Used {
    /// Returns when the container is gone.
    pub(crate) async fn remove(self) {
        self.spent.remove().await;
    }
}
