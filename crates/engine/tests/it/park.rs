//! Containers that wait: one turn, nothing without inputs, and gone with their owner.

use std::path::PathBuf;
use std::time::Duration;

use mecapy_engine::{End, Error, Parked, ReadOnlyFile, RunRequest, Turn};
use mecapy_registry::Digest;
use mecapy_testkit::{eventually, unique};
use tokio_util::sync::CancellationToken;

use crate::fixture::{BASE, LONG, container_exists, docker, engine};

/// A container of the base image that waits, and the file that stands for its code.
async fn park(imports: &[&str]) -> (Parked, PathBuf, String) {
    let code = std::env::temp_dir().join(unique("mecapy-engine-test"));
    std::fs::write(&code, "nothing yet").unwrap();
    let name = unique("mecapy-engine-test");
    let request = RunRequest {
        image: BASE.into(),
        name: name.clone(),
        file: Some(ReadOnlyFile {
            host: code.clone(),
            container: "/app/user_function.py".to_owned(),
        }),
        ..RunRequest::default()
    };
    let imports: Vec<String> = imports.iter().map(|name| (*name).to_owned()).collect();
    let parked = engine().await.park(request, &imports).await.unwrap();
    (parked, code, name)
}

fn turn(inputs: &'static str, code: &str) -> Turn {
    Turn {
        inputs: inputs.into(),
        timeout: Duration::from_secs(60),
        code_sha256: Digest::of(code.as_bytes()).hex(),
    }
}

async fn until_gone(name: &str) {
    eventually("the container is gone", LONG, async || (!container_exists(name)).then_some(()))
        .await;
}

#[tokio::test]
async fn what_waits_runs_the_code_that_is_laid_out_later_and_goes() {
    let (mut parked, file, name) = park(&[]).await;
    assert!(parked.is_waiting());
    assert!(parked.words().ends_with("nothing yet"), "{}", parked.words());
    let code = "import shutil, sys\nshutil.copyfile('/inputs.json', '/output.json')\nprint('said')\nprint('complained', file=sys.stderr)\n";
    std::fs::write(&file, code).unwrap();
    let outcome = parked.run(turn("[1]", code), &CancellationToken::new()).await.unwrap();
    assert_eq!((outcome.end, outcome.output.unwrap()), (End::Exited(0), "[1]".into()));
    assert_eq!(
        (outcome.stdout.text(), outcome.stderr.text()),
        ("said\n".into(), "complained\n".into())
    );
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn other_code_than_was_laid_out_counts_for_nothing() {
    let (parked, file, name) = park(&[]).await;
    std::fs::write(&file, "open('/output.json', 'w').write('1')").unwrap();
    let error = parked.run(turn("{}", "other"), &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::OtherCode { .. }), "{error:?}");
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn without_inputs_nothing_is_run() {
    let (parked, file, name) = park(&[]).await;
    let code = "open('/output.json', 'w').write('1')";
    std::fs::write(&file, code).unwrap();
    let error = parked.run(turn("", code), &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::ContainerLost { .. }), "{error:?}");
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn what_is_dropped_or_killed_is_gone_and_known_to_be() {
    let (dropped, file, name) = park(&[]).await;
    drop(dropped);
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();

    let (mut killed, file, name) = park(&[]).await;
    docker(&["kill", &name]);
    eventually("it is known to be dead", LONG, async || (!killed.is_waiting()).then_some(())).await;
    drop(killed);
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn an_import_that_can_be_noticed_is_not_done_ahead() {
    let code = "import sys\nopen('/output.json', 'w').write(str(['json' in sys.modules, 'this' in sys.modules]))\n";
    for (imports, seen) in [
        (&["json"][..], "[True, False]"),
        // It prints.
        (&["json", "this"], "[False, False]"),
        // One that isn't there is the function's to miss.
        (&["json", "no_such_module"], "[True, False]"),
    ] {
        let (parked, file, name) = park(imports).await;
        std::fs::write(&file, code).unwrap();
        let outcome = parked.run(turn("{}", code), &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome.output.unwrap(), seen, "{imports:?}");
        assert_eq!(outcome.stdout.text(), "");
        until_gone(&name).await;
        std::fs::remove_file(file).unwrap();
    }
}
