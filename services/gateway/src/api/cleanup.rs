//! Runs of the janitor: look at one, ask for a plan, for a cleanup, for an undo. The janitor does it.

use mecapy_bus::Outgoing;
use mecapy_proto::TaskId;
use mecapy_proto::v1::CleanupRequested;
use mecapy_store::cleanup_items::{self, Item, Target};
use mecapy_store::cleanup_runs::{self, Run};
use serde_json::json;

use super::{Api, note};
use crate::{Caller, Error};

/// What an operator asks the janitor for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CleanupAction {
    Plan,
    /// `although`: more than a run may delete by itself.
    Apply {
        although: bool,
    },
    /// What a run deleted is put back.
    Undo {
        run: String,
    },
}

impl CleanupAction {
    const fn name(&self) -> &'static str {
        match self {
            Self::Plan => "plan-cleanup",
            Self::Apply { .. } => "apply-cleanup",
            Self::Undo { .. } => "undo-cleanup",
        }
    }

    fn request(self) -> CleanupRequested {
        let id = |prefix: &str| format!("{prefix}-{}", TaskId::new());
        let request = CleanupRequested { reason: "manual".to_owned(), ..Default::default() };
        match self {
            Self::Plan => CleanupRequested { run_id: id("plan"), dry_run: true, ..request },
            Self::Apply { although } => {
                CleanupRequested { run_id: id("manual"), confirm: although, ..request }
            }
            Self::Undo { run } => CleanupRequested { run_id: id("undo"), undo: run, ..request },
        }
    }
}

/// A run with what it is about, in the order of the plan.
#[derive(Debug)]
pub(crate) struct CleanupRun {
    pub run: Run,
    pub items: Vec<Item>,
}

impl Api {
    /// None: nobody has begun it yet.
    pub(crate) async fn cleanup_run(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Option<CleanupRun>, Error> {
        caller.must_see_all()?;
        let pool = &self.0.pool;
        let Some(run) = cleanup_runs::get(pool, id).await? else { return Ok(None) };
        let items = if run.kind == "undo" {
            cleanup_items::undone(pool, id).await?
        } else {
            cleanup_items::items(pool, id).await?
        };
        Ok(Some(CleanupRun { run, items }))
    }

    /// What an undo of this run would put back.
    pub(crate) async fn undoable(&self, caller: &Caller, run: &str) -> Result<Vec<Item>, Error> {
        caller.must_see_all()?;
        Ok(cleanup_items::deleted(&self.0.pool, &Target::Run(run)).await?)
    }

    /// Asks for a run; its id.
    pub(crate) async fn ask_cleanup(
        &self,
        caller: &Caller,
        action: CleanupAction,
    ) -> Result<String, Error> {
        caller.must_operate()?;
        if let CleanupAction::Undo { run } = &action
            && cleanup_runs::get(&self.0.pool, run).await?.is_none()
        {
            return Err(Error::NotFound("cleanup run with this id".to_owned()));
        }
        let name = action.name();
        let request = action.request();
        let id = request.run_id.clone();
        let mut transaction = self.begin().await?;
        let detail = json!({ "confirm": request.confirm, "undo": request.undo });
        note(&mut transaction, caller, name, &id, detail).await?;
        self.commit(transaction, Outgoing::event(&request)).await?;
        tracing::info!(run.id = id, owner = %caller.owner, "{name}: run {id} is asked for");
        Ok(id)
    }
}
