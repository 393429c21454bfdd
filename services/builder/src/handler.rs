//! The shell around the core: `build.requested` in, `build.done` or `build.failed` out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mecapy_bus::{Delivery, HandlerError, Live, Outcome, Outgoing};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::build_requested::Source;
use mecapy_proto::v1::{BuildDone, BuildFailed, BuildRequested, Failure};
use mecapy_proto::{BuildId, ErrorCode, FunctionId, Owner};
use mecapy_service::step;
use mecapy_store::functions::{self, Added, NewVersion};
use mecapy_store::{BuildState, PgPool, StoredFailure, bases, builds};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::builder::{Builder, Built, Request};
use crate::kept_log::KeptLog;
use crate::rejection::Rejection;

/// How often a running build looks whether it was cancelled.
const LOOK_FOR_CANCEL_EVERY: Duration = Duration::from_secs(1);
/// Sources that came by another way than the gateway lie here; nothing else in the bucket is a source.
const SOURCES: &str = "sources/";
const DEFAULT_VARIANT: &str = "slim";

/// The handler of `build.requested`.
#[derive(Debug)]
pub struct Handler {
    pub builder: Arc<Builder>,
    pub pool: PgPool,
    pub objects: Objects,
    pub live: Live,
}

/// What the record says about a request.
enum Admission {
    /// With whether an earlier try has begun it.
    Build(Box<Request>, bool),
    /// It ended, or went on, without this message.
    Nothing,
    Refuse(Rejection),
}

/// What came of making the version and the build of a request.
enum Created {
    Version(u32),
    /// Another delivery of the same request made them in between.
    ByAnother,
    UnknownFunction,
    Conflict,
}

impl mecapy_bus::Handler<BuildRequested> for Handler {
    const STAGE: Option<&'static str> = Some("build");

    async fn handle(&self, event: BuildRequested, _: &Delivery) -> Result<Outcome, HandlerError> {
        let began = Instant::now();
        let id: BuildId = parse(event.build_id.parse())?;
        let function = parse(FunctionId::new(event.function_id))?;
        let log = KeptLog::begin(id, self.builder.options(), &self.objects, &self.live);
        let outcome = match self.admit(id, function, &event).await? {
            Admission::Nothing => Ok(Outcome::nothing()),
            Admission::Refuse(rejection) => {
                log.go_on().await;
                log.log().write(&format!("refused: {rejection}"));
                self.failed(id, &event, &rejection, &log, began).await
            }
            Admission::Build(request, was_begun) => {
                if was_begun {
                    log.go_on().await;
                }
                self.build(id, &event, *request, &log, began).await
            }
        };
        log.end().await;
        outcome
    }
}

impl Handler {
    /// Finds or makes the version and the build, and moves the build to `building`.
    async fn admit(
        &self,
        id: BuildId,
        function: FunctionId,
        event: &BuildRequested,
    ) -> Result<Admission, HandlerError> {
        let refuse = |code, message: String| Ok(Admission::Refuse(Rejection::new(code, message)));
        let known = builds::get(&self.pool, id).await?;
        if let Some(build) = &known {
            if build.function_id()? != Some(function) {
                return Err(HandlerError::permanent(format!(
                    "build {id} is one of another function than {function}"
                )));
            }
            if !matches!(build.state, BuildState::Queued | BuildState::Building) {
                return Ok(Admission::Nothing);
            }
        }
        let unknown = || format!("there is no function {function}");
        let Some(record) = functions::get(&self.pool, function).await? else {
            return refuse(ErrorCode::UnknownFunction, unknown());
        };
        if !event.owner.is_empty() && event.owner != record.owner {
            return refuse(ErrorCode::UnknownFunction, unknown());
        }
        let owner: Owner = parse(record.owner.parse())?;
        let code = match self.source(event).await? {
            Ok(code) => code,
            Err(rejection) => return Ok(Admission::Refuse(rejection)),
        };
        let variant =
            if event.base_variant.is_empty() { DEFAULT_VARIANT } else { &event.base_variant };
        let mut request = Request {
            function_id: function,
            owner,
            version: event.version,
            python: event.python_version.clone(),
            variant: variant.to_owned(),
            code,
            requirements: event.requirements.clone(),
        };
        let was_begun = known.as_ref().is_some_and(|build| build.state == BuildState::Building);
        match known {
            Some(build) => {
                request.version = build.version.unsigned_abs();
                self.check_inputs(id, &request).await?;
                let may_give_way =
                    build.state == BuildState::Queued && self.builder.options().supersede_queued;
                if may_give_way && let Some(newer) = builds::newer_version(&self.pool, id).await? {
                    return refuse(
                        ErrorCode::BuildCancelled,
                        format!(
                            "version {newer} was asked for before this one was begun, and is built instead; submit this one again if it is still wanted"
                        ),
                    );
                }
            }
            None => match self.create(id, &request).await? {
                Created::Version(version) => request.version = version,
                Created::ByAnother => return Box::pin(self.admit(id, function, event)).await,
                Created::UnknownFunction => {
                    return refuse(ErrorCode::UnknownFunction, unknown());
                }
                Created::Conflict => {
                    return refuse(
                        ErrorCode::VersionConflict,
                        format!(
                            "version {} of function {function} exists with other inputs",
                            event.version
                        ),
                    );
                }
            },
        }
        match builds::start(&self.pool, id).await? {
            Some(BuildState::Building) => Ok(Admission::Build(Box::new(request), was_begun)),
            Some(_) => Ok(Admission::Nothing),
            None => Err(HandlerError::transient(format!("build {id} is gone"))),
        }
    }

