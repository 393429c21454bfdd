//! The way out of a build: what it is refused, as its user sees it, and the operators' proxy.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, Redirect};
use axum::routing::get;
use mecapy_builder::{Error, Options};
use mecapy_proto::ErrorCode;
use mecapy_service::Secret;

use crate::bases::{ON_SLIM, base_builder, folder, make, small_slim, with};
use crate::fixture::{build, builder, request};
use crate::hostile_packages::{File, index, of, routes, serve, wheel};

const HELLO: &str = "print('hello')\n";

/// `127.0.0.1:port` of an index.
fn authority(url: &str) -> String {
    url.split('/').nth(2).unwrap().to_owned()
}

#[tokio::test]
async fn an_index_that_leads_to_a_host_which_is_not_allowed_fails_the_build_for_good_and_names_both()
 {
    let there = File::new("movedpkg-1.0-py3-none-any.whl", wheel("movedpkg", &[("m.py", "")]));
    let file = format!("{}#sha256={}", there.name(), there.said().hex());
    let (elsewhere, _) = index(vec![there]).await;
    let host = authority(elsewhere.expose());
    // Its list of files is elsewhere; and it has the list, but the files are elsewhere.
    let list = format!("http://{host}/simple");
    let redirect =
        async move |Path(package): Path<String>| Redirect::temporary(&format!("{list}/{package}/"));
    let link = format!("<a href=\"http://{host}/files/{file}\">movedpkg-1.0-py3-none-any.whl</a>");
    let linked = async move || Html(link);
    let indices = [
        serve(Router::new().route("/simple/{package}/", get(redirect))).await,
        serve(Router::new().route("/simple/{package}/", get(linked))).await,
    ];
    for index in indices {
        let (built, text) =
            build(&builder(of(index.clone())).await, &request(HELLO, "movedpkg")).await;
        let error = built.unwrap_err();
        assert!(!error.is_transient(), "{error:?}\n{text}");
        let Error::Rejected(rejection) = error else { panic!("{error:?}\n{text}") };
        assert_eq!(rejection.code, ErrorCode::HostNotAllowed, "{}\n{text}", rejection.message);
        for words in [host.as_str(), "builder.allowed_hosts"] {
            assert!(rejection.message.contains(words), "{}", rejection.message);
            assert!(text.contains(words), "{text}");
        }

        // As the message says.
        let allowed = Options { allowed_hosts: vec![host.clone()], ..of(index) };
        let (built, text) = build(&builder(allowed).await, &request(HELLO, "movedpkg")).await;
        assert!(built.is_ok(), "{built:?}\n{text}");
    }
}

#[tokio::test]
async fn a_build_that_opens_too_many_connections_is_refused_those_and_told_so() {
    let step = "import socket\nheld = [socket.create_connection(('127.0.0.1', 3128), 60) for _ in range(129)]\n\
                raise SystemExit(held[-1].recv(100).decode())\n";
    let dockerfile = format!("{ON_SLIM}COPY many.py /tmp/\nRUN [\"python\", \"/tmp/many.py\"]\n");
    let folder = folder(&[("slim", &small_slim("connections"), ""), ("many", &dockerfile, "")]);
    std::fs::write(folder.path().join("python-many/many.py"), step).unwrap();
    let bases = base_builder(with(folder.path())).await;
    let (built, text) = make(&bases, "many").await;
    let rejection = built.unwrap_err().rejection();
    assert_eq!(rejection.code, ErrorCode::BuildFailed, "{text}");
    assert!(rejection.message.contains("128 connections"), "{}\n{text}", rejection.message);
    assert!(text.contains("HTTP/1.1 503"), "{text}");
    // The next one is another's, and has all of them.
    let (built, text) = make(&bases, "slim").await;
    assert!(built.is_ok(), "{built:?}\n{text}");
}

#[tokio::test]
async fn builds_get_out_by_the_operators_proxy_and_never_see_its_password() {
    let (routes, _) = routes(vec![File::new(
        "viaproxy-1.0-py3-none-any.whl",
        wheel("viaproxy", &[("v.py", "")]),
    )]);
    // A proxy that is the index, too, which has no address of its own.
    let logins = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&logins);
    let login = from_fn(move |request: Request, next: Next| {
        let header = request.headers().get("proxy-authorization").cloned();
        seen.lock().unwrap().push((header, request.uri().to_string()));
        next.run(request)
    });
    let proxy = authority(serve(routes.layer(login)).await.expose());
    let options = Options {
        index_url: Some(Secret::new("http://index.invalid:3141/simple")),
        http_proxy: Some(Secret::new(format!("http://me:hunter2@{proxy}"))),
        https_proxy: None,
        no_proxy: None,
        ..of(Secret::new(""))
    };
    let (built, text) = build(&builder(options).await, &request(HELLO, "viaproxy")).await;
    assert!(built.is_ok(), "{built:?}\n{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let logins = logins.lock().unwrap();
    assert!(!logins.is_empty());
    for (login, url) in logins.iter() {
        assert_eq!(login.as_ref().unwrap(), "Basic bWU6aHVudGVyMg==");
        assert!(url.starts_with("http://index.invalid:3141/"), "{url}");
    }
}
