use std::io::Write as _;
use std::time::Duration;

use mecapy_bus::{
    Backbone, ConsumerOptions, Delivery, Handler, HandlerError, Outcome, Outgoing, topology,
};
use mecapy_proto::v1::MirrorRequested;
use mecapy_proto::{BuildId, ErrorCode, failure};
use mecapy_registry::{Base, ConfigPatch, LayerFile, Registry, TarLayer, append_layer};
use mecapy_service::{Context, Health, Secret};
use mecapy_store::builds::Built;
use mecapy_store::functions::NewVersion;
use mecapy_store::mirror_runs::{self, Ended, NewImage, NewRun};
use mecapy_store::{PgPool, builds, functions};
use mecapy_testkit::{Infra, Nats, Server, unique};
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::program::mecapy;
use crate::servers::Servers;

const BASE: &str = "mecapy/base/python:3.11-slim";

/// A mirror whose images have their ends at once: digests that are named fail.
struct Instant;

impl Handler<MirrorRequested> for Instant {
    async fn handle(&self, event: MirrorRequested, _: &Delivery) -> Result<Outcome, HandlerError> {
        let (outcome, why) = if event.digests.is_empty() {
            (mirror_runs::Outcome::Mirrored, None)
        } else {
            let why = failure(ErrorCode::PushFailed, "the fallback \u{1b}[2Jsaid no");
            (mirror_runs::Outcome::Failed, Some(why))
        };
        let image = image(&format!("limit-{}", event.limit), "sha256:00", outcome, why);
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                let run = NewRun { dry_run: event.dry_run, ..run(&event.run_id) };
                mirror_runs::create(conn, &run, &[image]).await?;
                Ok(Outgoing::none())
            })
        }))
    }
}

fn run(id: &str) -> NewRun {
    NewRun {
        id: id.to_owned(),
        reason: "manual".to_owned(),
        by_usage: true,
        dry_run: false,
        verify_percent: 0,
    }
}

fn image(
    repository: &str,
    digest: &str,
    outcome: mirror_runs::Outcome,
    why: Option<mecapy_proto::v1::Failure>,
) -> NewImage {
    NewImage {
        repository: repository.to_owned(),
        digest: digest.to_owned(),
        tags: vec!["v1".to_owned()],
        tasks: 5,
        size_bytes: 0,
        ended: Some(Ended { bytes_sent: 1_500, ..Ended::without_bytes(outcome, why) }),
    }
}

async fn start_mirror(nats: &Nats, postgres: &str) -> DropGuard {
    let shutdown = CancellationToken::new();
    let context = Context {
        service: "mirror",
        replica: "test".to_owned(),
        health: Health::default(),
        shutdown: shutdown.clone(),
        hand_back: CancellationToken::new(),
    };
    let nats = mecapy_bus::Options {
        url: nats.url.clone(),
        user: Some(nats.user.clone()),
        password: Some(Secret::new(nats.password.clone())),
    };
    let postgres = mecapy_store::Options { url: postgres.to_owned(), ..Default::default() };
    let backbone = Backbone::start(&context, &nats, &postgres).await.unwrap();
    tokio::spawn(async move {
        let options = ConsumerOptions { durable: topology::MIRROR, concurrency: 1 };
        backbone.consume::<MirrorRequested, _>(&context, options, Instant).await;
    });
    shutdown.drop_guard()
}

#[tokio::test]
async fn a_run_is_followed_to_its_end_and_its_exit_code_tells_how() {
    let servers = Servers::new().await;
    let config = servers.config();
    mecapy(&["setup", "--config", config]).await.expect(0);
    let _mirror = start_mirror(&servers.nats, &servers.postgres).await;

    let arguments =
        ["mirror", "run", "--limit", "7", "--window", "3d", "--json", "--config", config];
    let good = mecapy(&arguments).await.expect(0).json();
    assert_eq!(good["counts"]["mirrored"], 1);
    assert_eq!(good["images"][0]["repository"], "limit-7");

    let digest = "ab".repeat(32);
    let bad = mecapy(&["mirror", "run", "--digest", &digest, "--config", config]).await.expect(1);
    assert!(bad.stdout.contains("the fallback said no"), "{bad:#?}");

    let dry = mecapy(&["mirror", "run", "--dry-run", "--config", config]).await.expect(0);
    assert!(dry.stdout.contains("would move") && dry.stdout.contains("1.5 kB"), "{dry:#?}");

    let asked =
        mecapy(&["mirror", "run", "--no-wait", "--json", "--config", config]).await.expect(0);
    assert!(asked.json()["run_id"].as_str().unwrap().starts_with("manual-"));

    let id = good["run_id"].as_str().unwrap();
    let shown = mecapy(&["mirror", "show", id, "--json", "--config", config]).await.expect(0);
    assert_eq!(shown.json(), good);
    let list = mecapy(&["mirror", "list", "--json", "--config", config]).await.expect(0).json();
    assert!(list.as_array().unwrap().iter().any(|run| run["run_id"] == good["run_id"]), "{list}");
    mecapy(&["mirror", "show", "nothing", "--config", config]).await.expect(4);
    mecapy(&["mirror", "run", "--digest", "v1", "--config", config]).await.expect(2);
    mecapy(&["mirror", "run", "--verify", "101", "--config", config]).await.expect(2);
}

