//! Real NATS, PostgreSQL and S3, and a configuration file for them.

use std::io::Write as _;

use mecapy_testkit::{Infra, Nats, Server, unique};
use tempfile::NamedTempFile;
use tokio::sync::OnceCell;

/// One set for all tests, without the registries, which the CLI does not talk to.
async fn shared() -> &'static Infra {
    static SHARED: OnceCell<Infra> = OnceCell::const_new();
    SHARED.get_or_init(|| Infra::start(&[Server::Nats, Server::Postgres, Server::S3])).await
}

pub struct Servers {
    pub nats: Nats,
    pub postgres: String,
    file: NamedTempFile,
}

impl Servers {
    /// An account, a database and a bucket that nobody else has; the bucket is not there yet.
    pub async fn new() -> Self {
        let nats = shared().await.nats().await;
        Self::with_nats(nats).await
    }

    pub async fn with_nats(nats: Nats) -> Self {
        let infra = shared().await;
        let (postgres, s3) = (infra.postgres().await, infra.s3().await);
        let mut file = NamedTempFile::new().unwrap();
        write!(
            file,
            "[nats]\nurl = {:?}\nuser = {:?}\npassword = {:?}\n[postgres]\nurl = {postgres:?}\n\
             [s3]\nendpoint = {:?}\nregion = {:?}\nbucket = {:?}\naccess_key = {:?}\nsecret_key = {:?}\n",
            nats.url, nats.user, nats.password, s3.endpoint, s3.region, unique("bucket"), s3.access_key, s3.secret_key,
        )
        .unwrap();
        Self { nats, postgres, file }
    }

    pub fn config(&self) -> &str {
        self.file.path().to_str().unwrap()
    }
}
