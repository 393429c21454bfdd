//! What stands between the client and a real registry and knows nothing but bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mecapy_registry::{Options, Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::servers::options;

/// Closes the connection on which the `at`th byte goes to the registry, once.
pub struct Cutter {
    registry: mecapy_testkit::RegistryServer,
    address: String,
    left: Arc<AtomicU64>,
}

impl Cutter {
    pub async fn start(registry: mecapy_testkit::RegistryServer, at: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Arc::new(AtomicU64::new(at));
        let (host, shared) = (registry.host.clone(), left.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_bytes(client, host.clone(), shared.clone()));
            }
        });
        Self { registry, address, left }
    }

    pub fn registry(&self) -> Registry {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        Registry::new(&Options { endpoint, ..options(self.registry.clone()) }).unwrap()
    }

    pub fn has_cut(&self) -> bool {
        self.left.load(Ordering::SeqCst) == u64::MAX
    }
}

async fn pass_bytes(client: TcpStream, host: String, left: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(&host).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from_client.read(&mut piece).await {
        let bytes = read as u64;
        let cut = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            u64::MAX => None,
            left if left < bytes => Some(u64::MAX),
            left => Some(left - bytes),
        });
        let is_over = cut.is_ok_and(|left| left < bytes);
        if is_over || to_server.write_all(&piece[..read]).await.is_err() {
            break;
        }
    }
    back.abort();
}

/// Passes bytes both ways, until `after` of them went in one direction: from then on that connection gives a byte now and
/// then. Other connections go on as they should.
pub struct Trickler {
    registry: mecapy_testkit::RegistryServer,
    address: String,
    left: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToRegistry,
    FromRegistry,
}

impl Trickler {
    pub async fn start(registry: mecapy_testkit::RegistryServer, way: Way, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Arc::new(AtomicU64::new(after));
        let (host, shared) = (registry.host.clone(), left.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (host, shared) = (host.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(&host).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let never = Arc::new(AtomicU64::new(u64::MAX));
                    let (up, down) = match way {
                        Way::ToRegistry => (shared, never),
                        Way::FromRegistry => (never, shared),
                    };
                    tokio::select! {
                        () = trickle(from_client, to_server, up) => {}
                        () = trickle(from_server, to_client, down) => {}
                    }
                });
            }
        });
        Self { registry, address, left }
    }

    /// A client that waits for no longer than two seconds.
    pub fn registry(&self) -> Registry {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        let options = Options { endpoint, patience_seconds: 2, ..options(self.registry.clone()) };
        Registry::new(&options).unwrap()
    }

    pub fn has_trickled(&self) -> bool {
        self.left.load(Ordering::SeqCst) == u64::MAX
    }
}

async fn trickle(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    left: Arc<AtomicU64>,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let bytes = read as u64;
        let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            u64::MAX => None,
            left if left < bytes => Some(u64::MAX),
            left => Some(left - bytes),
        });
        if spent.is_ok_and(|left| left < bytes) {
            for byte in piece.iter().cycle() {
                if to.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
