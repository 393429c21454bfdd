//! A build with the engine's classic builder, ended for certain at its limit.
//!
//! The engine has no call that ends a build. It ends one when the connection that asked for it is
//! closed, and then kills and removes the container of the step that runs. That is checked here, and
//! done for it where it isn't so (`build_containers.rs`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bollard::BollardRequest;
use bollard::errors::Error as EngineError;
use bollard::models::BuildInfo;
use bollard::query_parameters::BuildImageOptionsBuilder;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::auth::with_url_alphabet;
use crate::build_containers::Mark;
use crate::build_log::BuildLog;
use crate::{ContextFile, Credentials, Engine, Error, LogSink, context};

/// How long after a step that was killed the engine's word about memory may come.
const LATE_EVENT: Duration = Duration::from_secs(2);

/// One build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    pub dockerfile: String,
    pub files: Vec<ContextFile>,
    /// The name for the image, `repository:tag`.
    pub tag: String,
    pub build_args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Limits of each step's container; no swap.
    pub memory_bytes: u64,
    pub cpus: f64,
    /// Processes and threads of each step's container.
    pub max_processes: u32,
    /// A network of the engine; its default when absent.
    pub network: Option<String>,
    /// PEM, put into the context as [`CA_BUNDLE`](crate::CA_BUNDLE); an empty file when absent.
    pub ca_bundle: Option<Bytes>,
    /// Logins for the registries that `FROM` names, by host.
    pub registries: Vec<(String, Credentials)>,
    /// Build every step anew.
    pub no_cache: bool,
    /// For the whole build.
    pub limit: Duration,
}

impl Default for BuildRequest {
    fn default() -> Self {
        Self {
            dockerfile: String::new(),
            files: Vec::new(),
            tag: String::new(),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            memory_bytes: 2 << 30,
            cpus: 2.0,
            max_processes: 512,
            network: None,
            ca_bundle: None,
            registries: Vec::new(),
            no_cache: false,
            limit: Duration::from_secs(300),
        }
    }
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// The config's digest, `sha256:…`.
    pub id: String,
    /// Bytes of all layers, unpacked.
    pub size: u64,
}

/// Why we ended it.
enum Stopped {
    Limit,
    Cancel,
    /// Its processes could not be limited.
    Unlimited(Error),
}

impl Engine {
    /// Builds an image. When this returns, whatever it returns, no container of the build is left;
    /// dropping the future is a cancel.
    pub async fn build(
        &self,
        request: BuildRequest,
        log: &LogSink,
        cancel: &CancellationToken,
    ) -> Result<BuiltImage, Error> {
        let stop = cancel.child_token();
        let _with_the_caller = stop.clone().drop_guard();
        let (engine, log) = (self.clone(), BuildLog::new(log.clone()));
        let build = async move { engine.build_to_its_end(request, log, &stop).await };
        tokio::spawn(build.in_current_span())
            .await
            .unwrap_or(Err(Error::Interrupted { call: "build an image" }))
    }

    async fn build_to_its_end(
        &self,
        request: BuildRequest,
        mut log: BuildLog,
        stop: &CancellationToken,
    ) -> Result<BuiltImage, Error> {
        let ca_bundle = request.ca_bundle.as_deref();
        let context = context::archive(&request.dockerfile, ca_bundle, &request.files)?;
        let mark = Mark::new();
        let mut out_of_memory = HashSet::new();

        let end = {
            let docker = self.docker.clone().with_request_modifier(memory_limit(&request));
            let registries: HashMap<_, _> = request
                .registries
                .iter()
                .map(|(host, login)| (host.clone(), login.for_host(host)))
                .collect();
            let build = docker.build_image(
                options(&request, &mark),
                (!registries.is_empty()).then_some(registries),
                Some(bollard::body_full(context)),
            );
            let limit = tokio::time::sleep(request.limit);
            let limit_processes = self.limit_processes_of(&mark, request.max_processes);
            let read = self.read_build(build, &mut log, &mut out_of_memory);
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(Stopped::Cancel),
                () = limit => Err(Stopped::Limit),
                error = limit_processes => Err(Stopped::Unlimited(error)),
                end = read => Ok(end),
            }
            // Here the connection is closed.
        };

