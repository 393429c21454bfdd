//! Real builds: the Docker engine, a registry, and the package index.

use axum::Router;
use axum::routing::get;
use mecapy_builder::{Error, Options, Rejection};
use mecapy_proto::ErrorCode;
use mecapy_registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::fixture::{build, builder, config, digest, log, options, primary, request, run};
use crate::hostile_packages::{of, serve};

const HELLO: &str = "print('hello')\n";

fn rejection(error: Error) -> Rejection {
    match error {
        Error::Rejected(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_function_without_requirements_is_the_base_and_its_code() {
    let (registry, builder) = (primary().await, builder(options()).await);
    let (built, text) = build(&builder, &request(HELLO, "# none\n")).await;
    let built = built.unwrap();
    assert_eq!(built.lock, None);
    assert_eq!(built.dependency_image.repository, "mecapy/base/python");
    assert!(
        built.dockerfile.contains(&format!("FROM {}", built.dependency_image)),
        "{}",
        built.dockerfile
    );
    assert!(
        text.contains("building version 1 of function 7") && text.contains(&built.tag),
        "{text}"
    );

    let config = config(&registry, &built.image).await;
    let labels = &config["config"]["Labels"];
    assert_eq!(
        (&labels["org.mecapy.function.id"], &labels["org.mecapy.runner"]),
        (&"7".into(), &"1".into())
    );
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["python", "user_function.py"]));
    assert_eq!(run(&registry, &built.image, &[]).await, "hello");
    let listed =
        run(&registry, &built.image, &["stat", "-c", "%a %u:%g %Y", "/app/user_function.py"]).await;
    assert_eq!(listed, "444 0:0 0");
}

#[tokio::test]
async fn the_same_request_ends_in_the_same_image_on_any_builder() {
    let request = request(HELLO, "");
    let one = build(&builder(options()).await, &request).await.0.unwrap();
    let two = build(&builder(options()).await, &request).await.0.unwrap();
    assert_eq!(
        (digest(&one.image), &one.tag, one.size_bytes),
        (digest(&two.image), &two.tag, two.size_bytes)
    );
}

#[tokio::test]
async fn packages_are_locked_installed_and_shared_by_functions_with_the_same_lock() {
    let (registry, first) = (primary().await, builder(options()).await);
    let code = "import six, sys; print(six.__version__, sys.flags.no_user_site)\n";
    let (built, text) = build(&first, &request(code, "Six == 1.17.0  # a comment\n")).await;
    let built = built.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let lock = built.lock.as_deref().unwrap();
    assert!(lock.starts_with("six==1.17.0 \\\n    --hash=sha256:"), "{lock}");
    assert!(text.contains("installing 1 packages") && !text.contains("--hash"), "{text}");
    assert!(run(&registry, &built.image, &[]).await.starts_with("1.17.0"));
    nothing_of_the_build_is_in(&registry, &built).await;

    // An edit of the code: nothing is resolved, nothing is installed.
    let (edited, text) =
        build(&first, &request("import six; print('edited')\n", "six==1.17.0")).await;
    let edited = edited.unwrap();
    assert_eq!(digest(&edited.dependency_image), digest(&built.dependency_image));
    assert_ne!(digest(&edited.image), digest(&built.image));
    assert!(text.contains("the 1 packages are there already"), "{text}");
    assert!(!text.contains("resolving") && !text.contains("installing"), "{text}");

    // Another builder has no resolution, but finds the image.
    let (again, text) = build(&builder(options()).await, &request(code, "six==1.17.0")).await;
    assert_eq!(digest(&again.unwrap().dependency_image), digest(&built.dependency_image));
    assert!(text.contains("resolving") && !text.contains("installing"), "{text}");
}

/// No script, certificate, index or lock: in no layer's history, and in no file.
async fn nothing_of_the_build_is_in(registry: &Registry, built: &mecapy_builder::Built) {
    let config = config(registry, &built.image).await.to_string();
    for word in ["mecapy-build", "ca-bundle", "uv.toml", "SSL_CERT", "_PROXY"] {
        assert!(!config.to_lowercase().contains(&word.to_lowercase()), "{word} in {config}");
    }
    let code = "import os; print([p for p in ('/mecapy-build', '/root/.cache/uv', '/opt/venv/.lock') if os.path.exists(p)])";
    assert_eq!(run(registry, &built.image, &["python", "-c", code]).await, "[]");
    // Compiled ahead, and valid where it lies now.
    let code = "import importlib._bootstrap_external as b, importlib.util as u, os; s = u.find_spec('six'); \
                d = open(s.cached, 'rb').read(16); t = os.stat(s.origin); \
                print(b._unpack_uint32(d[8:12]) == int(t.st_mtime) & 0xffffffff)";
    assert_eq!(run(registry, &built.image, &["python", "-c", code]).await, "True");
}

#[tokio::test]
async fn many_functions_that_need_the_same_packages_at_once_install_them_once() {
    let builder = builder(options()).await;
    let builds = (0..5).map(|i| {
        let builder = builder.clone();
        async move { build(&builder, &request(&format!("print({i})\n"), "toolz==1.0.0")).await }
    });
    let built = futures::future::join_all(builds).await;
    let logs: String = built.iter().map(|(_, text)| text.as_str()).collect();
    let images: Vec<_> =
        built.into_iter().map(|(built, _)| digest(&built.unwrap().dependency_image)).collect();
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "{images:?}");
    assert_eq!(logs.matches("resolving").count(), 1, "{logs}");
    assert!(logs.matches("installing").count() <= 1, "{logs}");
}

