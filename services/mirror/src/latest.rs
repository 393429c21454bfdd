//! `latest` on the fallback: what the function runs on the primary.

use mecapy_bus::HandlerError;
use mecapy_registry::{Copier, Error, ProgressSink, Source, Target};
use mecapy_store::{PgPool, mirror_choice};

/// Two images of a function may be copied at once, and a long copy may end after a newer one began.
const ROUNDS: usize = 3;

/// Asks, after `latest` was moved to `pointed_to`, whether that is still what the function runs. A newer version that
/// was published and copied in between is put right here.
pub(crate) async fn follow(
    pool: &PgPool,
    copier: &Copier,
    repository: &str,
    pointed_to: &str,
) -> Result<(), HandlerError> {
    let mut pointed_to = pointed_to.to_owned();
    for _ in 0..ROUNDS {
        let current = mirror_choice::current_digest(pool, repository).await?;
        let Some(current) = current.filter(|current| *current != pointed_to) else {
            return Ok(());
        };
        match point(copier, repository, &current).await {
            Ok(()) => pointed_to = current,
            // The newer one has not come yet: its own copy points `latest` to it.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(HandlerError::transient(error)),
        }
    }
    Ok(())
}

/// A copy within one repository: only the tag can be new.
async fn point(copier: &Copier, repository: &str, digest: &str) -> Result<(), Error> {
    let from = Source {
        registry: copier.registry().clone(),
        repository: repository.to_owned(),
        digest: digest.parse()?,
    };
    let to = Target {
        repository: repository.to_owned(),
        tags: vec!["latest".to_owned()],
        mount_from: Vec::new(),
    };
    copier.copy(&from, &to, &ProgressSink::none()).await.map(drop)
}