        let failure = match end {
            Err(stopped) => {
                self.end_containers_of(&mark).await;
                return Err(match stopped {
                    Stopped::Cancel => Error::Cancelled,
                    Stopped::Limit => Error::TimedOut { limit: request.limit, tail: log.finish() },
                    Stopped::Unlimited(error) => error,
                });
            }
            Ok(Ok(id)) if id.is_empty() => {
                return Err(Error::Incomplete { call: "build an image", what: "image id" });
            }
            Ok(Ok(id)) => {
                let image = self.image(&id).await?;
                let image = image.ok_or(Error::ImageNotFound { image: id })?;
                return Ok(BuiltImage { id: image.id, size: image.size });
            }
            Ok(Err(failure)) => failure,
        };
        let message = match failure {
            EngineError::DockerStreamError { error: message }
            | EngineError::DockerResponseServerError { status_code: 400, message } => message,
            other => {
                // The connection broke: the engine ends the build, if it is still there to do so.
                let engine = self.clone();
                tokio::spawn(async move { engine.end_containers_of(&mark).await });
                return Err(Error::of_call("build an image", &self.host, other));
            }
        };
        let exit_code = exit_code(&message);
        if exit_code.is_some() && out_of_memory.iter().any(|id| log.names_container(id)) {
            let tail = log.finish();
            return Err(Error::OutOfMemory { memory_bytes: request.memory_bytes, tail });
        }
        if exit_code.is_none() && is_about_a_registry(&message) {
            return Err(Error::of_registry(base_image(&request.dockerfile), message));
        }
        Err(Error::Failed { exit_code, message, tail: log.finish() })
    }

    /// Reads the build's stream to its end, and beside it the engine's word about memory. Gives the
    /// image's id.
    async fn read_build(
        &self,
        build: impl Stream<Item = Result<BuildInfo, EngineError>>,
        log: &mut BuildLog,
        out_of_memory: &mut HashSet<String>,
    ) -> Result<String, EngineError> {
        let mut build = std::pin::pin!(build);
        let mut events = std::pin::pin!(self.out_of_memory_events(None));
        let mut id = String::new();
        let failure = loop {
            tokio::select! {
                item = build.next() => match item {
                    Some(Ok(info)) => {
                        if let Some(image) = info.aux.and_then(|aux| aux.id) {
                            id = image;
                        }
                        if let Some(text) = info.stream {
                            log.push(&text);
                        } else if let Some(line) = status_line(info.id, info.status) {
                            log.push(&line);
                        }
                    }
                    // After the id the engine says only that all went well.
                    Some(Err(end)) if Error::is_a_lone_line_end(&end) && !id.is_empty() => return Ok(id),
                    Some(Err(failure)) => break failure,
                    None => return Ok(id),
                },
                Some(container) = events.next() => { out_of_memory.insert(container); }
            }
        };
        if let EngineError::DockerStreamError { error } = &failure
            && exit_code(error) == Some(137)
            && !out_of_memory.iter().any(|id| log.names_container(id))
        {
            let late = async {
                while let Some(container) = events.next().await {
                    let ours = log.names_container(&container);
                    out_of_memory.insert(container);
                    if ours {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(LATE_EVENT, late).await;
        }
        Err(failure)
    }
}

fn options(request: &BuildRequest, mark: &Mark) -> bollard::query_parameters::BuildImageOptions {
    const PERIOD_MICROSECONDS: i32 = 100_000;
    let mut options = BuildImageOptionsBuilder::default()
        .t(&request.tag)
        .buildargs(&request.build_args.clone().into_iter().collect())
        .labels(&request.labels.clone().into_iter().collect())
        .extrahosts(mark.host())
        .cpuperiod(PERIOD_MICROSECONDS)
        .cpuquota((request.cpus * f64::from(PERIOD_MICROSECONDS)) as i32)
        .nocache(request.no_cache)
        .rm(true)
        .forcerm(true);
    if let Some(network) = &request.network {
        options = options.networkmode(network);
    }
    options.build()
}

/// The client library holds these two in 32 bits, which 2 GiB does not fit.
fn memory_limit(
    request: &BuildRequest,
) -> impl Fn(BollardRequest) -> BollardRequest + Send + Sync + 'static {
    let query = format!("memory={0}&memswap={0}", request.memory_bytes);
    move |mut request| {
        let uri = format!("{}&{query}", request.uri());
        // Of a valid URI and digits: valid.
        if let Ok(uri) = uri.parse() {
            *request.uri_mut() = uri;
        }
        with_url_alphabet(request)
    }
}

/// `The command '…' returned a non-zero code: 3`: the status of the failed step.
fn exit_code(message: &str) -> Option<i64> {
    message.rsplit_once("returned a non-zero code: ")?.1.trim().parse().ok()
}

/// What the first `FROM` names, for a message.
fn base_image(dockerfile: &str) -> &str {
    let from = dockerfile.lines().find_map(|line| line.trim_start().strip_prefix("FROM "));
    from.and_then(|from| from.split_whitespace().next()).unwrap_or("the base image")
}

/// Did a step fail because a registry didn't give the base image?
fn is_about_a_registry(message: &str) -> bool {
    let message = message.to_lowercase();
    ["/v2/", "manifest", "pull access denied", "toomanyrequests", "unexpected http status"]
        .iter()
        .any(|word| message.contains(word))
}

/// What the engine tells while it pulls the base image, without the progress of each layer.
fn status_line(id: Option<String>, status: Option<String>) -> Option<String> {
    let status = status?;
    if ["Downloading", "Extracting", "Waiting", "Verifying Checksum"].contains(&status.as_str()) {
        return None;
    }
    Some(match id {
        Some(id) => format!("{id}: {status}\n"),
        None => format!("{status}\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_steps_status_is_read_from_the_message() {
        let message = "The command '/bin/sh -c exit 3' returned a non-zero code: 3";
        assert_eq!(exit_code(message), Some(3));
        assert_eq!(exit_code("dockerfile parse error line 1: unknown instruction: FRM"), None);
    }

    #[test]
    fn a_memory_limit_of_two_gibibytes_reaches_the_engine_whole() {
        let modify = memory_limit(&BuildRequest::default());
        let request = http::Request::builder()
            .uri("unix://2f72/v1.41/build?dockerfile=Dockerfile")
            .body(bollard::body_full(Bytes::new()))
            .unwrap();
        let query = modify(request).uri().query().unwrap().to_owned();
        assert_eq!(query, "dockerfile=Dockerfile&memory=2147483648&memswap=2147483648");
    }

    #[test]
    fn a_dockerfile_that_names_a_manifest_is_not_taken_for_a_registry() {
        assert!(is_about_a_registry("manifest for a/b:c not found: manifest unknown"));
        assert!(!is_about_a_registry("COPY failed: file not found in build context"));
    }
}
