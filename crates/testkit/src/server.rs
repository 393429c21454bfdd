//! The servers: which image, with which settings.

use std::fmt::Write as _;

use crate::ready::Probe;

/// One of the servers that a set can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Server {
    Nats,
    Postgres,
    /// The registry that images are published to and run from.
    Primary,
    /// The registry for disaster recovery.
    Fallback,
    S3,
    /// A registry whose disk has room for eight megabytes.
    Cramped,
}

impl Server {
    /// Those that the pipeline needs.
    pub const ALL: [Server; 5] =
        [Server::Nats, Server::Postgres, Server::Primary, Server::Fallback, Server::S3];
}

pub(crate) const REGISTRY_USER: &str = "mecapy";
pub(crate) const S3_ACCESS_KEY: &str = "mecapy-test";

/// How many accounts a NATS server and buckets an S3 server are started with: more than
/// the tests of one process ask for, and no measurable cost.
pub(crate) const HANDED_OUT: usize = 200;

/// What a container of a server is started with.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) server: Server,
    pub(crate) image: &'static str,
    pub(crate) port: u16,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) arguments: &'static [&'static str],
    /// A disk in memory, as `docker run --tmpfs` has it.
    pub(crate) tmpfs: Option<&'static str>,
    pub(crate) probe: Probe,
}

/// `password` is the set's one password, for every server.
pub(crate) fn spec(server: Server, password: &str) -> Spec {
    let password = password.to_owned();
    match server {
        Server::Nats => Spec {
            server,
            image: "mecapy/infra/nats",
            port: 4222,
            environment: vec![("NATS_AUTH", nats_accounts(&password))],
            arguments: &[],
            tmpfs: None,
            probe: Probe::Nats,
        },
        Server::Postgres => Spec {
            server,
            image: "mecapy/infra/postgres",
            port: 5432,
            environment: vec![("POSTGRES_PASSWORD", password)],
            arguments: &["-c", "max_connections=400", "-c", "shared_buffers=128MB"],
            tmpfs: None,
            probe: Probe::Postgres,
        },
        Server::Primary | Server::Fallback | Server::Cramped => Spec {
            server,
            image: "mecapy/infra/registry",
            port: 5000,
            environment: vec![
                ("REGISTRY_USER", REGISTRY_USER.into()),
                ("REGISTRY_PASSWORD", password),
            ],
            arguments: &[],
            tmpfs: (server == Server::Cramped)
                .then_some("/var/lib/docker-registry:size=8m,uid=1000,gid=1000"),
            probe: Probe::Http("/v2/"),
        },
        Server::S3 => Spec {
            server,
            image: "mecapy/infra/s3",
            port: 9000,
            environment: vec![
                ("S3_ACCESS_KEY", S3_ACCESS_KEY.into()),
                ("S3_SECRET_KEY", password),
                ("S3_BUCKETS", buckets()),
            ],
            arguments: &[],
            tmpfs: None,
            probe: Probe::Http("/"),
        },
    }
}

/// The data of a registry, in memory.
const REGISTRY_IN_MEMORY: &str = "/var/lib/docker-registry:uid=1000,gid=1000";

/// As [`without_password`], and it keeps what it has in memory: it syncs each file that it writes to its disk, an upload's
/// four and a tag's three, and waits for that much longer than it works.
pub(crate) fn without_password_in_memory(spec: Spec) -> Spec {
    let is_registry = matches!(spec.server, Server::Primary | Server::Fallback);
    let tmpfs = if is_registry { Some(REGISTRY_IN_MEMORY) } else { spec.tmpfs };
    without_password(Spec { tmpfs, ..spec })
}

/// A registry that asks nobody for a password, as Debian's does by itself. What the hash of a password costs at each call
/// is more than the call, and registries with tokens don't pay it.
pub(crate) fn without_password(spec: Spec) -> Spec {
    match spec.server {
        Server::Primary | Server::Fallback | Server::Cramped => Spec {
            environment: Vec::new(),
            arguments: &[
                "sh",
                "-c",
                "sed '/^auth:/,$d' /etc/docker/registry/config.yml >/run/docker-registry/open.yml
                 exec /usr/bin/docker-registry serve /run/docker-registry/open.yml",
            ],
            ..spec
        },
        Server::Nats | Server::Postgres | Server::S3 => spec,
    }
}

/// The server's part in a container's name.
pub(crate) fn server_name(server: Server) -> &'static str {
    match server {
        Server::Nats => "nats",
        Server::Postgres => "postgres",
        Server::Primary => "primary",
        Server::Fallback => "fallback",
        Server::S3 => "s3",
        Server::Cramped => "cramped",
    }
}

pub(crate) fn nats_user(number: usize) -> String {
    format!("user-{number}")
}

pub(crate) fn bucket(number: usize) -> String {
    format!("bucket-{number}")
}

/// An account for each user: streams, consumers and subjects of one are not seen by
/// another.
fn nats_accounts(password: &str) -> String {
    let mut accounts = String::from("accounts {\n");
    for number in 0..HANDED_OUT {
        let user = nats_user(number);
        let _ = writeln!(
            accounts,
            r#"  "{user}" {{ jetstream: enabled, users: [{{ user: "{user}", password: "{password}" }}] }}"#
        );
    }
    accounts + "}\n"
}

fn buckets() -> String {
    (0..HANDED_OUT).map(bucket).collect::<Vec<_>>().join(" ")
}
