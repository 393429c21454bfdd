//! Functions' code, read from the registries and kept: the newest used, within a number of bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use mecapy_registry::{Digest, Error as RegistryError, Registry};

use crate::code_layer::{self, Code, LAYER_LIMIT, Unsuitable};
use crate::sources::Sources;

/// For a few kB from one registry. Without them a task runs all the same, only later.
const LIMIT: Duration = Duration::from_secs(2);
const MAX_CONFIG: u64 = 1 << 20;
const MAX_BYTES: usize = 64 << 20;
/// What an entry costs beside its code.
const ENTRY_BYTES: usize = 512;

/// A handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Codes(Arc<Inner>);

struct Inner {
    sources: Sources,
    kept: Mutex<Kept>,
}

struct Kept {
    /// None: an image whose function runs in its own containers only.
    entries: LruCache<Digest, Option<Arc<Code>>>,
    bytes: usize,
}

#[derive(Debug, thiserror::Error)]
enum NotRead {
    #[error(transparent)]
    Unsuitable(#[from] Unsuitable),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("it did not answer within {LIMIT:?}")]
    Slow,
}

impl Codes {
    pub(crate) fn new(sources: Sources) -> Self {
        let kept = Kept { entries: LruCache::unbounded(), bytes: 0 };
        Self(Arc::new(Inner { sources, kept: Mutex::new(kept) }))
    }

    /// The code of an image. None: it can't be had now, or the image is not one that can be taken apart.
    pub(crate) async fn get(&self, repository: &str, digest: Digest) -> Option<Arc<Code>> {
        if let Some(known) = self.kept().entries.get(&digest) {
            return known.clone();
        }
        // One that can't be reached is for the pulls to try.
        for source in self.0.sources.all().filter(|source| source.is_closed()) {
            match read(&source.registry, repository, digest).await {
                Ok(code) => {
                    let code = Some(Arc::new(code));
                    self.keep(digest, code.clone());
                    return code;
                }
                Err(NotRead::Unsuitable(reason)) => {
                    tracing::info!(repository, %digest, %reason, "an image's function is never run ahead of time");
                    self.keep(digest, None);
                    return None;
                }
                Err(error) => {
                    match &error {
                        NotRead::Registry(error) if error.is_transient() => source.failed(),
                        NotRead::Slow => source.was_slow(),
                        // It has no such image.
                        NotRead::Registry(_) | NotRead::Unsuitable(_) => {}
                    }
                    let (registry, error) = (source.registry.host(), mecapy_service::chain(&error));
                    tracing::warn!(repository, %digest, registry, error, "a function's code could not be read");
                }
            }
        }
        None
    }

    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.kept().entries.contains(&digest)
    }

    fn keep(&self, digest: Digest, code: Option<Arc<Code>>) {
        let size = |code: &Option<Arc<Code>>| {
            ENTRY_BYTES + code.as_ref().map_or(0, |code| code.bytes.len())
        };
        let mut kept = self.kept();
        kept.bytes += size(&code);
        if let Some((_, replaced)) = kept.entries.push(digest, code) {
            kept.bytes -= size(&replaced);
        }
        while kept.bytes > MAX_BYTES
            && let Some((_, oldest)) = kept.entries.pop_lru()
        {
            kept.bytes -= size(&oldest);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(registry: &Registry, repository: &str, digest: Digest) -> Result<Code, NotRead> {
    let read = async {
        let manifest = registry.manifest(repository, &digest.to_string()).await?;
        let (config, layer) = code_layer::blobs(&manifest)?;
        let (config, layer) = futures::try_join!(
            registry.blob_bytes(repository, &config, MAX_CONFIG),
            registry.blob_bytes(repository, &layer, LAYER_LIMIT),
        )?;
        Ok(code_layer::read(&config, &layer)?)
    };
    tokio::time::timeout(LIMIT, read).await.unwrap_or(Err(NotRead::Slow))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mecapy_registry::Options;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A registry that takes every call and answers pings at most.
    async fn silent(answers_pings: bool) -> (Sources, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let pings = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&pings);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(client.read_u8().await.unwrap());
                    }
                    if head.starts_with(b"GET /v2/ ") {
                        seen.fetch_add(1, Ordering::SeqCst);
                        if answers_pings {
                            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                            let _ = client.write_all(answer.as_bytes()).await;
                        }
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
        let options = Options { host, plain_http: true, ..Options::default() };
        let registry = Registry::new(&options).unwrap();
        (Sources::new(registry, None, Duration::from_secs(30)), pings)
    }

    #[tokio::test]
    async fn a_registry_that_is_slow_is_not_taken_for_one_that_is_gone() {
        mecapy_service::install_tls();
        for answers_pings in [true, false] {
            let (sources, pings) = silent(answers_pings).await;
            let codes = Codes::new(sources.clone());
            assert_eq!(codes.get("functions/f", Digest::of(b"f")).await, None);
            assert!(sources.primary.is_closed(), "it was slow once");
            while pings.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            while !answers_pings && sources.primary.is_closed() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(sources.primary.is_closed(), answers_pings);
        }
    }

    #[tokio::test]
    async fn the_newest_used_are_kept_within_a_number_of_bytes() {
        mecapy_service::install_tls();
        let codes = Codes::new(silent(true).await.0);
        let digest = |number: u8| Digest::of(&[number]);
        let large = Arc::new(Code::of_bytes(vec![0; MAX_BYTES / 4].into()));
        let kept = || (0..6).filter(|number| codes.has(digest(*number))).collect::<Vec<_>>();
        for number in 0..4 {
            codes.keep(digest(number), Some(Arc::clone(&large)));
        }
        assert_eq!(kept(), [1, 2, 3]);
        assert!(codes.get("functions/f", digest(1)).await.is_some());
        codes.keep(digest(4), Some(Arc::clone(&large)));
        codes.keep(digest(5), None);
        assert_eq!(kept(), [1, 3, 4, 5]);
        codes.keep(digest(1), None);
        assert_eq!(codes.kept().bytes, 2 * (large.bytes.len() + ENTRY_BYTES) + 2 * ENTRY_BYTES);
    }
}