    /// A build is of one version, and a version of one set of inputs: whatever else carries its id is no
    /// request for it.
    async fn check_inputs(&self, id: BuildId, request: &Request) -> Result<(), HandlerError> {
        let version = functions::version(&self.pool, request.function_id, request.version).await?;
        if version.is_some_and(|version| version.inputs_sha256 == request.inputs_sha256()) {
            return Ok(());
        }
        Err(HandlerError::permanent(format!(
            "build {id} was asked for with other inputs than these"
        )))
    }

    /// For a producer that didn't come through the gateway: the version and the build are made here, together or
    /// not at all.
    async fn create(&self, id: BuildId, request: &Request) -> Result<Created, HandlerError> {
        let new = NewVersion {
            python_version: request.python.clone(),
            base_variant: request.variant.clone(),
            requirements: request.requirements.clone(),
            inputs_sha256: request.inputs_sha256(),
        };
        let mut transaction = self.pool.begin().await.map_err(mecapy_store::Error::from)?;
        let version = match functions::add_version(
            &mut transaction,
            request.function_id,
            request.version,
            &new,
        )
        .await?
        {
            Added::Version(version) => version,
            Added::UnknownFunction => return Ok(Created::UnknownFunction),
            Added::Conflict => return Ok(Created::Conflict),
        };
        // The transaction that is dropped takes its version along: a build has one version, however many
        // deliveries of its request there are at once.
        if !builds::create(&mut transaction, id, request.function_id, version).await? {
            return Ok(Created::ByAnother);
        }
        let traceparent = mecapy_bus::traceparent();
        builds::keep_trace(&mut transaction, id, traceparent.as_deref()).await?;
        transaction.commit().await.map_err(mecapy_store::Error::from)?;
        Ok(Created::Version(version))
    }

    async fn source(
        &self,
        event: &BuildRequested,
    ) -> Result<Result<Bytes, Rejection>, HandlerError> {
        let limit = self.builder.options().validation.max_code_bytes;
        let missing = |what: String| Ok(Err(Rejection::new(ErrorCode::SourceMissing, what)));
        let key = match &event.source {
            Some(Source::Code(code)) => return Ok(Ok(Bytes::from(code.clone()))),
            Some(Source::SourceS3Key(key)) if key.starts_with(SOURCES) => key,
            Some(Source::SourceS3Key(key)) => {
                return missing(format!(
                    "{key:?} is no key of a source: it must begin with {SOURCES}"
                ));
            }
            None => return missing("the request has no code".to_owned()),
        };
        match self.objects.get(&Key::given(key), limit as u64).await {
            Ok(Some(code)) => Ok(Ok(code)),
            Ok(None) => missing(format!("there is no source under {key}")),
            Err(mecapy_objects::Error::TooLarge { .. }) => Ok(Err(Rejection::new(
                ErrorCode::CodeTooLarge,
                format!("the code has more than the {limit} bytes that are accepted"),
            ))),
            Err(error) => Err(HandlerError::transient(error)),
        }
    }

    async fn build(
        &self,
        id: BuildId,
        event: &BuildRequested,
        request: Request,
        log: &KeptLog,
        began: Instant,
    ) -> Result<Outcome, HandlerError> {
        let cancel = CancellationToken::new();
        let built = tokio::select! {
            built = self.builder.build(&request, log.log(), &cancel) => built,
            never = watch_for_cancel(&self.pool, id, &cancel) => match never {},
        };
        log.is_whole();
        match built {
            Ok(built) => self.done(id, event, &request, built, log, began).await,
            Err(error) if error.is_transient() => {
                // The next try goes on with it; until then this one can be read.
                let _ = log.keep().await;
                Err(HandlerError::transient(error))
            }
            Err(Error::Cancelled) if has_gone_on(&self.pool, id).await? => Ok(Outcome::nothing()),
            Err(error) => {
                if !matches!(error, Error::Rejected(_) | Error::Cancelled) {
                    let error = mecapy_service::chain(&error);
                    tracing::error!(build.id = %id, error, "a build failed for a reason that is not the user's");
                }
                self.failed(id, event, &error.rejection(), log, began).await
            }
        }
    }

