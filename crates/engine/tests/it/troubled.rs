//! An engine in trouble: the real one, behind a socket that answers some calls itself.

use mecapy_engine::{End, Engine, Error, Options};
use mecapy_testkit::{EngineFront, unique};
use tokio_util::sync::CancellationToken;

use crate::build::steps;
use crate::fixture::{
    Lines, container_exists, container_with_command, engine, function, run_of, run_whole,
};

async fn through(front: &EngineFront) -> Engine {
    let host = Some(front.host());
    Engine::connect(&Options { host, ..Options::default() }).await.unwrap()
}

#[tokio::test]
async fn an_engine_that_cannot_start_a_container_now_may_later() {
    let image = function(&engine().await, "open('/output.json', 'w').write('1')").await;
    let front = EngineFront::refusing("/start", 500, 1);
    let request = run_of(&image);
    let name = request.name.clone();
    let error =
        through(&front).await.run(request, &CancellationToken::new()).await.map(drop).unwrap_err();
    assert_eq!(front.left(), 0);
    assert!(error.is_transient(), "{error:?}");
    assert!(!container_exists(&name), "{name} is still there");
}

#[tokio::test]
async fn an_image_that_cannot_be_started_is_told_as_such() {
    let image = function(&engine().await, "").await;
    let front = EngineFront::refusing("/start", 400, 1);
    let request = run_of(&image);
    let name = request.name.clone();
    let error =
        through(&front).await.run(request, &CancellationToken::new()).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Start { .. }) && !error.is_transient(), "{error:?}");
    assert!(!container_exists(&name), "{name} is still there");
}

#[tokio::test]
async fn a_run_through_the_front_is_a_run() {
    let image = function(&engine().await, "open('/output.json', 'w').write('1')").await;
    let front = EngineFront::refusing("/nothing", 500, 1);
    let engine = through(&front).await;
    let outcome = run_whole(&engine, run_of(&image), &CancellationToken::new()).await.unwrap();
    assert_eq!((outcome.end, outcome.output.unwrap().as_ref()), (End::Exited(0), &b"1"[..]));
}

#[tokio::test]
async fn a_build_whose_last_line_end_comes_by_itself_is_a_build() {
    let (request, image) = steps("RUN echo said");
    let front = EngineFront::with_last_line_end_apart("/build");
    let lines = Lines::default();
    let built =
        through(&front).await.build(request, &lines.sink(), &CancellationToken::new()).await;
    let there = engine().await.image(&image.0).await.unwrap().unwrap();
    assert_eq!(built.unwrap().id, there.id);
    assert!(lines.contain("said"), "{:?}", lines.all());
}

#[tokio::test]
async fn a_build_whose_processes_are_not_limited_is_ended_and_says_so() {
    // As an engine says it whose control groups know no such limit; and one that lets no container be changed.
    for front in [
        EngineFront::saying("\"PidsLimit\":0", "\"PidsLimit\":123", "/json"),
        EngineFront::refusing("/update", 500, usize::MAX),
    ] {
        let word = unique("sleeper");
        let (mut request, _image) = steps(&format!("RUN sleep 600; echo {word}"));
        request.max_processes = 123;
        let (engine, log) = (through(&front).await, Lines::default().sink());
        let ended = engine.build(request, &log, &CancellationToken::new()).await;
        assert!(!container_with_command(&word), "the step's container is still there");
        let Err(error) = ended else { panic!("it was built") };
        // Another engine may do it.
        assert!(matches!(error, Error::NoProcessLimit) && error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("does not limit the processes of a build"), "{error}");
    }
}
