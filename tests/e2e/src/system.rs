//! The services as processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mecapy_bus::Bus;
use mecapy_service::Secret;
use mecapy_store::PgPool;
use mecapy_testkit::{Infra, Nats, Port, RegistryServer, S3, eventually, free_port, unique};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::Api;

const READY_WITHIN: Duration = Duration::from_secs(180);
/// As in the image of the services (deploy/compose/services/Dockerfile).
const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];
const BASE_IMAGE: &str = "mecapy/base/python:3.11-slim";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Gateway,
    Builder,
    Scanner,
    Publisher,
    Worker,
    Mirror,
    Janitor,
    Notifier,
}

impl Service {
    pub const ALL: [Self; 8] = [
        Self::Gateway,
        Self::Builder,
        Self::Scanner,
        Self::Publisher,
        Self::Worker,
        Self::Mirror,
        Self::Janitor,
        Self::Notifier,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Builder => "builder",
            Self::Scanner => "scanner",
            Self::Publisher => "publisher",
            Self::Worker => "worker",
            Self::Mirror => "mirror",
            Self::Janitor => "janitor",
            Self::Notifier => "notifier",
        }
    }
}

/// One system: servers that are given, services of its own.
pub struct System {
    pub owner: String,
    pub api: Api,
    /// Of one who looks at everything, and changes nothing.
    pub viewer_token: String,
    /// The gateway's URL for gRPC.
    pub grpc: String,
    pub bus: Bus,
    pub pool: PgPool,
    pub nats: Nats,
    /// The database's URL.
    pub postgres: String,
    pub s3: S3,
    pub primary: RegistryServer,
    pub fallback: RegistryServer,
    /// Variables for services that are yet to be started, over the configuration.
    pub environment: BTreeMap<&'static str, String>,
    folder: TempDir,
    config: PathBuf,
    admin_ports: BTreeMap<Service, Port>,
    /// The gateway's own, kept for it also while it is down.
    _gateway_ports: [Port; 2],
    running: Mutex<BTreeMap<Service, Child>>,
}

impl System {
    /// Everything set up, every service ready.
    pub async fn start(infra: &Infra) -> Result<Self> {
        Self::start_with(infra, "").await
    }

    /// With more configuration: whole sections, as TOML.
    pub async fn start_with(infra: &Infra, more: &str) -> Result<Self> {
        let system = Self::set_up(infra, more).await?;
        system.start_all().await?;
        Ok(system)
    }

    /// Every service, until all are ready.
    pub async fn start_all(&self) -> Result<()> {
        for service in Service::ALL {
            self.spawn(service)?;
        }
        for service in Service::ALL {
            self.ready(service).await;
        }
        Ok(())
    }

