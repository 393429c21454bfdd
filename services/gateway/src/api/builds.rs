//! Builds: one of them, its log, its cancellation.

use std::time::Duration;

use bytes::Bytes;
use mecapy_bus::Outgoing;
use mecapy_objects::Key;
use mecapy_proto::{BuildId, ErrorCode, FunctionId, failure, v1};
use mecapy_store::functions::{self, Overview};
use mecapy_store::{BuildState, builds};

use super::{Api, note};
use crate::{Caller, Error, view};

/// Far above what a build of 300 s writes.
const MAX_LOG_BYTES: u64 = 32 * 1024 * 1024;

impl Api {
    /// A function as this build left it; with `function`, only if the build is of it.
    pub(crate) async fn build(
        &self,
        caller: &Caller,
        id: BuildId,
        function: Option<FunctionId>,
        wait: Duration,
    ) -> Result<view::Function, Error> {
        let mut overview = self.visible_build(caller, id).await?;
        if function.is_some_and(|function| function.get() != overview.function.id) {
            return Err(not_found(id));
        }
        if !wait.is_zero() {
            self.wait_for_build(id, wait).await?;
            overview = self.visible_build(caller, id).await?;
        }
        Ok(view::Function::of(overview))
    }

    /// The log of a build, as far as it is stored.
    pub(crate) async fn build_log(&self, caller: &Caller, id: BuildId) -> Result<Bytes, Error> {
        let overview = self.visible_build(caller, id).await?;
        let key = match overview.build.and_then(|build| build.log_key) {
            Some(key) => Key::given(key),
            None => Key::build_log(id),
        };
        let log = self.0.objects.get(&key, MAX_LOG_BYTES).await?;
        log.ok_or_else(|| {
            Error::NotFound(format!("log of build {id} yet: follow it at /builds/{id}/events"))
        })
    }

    /// Asks for a build's end: a queued one has ended when this returns, a running one soon after; one that is built
    /// goes on.
    pub(crate) async fn cancel_build(
        &self,
        caller: &Caller,
        id: BuildId,
        wait: Duration,
    ) -> Result<view::Function, Error> {
        caller.must_act()?;
        let overview = self.visible_build(caller, id).await?;
        let failure = failure(ErrorCode::BuildCancelled, "cancelled before it began");
        let mut transaction = self.begin().await?;
        let before = builds::cancel(&mut transaction, id, &failure.clone().into()).await?;
        let detail = serde_json::json!({ "function_id": overview.function.id });
        note(&mut transaction, caller, "cancel-build", &id.to_string(), detail).await?;
        let outgoing = match before {
            Some(BuildState::Queued) => Outgoing::event(&v1::BuildFailed {
                build_id: id.to_string(),
                function_id: overview.function.id,
                failure: Some(failure),
                ..Default::default()
            }),
            _ => Outgoing::none(),
        };
        self.commit(transaction, outgoing).await?;
        tracing::info!(build.id = %id, owner = %caller.owner, "build {id} is to be cancelled");
        self.0.hub.wake(id.uuid());
        self.build(caller, id, None, wait).await
    }

    pub(super) async fn visible_build(
        &self,
        caller: &Caller,
        id: BuildId,
    ) -> Result<Overview, Error> {
        let overview = functions::overview_of_build(&self.0.pool, id).await?;
        overview
            .filter(|overview| caller.may_see(&overview.function.owner))
            .ok_or_else(|| not_found(id))
    }
}

fn not_found(id: BuildId) -> Error {
    Error::NotFound(format!("build {id}"))
}
