//! Base images while others use the same engine, or the upstream registry stands still.

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use mecapy_builder::{BaseBuilder, Cell, Error, Options};
use mecapy_engine::{BuildRequest, LogSink};
use mecapy_proto::BuildId;
use mecapy_service::Secret;
use mecapy_testkit::unique;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bases::{base_builder, folder, make, with};
use crate::fixture::{LONG, engine, log};
use crate::hostile_packages::serve;

async fn docker(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("docker").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A builder whose variant `waits` stands still between the slim image that was made and the first use of it.
struct World {
    folder: TempDir,
    label: String,
    index: Secret,
    asked: watch::Receiver<bool>,
    open: watch::Sender<bool>,
}

impl World {
    async fn new() -> Self {
        let label = unique("race");
        let (came, asked) = watch::channel(false);
        let (open, opened) = watch::channel(false);
        let gate = async move || {
            came.send_replace(true);
            let _ = opened.clone().wait_for(|is_open| *is_open).await;
            "open"
        };
        let index = serve(Router::new().route("/simple/gate/", get(gate))).await;
        let slim = format!("ARG PYTHON_IMAGE\nFROM ${{PYTHON_IMAGE}}\nLABEL test={label}\n");
        // The first stage does not stand on the slim image: nothing of it is in use when the gate is asked.
        let waits = format!(
            "ARG BASE_IMAGE\nFROM mecapy/python:3.11-slim AS gate\n\
             RUN [\"python\", \"-c\", \"import urllib.request as r; r.urlopen('{}/gate/').read(); open('/{label}', 'w')\"]\n\
             FROM ${{BASE_IMAGE}}\nCOPY --from=gate /{label} /opened\n",
            index.expose()
        );
        let folder = folder(&[("slim", &slim, ""), ("waits", &waits, "")]);
        Self { folder, label, index, asked, open }
    }

    fn options(&self) -> Options {
        let index_url = Some(self.index.clone());
        Options { index_url, http_proxy: None, https_proxy: None, ..with(self.folder.path()) }
    }

    /// Builds `waits`, and does `meanwhile` where it stands still.
    async fn build(
        &self,
        builder: &BaseBuilder,
        meanwhile: impl AsyncFnOnce(),
    ) -> (Result<(), Error>, String) {
        let mut asked = self.asked.clone();
        let at_the_gate = async {
            tokio::time::timeout(LONG, asked.wait_for(|is_asked| *is_asked))
                .await
                .unwrap()
                .unwrap();
            meanwhile().await;
            self.open.send_replace(true);
        };
        let ((built, text), ()) = tokio::join!(make(builder, "waits"), at_the_gate);
        (built.map(drop), text)
    }

    /// Ids of the slim images that were made of its folder.
    async fn slim_images(&self) -> Vec<String> {
        let (test, variant) =
            (format!("label=test={}", self.label), "label=org.mecapy.variant=slim");
        let arguments = ["images", "--no-trunc", "-q", "--filter", &test, "--filter", variant];
        docker(&arguments).await.lines().map(str::to_owned).collect()
    }

    async fn clean_up(&self) {
        let label = format!("label=test={}", self.label);
        for id in docker(&["images", "-q", "--filter", &label]).await.split_whitespace() {
            let _ = tokio::process::Command::new("docker").args(["rmi", "-f", id]).output().await;
        }
    }
}

#[tokio::test]
async fn a_slim_image_that_another_builder_replaces_stays_until_what_stands_on_it_is_built() {
    let world = World::new().await;
    let one = base_builder(world.options()).await;
    // Upstream has a newer one by then: the same name on the engine, another image.
    let newer = format!("mecapy-builder-test/{}", unique("python"));
    let upstream = BuildRequest {
        dockerfile: format!("FROM mecapy/python:3.11-slim\nLABEL newer={newer}\n"),
        tag: format!("{newer}:3.11-slim"),
        no_cache: true,
        ..BuildRequest::default()
    };
    let engine = engine().await;
    engine.build(upstream, &LogSink::discard(), &CancellationToken::new()).await.unwrap();
    let mut options = world.options();
    options.base.python_image = format!("{newer}:{{python}}-slim");
    let other = base_builder(options).await;

    let (built, text) = world
        .build(&one, async || {
            let before = world.slim_images().await;
            let (replaced, text) = make(&other, "slim").await;
            assert!(replaced.is_ok(), "{replaced:?}\n{text}");
            assert_ne!(world.slim_images().await, before);
        })
        .await;
    assert!(built.is_ok(), "{built:?}\n{text}");
    // What was replaced goes when nobody stands on it any more; what was made of it stands on nothing else here.
    world.clean_up().await;
    engine.remove_image(&format!("{newer}:3.11-slim")).await.unwrap();
}

#[tokio::test]
async fn a_slim_image_that_goes_in_spite_of_it_is_a_passing_failure_and_the_next_try_makes_it_again()
 {
    let world = World::new().await;
    let bases = base_builder(world.options()).await;
    let (built, text) = world
        .build(&bases, async || {
            for id in world.slim_images().await {
                docker(&["rmi", "-f", &id]).await;
            }
        })
        .await;
    let error = built.unwrap_err();
    assert!(matches!(error, Error::Vanished(_)) && error.is_transient(), "{error:?}\n{text}");
    let (built, text) = make(&bases, "waits").await;
    assert!(built.is_ok(), "{built:?}\n{text}");
    world.clean_up().await;
}

#[tokio::test]
async fn a_pull_that_stands_still_ends_with_a_cancel_and_with_the_time_of_the_build() {
    // It takes connections and says nothing.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (came, mut asked) = watch::channel(0_usize);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
            came.send_replace(held.len());
        }
    });
    let folder = folder(&[("slim", "ARG PYTHON_IMAGE\nFROM ${PYTHON_IMAGE}\n", "")]);
    let mut options = with(folder.path());
    options.base.python_image = format!("127.0.0.1:{port}/python:{{python}}-slim");
    options.base.pull = true;
    let bases = base_builder(options.clone()).await;
    let (log_of_it, _) = log();
    let (cancel, cell) = (CancellationToken::new(), Cell::new("3.11", "slim").unwrap());
    // One that waits for the other's pull is cancelled as well.
    let two = async {
        let build = || bases.build(&cell, BuildId::new(), &log_of_it, &cancel);
        tokio::join!(build(), build())
    };
    let when_it_pulls = async {
        tokio::time::timeout(LONG, asked.wait_for(|count| *count > 0)).await.unwrap().unwrap();
        cancel.cancel();
        Instant::now()
    };
    let ((one, other), cancelled) = tokio::join!(two, when_it_pulls);
    for built in [one, other] {
        assert!(matches!(built, Err(Error::Cancelled)), "{built:?}");
    }
    assert!(cancelled.elapsed() < Duration::from_secs(20), "{:?}", cancelled.elapsed());

    options.base.limit_seconds = 3;
    let (built, text) = make(&base_builder(options).await, "slim").await;
    let error = built.unwrap_err();
    assert!(error.is_transient(), "{error:?}\n{text}");
    bases.finish().await;
}
