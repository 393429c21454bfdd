//! Functions: submit, get, list, delete.

use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt as _, TryStreamExt as _};
use mecapy_bus::Outgoing;
use mecapy_objects::Key;
use mecapy_proto::v1::build_requested::Source;
use mecapy_proto::{BuildId, ErrorCode, FunctionId, inputs_sha256, v1};
use mecapy_store::functions::{Added, NewVersion, Overview};
use mecapy_store::{builds, functions, scans, stalled};

use super::{Api, IdempotencyKey, note};
use crate::validate::Submission;
use crate::{Caller, Error, metric_definitions as metrics, view};

/// Code and requirements travel in the event up to this size: a message has at most 1 MiB.
const MAX_INLINE_BYTES: usize = 512 * 1024;
const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 200;
/// Of a page, this many are read at once: the pool has others to serve.
const READ_AT_ONCE: usize = 4;

/// A page of functions.
#[derive(Debug)]
pub(crate) struct Page {
    pub functions: Vec<view::Function>,
    /// None: it is the last.
    pub next: Option<String>,
}

impl Api {
    /// Submits a new function, or a new version of one, and waits for the end of its build for at most `wait`.
    pub(crate) async fn submit(
        &self,
        caller: &Caller,
        submission: Submission,
        key: Option<IdempotencyKey>,
        wait: Duration,
    ) -> Result<view::Function, Error> {
        caller.must_act()?;
        self.0.rules.check(&submission)?;
        let build = match &key {
            Some(key) => key.build(&caller.owner),
            None => BuildId::new(),
        };
        let hash = inputs_sha256(
            submission.code.as_bytes(),
            &submission.requirements,
            &submission.python_version,
            &submission.base_variant,
        );
        let known = key.is_some() && builds::get(&self.0.pool, build).await?.is_some();
        if known || !self.create(caller, build, &submission, &hash).await? {
            self.same_as_before(build, &submission.name, &hash).await?;
        }
        self.wait_for_build(build, wait).await?;
        self.build(caller, build, None, Duration::ZERO).await
    }

    /// False: a build with this id is there already, and nothing changed.
    async fn create(
        &self,
        caller: &Caller,
        build: BuildId,
        submission: &Submission,
        inputs_sha256: &str,
    ) -> Result<bool, Error> {
        self.0.backlog.admit()?;
        let source = self.source(build, submission).await?;
        let new = NewVersion {
            python_version: submission.python_version.clone(),
            base_variant: submission.base_variant.clone(),
            requirements: submission.requirements.clone(),
            inputs_sha256: inputs_sha256.to_owned(),
        };
        let mut transaction = self.begin().await?;
        let function = functions::ensure(&mut transaction, &caller.owner, &submission.name).await?;
        let version = match functions::add_version(&mut transaction, function, 0, &new).await? {
            Added::Version(version) => version,
            // The row is ours until the commit, and the number is the next free one.
            other => {
                return Err(Error::Internal(
                    format!("adding a version to function {function}: {other:?}").into(),
                ));
            }
        };
        if !builds::create(&mut transaction, build, function, version).await? {
            return Ok(false);
        }
        let traceparent = mecapy_bus::traceparent();
        builds::keep_trace(&mut transaction, build, traceparent.as_deref()).await?;
        let event = v1::BuildRequested {
            build_id: build.to_string(),
            function_id: function.get(),
            owner: caller.owner.to_string(),
            version,
            python_version: submission.python_version.clone(),
            base_variant: submission.base_variant.clone(),
            source: Some(source),
            requirements: submission.requirements.clone(),
            requested_at: Some(Utc::now().into()),
        };
        stalled::keep_request(&mut transaction, build, &event).await?;
        self.commit(transaction, Outgoing::event(&event)).await?;
        metrics::accepted("build");
        tracing::info!(build.id = %build, function.id = %function, version, owner = %caller.owner, "build {build} is requested");
        Ok(true)
    }