    /// Everything set up, no service started.
    pub async fn set_up(infra: &Infra, more: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let owner = unique("e2e").chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let (token, viewer_token) = (unique("token"), unique("viewer"));
        let line = |owner: &str, role: &str, token: &str| {
            format!("{owner}:{role}:{}\n", hex::encode(Sha256::digest(token)))
        };
        let (nats, postgres, s3) = (infra.nats().await, infra.postgres().await, infra.s3().await);
        let (primary, fallback) = (infra.primary(), infra.fallback());
        push_base_image(&primary).await?;

        let (http, grpc) = (free_port(), free_port());
        let tokens = folder.path().join("tokens");
        std::fs::write(
            &tokens,
            line(&owner, "operator", &token) + &line("onlooker", "viewer", &viewer_token),
        )?;
        let mut text = configuration(&nats, &postgres, &s3, &primary, &fallback);
        write!(
            text,
            "[gateway]\nlisten = \"127.0.0.1:{}\"\ngrpc_listen = \"127.0.0.1:{}\"\ntokens_file = {tokens:?}\n",
            http.number, grpc.number
        )?;
        text.push_str(&way_to_the_package_index());
        if !more.contains("[worker]") {
            write!(text, "[worker]\nname = {owner:?}\n")?;
        }
        text.push_str(more);
        let config = folder.path().join("mecapy.toml");
        std::fs::write(&config, text)?;

        let done = Command::new(program("mecapy")?)
            .args(["setup", "--config"])
            .arg(&config)
            .output()
            .await?;
        if !done.status.success() {
            bail!("mecapy setup: {}", String::from_utf8_lossy(&done.stderr));
        }
        let options = mecapy_bus::Options {
            url: nats.url.clone(),
            user: Some(nats.user.clone()),
            password: Some(Secret::new(nats.password.clone())),
        };
        let mut admin_ports = BTreeMap::new();
        for service in Service::ALL {
            admin_ports.insert(service, free_port());
        }
        Ok(Self {
            api: Api::new(format!("http://127.0.0.1:{}", http.number), token)?,
            viewer_token,
            grpc: format!("http://127.0.0.1:{}", grpc.number),
            bus: Bus::connect_now("e2e", &options).await?,
            pool: mecapy_store::connect(&mecapy_store::Options {
                url: postgres.clone(),
                ..Default::default()
            })
            .await?,
            owner,
            nats,
            postgres,
            s3,
            primary,
            fallback,
            environment: BTreeMap::new(),
            folder,
            config,
            admin_ports,
            _gateway_ports: [http, grpc],
            running: Mutex::default(),
        })
    }

