//! Base images: what is in force, runs, and functions that stand on older ones. The builder makes them.

use mecapy_bus::Outgoing;
use mecapy_proto::TaskId;
use mecapy_proto::v1::BaseRequested;
use mecapy_store::bases::{self, Stale};
use mecapy_store::console::bases::{self as shown, Asked, Image};
use serde_json::json;

use super::lists::{Listed, PAGE, number};
use super::{Api, note};
use crate::{Caller, Error};

const RUNS: u32 = 30;

#[derive(Debug)]
pub(crate) struct Bases {
    /// Of each base, the image that functions are built on now.
    pub current: Vec<Image>,
    /// The newest first.
    pub runs: Vec<Asked>,
}

impl Api {
    pub(crate) async fn bases(&self, caller: &Caller) -> Result<Bases, Error> {
        caller.must_see_all()?;
        let pool = &self.0.pool;
        let (current, runs) = tokio::try_join!(shown::current(pool), shown::runs(pool, RUNS))?;
        Ok(Bases { current, runs })
    }

    /// None: no builder has begun it yet.
    pub(crate) async fn base_run(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Option<(Asked, Vec<Image>)>, Error> {
        caller.must_see_all()?;
        let Some(run) = shown::run(&self.0.pool, id).await? else { return Ok(None) };
        Ok(Some((run, shown::of_run(&self.0.pool, id).await?)))
    }

    /// Functions that stand on an older image of their base, by number.
    pub(crate) async fn stale(
        &self,
        caller: &Caller,
        page_token: &str,
    ) -> Result<Listed<Stale>, Error> {
        caller.must_see_all()?;
        let after = number(page_token)?.unwrap_or_default();
        let rows = bases::stale_after(&self.0.pool, after, Some(PAGE + 1)).await?;
        Ok(Listed::of(rows, |row| {
            row.current.function_id().map(|id| id.to_string()).unwrap_or_default()
        }))
    }

    /// Asks for all base images that the builder is configured for; the run's id.
    pub(crate) async fn build_bases(&self, caller: &Caller) -> Result<String, Error> {
        caller.must_operate()?;
        let request = BaseRequested {
            run_id: format!("console-{}", TaskId::new()),
            reason: "manual".to_owned(),
            ..Default::default()
        };
        let id = request.run_id.clone();
        let mut transaction = self.begin().await?;
        note(&mut transaction, caller, "build-bases", &id, json!({})).await?;
        self.commit(transaction, Outgoing::event(&request)).await?;
        tracing::info!(run.id = id, owner = %caller.owner, "base images are asked for: run {id}");
        Ok(id)
    }
}
