//! How builds and tasks went.

use chrono::Utc;
use mecapy_bus::trace_id;
use mecapy_proto::{BuildId, TaskId};
use mecapy_store::{builds, stages, tasks};

use super::Api;
use crate::waterfall::Waterfall;
use crate::{Caller, Error};

impl Api {
    pub(crate) async fn build_trace(
        &self,
        caller: &Caller,
        id: BuildId,
    ) -> Result<Waterfall, Error> {
        let not_found = || Error::NotFound(format!("build {id}"));
        let build = match self.visible_build(caller, id).await {
            Ok(overview) => overview.build,
            // Builds of base images are nobody's own.
            Err(Error::NotFound(_)) if caller.must_see_all().is_ok() => {
                builds::get(&self.0.pool, id).await?.filter(|build| build.base.is_some())
            }
            Err(error) => return Err(error),
        };
        let build = build.ok_or_else(not_found)?;
        let (traceparent, stages) = stages::get(&self.0.pool, id).await?.ok_or_else(not_found)?;
        let trace = traceparent.as_deref().and_then(trace_id);
        Ok(Waterfall::of_build(&build, trace, stages, Utc::now()))
    }

    pub(crate) async fn task_trace(&self, caller: &Caller, id: TaskId) -> Result<Waterfall, Error> {
        let not_found = || Error::NotFound(format!("task {id}"));
        let task = self.visible_task(caller, id).await?;
        let (traceparent, past) =
            tasks::past_attempts(&self.0.pool, id).await?.ok_or_else(not_found)?;
        let trace = traceparent.as_deref().and_then(trace_id);
        Ok(Waterfall::of_task(&task, trace, &past, Utc::now()))
    }
}
