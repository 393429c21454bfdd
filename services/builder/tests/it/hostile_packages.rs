//! Packages made to run their code while an image is built, or to break the build, from an index of our own.

use std::io::{Cursor, Write as _};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use mecapy_builder::{Error, Options};
use mecapy_proto::ErrorCode;
use mecapy_registry::Digest;
use mecapy_service::Secret;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::fixture::{build, builder, options, primary, request, run};

const HELLO: &str = "print('hello')\n";

/// A file of the index: its name, its content, and what the index says its hash is.
#[derive(Clone)]
pub struct File {
    name: &'static str,
    content: Vec<u8>,
    said: Digest,
}

impl File {
    pub fn new(name: &'static str, content: Vec<u8>) -> Self {
        let said = Digest::of(&content);
        Self { name, content, said }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn said(&self) -> Digest {
        self.said
    }
}

pub fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub fn wheel(name: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let info = format!("{name}-1.0.dist-info");
    let (metadata, about, record) =
        (format!("{info}/METADATA"), format!("{info}/WHEEL"), format!("{info}/RECORD"));
    let version = format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n");
    let mut all = files.to_vec();
    let lines: String = files.iter().map(|(path, _)| format!("{path},,\n")).collect();
    let lines = format!("{lines}{metadata},,\n{about},,\n{record},,\n");
    all.push((&metadata, &version));
    all.push((
        &about,
        "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    ));
    all.push((&record, &lines));
    archive(&all)
}

/// An index with these files, each of the package that its name begins with. The URL, and the names of the files
/// that were fetched.
pub async fn index(files: Vec<File>) -> (Secret, Arc<Mutex<Vec<String>>>) {
    let (router, fetched) = routes(files);
    (serve(router).await, fetched)
}

/// What such an index answers.
pub fn routes(files: Vec<File>) -> (Router, Arc<Mutex<Vec<String>>>) {
    let fetched = Arc::new(Mutex::new(Vec::new()));
    let (files, seen) = (Arc::new(files), Arc::clone(&fetched));
    let listed = Arc::clone(&files);
    let list = async move |Path(package): Path<String>| -> Response {
        let links: String = listed
            .iter()
            .filter(|file| file.name.starts_with(&format!("{package}-")))
            .map(|f| format!("<a href=\"/files/{0}#sha256={1}\">{0}</a>\n", f.name, f.said.hex()))
            .collect();
        if links.is_empty() {
            StatusCode::NOT_FOUND.into_response()
        } else {
            Html(links).into_response()
        }
    };
    let file = async move |Path(name): Path<String>| -> Response {
        seen.lock().unwrap().push(name.clone());
        match files.iter().find(|file| file.name == name) {
            Some(file) => file.content.clone().into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    };
    let router =
        Router::new().route("/simple/{package}/", get(list)).route("/files/{name}", get(file));
    (router, fetched)
}

/// The URL under which builds find this index.
pub async fn serve(router: Router) -> Secret {
    // Builds reach it through their builder, which is this process.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    Secret::new(format!("http://127.0.0.1:{port}/simple"))
}

pub fn of(index_url: Secret) -> Options {
    Options { index_url: Some(index_url), http_proxy: None, https_proxy: None, ..options() }
}

#[tokio::test]
async fn no_code_of_a_package_runs_while_an_image_is_built() {
    // Whatever starts Python with its site-packages runs the lines of .pth files, and sitecustomize.
    let run_me = "import sys; sys.stderr.write('CODE OF THE PACKAGE RAN\\n'); open('/opt/venv/hostile-ran', 'w')\n";
    let files = [
        ("hostile.py", run_me),
        ("hostile.pth", run_me),
        ("sitecustomize.py", run_me),
        ("usercustomize.py", run_me),
        ("compileall.py", run_me),
    ];
    let name = "hostile-1.0-py3-none-any.whl";
    let (url, fetched) = index(vec![File::new(name, wheel("hostile", &files))]).await;
    let (registry, builder) = (primary().await, builder(of(url)).await);
    let (built, text) = build(&builder, &request(HELLO, "hostile==1.0\n")).await;
    let built = built.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    assert!(fetched.lock().unwrap().iter().any(|file| file == name), "{text}");
    assert!(!text.contains("RAN"), "{text}");
    // It is there, and was compiled without being imported.
    let listed = run(&registry, &built.image, &["find", "/opt/venv", "-name", "*hostile*"]).await;
    assert!(listed.contains("hostile.pth") && listed.contains("hostile.cpython"), "{listed}");
    assert!(!listed.contains("hostile-ran"), "{listed}");
}

#[tokio::test]
async fn a_source_distribution_is_refused_by_name_and_its_setup_never_runs() {
    let setup = "raise SystemExit('SETUP RAN')\n";
    let source = archive(&[
        ("onlysource-1.0/setup.py", setup),
        ("onlysource-1.0/PKG-INFO", "Metadata-Version: 2.1\nName: onlysource\nVersion: 1.0\n"),
    ]);
    let (url, _) = index(vec![File::new("onlysource-1.0.zip", source)]).await;
    let builder = builder(of(url)).await;
    let (built, text) = build(&builder, &request(HELLO, "onlysource\n")).await;
    let Err(Error::Rejected(rejection)) = built else { panic!("{built:?}\n{text}") };
    assert_eq!(rejection.code, ErrorCode::NoMatchingWheel, "{text}");
    for words in ["onlysource", "builder.source_packages"] {
        assert!(rejection.message.contains(words), "{}", rejection.message);
    }
    assert!(!text.contains("RAN"), "{text}");
}

#[tokio::test]
async fn a_wheel_that_is_broken_or_another_than_the_index_says_fails_the_build_for_good() {
    let broken = File::new("broken-1.0-py3-none-any.whl", b"PK\x03\x04 no archive".to_vec());
    let mut swapped = File::new("swapped-1.0-py3-none-any.whl", wheel("swapped", &[("s.py", "")]));
    swapped.said = Digest::of(b"what it was when it was locked");
    let (url, _) = index(vec![broken, swapped]).await;
    let builder = builder(of(url)).await;
    for package in ["broken", "swapped"] {
        let (built, text) = build(&builder, &request(HELLO, package)).await;
        let error = built.unwrap_err();
        // To wait for the index to get well would be to wait for ever.
        assert!(!error.is_transient(), "{package}: {error:?}\n{text}");
        assert!(matches!(error, Error::Rejected(_)), "{package}: {error:?}\n{text}");
    }
}

#[tokio::test]
async fn the_credentials_of_the_index_are_in_no_message() {
    let (url, _) = index(Vec::new()).await;
    let with_password = url.expose().replace("http://", "http://me:hunter2@");
    let builder = builder(of(Secret::new(with_password))).await;
    let (built, text) = build(&builder, &request(HELLO, "absent\n")).await;
    let error = built.unwrap_err();
    assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
    assert!(!text.contains("hunter2"), "{text}");
}
