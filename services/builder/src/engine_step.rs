//! One step of a build with the engine: its log, its time, its failure in our terms, and no trace left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use mecapy_engine::{BuildRequest, BuiltImage, ContextFile, Engine, LogSink};
use mecapy_proto::ErrorCode;
use mecapy_service::Secret;

use crate::egress::{self, Egress, Network, Refused};
use crate::options::Options;
use crate::rejection::Rejection;
use crate::step_files;
use crate::work::Work;
use crate::{Error, metric_definitions, pip, uv};

const NO_NETWORK: &str = "none";
const LOCK_BEGINS: &str = "--- lock begins ---";
const LOCK_ENDS: &str = "--- lock ends ---";
/// Lines of a step that are kept to be read; a lock of 200 packages has some 10,000.
const MAX_LINES: usize = 100_000;

/// What every step needs that comes from the configuration.
#[derive(Debug)]
pub struct Settings {
    files: Vec<ContextFile>,
    ca_bundle: Option<Bytes>,
    build_args: BTreeMap<String, String>,
    registries: Vec<(String, mecapy_engine::Credentials)>,
    egress: Egress,
    options: Options,
}

impl Settings {
    /// Reads the CA bundle.
    pub fn new(
        engine: &Engine,
        options: &Options,
        registries: Vec<(String, mecapy_engine::Credentials)>,
    ) -> Result<Self, Error> {
        let ca_bundle = match &options.ca_bundle {
            Some(path) => {
                Some(Bytes::from(std::fs::read(path).map_err(|error| Error::Options {
                    key: "builder.ca_bundle",
                    problem: format!("{}: {error}", path.display()),
                })?))
            }
            None => None,
        };
        let set = |url: &Option<Secret>| url.as_ref().map(|url| url.expose().to_owned());
        let proxies = if options.network.is_some() {
            [set(&options.http_proxy), set(&options.https_proxy), options.no_proxy.clone()]
        } else {
            // Those of the operators are behind it.
            [Some(egress::PROXY_URL.to_owned()), Some(egress::PROXY_URL.to_owned()), None]
        };
        // The engine knows these arguments without an ARG, and keeps them out of the image's history.
        let build_args = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
            .into_iter()
            .zip(proxies)
            .filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)))
            .flat_map(|(name, value)| [(name.to_lowercase(), value.clone()), (name, value)])
            .collect();
        Ok(Self {
            files: step_files::of(options),
            ca_bundle,
            build_args,
            registries,
            egress: Egress::new(engine.clone(), options),
            options: options.clone(),
        })
    }

    /// The network for one step that needs the package index. `image`: one with Python, that the engine has.
    pub async fn network(&self, image: &str) -> Result<Network, Error> {
        match &self.options.network {
            Some(network) => Ok(Network::of_operators(network.clone())),
            None => match self.egress.network(image).await {
                Err(Error::Engine { source, .. })
                    if matches!(*source, mecapy_engine::Error::ImageNotFound { .. }) =>
                {
                    Err(Error::Vanished(image.to_owned()))
                }
                network => network,
            },
        }
    }

    /// Takes the networks down.
    pub fn close(&self) {
        self.egress.close();
    }

    /// A build with what every one has from the configuration, and no network.
    pub fn request(&self, dockerfile: String, image: &str) -> BuildRequest {
        BuildRequest {
            dockerfile,
            files: Vec::new(),
            tag: image.to_owned(),
            build_args: self.build_args.clone(),
            labels: BTreeMap::new(),
            memory_bytes: self.options.memory_bytes,
            cpus: self.options.cpus,
            max_processes: self.options.max_processes,
            network: Some(NO_NETWORK.to_owned()),
            ca_bundle: self.ca_bundle.clone(),
            registries: self.registries.clone(),
            no_cache: false,
            limit: self.options.limit(),
        }
    }
}

/// What a step printed.
#[derive(Debug, Default)]
pub struct Output {
    lines: Vec<String>,
    lock: String,
    in_lock: bool,
}

