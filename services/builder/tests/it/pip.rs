//! Builds on a base image that has no uv: pip does the same.

use std::sync::Arc;

use mecapy_builder::{Builder, Options};
use mecapy_engine::{BuildRequest, LogSink};
use mecapy_proto::ErrorCode;
use mecapy_registry::{ImageRef, Registry};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::fixture::{LONG, build, builder, credentials, engine, options, primary, request, run};
use crate::hostile_packages::{File, index, of, wheel};

const VARIANT: &str = "withoutuv";

/// The primary registry, with such a base in it.
async fn registry() -> Registry {
    static PUSHED: OnceCell<()> = OnceCell::const_new();
    let registry = primary().await;
    PUSHED
        .get_or_init(|| async {
            let engine = engine().await;
            let tag = format!("3.11-{VARIANT}");
            let image = ImageRef::new(registry.host(), "mecapy/base/python").with_tag(tag);
            let request = BuildRequest {
                dockerfile: "FROM mecapy/base/python:3.11-slim\nUSER root\nRUN rm -rf /opt/uv\nUSER mecapy\n".to_owned(),
                tag: image.to_string(),
                no_cache: true,
                ..BuildRequest::default()
            };
            engine.build(request, &LogSink::discard(), &CancellationToken::new()).await.unwrap();
            engine.push(&image, credentials(&registry).as_ref(), LONG).await.unwrap();
            engine.remove_image(&image.to_string()).await.unwrap();
        })
        .await;
    registry
}

async fn builder_on_it(options: Options) -> Arc<Builder> {
    builder(Options { variants: vec![VARIANT.to_owned()], ..options }).await
}

fn request_on_it(code: &str, requirements: &str) -> mecapy_builder::Request {
    mecapy_builder::Request { variant: VARIANT.to_owned(), ..request(code, requirements) }
}

#[tokio::test]
async fn without_uv_packages_are_locked_and_installed_by_pip() {
    let (registry, builder) = (registry().await, builder_on_it(options()).await);
    let code = "import shutil, requests, urllib3; print(shutil.which('uv'), requests.__version__, urllib3.__version__)\n";
    let requirements = "Requests == 2.31.0\nurllib3 < 2.1\n";
    let (built, text) = build(&builder, &request_on_it(code, requirements)).await;
    let built = built.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let lock = built.lock.as_deref().unwrap();
    assert!(lock.contains("requests==2.31.0 \\\n    --hash=sha256:"), "{lock}");
    assert!(lock.contains("urllib3==2.0."), "{lock}");
    let printed = run(&registry, &built.image, &[]).await;
    assert!(printed.starts_with("None 2.31.0 2.0."), "{printed}");
}

#[tokio::test]
async fn without_uv_what_the_index_does_not_have_is_told_by_name_too() {
    registry().await;
    let builder = builder_on_it(options()).await;
    let cases = [
        (
            "mecapy-no-such-package-2f8c\n",
            ErrorCode::RequirementNotFound,
            "mecapy-no-such-package-2f8c",
        ),
        ("six==999.0\n", ErrorCode::RequirementNotFound, "six==999.0"),
        (
            "requests==2.31.0\nurllib3==1.20\n",
            ErrorCode::DependencyConflict,
            "requests 2.31.0 depends on urllib3",
        ),
    ];
    for (requirements, code, words) in cases {
        let (built, text) = build(&builder, &request_on_it("print()\n", requirements)).await;
        let rejection = built.unwrap_err().rejection();
        assert_eq!(rejection.code, code, "{requirements}: {}\n{text}", rejection.message);
        assert!(rejection.message.contains(words), "{}", rejection.message);
    }
}

#[tokio::test]
async fn without_uv_no_code_of_a_package_runs_either() {
    let run_me = "import sys; sys.stderr.write('CODE OF THE PACKAGE RAN\\n'); open('/opt/venv/hostile-ran', 'w')\n";
    let files = [("hostile.py", run_me), ("hostile.pth", run_me), ("sitecustomize.py", run_me)];
    let name = "hostile-1.0-py3-none-any.whl";
    let (url, _) = index(vec![File::new(name, wheel("hostile", &files))]).await;
    let (registry, builder) = (registry().await, builder_on_it(of(url)).await);
    let (built, text) = build(&builder, &request_on_it("print()\n", "hostile==1.0\n")).await;
    let built = built.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    assert!(!text.contains("RAN"), "{text}");
    let listed = run(&registry, &built.image, &["find", "/opt/venv", "-name", "*hostile*"]).await;
    assert!(listed.contains("hostile.pth") && !listed.contains("hostile-ran"), "{listed}");
}
