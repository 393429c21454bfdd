//! A registry that is reached only once a test opens the way.

use mecapy_registry::{Options, Registry};
use mecapy_testkit::RegistryServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::options;

pub struct Gate {
    server: RegistryServer,
    address: String,
    reached: watch::Receiver<bool>,
    open: watch::Sender<bool>,
}

impl Gate {
    pub async fn start(server: &RegistryServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (reach, reached) = watch::channel(false);
        let (open, opened) = watch::channel(false);
        let host = server.host.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (host, mut opened) = (host.clone(), opened.clone());
                reach.send_replace(true);
                tokio::spawn(async move {
                    if opened.wait_for(|is_open| *is_open).await.is_ok()
                        && let Ok(mut server) = TcpStream::connect(&host).await
                    {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { server: server.clone(), address, reached, open }
    }

    pub fn registry(&self) -> Registry {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        let options = options(&self.server, &self.server.password);
        Registry::new(&Options { endpoint, ..options }).unwrap()
    }

    /// Waits until somebody stands before it.
    pub async fn is_reached(&self) {
        self.reached.clone().wait_for(|is_reached| *is_reached).await.unwrap();
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}