/// Puts the base image into the registry, as Docker does.
async fn push_base(server: &mecapy_testkit::RegistryServer, repository: &str) {
    let login = tempfile::tempdir().unwrap();
    let docker = async |arguments: &[&str]| {
        let done = Command::new("docker")
            .args(arguments)
            .env("DOCKER_CONFIG", login.path())
            .output()
            .await
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let name = format!("{}/{repository}:base", server.host);
    docker(&["login", "-u", &server.username, "-p", &server.password, &server.host]).await;
    docker(&["tag", BASE, &name]).await;
    docker(&["push", "-q", &name]).await;
    docker(&["rmi", &name]).await;
}

/// On record: a published version, and its copy.
async fn mirrored(pool: &PgPool, name: &str, digest: &str) -> String {
    let mut conn = pool.acquire().await.unwrap();
    let function = functions::ensure(&mut conn, &"acme".parse().unwrap(), name).await.unwrap();
    let new = NewVersion {
        python_version: "3.11".into(),
        base_variant: "slim".into(),
        requirements: String::new(),
        inputs_sha256: "0".into(),
    };
    functions::add_version(&mut conn, function, 1, &new).await.unwrap();
    let (id, repository) = (BuildId::new(), format!("mecapy/functions/user-acme-func-{function}"));
    builds::create(&mut conn, id, function, 1).await.unwrap();
    builds::start(pool, id).await.unwrap();
    let built = Built {
        staging_image: String::new(),
        digest: digest.to_owned(),
        tag: "v1".into(),
        size_bytes: 1,
        dependency_image: String::new(),
        lock_key: None,
        log_key: String::new(),
        duration_ms: 1,
    };
    builds::built(&mut conn, id, &built).await.unwrap();
    builds::scanned(&mut conn, id, digest, true).await.unwrap();
    let image = format!("primary.invalid/{repository}:v1@{digest}");
    builds::published(&mut conn, id, &image).await.unwrap();
    let copied = self::image(&repository, digest, mirror_runs::Outcome::Mirrored, None);
    mirror_runs::create(&mut conn, &run(&unique("run")), &[copied]).await.unwrap();
    repository
}

#[tokio::test]
async fn a_drill_recovers_from_the_fallback_alone_and_leaves_nothing() {
    let infra = Infra::start(&[Server::Fallback]).await;
    let server = infra.fallback();
    let servers = Servers::new().await;
    mecapy(&["setup", "--config", servers.config()]).await.expect(0);
    let mut file = NamedTempFile::new().unwrap();
    write!(
        file,
        "{}\n[registries.primary]\nhost = \"primary.invalid\"\n[registries.fallback]\nhost = {:?}\n\
         plain_http = true\nusername = {:?}\npassword = {:?}\n",
        std::fs::read_to_string(servers.config()).unwrap(),
        server.host,
        server.username,
        server.password,
    )
    .unwrap();
    let config = file.path().to_str().unwrap();
    mecapy(&["mirror", "drill", "--config", config]).await.expect(4);

    let registry = Registry::new(&mecapy_registry::Options {
        host: server.host.clone(),
        plain_http: true,
        username: Some(server.username.clone()),
        password: Some(Secret::new(server.password.clone())),
        ..Default::default()
    })
    .unwrap();
    push_base(&server, "base").await;
    let manifest = registry.manifest("base", "base").await.unwrap();
    let base = Base { repository: "base".into(), manifest };
    let file = LayerFile {
        path: "app/user_function.py".into(),
        mode: 0o444,
        bytes: format!("# {}\n", unique("code")).into(),
    };
    let options = mecapy_store::Options { url: servers.postgres.clone(), ..Default::default() };
    let pool = mecapy_store::connect(&options).await.unwrap();
    // The first function of this database.
    let repository = "mecapy/functions/user-acme-func-1";
    let layer = TarLayer::from_files([file]).unwrap();
    let appended = append_layer(&registry, &base, repository, "v1", layer, &ConfigPatch::default())
        .await
        .unwrap();
    assert_eq!(mirrored(&pool, "good", &appended.digest.to_string()).await, repository);

    let drill = mecapy(&["mirror", "drill", "--json", "--config", config]).await.expect(0).json();
    assert_eq!(drill["recovered"], true, "{drill}");
    assert_eq!(drill["images"][0]["was_here"], false, "{drill}");
    let image = drill["images"][0]["image"].as_str().unwrap();
    let left = Command::new("docker").args(["image", "inspect", image]).output().await.unwrap();
    assert!(!left.status.success(), "{image} is still here");

    let absent = format!("sha256:{}", "0".repeat(64));
    mirrored(&pool, "bad", &absent).await;
    let drill = mecapy(&["mirror", "drill", "--config", config]).await.expect(1);
    assert!(drill.stdout.contains("1 of 2 images recovered"), "{drill:#?}");
    assert!(drill.stdout.contains("pull: "), "{drill:#?}");
    tokio::time::timeout(Duration::from_secs(60), pool.close()).await.unwrap();
}
