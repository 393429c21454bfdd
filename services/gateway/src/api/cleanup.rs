//! Runs of the janitor: look at one, ask for a plan, for a cleanup, for an undo. The janitor does it.

use chrono::{DateTime, TimeDelta, Utc};
use mecapy_bus::Outgoing;
use mecapy_proto::TaskId;
use mecapy_proto::v1::CleanupRequested;
use mecapy_store::cleanup_items::{self, After, Item, Of};
use mecapy_store::cleanup_runs::{self, Run};
use serde_json::json;

use super::lists::wrong_token;
use super::{Api, note};
use crate::{Caller, Error};

/// Of what a run is about, a page names as many.
const SHOWN: u32 = 200;
/// Plans whose id begins so are asked for here, by the policies of the janitor's configuration, as what deletes is.
const PLAN_PREFIX: &str = "console-plan";
/// A plan that is older tells too little of what would go now.
const PLAN_HOURS: i64 = 1;

/// What an operator asks the janitor for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CleanupAction {
    Plan,
    /// What a plan has named. `although`: it is more than a run may delete by itself.
    Apply {
        plan: String,
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
            Self::Plan => CleanupRequested { run_id: id(PLAN_PREFIX), dry_run: true, ..request },
            Self::Apply { although, .. } => {
                CleanupRequested { run_id: id("manual"), confirm: although, ..request }
            }
            Self::Undo { run } => CleanupRequested { run_id: id("undo"), undo: run, ..request },
        }
    }
}

/// A run with what it is about.
#[derive(Debug)]
pub(crate) struct CleanupRun {
    pub run: Run,
    pub items: CleanupItems,
}

/// A page of them in order, and how many all are.
#[derive(Debug)]
pub(crate) struct CleanupItems {
    pub page: Vec<Item>,
    pub by_policy: Vec<(String, i64)>,
    /// The token of the next page. None: this is the last.
    pub next: Option<String>,
}

impl CleanupItems {
    pub(crate) fn total(&self) -> i64 {
        self.by_policy.iter().map(|(_, count)| count).sum()
    }
}

fn token(item: &Item) -> String {
    format!("{}.{}", item.position, item.run_id)
}

fn after(token: &str) -> Result<Option<After>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token.split_once('.').and_then(|(position, run)| {
        Some(After { run_id: run.to_owned(), position: position.parse().ok()? })
    });
    parsed.map(Some).ok_or_else(wrong_token)
}

/// Why nothing is deleted by this run's plan. None: it may be.
///
/// What deletes plans anew, by the policies of the configuration: so the plan has to be one by the same policies, and
/// of now.
pub(crate) fn why_not_applied(run: &Run, now: DateTime<Utc>) -> Option<&'static str> {
    let is_ours = run.id.strip_prefix(PLAN_PREFIX).is_some_and(|rest| rest.starts_with('-'));
    if run.kind != "cleanup" || !run.dry_run {
        return Some("it is no plan: make one");
    }
    let Some(planned_at) = run.planned_at.filter(|_| run.state == "done") else {
        return Some("it has not ended, or has failed: wait for it, or make a new plan");
    };
    if !is_ours {
        Some("the plan was not asked for here, and may be by other policies: make a new plan")
    } else if now - planned_at > TimeDelta::hours(PLAN_HOURS) {
        Some("the plan is older than an hour: make a new plan")
    } else {
        None
    }
}

impl Api {
    /// None: nobody has begun it yet.
    pub(crate) async fn cleanup_run(
        &self,
        caller: &Caller,
        id: &str,
        page_token: &str,
    ) -> Result<Option<CleanupRun>, Error> {
        caller.must_see_all()?;
        let Some(run) = cleanup_runs::get(&self.0.pool, id).await? else { return Ok(None) };
        let of = if run.kind == "undo" { Of::Undo(id) } else { Of::Plan(id) };
        let items = self.cleanup_items(of, page_token).await?;
        Ok(Some(CleanupRun { run, items }))
    }

    /// What an undo of this run would put back.
    pub(crate) async fn undoable(
        &self,
        caller: &Caller,
        run: &str,
        page_token: &str,
    ) -> Result<CleanupItems, Error> {
        caller.must_see_all()?;
        self.cleanup_items(Of::Undoable(run), page_token).await
    }

    async fn cleanup_items(&self, of: Of<'_>, page_token: &str) -> Result<CleanupItems, Error> {
        let (pool, after) = (&self.0.pool, after(page_token)?);
        let (mut page, by_policy) = tokio::try_join!(
            cleanup_items::page(pool, of, after.as_ref(), SHOWN + 1),
            cleanup_items::by_policy(pool, of),
        )?;
        let more = page.len() > SHOWN as usize;
        page.truncate(SHOWN as usize);
        let next = page.last().filter(|_| more).map(token);
        Ok(CleanupItems { page, by_policy, next })
    }

    /// Asks for a run; its id.
    pub(crate) async fn ask_cleanup(
        &self,
        caller: &Caller,
        mut action: CleanupAction,
    ) -> Result<String, Error> {
        caller.must_operate()?;
        let mut of_plan = String::new();
        match &mut action {
            CleanupAction::Plan => {}
            CleanupAction::Apply { plan, although } => {
                let run = self.known_run(plan).await?;
                if let Some(why) = why_not_applied(&run, Utc::now()) {
                    return Err(Error::field_is("run", format!("nothing is deleted: {why}")));
                }
                // Nobody has confirmed what the plan has not said.
                *although &= !run.stopped.is_empty();
                of_plan = run.id;
            }
            CleanupAction::Undo { run } => {
                self.known_run(run).await?;
            }
        }
        let name = action.name();
        let request = action.request();
        let id = request.run_id.clone();
        let mut transaction = self.begin().await?;
        let detail = json!({ "confirm": request.confirm, "undo": request.undo, "plan": of_plan });
        note(&mut transaction, caller, name, &id, detail).await?;
        self.commit(transaction, Outgoing::event(&request)).await?;
        tracing::info!(run.id = id, owner = %caller.owner, "{name}: run {id} is asked for");
        Ok(id)
    }

    async fn known_run(&self, id: &str) -> Result<Run, Error> {
        let run = cleanup_runs::get(&self.0.pool, id).await?;
        run.ok_or_else(|| Error::NotFound("cleanup run with this id".to_owned()))
    }
}
