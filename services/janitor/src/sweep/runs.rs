//! Runs of mirror and janitor that stand still: whoever follows one must see it end.

use chrono::{DateTime, Utc};
use mecapy_bus::{Outgoing, topology};
use mecapy_proto::v1::MirrorImage;
use mecapy_store::{cleanup_runs, stalled_runs};

use super::queues::Queues;
use super::{Error, Report, Sweeps};

pub(super) async fn sweep(
    sweeps: &Sweeps,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    let grace = sweeps.options.stalled_after();
    let mut queues = Queues::new(&sweeps.bus, grace);
    for run in stalled_runs::mirrors(&sweeps.pool, grace).await? {
        if queues.is_lost(topology::MIRROR_IMAGE, run.since).await? {
            resend(sweeps, &run.id, now, report).await?;
        }
    }
    for run in stalled_runs::cleanups(&sweeps.pool, grace).await? {
        if queues.is_lost(topology::JANITOR, run.since).await? {
            let problem =
                "nobody is at it any more: its message is a dead letter (mecapy dlq list)";
            cleanup_runs::hindered(&sweeps.pool, &run.id, problem, true).await?;
            tracing::error!(run.id = run.id, "a cleanup that stood still is ended: {problem}");
            report.count("cleanups_failed", 1);
        }
    }
    Ok(())
}

/// Each image ends there, copied or as a failure: so the run does.
async fn resend(
    sweeps: &Sweeps,
    run: &str,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    let mut transaction = sweeps.pool.begin().await.map_err(mecapy_store::Error::from)?;
    let images = stalled_runs::resend_mirror(&mut transaction, run).await?;
    let count = images.len();
    let mut all = Vec::with_capacity(count);
    for image in images {
        let event = MirrorImage {
            run_id: run.to_owned(),
            repository: image.repository,
            digest: image.digest,
            tags: image.tags,
        };
        let outgoing = Outgoing::again(&event, now);
        all.push(sweeps.outbox.write(&mut transaction, outgoing).await?);
    }
    transaction.commit().await.map_err(mecapy_store::Error::from)?;
    for written in all {
        sweeps.outbox.send(written).await;
    }
    tracing::warn!(
        mirror.run = run,
        images = count,
        "a mirror run stood still and is sent on again"
    );
    report.count("mirror_images_resent", count as u64);
    Ok(())
}
