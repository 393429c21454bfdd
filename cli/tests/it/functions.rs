use std::path::Path;

use serde_json::json;

use crate::fake_gateway::{BUILD, Chunk, FakeGateway, Reply, function, nowhere, problem};
use crate::program::{Running, mecapy};

/// A folder as users have it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("main.py"), "print(1)\n").unwrap();
    std::fs::write(folder.path().join("requirements.txt"), "numpy\n").unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const READY: &str = r#"{"function_id":456,"status":"ready","docker_image":"r/f:v1@sha256:0","image_size":"245MB","build_time":"42s","vulnerabilities":{"critical":0,"high":2,"warnings":["numpy 1.24.0 has HIGH CVE-2023-1"]},"build_id":"018f4e3e-0000-7000-8000-00000000000b"}"#;

/// Answers a submission, and then these chunks as the build's events.
async fn gateway_with_events(chunks: Vec<Chunk>) -> FakeGateway {
    FakeGateway::start(move |request, _| match request.line.as_str() {
        "POST /functions" => Reply::Json(202, function("queued").to_string()),
        "GET /functions/456" => Reply::Json(200, function("building").to_string()),
        line if line == format!("GET /builds/{BUILD}/events") => Reply::Events(chunks.clone()),
        _ => problem(404, "not-found", "there is no such thing", None),
    })
    .await
}

#[tokio::test]
async fn a_submitted_function_is_followed_until_it_is_ready() {
    let gateway = gateway_with_events(vec![
        Chunk::Text("event: status\ndata: {\"status\":\"buil"),
        Chunk::Text("ding\"}\n\nevent: log\ndata: {\"text\":\"\\u001b[31mcollecting\\u001b[0m numpy\\u0007\\nand h11\"}\n\n: keep-alive\n\n"),
        Chunk::Text("event: status\r\ndata: {\"status\":\"scanning\"}\r\n\r\nevent: ended\ndata: "),
        Chunk::Text(READY),
        Chunk::Text("\n\n"),
    ])
    .await;
    let (folder, token) = (folder(), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(token.path(), "t0ken\n").unwrap();
    let arguments = [
        "functions",
        "submit",
        text(folder.path()),
        "--name",
        "stats",
        "--json",
        "--python",
        "3.12",
    ];
    let ended = mecapy(
        &[&arguments[..], &["--url", &gateway.url, "--token-file", text(token.path())]].concat(),
    )
    .await
    .expect(0);

    assert_eq!(ended.json(), serde_json::from_str::<serde_json::Value>(READY).unwrap());
    // In the order in which the server wrote it.
    assert!(ended.stdout.find("function_id") < ended.stdout.find("vulnerabilities"));
    for line in ["building\n", "  collecting numpy\n  and h11\n", "scanning\n"] {
        assert!(ended.stderr.contains(line), "{ended:#?}");
    }
    let submitted = &gateway.requests()[0];
    assert_eq!(submitted.header("authorization"), Some("Bearer t0ken"));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&submitted.body).unwrap(),
        json!({ "name": "stats", "code": "print(1)\n", "requirements": "numpy\n", "python_version": "3.12" })
    );
}

#[tokio::test]
async fn a_function_is_built_again_and_followed_until_it_is_ready() {
    let gateway = FakeGateway::start(|request, _| match request.line.as_str() {
        "POST /functions/456/rebuild" => Reply::Json(202, function("queued").to_string()),
        line if line == format!("GET /builds/{BUILD}/events") => Reply::Events(vec![
            Chunk::Text("event: ended\ndata: "),
            Chunk::Text(READY),
            Chunk::Text("\n\n"),
        ]),
        _ => problem(404, "not-found", "there is no such thing", None),
    })
    .await;
    let ended = mecapy(&["functions", "rebuild", "456", "--url", &gateway.url]).await.expect(0);
    assert!(ended.stdout.contains("status      ready\n"), "{ended:#?}");
    let arguments = ["functions", "rebuild", "456", "--no-wait", "--url", &gateway.url];
    let asked = mecapy(&arguments).await.expect(0);
    assert!(
        asked.stdout.contains("queued") && asked.stderr.contains("functions watch"),
        "{asked:#?}"
    );
}