    async fn done(
        &self,
        id: BuildId,
        event: &BuildRequested,
        request: &Request,
        built: Built,
        log: &KeptLog,
        began: Instant,
    ) -> Result<Outcome, HandlerError> {
        let lock_key = Key::lock(id);
        let lock = async {
            match &built.lock {
                Some(lock) => self.objects.put(&lock_key, Bytes::from(lock.clone())).await,
                None => Ok(()),
            }
        };
        // Kept for whoever builds this version again, on a newer base.
        let source_key = Key::source(id);
        let source = self.objects.put(&source_key, request.code.clone());
        let dockerfile_key = Key::dockerfile(id);
        let dockerfile = self.objects.put(&dockerfile_key, Bytes::from(built.dockerfile.clone()));
        let keep = async { tokio::try_join!(lock, source, dockerfile, log.keep()) };
        step("keep", keep).await.map_err(HandlerError::transient)?;

        let done = BuildDone {
            base: String::new(),
            build_id: event.build_id.clone(),
            function_id: event.function_id,
            owner: request.owner.to_string(),
            version: request.version,
            digest: built.image.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            image: built.image.to_string(),
            tag: built.tag,
            size_bytes: built.size_bytes,
            lock_key: if built.lock.is_some() { lock_key.to_string() } else { String::new() },
            log_key: Key::build_log(id).to_string(),
            duration_ms: milliseconds(began),
            dependency_image: built.dependency_image.to_string(),
        };
        tracing::info!(build.id = %id, image = done.image, duration_ms = done.duration_ms, "built");
        let record = builds::Built {
            staging_image: done.image.clone(),
            digest: done.digest.clone(),
            tag: done.tag.clone(),
            size_bytes: done.size_bytes,
            dependency_image: done.dependency_image.clone(),
            lock_key: built.lock.is_some().then(|| done.lock_key.clone()),
            log_key: done.log_key.clone(),
            duration_ms: done.duration_ms,
        };
        let base_digest = built.base_digest.to_string();
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                if !builds::built(conn, id, &record).await? {
                    return Ok(Outgoing::none());
                }
                bases::stands_on(conn, id, &base_digest).await?;
                Ok(Outgoing::event(&done))
            })
        }))
    }

    async fn failed(
        &self,
        id: BuildId,
        event: &BuildRequested,
        rejection: &Rejection,
        log: &KeptLog,
        began: Instant,
    ) -> Result<Outcome, HandlerError> {
        log.keep().await.map_err(HandlerError::transient)?;
        let failure = Failure {
            code: rejection.code.as_str().to_owned(),
            message: rejection.message.clone(),
            log_tail: log.log().tail(),
        };
        let failed = BuildFailed {
            base: String::new(),
            build_id: event.build_id.clone(),
            function_id: event.function_id,
            failure: Some(failure.clone()),
            log_key: Key::build_log(id).to_string(),
            duration_ms: milliseconds(began),
        };
        tracing::info!(build.id = %id, code = failure.code, duration_ms = failed.duration_ms, "not built");
        // Whoever asked for a build that was never made is told too.
        let is_known = builds::get(&self.pool, id).await?.is_some();
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                let moved =
                    builds::fail(conn, id, &StoredFailure::from(failure), Some(&failed.log_key))
                        .await?;
                Ok(if moved || !is_known { Outgoing::event(&failed) } else { Outgoing::none() })
            })
        }))
    }
}

/// Whether a build that was begun here has ended or gone on without this try, whose log nobody needs then: it would stand
/// in the place of the right one.
pub(crate) async fn has_gone_on(pool: &PgPool, id: BuildId) -> Result<bool, HandlerError> {
    Ok(builds::get(pool, id).await?.is_none_or(|build| build.state != BuildState::Building))
}

/// Ends the build when the record says so, or that it has gone on without it. Never returns.
pub(crate) async fn watch_for_cancel(
    pool: &PgPool,
    id: BuildId,
    cancel: &CancellationToken,
) -> std::convert::Infallible {
    loop {
        match builds::get(pool, id).await {
            Ok(Some(build)) if build.cancel_requested || build.state != BuildState::Building => {
                cancel.cancel();
                return std::future::pending().await;
            }
            // A database that is away for a moment is no reason to end a build.
            _ => tokio::time::sleep(LOOK_FOR_CANCEL_EVERY).await,
        }
    }
}

pub(crate) fn milliseconds(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn parse<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Result<T, HandlerError> {
    parsed.map_err(|error| HandlerError::permanent(error.to_string()))
}
