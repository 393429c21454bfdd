//! A way to a registry that lets so many bytes through, and then none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub struct SlowProxy {
    pub address: String,
    stuck: Arc<Notify>,
}

impl SlowProxy {
    /// `most`: bytes that get to the server, of all connections together.
    pub async fn start(server: String, most: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (passed, stuck) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let proxy = Self { address, stuck: Arc::clone(&stuck) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, passed, stuck) = (server.clone(), passed.clone(), stuck.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(&server).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    tokio::spawn(async move {
                        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                    });
                    let mut piece = vec![0; 16 * 1024];
                    while let Ok(read @ 1..) = from_client.read(&mut piece).await {
                        if passed.fetch_add(read as u64, Ordering::SeqCst) > most {
                            stuck.notify_one();
                            std::future::pending::<()>().await;
                        }
                        if to_server.write_all(&piece[..read]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        proxy
    }

    /// Returns once nothing gets through any more.
    pub async fn is_stuck(&self) {
        self.stuck.notified().await;
    }
}
