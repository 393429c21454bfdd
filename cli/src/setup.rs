//! `mecapy setup`: waits for the servers, and makes on them what the services need.

use std::future::Future;
use std::time::Duration;

use mecapy_bus::topology;
use mecapy_objects::Objects;
use mecapy_service::chain;
use tokio::time::Instant;

use crate::arguments::Setup;
use crate::exit::{Exit, Stop};
use crate::servers::{Servers, shown};
use crate::session::Session;

const ASK_EVERY: Duration = Duration::from_millis(500);
/// Each try may take this long, also when the time to wait is over.
const TRY_LIMIT: Duration = Duration::from_secs(5);

pub async fn run(setup: Setup, session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    let mut done = Vec::new();
    let patience = Patience { session, deadline: Instant::now() + setup.wait };

    let topology = topology::Setup {
        replicas: setup.replicas.into(),
        max_queued_tasks: setup.max_queued_tasks,
    };
    let nats = async || {
        let bus = servers.connect_nats().await?;
        // JetStream may be up later than the server is.
        topology::setup(&bus, &topology).await.map_err(|error| chain(&error))
    };
    done.extend(patience.until(&format!("NATS at {}", servers.nats_shown()), nats).await?);

    let pool = patience
        .until(&format!("PostgreSQL at {}", servers.postgres_shown()), || {
            servers.connect_postgres()
        })
        .await?;
    mecapy_store::migrate(&pool).await?;
    done.push("schema of PostgreSQL".to_owned());

    let objects = Objects::new(&servers.s3);
    let s3 = async || objects.ensure_bucket().await.map_err(|error| chain(&error));
    let endpoint = servers.s3.endpoint.as_deref().map_or_else(|| "AWS".to_owned(), shown);
    patience.until(&format!("S3 at {endpoint}"), s3).await?;
    done.push(format!("S3 bucket {}", servers.s3.bucket));

    session.output.show(&serde_json::json!({ "done": done }).to_string(), || {
        done.iter()
            .map(|done| format!("  {done}\n"))
            .chain(["Everything is set up.".to_owned()])
            .collect()
    });
    Ok(Exit::Done)
}

struct Patience<'s> {
    session: &'s Session,
    deadline: Instant,
}

impl Patience<'_> {
    /// Tries until it succeeds or the time is over; says what it waits for, and each new reason once.
    async fn until<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, String>>,
    {
        let mut told = String::new();
        loop {
            let limit = self.deadline.max(Instant::now() + TRY_LIMIT);
            let reason = match tokio::time::timeout_at(limit, attempt()).await {
                Ok(Ok(value)) => {
                    self.say(&format!("{what}: ready"));
                    return Ok(value);
                }
                Ok(Err(reason)) => reason,
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() >= self.deadline {
                return Err(Stop::Unreachable(format!("{what} is not ready: {reason}")));
            }
            if reason != told {
                self.say(&format!("{what}: waiting: {reason}"));
                told = reason;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    fn say(&self, text: &str) {
        if !self.session.quiet {
            self.session.output.note(text);
        }
    }
}