impl Output {
    /// Takes a line; true: the user should see it.
    fn take(&mut self, line: &str) -> bool {
        match line {
            LOCK_BEGINS => self.in_lock = true,
            LOCK_ENDS => self.in_lock = false,
            _ if self.in_lock => {
                self.lock.push_str(line);
                self.lock.push('\n');
            }
            _ if is_noise(line) => {}
            _ => {
                if self.lines.len() < MAX_LINES {
                    self.lines.push(line.to_owned());
                }
                return true;
            }
        }
        false
    }

    /// The lock that the resolver printed.
    pub fn lock(&self) -> &str {
        &self.lock
    }
}

/// What the engine says of its own work.
fn is_noise(line: &str) -> bool {
    const STARTS: &[&str] = &[
        "Step ",
        " ---> ",
        "Removing intermediate container ",
        "Successfully built ",
        "Successfully tagged ",
        "[Warning] ",
    ];
    let is_layer = |id: &str| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
    line.is_empty()
        || STARTS.iter().any(|start| line.starts_with(start))
        || line.split_once(": ").is_some_and(|(id, _)| is_layer(id))
}

/// A step: a Dockerfile and the files that it copies.
pub struct Step<'a> {
    /// For the metrics and for messages: "resolve", "install".
    pub name: &'static str,
    pub dockerfile: String,
    pub files: Vec<ContextFile>,
    pub image: &'a str,
    /// None: it needs none.
    pub network: Option<Network>,
}

/// Runs a step within what is left of the time.
pub async fn run(
    engine: &Engine,
    settings: &Settings,
    step: Step<'_>,
    work: &mut Work<'_>,
) -> Result<(BuiltImage, Output), Error> {
    let options = &settings.options;
    let output = Arc::new(Mutex::new(Output::default()));
    let sink = {
        let (output, log) = (Arc::clone(&output), work.log.clone());
        LogSink::new(move |line| {
            // Messages are made of these lines too.
            let line = log.without_secrets(line);
            if output.lock().unwrap_or_else(PoisonError::into_inner).take(&line) {
                log.write(&line);
            }
        })
    };
    let mut files = settings.files.clone();
    files.extend(step.files);
    let mut request = settings.request(step.dockerfile, step.image);
    request.files = files;
    if let Some(network) = &step.network {
        request.network = Some(network.name().to_owned());
    }
    // What the index says now counts, not what it said when the same step ran last.
    request.no_cache = true;
    request.limit = work.budget.left();
    let began = Instant::now();
    let built = engine.build(request, &sink, work.cancel).await;
    work.budget.spend(began.elapsed());
    metric_definitions::step(step.name, began.elapsed());
    let output = std::mem::take(&mut *output.lock().unwrap_or_else(PoisonError::into_inner));
    let error = match built {
        Ok(image) => {
            if let Some(network) = step.network {
                network.end();
            }
            return Ok((image, output));
        }
        Err(error) => error,
    };
    if let Some(gone) = has_gone(&error) {
        return Err(gone);
    }
    let refused = step.network.map(Network::end).unwrap_or_default();
    Err(failure(error, &output.lines, options, &refused))
}

/// What the user is told when the time of a build is over.
pub fn too_slow(options: &Options) -> Error {
    let message = format!(
        "the packages were not there within {} s: ask for fewer or smaller ones",
        options.limit_seconds
    );
    Error::Rejected(Rejection::new(ErrorCode::BuildTimeout, message))
}

