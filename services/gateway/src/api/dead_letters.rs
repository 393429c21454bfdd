//! Dead letters: look, replay, drop. For operators; viewers look.

use mecapy_bus::dead_letters::{self, DeadLetter};
use mecapy_store::audit;
use serde_json::json;

use super::lists::{Listed, PAGE};
use super::{Api, act};
use crate::{Caller, Error};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LetterAction {
    Replay,
    Drop,
}

impl LetterAction {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Drop => "drop",
        }
    }
}

impl Api {
    /// Those after a number, oldest first.
    pub(crate) async fn dead_letters(
        &self,
        caller: &Caller,
        after: u64,
    ) -> Result<Listed<DeadLetter>, Error> {
        caller.must_see_all()?;
        let found = dead_letters::list(self.0.system.bus(), after, PAGE as usize + 1).await?;
        Ok(Listed::of(found, |letter| letter.id.to_string()))
    }

    pub(crate) async fn dead_letter(&self, caller: &Caller, id: u64) -> Result<DeadLetter, Error> {
        caller.must_see_all()?;
        let letter = dead_letters::get(self.0.system.bus(), id).await?;
        letter.ok_or_else(|| Error::NotFound(format!("dead letter {id} any more")))
    }

    /// Replays or drops one after the other. How many it did; those that are gone already are not counted.
    pub(crate) async fn settle_letters(
        &self,
        caller: &Caller,
        ids: &[u64],
        action: LetterAction,
    ) -> Result<usize, Error> {
        caller.must_operate()?;
        let bus = self.0.system.bus();
        let mut done = 0;
        for id in ids {
            // They are NATS's: the row is there before, so that nothing happens that is not on record.
            let target = id.to_string();
            let entry = act(caller, action.as_str(), &target, json!({}));
            let row = audit::begin(&self.0.pool, &entry).await?;
            let result = match action {
                LetterAction::Replay => dead_letters::replay(bus, *id).await,
                LetterAction::Drop => dead_letters::drop_letter(bus, *id).await,
            };
            let outcome = match &result {
                Ok(true) => "done".to_owned(),
                Ok(false) => "it was gone already".to_owned(),
                Err(error) => error.to_string(),
            };
            audit::settle(&self.0.pool, row, &outcome).await?;
            tracing::info!(
                dead_letter.id = id, owner = %caller.owner, outcome,
                "{} of dead letter {id}", action.as_str()
            );
            done += usize::from(result?);
        }
        Ok(done)
    }
}
