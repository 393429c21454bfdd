//! One set of servers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::container::Container;
use crate::server::{
    HANDED_OUT, REGISTRY_USER, S3_ACCESS_KEY, Server, Spec, bucket, nats_user, spec,
    without_password, without_password_in_memory,
};
use crate::watchdog::Watchdog;
use crate::{ready, unique};

/// Servers that this process started. Dropping it removes them.
#[derive(Debug)]
pub struct Infra {
    password: String,
    running: Vec<(Server, Container)>,
    accounts: AtomicUsize,
    buckets: AtomicUsize,
    _watchdog: Watchdog,
}

/// An account of its own on the NATS server, with JetStream.
#[derive(Debug, Clone)]
pub struct Nats {
    /// `nats://127.0.0.1:port`, without the credentials.
    pub url: String,
    pub user: String,
    pub password: String,
}

/// A registry behind basic auth, over plain HTTP.
#[derive(Debug, Clone)]
pub struct RegistryServer {
    /// `127.0.0.1:port`: its name in references, for Docker as well.
    pub host: String,
    pub username: String,
    pub password: String,
}

/// A bucket of its own on the S3 server.
#[derive(Debug, Clone)]
pub struct S3 {
    /// `http://127.0.0.1:port`; buckets are addressed by path.
    pub endpoint: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    pub bucket: String,
}

/// Generous: the machine may be compiling something else.
const READY_WITHIN: Duration = Duration::from_secs(180);

impl Infra {
    /// The set of this process, with every server: started at the first call, removed
    /// when the process ends.
    pub async fn shared() -> &'static Infra {
        static SHARED: OnceCell<Infra> = OnceCell::const_new();
        SHARED.get_or_init(|| Infra::start(&Server::ALL)).await
    }

    /// A set of its own, for tests that stop servers.
    pub async fn start(servers: &[Server]) -> Infra {
        Self::start_as(servers, |spec| spec).await
    }

    /// A set of its own whose registries ask nobody for a password and have no disk, so that stopped they lose all:
    /// what they cost then is the calls alone.
    pub async fn start_open(servers: &[Server]) -> Infra {
        Self::start_as(servers, without_password_in_memory).await
    }

    /// The same with a disk.
    pub async fn start_open_on_disk(servers: &[Server]) -> Infra {
        Self::start_as(servers, without_password).await
    }

    async fn start_as(servers: &[Server], how: fn(Spec) -> Spec) -> Infra {
        let set = unique("set");
        let password = unique("password");
        let watchdog = Watchdog::start(&set);
        let mut starting = JoinSet::new();
        for &server in servers {
            let (set, spec) = (set.clone(), how(spec(server, &password)));
            starting.spawn(async move {
                let container = Container::run(&set, &spec).await;
                wait_until_ready(server, &container).await;
                (server, container)
            });
        }
        let mut running = Vec::new();
        while let Some(started) = starting.join_next().await {
            match started {
                Ok(server) => running.push(server),
                Err(failed) => std::panic::resume_unwind(failed.into_panic()),
            }
        }
        Infra {
            password,
            running,
            accounts: AtomicUsize::new(0),
            buckets: AtomicUsize::new(0),
            _watchdog: watchdog,
        }
    }

    /// A JetStream account that nobody else uses.
    pub async fn nats(&self) -> Nats {
        let number = hand_out(&self.accounts, "NATS accounts");
        Nats {
            url: format!("nats://{}", self.address(Server::Nats)),
            user: nats_user(number),
            password: self.password.clone(),
        }
    }

    /// The URL of a new, empty database, for its superuser.
    pub async fn postgres(&self) -> String {
        let name = unique("test").replace('-', "_");
        let create = format!("CREATE DATABASE {name}");
        self.container(Server::Postgres)
            .exec(&["psql", "--quiet", "--username=postgres", "--command", &create])
            .await;
        let address = self.address(Server::Postgres);
        format!("postgres://postgres:{}@{address}/{name}", self.password)
    }

    pub fn primary(&self) -> RegistryServer {
        self.registry(Server::Primary)
    }

    pub fn fallback(&self) -> RegistryServer {
        self.registry(Server::Fallback)
    }

    pub fn cramped(&self) -> RegistryServer {
        self.registry(Server::Cramped)
    }

    /// An empty bucket that nobody else uses.
    pub async fn s3(&self) -> S3 {
        let number = hand_out(&self.buckets, "S3 buckets");
        S3 {
            endpoint: format!("http://{}", self.address(Server::S3)),
            region: "us-east-1".into(),
            access_key: S3_ACCESS_KEY.into(),
            secret_key: self.password.clone(),
            bucket: bucket(number),
        }
    }

    /// Stops a server; what it has stored stays. Only for a set of one's own.
    pub async fn stop(&self, server: Server) {
        self.container(server).stop().await;
    }

    /// Starts a stopped server again, on the same port, and waits until it is ready.
    pub async fn resume(&self, server: Server) {
        let container = self.container(server);
        container.start().await;
        wait_until_ready(server, container).await;
    }

    fn registry(&self, server: Server) -> RegistryServer {
        RegistryServer {
            host: self.address(server),
            username: REGISTRY_USER.into(),
            password: self.password.clone(),
        }
    }

    fn address(&self, server: Server) -> String {
        format!("127.0.0.1:{}", self.container(server).port.number)
    }

    fn container(&self, server: Server) -> &Container {
        self.running
            .iter()
            .find_map(|(its, container)| (*its == server).then_some(container))
            .unwrap_or_else(|| panic!("this set was started without {server:?}"))
    }
}

fn hand_out(counter: &AtomicUsize, what: &str) -> usize {
    let number = counter.fetch_add(1, Ordering::Relaxed);
    assert!(
        number < HANDED_OUT,
        "all {HANDED_OUT} {what} are taken: raise HANDED_OUT in testkit's server.rs"
    );
    number
}

async fn wait_until_ready(server: Server, container: &Container) {
    let probe = spec(server, "").probe;
    if !ready::wait(container.port.number, probe, READY_WITHIN).await {
        let lines = container.last_lines().await;
        panic!("{server:?} was not ready within {READY_WITHIN:?}; its last lines:\n{lines}");
    }
}
