//! Builds: their logs, how they fail, and that ending one really ends it.

use std::time::Duration;

use bytes::Bytes;
use mecapy_engine::{BuildRequest, BuiltImage, CA_BUNDLE, ContextFile, Error};
use mecapy_testkit::{eventually, unique};
use tokio_util::sync::CancellationToken;

use crate::fixture::{BASE, LONG, Lines, LocalImage, container_with_command, docker, engine};

/// A build of these steps on the base image, as root. Nothing of it is in the cache: whoever looks there finds what
/// another test takes away.
pub fn steps(steps: &str) -> (BuildRequest, LocalImage) {
    let tag = format!("mecapy-engine-test/{}:v1", unique("build"));
    let request = BuildRequest {
        dockerfile: format!("FROM {BASE}\nUSER root\n{steps}\n"),
        tag: tag.clone(),
        no_cache: true,
        ..BuildRequest::default()
    };
    (request, LocalImage(tag))
}

async fn build(request: BuildRequest, lines: &Lines) -> Result<BuiltImage, Error> {
    engine().await.build(request, &lines.sink(), &CancellationToken::new()).await
}

#[tokio::test]
async fn a_build_gives_an_image_and_its_log_line_by_line() {
    let (mut request, image) =
        steps("COPY a.txt /a.txt\nARG WORD\nRUN cat /a.txt && echo $WORD >&2");
    request.files = vec![ContextFile::new("a.txt", "from the context\n")];
    request.build_args.insert("WORD".into(), "from-an-argument".into());
    request.labels.insert("org.mecapy.function.id".into(), "456".into());
    let lines = Lines::default();
    let built = build(request, &lines).await.unwrap();

    let found = engine().await.image(&image.0).await.unwrap().unwrap();
    assert_eq!((&found.id, found.size), (&built.id, built.size));
    assert!(built.id.starts_with("sha256:") && built.size > 10_000_000);
    assert_eq!(found.labels["org.mecapy.function.id"], "456");
    assert_eq!(found.labels["org.mecapy.runner"], "1");
    let all = lines.all();
    for line in ["from the context", "from-an-argument"] {
        assert!(all.iter().any(|l| l == line), "{line:?} is no line of {all:?}");
    }
    assert!(lines.contain("Step 1/"));
}

#[tokio::test]
async fn a_failing_step_gives_its_exit_code_and_the_logs_last_lines() {
    let (request, _image) = steps("RUN echo about to fail && exit 3");
    let Err(error) = build(request, &Lines::default()).await else { panic!("it was built") };
    assert!(!error.is_transient());
    let Error::Failed { exit_code, tail, .. } = error else { panic!("{error:?}") };
    assert_eq!(exit_code, Some(3));
    assert!(tail.iter().any(|line| line == "about to fail"), "{tail:?}");
}

#[tokio::test]
async fn a_bad_dockerfile_fails_without_an_exit_code() {
    let (request, _image) = steps("FRUN true");
    let Err(error) = build(request, &Lines::default()).await else { panic!("it was built") };
    assert!(!error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("FRUN"), "{error}");
}

#[tokio::test]
async fn a_base_image_on_a_registry_that_refuses_is_transient() {
    let (mut request, _image) = steps("");
    request.dockerfile = "FROM 127.0.0.1:1/mecapy/base/python:3.11-slim\n".into();
    let Err(error) = build(request, &Lines::default()).await else { panic!("it was built") };
    assert!(matches!(error, Error::RegistryUnavailable { .. }), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn the_limit_ends_the_build_and_its_container_is_gone() {
    // The limit is for the whole build, and how soon its step runs is up to the machine.
    for limit in [8, 30, 100].map(Duration::from_secs) {
        let word = unique("sleeper");
        let (mut request, _image) =
            steps(&format!("RUN trap '' TERM INT HUP; sleep 600; echo {word}"));
        request.limit = limit;
        let running = tokio::spawn(async move { build(request, &Lines::default()).await });
        let ran = eventually("the step runs, or the build has ended", 2 * LONG, async || {
            if container_with_command(&word) {
                return Some(true);
            }
            running.is_finished().then_some(false)
        })
        .await;

        let Err(error) = running.await.unwrap() else { panic!("it was built") };
        let Error::TimedOut { limit: told, tail } = error else { panic!("{error:?}") };
        assert_eq!(told, limit);
        if ran {
            assert!(!container_with_command(&word), "the step's container is still there");
            assert!(tail.iter().any(|line| line.contains("Running in")), "{tail:?}");
            return;
        }
    }
    panic!("the step never ran");
}

#[tokio::test]
async fn a_cancel_ends_the_build_and_its_container_is_gone() {
    let word = unique("sleeper");
    let (request, _image) = steps(&format!("RUN sleep 600; echo {word}"));
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move { engine().await.build(request, &Lines::default().sink(), &cancel).await }
    });
    eventually("the step runs", LONG, async || container_with_command(&word).then_some(())).await;
    cancel.cancel();
    let ended = running.await.unwrap();
    assert!(!container_with_command(&word), "the step's container is still there");
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
}

