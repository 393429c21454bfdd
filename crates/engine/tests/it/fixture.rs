//! What the tests start from: the engine, the base image, a function's image, and the docker program
//! to see from outside what is left.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mecapy_engine::{
    BuildRequest, ContextFile, Engine, Error, LogSink, Options, RunOutcome, RunRequest,
};
use mecapy_testkit::unique;
use tokio_util::sync::CancellationToken;

/// Made by `scripts/images base`.
pub const BASE: &str = "mecapy/base/python:3.11-slim";
/// Far more than anything here takes: what passes it hangs.
pub const LONG: Duration = Duration::from_secs(120);

pub async fn engine() -> Engine {
    let options = Options { host: std::env::var("DOCKER_HOST").ok(), ..Options::default() };
    let engine = Engine::connect(&options).await.expect("Docker Engine must run");
    let base = engine.image(BASE).await.unwrap();
    assert!(base.is_some(), "the image {BASE} is not there: run scripts/images base");
    engine
}

/// What `docker` prints.
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A log's lines, as they come.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn sink(&self) -> LogSink {
        let lines = self.0.clone();
        LogSink::new(move |line| lines.lock().unwrap().push(line.to_owned()))
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn contain(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

/// A local image that is removed with this.
pub struct LocalImage(pub String);

impl Drop for LocalImage {
    fn drop(&mut self) {
        docker(&["image", "rm", "--force", &self.0]);
    }
}

/// The image of a function with this code. Nothing of it is in the cache: whoever looks there finds what another test
/// takes away.
pub async fn function(engine: &Engine, code: &str) -> LocalImage {
    let tag = format!("mecapy-engine-test/{}:v1", unique("function"));
    let request = BuildRequest {
        dockerfile: format!("FROM {BASE}\nCOPY user_function.py /app/\n"),
        files: vec![ContextFile::new("user_function.py", code.to_owned())],
        tag: tag.clone(),
        no_cache: true,
        ..BuildRequest::default()
    };
    engine.build(request, &LogSink::discard(), &CancellationToken::new()).await.unwrap();
    LocalImage(tag)
}

pub fn run_of(image: &LocalImage) -> RunRequest {
    RunRequest {
        image: image.0.clone(),
        name: unique("mecapy-engine-test"),
        ..RunRequest::default()
    }
}

/// Runs a function's code, and sees that its container is gone afterwards.
pub async fn run(code: &str, change: impl FnOnce(&mut RunRequest)) -> RunOutcome {
    let engine = engine().await;
    let image = function(&engine, code).await;
    let mut request = run_of(&image);
    change(&mut request);
    let name = request.name.clone();
    let outcome = run_whole(&engine, request, &CancellationToken::new()).await.unwrap();
    assert!(!container_exists(&name), "{name} is still there");
    outcome
}

/// A run with its container's removal.
pub async fn run_whole(
    engine: &Engine,
    request: RunRequest,
    cancel: &CancellationToken,
) -> Result<RunOutcome, Error> {
    let (outcome, spent) = engine.run(request, cancel).await?;
    spent.remove().await;
    Ok(outcome)
}

pub fn container_exists(name: &str) -> bool {
    let filter = format!("name=^/?{name}$");
    !docker(&["ps", "--all", "--quiet", "--filter", &filter]).trim().is_empty()
}

/// Is there a container, running or not, with this text in its command?
pub fn container_with_command(text: &str) -> bool {
    docker(&["ps", "--all", "--no-trunc", "--format", "{{.Command}}"]).contains(text)
}