    /// Starts a service; its log goes on in one file a service.
    pub fn spawn(&self, service: Service) -> Result<()> {
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_file(service))?;
        let child = Command::new(program(&format!("mecapy-{}", service.name()))?)
            .arg("--config")
            .arg(&self.config)
            .env("MECAPY_ADMIN__LISTEN", format!("127.0.0.1:{}", self.admin_ports[&service].number))
            .envs(MALLOC)
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("mecapy-{}", service.name()))?;
        self.running().insert(service, child);
        Ok(())
    }

    /// Waits until a service says that it is ready.
    pub async fn ready(&self, service: Service) {
        eventually(&format!("{} is ready", service.name()), READY_WITHIN, async || {
            self.admin(service, "/readyz").await.ok()
        })
        .await;
    }

    /// Where a service's admin port is.
    pub fn admin_address(&self, service: Service) -> String {
        format!("127.0.0.1:{}", self.admin_ports[&service].number)
    }

    /// What a service's admin port answers; an error unless it is 200.
    pub async fn admin(&self, service: Service, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", self.admin_address(service));
        Ok(reqwest::Client::builder()
            .no_proxy()
            .build()?
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?)
    }

    /// Runs the CLI, as an operator and as the owner of this system: what it printed, if it ended well.
    pub async fn mecapy(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program("mecapy")?)
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .args(["--url", &self.api.url])
            .env("MECAPY_TOKEN", &self.api.token)
            .stdin(Stdio::null())
            .output()
            .await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let problem = String::from_utf8_lossy(&output.stderr);
            bail!("mecapy {}: {}: {printed}{problem}", arguments.join(" "), output.status);
        }
        Ok(printed)
    }

    /// kill -9.
    pub async fn kill(&self, service: Service) -> Result<()> {
        let child = self.running().remove(&service);
        let mut child = child.with_context(|| format!("{} does not run", service.name()))?;
        Ok(child.kill().await?)
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(&self, service: Service) -> Result<ExitStatus> {
        let child = self.running().remove(&service);
        let mut child = child.with_context(|| format!("{} does not run", service.name()))?;
        let pid = child.id().context("it has ended already")?;
        Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        Ok(child.wait().await?)
    }

    /// Whether the process that was started still runs.
    pub fn is_running(&self, service: Service) -> bool {
        self.running().get_mut(&service).is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self, service: Service) -> Result<u64> {
        let pid = self.running().get(&service).and_then(Child::id).context("it does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    pub fn log(&self, service: Service) -> String {
        std::fs::read_to_string(self.log_file(service)).unwrap_or_default()
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    fn log_file(&self, service: Service) -> PathBuf {
        self.folder.path().join(format!("{}.log", service.name()))
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<Service, Child>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for System {
    /// A test that failed shows what the services said last.
    fn drop(&mut self) {
        // A worker that is killed leaves the containers that it had waiting.
        let mut running = std::mem::take(&mut *self.running());
        for child in running.values_mut() {
            let _ = child.start_kill();
        }
        let worker = format!("label=org.mecapy.worker={}", self.owner);
        let remove =
            format!("docker ps --all --quiet --filter {worker} | xargs -r docker rm --force");
        let _ = std::process::Command::new("sh").args(["-c", &remove]).output();
        if std::thread::panicking() {
            for service in Service::ALL {
                let log = self.log(service);
                let lines: Vec<&str> = log.lines().rev().take(25).collect();
                eprintln!("--- {}", service.name());
                lines.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

fn configuration(
    nats: &Nats,
    postgres: &str,
    s3: &S3,
    primary: &RegistryServer,
    fallback: &RegistryServer,
) -> String {
    let registry = |name: &str, server: &RegistryServer| {
        format!(
            "[registries.{name}]\nhost = {:?}\nplain_http = true\nusername = {:?}\npassword = {:?}\n",
            server.host, server.username, server.password
        )
    };
    format!(
        "[nats]\nurl = {:?}\nuser = {:?}\npassword = {:?}\n\
         [postgres]\nurl = {postgres:?}\n\
         [s3]\nendpoint = {:?}\nregion = {:?}\nbucket = {:?}\naccess_key = {:?}\nsecret_key = {:?}\n{}{}",
        nats.url,
        nats.user,
        nats.password,
        s3.endpoint,
        s3.region,
        s3.bucket,
        s3.access_key,
        s3.secret_key,
        registry("primary", primary),
        registry("fallback", fallback),
    )
}

/// A program of this workspace, beside the test's own.
fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().find(|folder| folder.join(name).is_file());
    Ok(folder
        .with_context(|| format!("{name} is not built: run `cargo build --workspace`"))?
        .join(name))
}

/// The CA bundle that this user has configured, for builds behind a TLS-inspecting proxy.
/// `[builder]`, with what this machine needs to reach the package index.
fn way_to_the_package_index() -> String {
    let variable = |names: &[&str]| {
        names.iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.is_empty())
    };
    let bundle = variable(&["MECAPY_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT"]);
    let settings = [
        ("ca_bundle", bundle.filter(|path| Path::new(path).is_file())),
        ("index_url", variable(&["PIP_INDEX_URL"])),
        ("http_proxy", variable(&["HTTP_PROXY", "http_proxy"])),
        ("https_proxy", variable(&["HTTPS_PROXY", "https_proxy"])),
        ("no_proxy", variable(&["NO_PROXY", "no_proxy"])),
    ];
    let lines = settings.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let lines: String = lines.map(|(key, value)| format!("{key} = {value:?}\n")).collect();
    format!("[builder]\n{lines}")
}

/// The base image that `make images` made, into this registry: once a process.
pub async fn push_base_image(registry: &RegistryServer) -> Result<()> {
    static PUSHED: tokio::sync::Mutex<BTreeSet<String>> =
        tokio::sync::Mutex::const_new(BTreeSet::new());
    let mut pushed = PUSHED.lock().await;
    if pushed.contains(&registry.host) {
        return Ok(());
    }
    let name = format!("{}/{BASE_IMAGE}", registry.host);
    let login = format!(
        "docker login -u {} -p {} {} 2>/dev/null && docker tag {BASE_IMAGE} {name} && docker push -q {name}; \
         code=$?; docker rmi {name} >/dev/null; exit $code",
        registry.username, registry.password, registry.host
    );
    let home = tempfile::tempdir()?;
    let done =
        Command::new("sh").args(["-c", &login]).env("DOCKER_CONFIG", home.path()).output().await?;
    if !done.status.success() {
        bail!(
            "pushing {BASE_IMAGE} (run `make images`): {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    pushed.insert(registry.host.clone());
    Ok(())
}