#[tokio::test]
async fn dropping_the_future_ends_the_build() {
    let word = unique("sleeper");
    let (request, _image) = steps(&format!("RUN sleep 600; echo {word}"));
    let running = tokio::spawn(async move { build(request, &Lines::default()).await });
    eventually("the step runs", LONG, async || container_with_command(&word).then_some(())).await;
    running.abort();
    eventually("the container is gone", LONG, async || {
        (!container_with_command(&word)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_step_that_needs_more_memory_is_out_of_memory() {
    let (mut request, _image) = steps("RUN python -c 'bytearray(1 << 30)'");
    request.memory_bytes = 96 << 20;
    let Err(error) = build(request, &Lines::default()).await else { panic!("it was built") };
    assert!(matches!(error, Error::OutOfMemory { memory_bytes: 100_663_296, .. }), "{error:?}");
}

#[tokio::test]
async fn a_step_that_exits_with_137_by_itself_is_not_out_of_memory() {
    let (request, _image) = steps("RUN exit 137");
    let Err(error) = build(request, &Lines::default()).await else { panic!("it was built") };
    assert!(matches!(error, Error::Failed { exit_code: Some(137), .. }), "{error:?}");
}

#[tokio::test]
async fn memory_and_network_limits_hold_inside_a_step() {
    let memory = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max \
                  2>/dev/null || true";
    let (mut request, _image) = steps(&format!("RUN {memory}; ls /sys/class/net | sed s/^/net-/"));
    request.network = Some("none".into());
    let lines = Lines::default();
    build(request, &lines).await.unwrap();
    let all = lines.all();
    assert!(all.iter().any(|line| line == "2147483648"), "{all:?}");
    assert!(all.iter().any(|line| line == "net-lo"), "{all:?}");
    assert!(!lines.contain("net-eth0"), "{all:?}");
}

/// Makes processes as long as it may, 300 at most, once the limit is there, and says how many.
const FORKS: &str = r#"
import os, time
def limit():
    for path in ("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max"):
        if os.path.exists(path):
            return open(path).read().strip()
while limit() == "max":
    time.sleep(0.01)
made = 0
try:
    for _ in range(300):
        if os.fork() == 0:
            time.sleep(600)
        made += 1
except OSError as error:
    print("made", made, error)
"#;

#[tokio::test]
async fn a_step_makes_no_more_processes_than_it_may() {
    let (mut request, _image) = steps("COPY forks.py /\nRUN echo first\nRUN python /forks.py");
    request.files = vec![ContextFile::new("forks.py", FORKS)];
    request.max_processes = 100;
    let lines = Lines::default();
    build(request, &lines).await.unwrap();
    let all = lines.all();
    let made = all.iter().find_map(|line| line.strip_prefix("made ")).expect("no fork was refused");
    let (made, why) = made.split_once(' ').unwrap();
    assert!((1..=100).contains(&made.parse::<u32>().unwrap()), "{all:?}");
    assert!(why.contains("Resource temporarily unavailable"), "{all:?}");
}

#[tokio::test]
async fn the_layer_cache_works_across_builds() {
    // On an image of its own: the engine looks at all that stands on the same one, and what other tests take away
    // meanwhile is an error.
    let (below, below_image) = steps("");
    build(below, &Lines::default()).await.unwrap();
    let (mut request, _image) = steps("");
    request.dockerfile = format!("FROM {}\nRUN echo once\n", below_image.0);
    request.no_cache = false;
    build(request.clone(), &Lines::default()).await.unwrap();
    let lines = Lines::default();
    build(request, &lines).await.unwrap();
    assert!(lines.contain("Using cache"), "{:?}", lines.all());
    assert!(!lines.contain("Running in"), "{:?}", lines.all());
}

#[tokio::test]
async fn the_ca_bundle_is_always_in_the_context() {
    for (bundle, content) in [(None, "none"), (Some(Bytes::from("PEM")), "PEM")] {
        let (mut request, _image) = steps(&format!(
            "COPY {CA_BUNDLE} /tmp/ca\nRUN if [ -s /tmp/ca ]; then cat /tmp/ca; else echo none; fi"
        ));
        request.ca_bundle = bundle;
        let lines = Lines::default();
        build(request, &lines).await.unwrap();
        assert!(lines.all().iter().any(|line| line == content), "{:?}", lines.all());
    }
}

#[tokio::test]
async fn a_failed_build_leaves_no_container() {
    let word = unique("failed");
    let (request, _image) = steps(&format!("RUN echo {word}; false"));
    assert!(build(request, &Lines::default()).await.is_err());
    assert!(!container_with_command(&word), "{}", docker(&["ps", "--all", "--no-trunc"]));
}
