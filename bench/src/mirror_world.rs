//! A hundred published functions, a mirror as a process, and the peers that copy the same images.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use mecapy_e2e::System;
use mecapy_proto::v1::{MirrorDone, MirrorRequested};
use mecapy_proto::{BuildId, Event as _, FunctionId};
use mecapy_registry::{
    Appended, Base, ConfigPatch, Digest, LayerFile, Options, Registry, TarLayer, append_layer,
};
use mecapy_service::Secret;
use mecapy_store::builds::Built;
use mecapy_store::functions::NewVersion;
use mecapy_store::mirror_runs::{self, Totals};
use mecapy_store::{builds, functions, usage};
use mecapy_testkit::{Infra, RegistryServer, Server, unique};
use prost::Message as _;
use tokio::process::{Child, Command};

use crate::direct::direct;

pub const FUNCTIONS: usize = 100;
const DEPENDENCY_SETS: usize = 5;
const DEPENDENCY_BYTES: usize = 15 << 20;
const PATIENCE: Duration = Duration::from_secs(600);
/// As in the image of the services.
pub const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

/// Servers of its own, so that no registry has seen any of it.
pub struct World {
    pub infra: Infra,
    pub system: System,
    pub primary: Registry,
    /// `repository:tag`
    pub images: Vec<String>,
    /// Hears of the runs' ends: to look at the record time and again would take some of what is measured.
    ear: async_nats::Client,
}

pub fn options(server: &RegistryServer) -> Options {
    Options {
        host: server.host.clone(),
        plain_http: true,
        username: Some(server.username.clone()),
        password: Some(Secret::new(server.password.clone())),
        ..Options::default()
    }
}

pub fn client(server: &RegistryServer) -> Result<Registry> {
    Ok(Registry::new(&options(server))?)
}

/// The registry without Docker's proxy between, for all who are measured but Docker, which takes plain HTTP on loopback
/// alone.
pub async fn near(server: RegistryServer) -> Result<RegistryServer> {
    Ok(RegistryServer { host: direct(&server.host, 5000).await?, ..server })
}