#[tokio::test]
async fn a_person_sees_the_image_and_what_the_scan_found() {
    let gateway = gateway_with_events(vec![
        Chunk::Text("event: ended\ndata: "),
        Chunk::Text(READY),
        Chunk::Text("\n\n"),
    ])
    .await;
    let ended = mecapy(&["functions", "watch", "456", "--url", &gateway.url]).await.expect(0);
    for text in [
        "status      ready\n",
        "image       r/f:v1@sha256:0\n",
        "0 critical, 2 high\n",
        "! numpy 1.24.0 has HIGH",
    ] {
        assert!(ended.stdout.contains(text), "{ended:#?}");
    }
    assert!(ended.stderr.contains("mecapy tasks run 456"), "{ended:#?}");
}

#[tokio::test]
async fn a_build_that_the_scan_rejects_exits_3() {
    let gateway = gateway_with_events(vec![Chunk::Text(
        "event: ended\ndata: {\"function_id\":456,\"status\":\"rejected\",\"vulnerabilities\":{\"critical\":1,\"high\":0,\"warnings\":[]}}\n\n",
    )])
    .await;
    let folder = folder();
    let ended = mecapy(&["functions", "submit", text(folder.path()), "--url", &gateway.url])
        .await
        .expect(3);
    assert!(ended.stdout.contains("1 critical"), "{ended:#?}");
    mecapy(&["functions", "watch", BUILD, "--json", "--url", &gateway.url]).await.expect(3);
    // Who knows `logs -f` of other programs finds it here.
    let followed = mecapy(&["functions", "logs", "-f", BUILD, "--url", &gateway.url]).await;
    assert!(followed.expect(3).stdout.contains("1 critical"));
}

#[tokio::test]
async fn a_build_that_fails_exits_1_and_shows_the_end_of_its_log() {
    let gateway = gateway_with_events(vec![Chunk::Text(
        "event: ended\ndata: {\"function_id\":456,\"status\":\"failed\",\"error\":{\"code\":\"requirement-not-found\",\"message\":\"nunpy is not there\",\"log_tail\":[\"no such package\"]}}\n\n",
    )])
    .await;
    let ended = mecapy(&["functions", "watch", BUILD, "--url", &gateway.url]).await.expect(1);
    assert!(
        ended.stdout.contains("nunpy is not there (requirement-not-found)\n  | no such package\n"),
        "{ended:#?}"
    );
}

#[tokio::test]
async fn after_a_lost_connection_the_build_is_followed_over_a_new_one() {
    let gateway = FakeGateway::start(|_, before| match before {
        0 => Reply::Events(vec![
            Chunk::Text("event: status\ndata: {\"status\":\"building\"}\n\nevent: log\ndata: {\"text\":\"first\"}\n\nevent: lo"),
            Chunk::Break,
        ]),
        // The gateway restarts.
        1 => problem(503, "unavailable", "starting", None),
        _ => Reply::Events(vec![Chunk::Text(
            "event: status\ndata: {\"status\":\"building\"}\n\nevent: log\ndata: {\"text\":\"last\"}\n\n\
             event: ended\ndata: {\"function_id\":456,\"status\":\"ready\"}\n\n",
        )]),
    })
    .await;
    let ended = mecapy(&["functions", "watch", BUILD, "--url", &gateway.url]).await.expect(0);
    for line in ["building\n", "  first\n", "  last\n", "trying again"] {
        assert_eq!(ended.stderr.matches(line).count(), 1, "{ended:#?}");
    }
    assert_eq!(gateway.requests().len(), 3);
}

