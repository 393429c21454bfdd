//! Building again what was built before, on what is newest by now.

use std::time::Duration;

use mecapy_bus::Outgoing;
use mecapy_objects::Key;
use mecapy_proto::v1::BuildRequested;
use mecapy_proto::v1::build_requested::Source;
use mecapy_proto::{BuildId, ErrorCode, FunctionId};
use mecapy_store::rebuilds::{self, Again, Earlier};
use mecapy_store::{Postgres, Transaction, bases, builds, stalled};
use serde_json::json;

use super::{Api, note};
use crate::{Caller, Error, metric_definitions as metrics, view};

/// Far above what code may have.
const MAX_SOURCE_BYTES: u64 = 16 * 1024 * 1024;

impl Api {
    /// Builds a function's newest version again, and waits for the end of that for at most `wait`. One that is on its
    /// way already is that build.
    pub(crate) async fn rebuild(
        &self,
        caller: &Caller,
        id: FunctionId,
        wait: Duration,
    ) -> Result<view::Function, Error> {
        caller.must_act()?;
        self.visible(caller, id).await?;
        let build = self.build_again(caller, id).await?;
        self.wait_for_build(build, wait).await?;
        self.build(caller, build, None, Duration::ZERO).await
    }

    async fn build_again(&self, caller: &Caller, id: FunctionId) -> Result<BuildId, Error> {
        self.0.backlog.admit()?;
        let earlier = rebuilds::newest(&self.0.pool, id).await?;
        let earlier = earlier.ok_or_else(|| Error::UnknownFunction(id.to_string()))?;
        let source = self.kept_source(earlier.build()).await?;
        let mut transaction = self.begin().await?;
        match rebuilds::ask(&mut transaction, &earlier, source).await? {
            Again::Asked(event) => self.send_again(caller, transaction, &earlier, &event).await,
            Again::OnItsWay(build) => Ok(build),
            Again::Gone => Err(Error::UnknownFunction(id.to_string())),
        }
    }

    /// Functions that stand on an older image of their base: how many of these are built again now. Those that have
    /// moved on, or are on their way, are not.
    pub(crate) async fn rebuild_stale(
        &self,
        caller: &Caller,
        functions: &[FunctionId],
    ) -> Result<usize, Error> {
        caller.must_operate()?;
        self.0.backlog.admit()?;
        let mut asked = 0;
        for stale in bases::stale_of(&self.0.pool, functions).await? {
            let key = Key::source(stale.current.build());
            let mut transaction = self.begin().await?;
            let again = bases::ask_again(&mut transaction, &stale, key.as_str()).await?;
            if let Again::Asked(event) = again {
                self.send_again(caller, transaction, &stale.current, &event).await?;
                asked += 1;
            }
        }
        Ok(asked)
    }

    async fn send_again(
        &self,
        caller: &Caller,
        mut transaction: Transaction<'static, Postgres>,
        earlier: &Earlier,
        event: &BuildRequested,
    ) -> Result<BuildId, Error> {
        let wrong = |error: mecapy_proto::IdError| Error::Internal(error.into());
        let build: BuildId = event.build_id.parse().map_err(wrong)?;
        let traceparent = mecapy_bus::traceparent();
        builds::keep_trace(&mut transaction, build, traceparent.as_deref()).await?;
        let detail = json!({
            "name": earlier.name, "owner": earlier.owner, "version": earlier.version, "build_id": event.build_id,
        });
        let function = event.function_id.to_string();
        note(&mut transaction, caller, "rebuild-function", &function, detail).await?;
        self.commit(transaction, Outgoing::event(event)).await?;
        metrics::accepted("build");
        tracing::info!(
            build.id = %build, function.id = event.function_id, version = event.version, owner = %caller.owner,
            "build {build} is requested: function {function} is built again"
        );
        Ok(build)
    }

    /// What a build was made from: its builder kept it, or it is in the request as long as that is kept.
    async fn kept_source(&self, build: BuildId) -> Result<Source, Error> {
        let key = Key::source(build);
        if self.0.objects.get(&key, MAX_SOURCE_BYTES).await?.is_some() {
            return Ok(Source::SourceS3Key(key.to_string()));
        }
        let request = stalled::request(&self.0.pool, build).await?;
        request.and_then(|request| request.source).ok_or_else(|| {
            Error::refused(
                ErrorCode::SourceMissing,
                "function_id",
                "the code of its newest version is not kept, since no build of it succeeded: submit it again",
            )
        })
    }
}
