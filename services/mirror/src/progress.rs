//! How far a copy is, told while it runs: on the record, where `mecapy mirror run` sees it, and in the log.

use std::time::Duration;

use mecapy_registry::{Progress, ProgressSink};
use mecapy_service::chain;
use mecapy_store::PgPool;
use mecapy_store::mirror_progress::{self, OnTheWay};
use mecapy_store::mirror_runs::Image;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// An image that is done sooner is not worth a word.
const EVERY: Duration = Duration::from_secs(1);

/// Tells of one copy, as long as it lives.
pub(crate) struct Telling {
    pub(crate) sink: ProgressSink,
    _task: AbortOnDropHandle<()>,
}

impl Telling {
    pub(crate) fn of(pool: &PgPool, run: &str, image: &Image) -> Self {
        let (tell, heard) = watch::channel(Progress::default());
        let sink = ProgressSink::new(move |progress| {
            tell.send_replace(progress);
        });
        // Beside the copy, which doesn't wait for the database.
        let task = tokio::spawn(write(pool.clone(), run.to_owned(), image.clone(), heard));
        Self { sink, _task: AbortOnDropHandle::new(task) }
    }
}

async fn write(pool: PgPool, run: String, image: Image, mut heard: watch::Receiver<Progress>) {
    while heard.changed().await.is_ok() {
        tokio::time::sleep(EVERY).await;
        let progress = *heard.borrow_and_update();
        tracing::debug!(
            mirror.run = run,
            repository = image.repository,
            bytes_moved = progress.bytes_done,
            bytes_to_move = progress.bytes_total,
            blobs = progress.blobs_done,
            blobs_to_move = progress.blobs_total,
            "an image is on its way"
        );
        let on_the_way = OnTheWay {
            bytes_moved: saturating(progress.bytes_done),
            bytes_to_move: saturating(progress.bytes_total),
        };
        let (repository, digest) = (&image.repository, &image.digest);
        let told = mirror_progress::tell(&pool, &run, repository, digest, on_the_way).await;
        if let Err(error) = told {
            tracing::debug!(error = chain(&error), "how far an image is could not be written");
        }
    }
}

fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