#[tokio::test]
async fn a_submission_whose_answer_is_lost_is_sent_again_under_the_same_key() {
    let gateway = FakeGateway::start(|request, before| match (request.line.as_str(), before) {
        ("POST /functions", 0) => Reply::Broken,
        ("POST /functions", _) => Reply::Json(202, function("queued").to_string()),
        _ => problem(404, "not-found", "there is no such thing", None),
    })
    .await;
    let folder = folder();
    mecapy(&["functions", "submit", text(folder.path()), "--no-wait", "--url", &gateway.url])
        .await
        .expect(0);
    let requests = gateway.requests();
    let keys: Vec<Option<&str>> =
        requests.iter().map(|request| request.header("idempotency-key")).collect();
    assert!(keys.len() == 2 && keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
}

#[tokio::test]
async fn without_waiting_it_says_how_to_watch() {
    let gateway = gateway_with_events(Vec::new()).await;
    let folder = folder();
    let ended =
        mecapy(&["functions", "submit", text(folder.path()), "--no-wait", "--url", &gateway.url])
            .await
            .expect(0);
    assert!(ended.stderr.contains(&format!("mecapy functions watch {BUILD}")), "{ended:#?}");
    assert_eq!(gateway.lines(), ["POST /functions"]);
}

#[tokio::test]
async fn an_interrupted_watch_exits_130_and_says_how_to_go_on() {
    let gateway = gateway_with_events(vec![
        Chunk::Text("event: status\ndata: {\"status\":\"building\"}\n\n"),
        Chunk::Hang,
    ])
    .await;
    let mut running = Running::start(&["functions", "watch", BUILD, "--url", &gateway.url]);
    running.says("building").await;
    running.interrupt().await;
    let ended = running.finish().await.expect(130);
    assert!(
        ended.stderr.contains(&format!("to watch it: mecapy functions watch {BUILD}")),
        "{ended:#?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_exits_5() {
    let ((url, _held), folder) = (nowhere(), folder());
    for arguments in [
        &["functions", "submit", text(folder.path())][..],
        &["functions", "watch", BUILD],
        &["functions", "list"],
    ] {
        let ended = mecapy(&[arguments, &["--url", &url]].concat()).await.expect(5);
        assert!(ended.stderr.contains("can't reach the gateway"), "{ended:#?}");
        assert_eq!(ended.stdout, "");
    }
    let ended = mecapy(&["functions", "list", "--json", "--url", &url]).await.expect(5);
    assert_eq!(ended.json()["error"]["code"], "unreachable");
}

#[tokio::test]
async fn a_refused_function_exits_1_and_names_the_field() {
    let gateway = FakeGateway::start(|_, _| {
        problem(422, "unsupported-python", "2.7 is not supported", Some("python_version"))
    })
    .await;
    let folder = folder();
    let arguments =
        ["functions", "submit", text(folder.path()), "--python", "2.7", "--url", &gateway.url];
    let ended = mecapy(&arguments).await.expect(1);
    assert_eq!(ended.stderr, "error: python_version: 2.7 is not supported (unsupported-python)\n");
    let ended = mecapy(&[&arguments[..], &["--json"]].concat()).await.expect(1);
    assert_eq!(ended.json()["error"]["field"], "python_version");
}

#[tokio::test]
async fn what_is_not_there_exits_4() {
    let gateway =
        FakeGateway::start(|_, _| problem(404, "unknown-function", "there is no function 9", None))
            .await;
    for arguments in [
        &["functions", "get", "9"][..],
        &["functions", "watch", "9"],
        &["functions", "delete", "9", "--yes"],
    ] {
        let ended = mecapy(&[arguments, &["--url", &gateway.url]].concat()).await.expect(4);
        assert!(ended.stderr.contains("there is no function 9"), "{ended:#?}");
    }
}

#[tokio::test]
async fn wrong_use_exits_2_before_anything_is_sent() {
    let gateway = gateway_with_events(Vec::new()).await;
    for arguments in [
        &["functions", "submit", "/does/not/exist.py"][..],
        &["functions", "get", "zero"],
        &["functions", "delete", "9"],
        &["functions", "list", "--token-file", "/does/not/exist"],
        &["nonsense"],
    ] {
        let ended = mecapy(&[arguments, &["--url", &gateway.url]].concat()).await.expect(2);
        assert_eq!(ended.stdout, "");
        assert_ne!(ended.stderr, "");
    }
    mecapy(&["functions", "list", "--url", "nonsense"]).await.expect(2);
    assert_eq!(gateway.lines(), [""; 0]);
}

#[tokio::test]
async fn the_list_goes_through_all_pages() {
    let gateway = FakeGateway::start(|request, _| {
        let (id, next) =
            if request.line.contains("page_token=next") { (2, "") } else { (1, "next") };
        let mut function = function("ready");
        function["function_id"] = id.into();
        Reply::Json(200, json!({ "functions": [function], "next_page_token": next }).to_string())
    })
    .await;
    let ended = mecapy(&["functions", "list", "--json", "--url", &gateway.url]).await.expect(0);
    let ids: Vec<i64> = ended
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["function_id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [1, 2]);
    let ended =
        mecapy(&["functions", "list", "--limit", "1", "--url", &gateway.url]).await.expect(0);
    assert!(ended.stdout.contains("1   stats  v1"), "{ended:#?}");
    assert_eq!(gateway.requests().len(), 3);
}

#[tokio::test]
async fn completions_are_made_without_any_server() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = mecapy(&["completions", shell]).await.expect(0);
        assert!(ended.stdout.contains("mecapy"), "{shell}");
    }
}
