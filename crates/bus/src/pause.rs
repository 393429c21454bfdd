//! Has a consumer take no messages for a while, although its process goes on.

use std::sync::Arc;

use tokio::sync::watch;

/// Where a consumer is with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Takes,
    /// It takes nothing, neither of its queue nor of other replicas, and finishes what it has.
    Finishes,
    /// It takes nothing and has nothing.
    Rests,
}

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Pause(Arc<watch::Sender<Flow>>);

impl Default for Pause {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Flow::Takes)))
    }
}

impl Pause {
    /// Begins it, or ends it. False: so it was already.
    pub fn set(&self, paused: bool) -> bool {
        self.0.send_if_modified(|flow| {
            let changes = paused == (*flow == Flow::Takes);
            if changes {
                *flow = if paused { Flow::Finishes } else { Flow::Takes };
            }
            changes
        })
    }

    pub fn flow(&self) -> Flow {
        *self.0.borrow()
    }

    /// To be told of changes.
    pub fn subscribe(&self) -> watch::Receiver<Flow> {
        self.0.subscribe()
    }

    /// Says that nothing is in hand any more, unless messages are taken again.
    pub(crate) fn rests(&self) {
        self.0.send_if_modified(|flow| {
            let changes = *flow == Flow::Finishes;
            if changes {
                *flow = Flow::Rests;
            }
            changes
        });
    }

    /// Returns when there is a pause.
    pub(crate) async fn begins(&self) {
        // It can't be closed as long as this is here.
        let _ = self.subscribe().wait_for(|flow| *flow != Flow::Takes).await;
    }

    /// Returns when there is none.
    pub(crate) async fn ends(&self) {
        let _ = self.subscribe().wait_for(|flow| *flow == Flow::Takes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_messages_again_does_not_rest() {
        let pause = Pause::default();
        pause.rests();
        assert_eq!(pause.flow(), Flow::Takes);
        assert!(pause.set(true) && !pause.set(true));
        assert_eq!(pause.flow(), Flow::Finishes);
        pause.rests();
        assert!(!pause.set(true));
        assert_eq!(pause.flow(), Flow::Rests, "to be told twice changes nothing");
        assert!(pause.set(false) && !pause.set(false));
        pause.rests();
        assert_eq!(pause.flow(), Flow::Takes);
    }
}