    async fn source(&self, build: BuildId, submission: &Submission) -> Result<Source, Error> {
        if submission.code.len() + submission.requirements.len() <= MAX_INLINE_BYTES {
            return Ok(Source::Code(submission.code.clone()));
        }
        let key = Key::source(build);
        self.0.objects.put(&key, Bytes::copy_from_slice(submission.code.as_bytes())).await?;
        Ok(Source::SourceS3Key(key.to_string()))
    }

    /// A key that comes again must come with the same request.
    async fn same_as_before(
        &self,
        build: BuildId,
        name: &str,
        inputs_sha256: &str,
    ) -> Result<(), Error> {
        let other =
            |detail: &str| Err(Error::refused(ErrorCode::InvalidField, "Idempotency-Key", detail));
        let Some(overview) = functions::overview_of_build(&self.0.pool, build).await? else {
            return other("the key was used for a function that is deleted: use a new one");
        };
        let version = overview.build.map(|build| build.version.unsigned_abs()).unwrap_or_default();
        let id =
            FunctionId::new(overview.function.id).map_err(|error| Error::Internal(error.into()))?;
        let before = functions::version(&self.0.pool, id, version).await?;
        if overview.function.name == name
            && before.is_some_and(|before| before.inputs_sha256 == inputs_sha256)
        {
            return Ok(());
        }
        other("the key was used for another submission: use a new one")
    }

    /// A function as its newest build left it.
    pub(crate) async fn function(
        &self,
        caller: &Caller,
        id: FunctionId,
        wait: Duration,
    ) -> Result<view::Function, Error> {
        self.visible(caller, id).await?;
        if !wait.is_zero()
            && let Some(build) = builds::newest(&self.0.pool, id).await?
        {
            self.wait_for_build(build.id(), wait).await?;
        }
        let overview = functions::overview(&self.0.pool, id).await?;
        overview.map(view::Function::of).ok_or_else(|| Error::UnknownFunction(id.to_string()))
    }

    /// A page of the functions that the caller may see, oldest first. `size` 0: the default.
    pub(crate) async fn functions(
        &self,
        caller: &Caller,
        size: u32,
        token: &str,
    ) -> Result<Page, Error> {
        let after: i64 = match token {
            "" => 0,
            token => token.parse().map_err(|_| {
                Error::field_is("page_token", "the token is not from the last page")
            })?,
        };
        let size = if size == 0 { DEFAULT_PAGE } else { size.min(MAX_PAGE) };
        let mut found = functions::list(&self.0.pool, caller.scope(), after, size + 1).await?;
        let more = found.len() > size as usize;
        found.truncate(size as usize);
        let next = found.last().filter(|_| more).map(|last| last.id.to_string());
        let functions =
            futures::stream::iter(found.into_iter().map(|function| self.newest_of(function)))
                .buffered(READ_AT_ONCE)
                .try_collect()
                .await?;
        Ok(Page { functions, next })
    }

    async fn newest_of(&self, function: functions::Function) -> Result<view::Function, Error> {
        let id = FunctionId::new(function.id).map_err(|error| Error::Internal(error.into()))?;
        let build = builds::newest(&self.0.pool, id).await?;
        let scan = match &build {
            Some(build) => scans::get(&self.0.pool, build.id()).await?,
            None => None,
        };
        Ok(view::Function::of(Overview { function, build, scan }))
    }

    /// Its name is free again at once; its images go with the next cleanup.
    pub(crate) async fn delete(&self, caller: &Caller, id: FunctionId) -> Result<(), Error> {
        caller.must_act()?;
        let function = self.visible(caller, id).await?;
        let mut transaction = self.begin().await?;
        let deleted = functions::delete(&mut transaction, id).await?;
        let detail = serde_json::json!({ "name": function.name, "owner": function.owner });
        note(&mut transaction, caller, "delete-function", &id.to_string(), detail).await?;
        transaction.commit().await.map_err(mecapy_store::Error::from)?;
        if !deleted {
            return Err(Error::UnknownFunction(id.to_string()));
        }
        tracing::info!(function.id = %id, owner = %caller.owner, "function {id} is deleted");
        Ok(())
    }
}