fn failure(
    error: mecapy_engine::Error,
    lines: &[String],
    options: &Options,
    refused: &Refused,
) -> Error {
    use mecapy_engine::Error as Engine;
    let rejected = |code, message: String| Error::Rejected(Rejection::new(code, message));
    match error {
        Engine::Cancelled => Error::Cancelled,
        Engine::ImageNotFound { image } => Error::Vanished(image),
        Engine::TimedOut { .. } => too_slow(options),
        Engine::OutOfMemory { .. } => rejected(
            ErrorCode::BuildOutOfMemory,
            format!(
                "installing the packages needs more than {} MiB of memory",
                options.memory_bytes >> 20
            ),
        ),
        Engine::Failed { exit_code: Some(code), .. } => {
            let cause = match uv::explain(lines) {
                uv::Cause::Unknown => pip::explain(lines),
                known => known,
            };
            // Whoever is kept from a host takes its index for one that doesn't answer, or hasn't got the package.
            let may_be_for_want_of_a_host = match &cause {
                uv::Cause::Index(_) | uv::Cause::Unknown => true,
                uv::Cause::Machine(_) => false,
                uv::Cause::Requirements(rejection) => matches!(
                    rejection.code,
                    ErrorCode::RequirementNotFound | ErrorCode::BuildFailed
                ),
            };
            if may_be_for_want_of_a_host && let Some(rejection) = refused.rejection() {
                return rejection.into();
            }
            match cause {
                uv::Cause::Requirements(rejection) => rejection.into(),
                uv::Cause::Index(problem) => Error::Index(problem),
                uv::Cause::Machine(problem) => Error::Machine(problem),
                uv::Cause::Unknown => rejected(
                    ErrorCode::BuildFailed,
                    format!("installing the packages failed with status {code}; the log says more"),
                ),
            }
        }
        source => Error::engine("building the dependency image")(source),
    }
}

/// The container whose network a step joins, or a layer that it stands on, went between being looked at and being used:
/// the next try makes another.
pub(crate) fn has_gone(error: &mecapy_engine::Error) -> Option<Error> {
    const RELAY: [&str; 3] = ["cannot join network", "No such container", "is not running"];
    // The last of them is said where the engine looks through its cache.
    const LAYER: [&str; 3] = ["unknown parent image ID", "No such image", "unable to find image"];
    let mecapy_engine::Error::Failed { exit_code: None, message, .. } = error else { return None };
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&RELAY) {
        return Some(Error::Egress(message.clone()));
    }
    // Its id comes last.
    let image = message.rsplit(' ').next().unwrap_or_default().trim_matches('"');
    says(&LAYER).then(|| Error::Vanished(image.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_lock_is_taken_out_of_what_the_user_sees() {
        let mut output = Output::default();
        let lines = [
            "Step 1/4 : FROM x",
            " ---> 0123",
            "0123456789ab: Pulling fs layer",
            "Resolved 2 packages",
            LOCK_BEGINS,
            "a==1 \\",
            "    --hash=sha256:00",
            LOCK_ENDS,
            "",
            "done",
        ];
        let shown: Vec<&str> = lines.into_iter().filter(|line| output.take(line)).collect();
        assert_eq!(shown, ["Resolved 2 packages", "done"]);
        assert_eq!(output.lock(), "a==1 \\\n    --hash=sha256:00\n");
    }

    #[test]
    fn each_end_of_the_engine_is_told_as_what_it_is() {
        use mecapy_engine::Error as Engine;
        let code = |error: Engine, lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            match failure(error, &lines, &Options::default(), &Refused::default()) {
                Error::Rejected(rejection) => Some(rejection.code),
                _ => None,
            }
        };
        let failed =
            |exit_code| Engine::Failed { exit_code, message: String::new(), tail: Vec::new() };
        assert_eq!(
            code(Engine::TimedOut { limit: Duration::ZERO, tail: Vec::new() }, &[]),
            Some(ErrorCode::BuildTimeout)
        );
        assert_eq!(
            code(Engine::OutOfMemory { memory_bytes: 1, tail: Vec::new() }, &[]),
            Some(ErrorCode::BuildOutOfMemory)
        );
        assert_eq!(code(failed(Some(1)), &["nothing known"]), Some(ErrorCode::BuildFailed));
        assert_eq!(code(failed(Some(1)), &["error: Failed to fetch: https://x"]), None);
        assert_eq!(code(failed(None), &[]), None);
        for message in [
            "cannot join network of a non running container: 0123",
            "failed to export image: failed to set parent sha256:00: unknown parent image ID sha256:00",
            "unable to find image \"sha256:00\"",
        ] {
            let message = message.to_owned();
            let error = Engine::Failed { exit_code: None, message, tail: Vec::new() };
            assert!(has_gone(&error).unwrap().is_transient());
        }
        assert_eq!(code(Engine::Cancelled, &[]), None);
    }
}