#[tokio::test]
async fn what_the_index_does_not_have_is_told_by_name() {
    let builder = builder(options()).await;
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
            "requests==2.31.0 depends on urllib3",
        ),
        // Published as a source only: building it would run its setup.py.
        ("docopt==0.6.2\n", ErrorCode::NoMatchingWheel, "docopt==0.6.2"),
    ];
    for (requirements, code, words) in cases {
        let (built, text) = build(&builder, &request(HELLO, requirements)).await;
        let rejection = rejection(built.unwrap_err());
        assert_eq!(rejection.code, code, "{requirements}: {}\n{text}", rejection.message);
        assert!(rejection.message.contains(words), "{}", rejection.message);
        assert!(text.contains(&format!("failed: {code}")), "{text}");
    }
}

#[tokio::test]
async fn hashes_that_the_user_gives_are_enforced() {
    let builder = builder(options()).await;
    let wrong = format!("six==1.17.0 --hash=sha256:{}", "0".repeat(64));
    let (built, text) = build(&builder, &request(HELLO, &wrong)).await;
    let rejection = rejection(built.unwrap_err());
    assert_eq!(rejection.code, ErrorCode::InvalidRequirement, "{text}");
    assert!(rejection.message.contains("six==1.17.0"), "{}", rejection.message);
}

#[tokio::test]
async fn an_index_out_of_reach_is_a_passing_failure() {
    let cut_off = Options { network: Some("none".to_owned()), ..options() };
    let (built, text) = build(&builder(cut_off).await, &request(HELLO, "six==1.16.0")).await;
    let error = built.unwrap_err();
    assert!(matches!(error, Error::Index(_)) && error.is_transient(), "{error:?}\n{text}");
}

#[tokio::test]
async fn what_is_refused_at_the_door_never_reaches_the_engine() {
    let builder = builder(options()).await;
    let mut unsupported = request(HELLO, "");
    unsupported.python = "3.8".to_owned();
    let mut no_base = request(HELLO, "");
    no_base.python = "3.12".to_owned();
    let mut variant = request(HELLO, "");
    variant.variant = "slim\nRUN id".to_owned();
    let cases = [
        (request("def f(:\n", ""), ErrorCode::SyntaxError),
        (request("import os\n", ""), ErrorCode::ForbiddenImport),
        (request("eval('1')\n", ""), ErrorCode::ForbiddenCall),
        (request(&"#".repeat(1_048_577), ""), ErrorCode::CodeTooLarge),
        (request(HELLO, "--index-url https://evil.example"), ErrorCode::InvalidRequirement),
        (
            request(HELLO, &(0..51).map(|i| format!("p{i}\n")).collect::<String>()),
            ErrorCode::TooManyRequirements,
        ),
        (unsupported, ErrorCode::UnsupportedPython),
        (no_base, ErrorCode::UnsupportedPython),
        (variant, ErrorCode::UnsupportedVariant),
    ];
    for (request, code) in cases {
        let (built, text) = build(&builder, &request).await;
        assert_eq!(rejection(built.unwrap_err()).code, code, "{text}");
        assert!(!text.contains("resolving"), "{text}");
    }
}

#[tokio::test]
async fn a_cancelled_build_ends_without_an_image() {
    // By itself it would come to no end.
    let never = async || std::future::pending::<&'static str>().await;
    let index = serve(Router::new().route("/simple/{package}/", get(never))).await;
    let builder = builder(of(index)).await;
    let (log, lines) = log();
    let cancel = CancellationToken::new();
    let request = request(HELLO, "slowpkg==1.0");
    let building = builder.build(&request, &log, &cancel);
    let when_it_runs = async {
        mecapy_testkit::eventually("the build resolves", crate::fixture::LONG, async || {
            lines.lock().unwrap().iter().any(|line| line.contains("resolving")).then_some(())
        })
        .await;
        cancel.cancel();
    };
    let (built, ()) = tokio::join!(building, when_it_runs);
    assert!(matches!(built.unwrap_err(), Error::Cancelled));
    builder.finish().await;
}