/// Bytes that don't compress.
pub fn noise(size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 64);
    let mut state = u64::from_str_radix(&Digest::of(unique("noise").as_bytes()).hex()[..15], 16)
        .unwrap_or(1)
        | 1;
    while bytes.len() < size {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

pub async fn append(
    registry: &Registry,
    below: &Base,
    repository: &str,
    tag: &str,
    path: &str,
    content: Vec<u8>,
) -> Result<Appended> {
    let file = LayerFile { path: path.to_owned(), mode: 0o444, bytes: content.into() };
    let layer = TarLayer::from_files([file])?;
    Ok(append_layer(registry, below, repository, tag, layer, &ConfigPatch::default()).await?)
}

impl World {
    /// Servers and schema, and no function yet.
    pub async fn empty() -> Result<Self> {
        mecapy_service::install_tls();
        Self::on(Infra::start(&Server::ALL).await).await
    }

    async fn on(infra: Infra) -> Result<Self> {
        let system = System::set_up(&infra, "").await?;
        let primary = client(&system.primary)?;
        let (user, password) = (system.nats.user.clone(), system.nats.password.clone());
        let ear = async_nats::ConnectOptions::with_user_and_password(user, password);
        let ear = ear.connect(direct(&system.nats.url, 4222).await?).await?;
        Ok(Self { infra, system, primary, images: Vec::new(), ear })
    }

    /// A hundred functions on five sets of dependencies, each used. The registries ask for no password, and have no disk.
    pub async fn with_functions() -> Result<Self> {
        mecapy_service::install_tls();
        let mut world = Self::on(Infra::start_open(&Server::ALL).await).await?;
        let base = world.base().await?;
        let mut sets = Vec::new();
        for set in 0..DEPENDENCY_SETS {
            let (repository, tag) = ("mecapy/staging/deps", format!("set-{set}"));
            let content = noise(DEPENDENCY_BYTES);
            append(&world.primary, &base, repository, &tag, "opt/dependencies", content).await?;
            let manifest = world.primary.manifest(repository, &tag).await?;
            sets.push(Base { repository: repository.to_owned(), manifest });
        }
        for number in 0..FUNCTIONS {
            let below = &sets[number % DEPENDENCY_SETS];
            let code = format!("# {}\nprint({number})\n", unique("code")).into_bytes();
            world.publish(below, code).await?;
        }
        Ok(world)
    }

    pub async fn base(&self) -> Result<Base> {
        let repository = "mecapy/base/python".to_owned();
        let manifest = self.primary.manifest(&repository, "3.11-slim").await?;
        Ok(Base { repository, manifest })
    }

    /// A function whose image is `below` and one layer of code: on record as published, and used once.
    pub async fn publish(&mut self, below: &Base, code: Vec<u8>) -> Result<()> {
        let (function, repository) = self.function().await?;
        let tag = "v1-00000000";
        let path = "app/user_function.py";
        let image = append(&self.primary, below, &repository, tag, path, code).await?;
        let dependencies = below.manifest.digest.to_string();
        self.record(function, &repository, tag, image.digest, &dependencies, image.size_bytes).await
    }

    pub async fn function(&self) -> Result<(FunctionId, String)> {
        let mut conn = self.system.pool.acquire().await?;
        let owner = self.system.owner.parse()?;
        let function = functions::ensure(&mut conn, &owner, &unique("f")).await?;
        Ok((function, format!("mecapy/functions/user-{owner}-func-{function}")))
    }

    pub async fn record(
        &mut self,
        function: FunctionId,
        repository: &str,
        tag: &str,
        digest: Digest,
        dependencies: &str,
        size_bytes: u64,
    ) -> Result<()> {
        let mut conn = self.system.pool.acquire().await?;
        let new = NewVersion {
            python_version: "3.11".into(),
            base_variant: "slim".into(),
            requirements: String::new(),
            inputs_sha256: "0".into(),
        };
        functions::add_version(&mut conn, function, 1, &new).await?;
        let (id, digest) = (BuildId::new(), digest.to_string());
        builds::create(&mut conn, id, function, 1).await?;
        builds::start(&self.system.pool, id).await?;
        let built = Built {
            staging_image: String::new(),
            digest: digest.clone(),
            tag: tag.to_owned(),
            size_bytes,
            dependency_image: dependencies.to_owned(),
            lock_key: None,
            log_key: String::new(),
            duration_ms: 1,
        };
        builds::built(&mut conn, id, &built).await?;
        builds::scanned(&mut conn, id, &digest, true).await?;
        let image = format!("{}/{repository}:{tag}@{digest}", self.primary.host());
        builds::published(&mut conn, id, &image).await?;
        usage::count(&mut conn, &digest, function).await?;
        self.images.push(format!("{repository}:{tag}"));
        Ok(())
    }

    /// Primary and fallback, as [`near`].
    pub async fn registries(&self) -> Result<[RegistryServer; 2]> {
        Ok([near(self.system.primary.clone()).await?, near(self.system.fallback.clone()).await?])
    }

    /// The mirror, as it runs in production, ready.
    pub async fn start_mirror(&self) -> Result<Child> {
        let registries = [self.system.primary.clone(), self.system.fallback.clone()];
        self.start_mirror_at(&registries).await
    }

    /// The same, which reaches primary and fallback there, and NATS, PostgreSQL and S3 without Docker's proxy.
    pub async fn start_mirror_at(
        &self,
        [primary, fallback]: &[RegistryServer; 2],
    ) -> Result<Child> {
        let here = std::env::current_exe()?;
        let program: PathBuf = here.with_file_name("mecapy-mirror");
        ensure!(program.is_file(), "mecapy-mirror is not built: run `cargo build --workspace`");
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let more = [
            ("MECAPY_ADMIN__LISTEN", format!("127.0.0.1:{port}")),
            ("MECAPY_REGISTRIES__PRIMARY__ENDPOINT", format!("http://{}", primary.host)),
            ("MECAPY_REGISTRIES__FALLBACK__ENDPOINT", format!("http://{}", fallback.host)),
            ("MECAPY_NATS__URL", direct(&self.system.nats.url, 4222).await?),
            ("MECAPY_POSTGRES__URL", direct(&self.system.postgres, 5432).await?),
            ("MECAPY_S3__ENDPOINT", direct(&self.system.s3.endpoint, 9000).await?),
        ];
        let mut command = Command::new(program);
        command.arg("--config").arg(self.system.config()).envs(MALLOC).envs(more);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let began = Instant::now();
        // The first run is the sign that it is ready; it must not be measured.
        while self
            .mirror(MirrorRequested { dry_run: true, limit: 1, ..Default::default() })
            .await
            .is_err()
        {
            ensure!(began.elapsed() < PATIENCE, "the mirror does not start");
        }
        Ok(child)
    }

    /// From `mirror.requested` to `mirror.done`.
    pub async fn mirror(&self, request: MirrorRequested) -> Result<(Duration, Totals)> {
        let id = unique("run");
        let mut done = self.ear.subscribe(MirrorDone::SUBJECT).await?;
        self.ear.flush().await?;
        let began = Instant::now();
        self.system.bus.publish(&MirrorRequested { run_id: id.clone(), ..request }).await?;
        loop {
            let next = tokio::time::timeout(PATIENCE, done.next()).await;
            let message = next.context("the run does not end")?.context("NATS is gone")?;
            if MirrorDone::decode(message.payload)?.run_id == id {
                break;
            }
        }
        let took = began.elapsed();
        let totals = mirror_runs::totals(&self.system.pool, &id).await?;
        ensure!(totals.failed + totals.not_found == 0, "{totals:?}");
        Ok((took, totals))
    }
}

/// The peer, image by image, as its users run it: it copies six blobs of an image at once and knows by its cache what
/// the destination has.
pub struct Skopeo {
    folder: tempfile::TempDir,
}

impl Skopeo {
    pub const MISSING: &str = "skopeo is not installed: apt-get install skopeo";

    /// None: it is not installed.
    pub async fn new(servers: &[&RegistryServer]) -> Result<Option<Self>> {
        if Command::new("skopeo").arg("--version").output().await.is_err() {
            return Ok(None);
        }
        let skopeo = Self { folder: tempfile::tempdir()? };
        for server in servers {
            let (user, password) = (&server.username, &server.password);
            skopeo
                .run(&["login", "--tls-verify=false", "-u", user, "-p", password, &server.host])
                .await?;
        }
        Ok(Some(skopeo))
    }

    pub async fn copy(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (format!("docker://{from}"), format!("docker://{to}"));
        let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        self.run(&["copy", "-q", "--preserve-digests", plain[0], plain[1], &from, &to]).await
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new("skopeo")
            .args(arguments)
            .env("REGISTRY_AUTH_FILE", self.folder.path().join("auth.json"))
            .output()
            .await?;
        let problem = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "skopeo {}: {problem}", arguments[0]);
        Ok(())
    }
}

/// The other peer: pull, tag, push.
pub struct Docker {
    config: tempfile::TempDir,
}

impl Docker {
    pub async fn new(servers: &[&RegistryServer]) -> Result<Self> {
        let docker = Self { config: tempfile::tempdir()? };
        for server in servers {
            let (user, password) = (&server.username, &server.password);
            docker.run(&["login", "-u", user, "-p", password, &server.host]).await?;
        }
        Ok(docker)
    }

    pub async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.run(&["pull", "-q", from]).await?;
        self.run(&["tag", from, to]).await?;
        self.run(&["push", "-q", to]).await
    }

    pub async fn remove(&self, images: &[String]) {
        for some in images.chunks(50) {
            let all: Vec<&str> =
                std::iter::once("rmi").chain(some.iter().map(String::as_str)).collect();
            let _ = self.run(&all).await;
        }
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new("docker")
            .args(arguments)
            .env("DOCKER_CONFIG", self.config.path())
            .output()
            .await
            .context("docker")?;
        if !done.status.success() {
            bail!("docker {}: {}", arguments[0], String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}
