//! Base images: the real ones of the repository, and small ones that end in every way.

use std::path::{Path, PathBuf};

use mecapy_builder::{BaseBuilder, BaseOptions, BuiltBase, Cell, Error, Options};
use mecapy_proto::v1::{BaseBuild, BaseDone, BaseRequested, BuildDone, BuildFailed};
use mecapy_proto::{BuildId, ErrorCode};
use mecapy_registry::{Destination, ImageRef, ProgressSink, Registry, Source, copy_image};
use mecapy_store::{BuildState, bases, builds};
use mecapy_testkit::unique;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::events::Chain;
use crate::fixture::{
    LONG, build, builder, config, credentials, engine, log, options, primary, request, run,
};

/// What scripts/images makes of Docker Hub's image, or in its place.
const PYTHON_IMAGE: &str = "mecapy/python:{python}-slim";

pub fn with(folder: impl Into<PathBuf>) -> Options {
    let base = BaseOptions {
        folder: folder.into(),
        python_image: PYTHON_IMAGE.to_owned(),
        pull: false,
        ..BaseOptions::default()
    };
    Options { base, ..options() }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/base")
}

/// A folder with variants of a few lines.
pub fn folder(variants: &[(&str, &str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (variant, dockerfile, smoke_test) in variants {
        let inside = folder.path().join(format!("python-{variant}"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("Dockerfile"), dockerfile).unwrap();
        std::fs::write(inside.join("smoke.py"), smoke_test).unwrap();
    }
    folder
}

/// A slim base of a few lines. The engine keeps what was made, under names by content: it is the same in every run, and
/// each test's own, so that no builder of another test puts out what this one's stands on.
pub fn small_slim(mark: &str) -> String {
    format!("ARG PYTHON_IMAGE\nFROM ${{PYTHON_IMAGE}}\nRUN echo {mark} > /mark\n")
}

pub const ON_SLIM: &str = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n";

pub async fn base_builder(options: Options) -> BaseBuilder {
    let registry = primary().await;
    BaseBuilder::new(options, engine().await, &registry, registry.clone()).unwrap()
}

pub async fn make(builder: &BaseBuilder, variant: &str) -> (Result<BuiltBase, Error>, String) {
    let (log, _) = log();
    let cell = Cell::new("3.11", variant).unwrap();
    let built = builder.build(&cell, BuildId::new(), &log, &CancellationToken::new()).await;
    builder.finish().await;
    (built, log.text())
}

#[tokio::test]
async fn the_numpy_base_serves_functions_with_and_without_requirements() {
    let registry = primary().await;
    let bases = base_builder(with(repository())).await;
    let (built, text) = make(&bases, "numpy").await;
    let built = built.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let own = text.lines().find_map(|line| line.strip_prefix("numpy ")).expect("it was tried out");
    let about = config(&registry, &built.image).await;
    let labels = &about["config"]["Labels"];
    assert_eq!(
        (&labels["org.mecapy.runner"], &labels["org.mecapy.base"]),
        (&"1".into(), &"3.11-numpy".into())
    );
    assert_eq!(about["config"]["User"], "mecapy");
    for word in ["ca-bundle", "PROXY", "PIP_INDEX_URL=http"] {
        assert!(!about.to_string().contains(word), "{word} in {about}");
    }

    // Nothing changed: it is the same image again.
    let (again, _) = make(&bases, "numpy").await;
    assert_eq!(again.unwrap().digest, built.digest);

    publish(&registry, &built, "3.11-numpy").await;
    let functions = builder(options()).await;
    let code = "import numpy; print(numpy.__version__, numpy.arange(3).sum())\n";
    for (requirements, version) in [("", own), ("numpy==2.2.1", "2.2.1"), ("six==1.17.0", own)] {
        let mut asked = request(code, requirements);
        asked.variant = "numpy".to_owned();
        let (function, text) = build(&functions, &asked).await;
        let function = function.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        assert_eq!(function.base_digest, built.digest);
        let printed = run(&registry, &function.image, &[]).await;
        assert_eq!(printed, format!("{version} 3"), "{requirements}");
    }
}

#[tokio::test]
async fn another_python_that_the_machine_can_make_serves_functions_too() {
    let (engine, registry) = (engine().await, primary().await);
    let python = "3.13";
    let upstream = PYTHON_IMAGE.replace("{python}", python);
    let there = engine.image(&upstream).await.unwrap();
    assert!(there.is_some(), "the image {upstream} is not there: run scripts/images tests");
    let (bases, functions) = (base_builder(with(repository())).await, builder(options()).await);
    // What 3.13 has and 3.11 has not: a default for a type parameter.
    let code = "import six, sys\ndef first[T = int](of: list[T]) -> T: return of[0]\n\
                print(*sys.version_info[:2], six.__version__, first(['yes']))\n";
    for variant in ["slim", "numpy"] {
        let (log, _) = log();
        let cell = Cell::new(python, variant).unwrap();
        let built = bases.build(&cell, BuildId::new(), &log, &CancellationToken::new()).await;
        bases.finish().await;
        let built = built.unwrap_or_else(|error| panic!("{error:?}\n{}", log.text()));
        publish(&registry, &built, &format!("{python}-{variant}")).await;
        let numpy = if variant == "numpy" { "import numpy\n" } else { "" };
        let mut asked = request(&format!("{numpy}{code}"), "six==1.17.0");
        (asked.python, asked.variant) = (python.to_owned(), variant.to_owned());
        let (function, text) = build(&functions, &asked).await;
        let function = function.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        assert_eq!(run(&registry, &function.image, &[]).await, "3 13 1.17.0 yes");
        // The same code is none of 3.11.
        asked.python = "3.11".to_owned();
        let refused = build(&functions, &asked).await.0.unwrap_err().rejection();
        assert_eq!(refused.code, ErrorCode::SyntaxError, "{}", refused.message);
    }
}

/// As the publisher does.
async fn publish(registry: &Registry, built: &BuiltBase, tag: &str) {
    let from = Source {
        registry: registry.clone(),
        repository: built.image.repository.clone(),
        digest: built.digest,
    };
    let to = Destination {
        registry: registry.clone(),
        repository: "mecapy/base/python".to_owned(),
        tags: vec![tag.to_owned()],
    };
    copy_image(&from, &to, &ProgressSink::none()).await.unwrap();
}

#[tokio::test]
async fn what_breaks_while_a_base_is_built_is_told_by_a_code_and_the_log() {
    let folder = folder(&[
        ("slim", &small_slim("breaks"), "print('fine')\n"),
        ("broken", &format!("{ON_SLIM}RUN echo it broke here && exit 7\n"), ""),
        ("nonsense", &format!("{ON_SLIM}RUNN x\n"), ""),
        ("smoking", ON_SLIM, "raise SystemExit('no numbers')\n"),
        ("online", ON_SLIM, "import socket; socket.create_connection(('192.0.2.1', 80), 5)\n"),
    ]);
    let bases = base_builder(with(folder.path())).await;
    let cases = [
        ("broken", ErrorCode::BuildFailed, "status 7", "it broke here"),
        ("nonsense", ErrorCode::BuildFailed, "RUNN", ""),
        ("smoking", ErrorCode::BuildFailed, "status 1", "no numbers"),
        ("online", ErrorCode::BuildFailed, "status 1", "unreachable"),
        ("absent", ErrorCode::UnsupportedVariant, "builder.base.folder", ""),
    ];
    for (variant, code, message, line) in cases {
        let (built, text) = make(&bases, variant).await;
        let rejection = built.unwrap_err().rejection();
        assert_eq!(rejection.code, code, "{variant}: {}\n{text}", rejection.message);
        assert!(rejection.message.contains(message), "{variant}: {}", rejection.message);
        assert!(text.contains(line), "{variant}: {text}");
    }
    let (built, text) = make(&bases, "slim").await;
    assert!(built.is_ok() && text.contains("fine"), "{text}");
}

#[tokio::test]
async fn the_python_image_is_pulled_where_a_registry_has_it() {
    let (engine, registry) = (engine().await, primary().await);
    let repository = format!("upstream/{}", unique("python").replace('_', "-"));
    let reference = ImageRef::new(registry.host(), &repository).with_tag("3.11-slim");
    engine.tag("mecapy/python:3.11-slim", &reference).await.unwrap();
    engine.push(&reference, credentials(&registry).as_ref(), LONG).await.unwrap();
    engine.remove_image(&reference.to_string()).await.unwrap();

    let folder = folder(&[("slim", &small_slim("pulled"), "")]);
    let mut options = with(folder.path());
    options.base.python_image = format!("{}/{repository}:{{python}}-slim", registry.host());
    options.base.pull = true;
    let bases = base_builder(options).await;
    let (built, text) = make(&bases, "slim").await;
    assert!(built.is_ok() && text.contains(&format!("pulling {reference}")), "{text}");
    engine.remove_image(&reference.to_string()).await.unwrap();

    let (log, _) = log();
    let other = Cell::new("3.12", "slim").unwrap();
    let built = bases.build(&other, BuildId::new(), &log, &CancellationToken::new()).await;
    let rejection = built.unwrap_err().rejection();
    assert_eq!(rejection.code, ErrorCode::UnsupportedPython, "{}", rejection.message);
    assert!(rejection.message.contains(":3.12-slim"), "{}", rejection.message);
}

#[tokio::test]
async fn a_base_image_that_takes_too_long_is_ended() {
    let dockerfile = format!("{}RUN sleep 600\n", small_slim("slow"));
    let folder = folder(&[("slim", &dockerfile, "")]);
    let mut options = with(folder.path());
    options.base.limit_seconds = 5;
    let (built, _) = make(&base_builder(options).await, "slim").await;
    assert_eq!(built.unwrap_err().rejection().code, ErrorCode::BuildTimeout);
}

#[tokio::test]
async fn a_matrix_is_one_run_whose_cells_end_each_by_itself() {
    let folder = folder(&[
        ("slim", &small_slim("matrix"), ""),
        ("good", ON_SLIM, ""),
        ("bad", &format!("{ON_SLIM}RUN exit 1\n"), ""),
    ]);
    let chain = Chain::start_with(with(folder.path())).await;
    let run = unique("run");
    let requested = BaseRequested {
        run_id: run.clone(),
        python_versions: vec!["3.11".to_owned()],
        variants: ["slim", "good", "bad", "absent"].map(str::to_owned).to_vec(),
        reason: "push".to_owned(),
    };
    chain.publish(&requested).await;
    let cells =
        async || bases::cells(&mut chain.pool.acquire().await.unwrap(), &run).await.unwrap();
    mecapy_testkit::eventually("the run is made", crate::fixture::LONG, async || {
        (!cells().await.is_empty()).then_some(())
    })
    .await;
    let cells: Vec<_> = cells().await;
    let ids: Vec<String> = cells.iter().map(|cell| cell.id().to_string()).collect();
    let names: Vec<_> = cells.iter().map(|cell| cell.base.as_deref().unwrap()).collect();
    assert_eq!(names, ["3.11-absent", "3.11-bad", "3.11-good", "3.11-slim"]);

    let absent: BuildFailed = chain.event(&ids[0]).await;
    assert_eq!((absent.base.as_str(), absent.function_id), ("3.11-absent", 0));
    assert_eq!(absent.failure.unwrap().code, "unsupported-variant");
    let bad: BuildFailed = chain.event(&ids[1]).await;
    assert_eq!(bad.failure.as_ref().unwrap().code, "build-failed");
    assert!(!bad.failure.unwrap().log_tail.is_empty());
    assert!(chain.object(&bad.log_key).await.unwrap().contains("3.11-bad"));
    for (id, base) in [(&ids[2], "3.11-good"), (&ids[3], "3.11-slim")] {
        let done: BuildDone = chain.event(id).await;
        assert_eq!(done.base, base);
        assert!(done.tag.starts_with(&format!("{base}-2")), "{}", done.tag);
        assert!(done.image.contains("/mecapy/staging/base:") && done.size_bytes > 0, "{done:?}");
        assert_eq!(chain.state(id).await, Some(BuildState::Scanning));
    }
    assert!(chain.events::<BaseDone>(&run).await.is_empty(), "two cells are on their way");

    // The same request again, and one of its cells: nothing is built twice.
    chain.publish(&requested).await;
    let cell = chain.events::<BaseBuild>(&ids[3]).await.pop().unwrap();
    chain.publish(&cell).await;
    chain.nothing_is_left_to_do().await;
    assert_eq!(chain.events::<BuildDone>(&ids[3]).await.len(), 1);

    // As scanner and publisher do.
    let mut transaction = chain.pool.begin().await.unwrap();
    for cell in &cells[2..] {
        let digest = builds::get(&chain.pool, cell.id()).await.unwrap().unwrap().digest.unwrap();
        let passed = cell.base.as_deref() == Some("3.11-slim");
        assert!(builds::scanned(&mut transaction, cell.id(), &digest, passed).await.unwrap());
        if passed {
            assert!(builds::published(&mut transaction, cell.id(), "r/base").await.unwrap());
        }
    }
    transaction.commit().await.unwrap();
    let done: BaseDone = chain.event(&run).await;
    let ends: Vec<_> = done.outcomes.iter().map(|o| (o.base.as_str(), o.status.as_str())).collect();
    assert_eq!(
        ends,
        [
            ("3.11-absent", "failed"),
            ("3.11-bad", "failed"),
            ("3.11-good", "rejected"),
            ("3.11-slim", "ready")
        ]
    );
    assert_eq!(chain.events::<BaseDone>(&run).await.len(), 1);
}

#[tokio::test]
async fn a_matrix_that_can_be_none_is_a_dead_letter_and_makes_no_run() {
    let chain = Chain::start_with(with(repository())).await;
    let good = BaseRequested { run_id: unique("run"), ..BaseRequested::default() };
    let wrong = [
        BaseRequested { run_id: String::new(), ..good.clone() },
        BaseRequested { reason: "because".to_owned(), ..good.clone() },
        BaseRequested { python_versions: vec!["3.11\nRUN id".to_owned()], ..good.clone() },
        BaseRequested { variants: vec!["../x".to_owned()], ..good.clone() },
    ];
    for event in &wrong {
        chain.publish(event).await;
    }
    let letters =
        mecapy_testkit::eventually("the dead letters", crate::fixture::LONG, async || {
            Some(chain.dead_letters().await).filter(|letters| letters.len() == wrong.len())
        })
        .await;
    assert!(
        letters.iter().all(|letter| letter.contains("must be") || letter.contains("is not")),
        "{letters:?}"
    );
    assert!(bases::runs(&chain.pool, 10).await.unwrap().is_empty());
}
