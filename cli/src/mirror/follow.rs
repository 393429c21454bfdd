//! Waits for the end of a run, by its rows.

use std::time::Duration;

use mecapy_store::PgPool;
use mecapy_store::mirror_progress::{self, OnTheWay};
use mecapy_store::mirror_runs::{self, Totals};
use tokio::time::Instant;

use super::shown::size;
use crate::progress::{Progress, TASK};
use crate::session::Session;

const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A run that nobody has begun by then has nobody who could.
const BEGUN_WITHIN: Duration = Duration::from_secs(15);
/// A database that is away for a moment is no end.
const AWAY_LIMIT: Duration = Duration::from_secs(60);

pub async fn until_ended(pool: &PgPool, id: &str, session: &Session) -> anyhow::Result<()> {
    let mut progress = Progress::new(session.output, session.quiet, TASK);
    let asked = Instant::now();
    let mut heard = Instant::now();
    let mut has_warned = false;
    progress.stage("waiting for a mirror");
    loop {
        match look(pool, id).await {
            Ok(Some((true, ..))) => return Ok(()),
            Ok(Some((false, totals, on_the_way))) => {
                heard = Instant::now();
                progress.stage(&stage(totals, on_the_way));
            }
            Ok(None) => {
                heard = Instant::now();
                if !has_warned && asked.elapsed() > BEGUN_WITHIN {
                    progress.note("no mirror has begun it yet: is one running? (mecapy status)");
                    has_warned = true;
                }
            }
            Err(error) if heard.elapsed() > AWAY_LIMIT => return Err(error.into()),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(
    pool: &PgPool,
    id: &str,
) -> Result<Option<(bool, Totals, OnTheWay)>, mecapy_store::Error> {
    let Some(run) = mirror_runs::get(pool, id).await? else { return Ok(None) };
    let (totals, on_the_way) =
        futures::try_join!(mirror_runs::totals(pool, id), mirror_progress::of_run(pool, id))?;
    Ok(Some((run.has_ended(), totals, on_the_way)))
}

/// In steps of a twentieth, so that a log has twenty lines of it and not a thousand.
fn stage(totals: Totals, on_the_way: OnTheWay) -> String {
    let Totals { images, open, failed, not_found, bytes_sent, .. } = totals;
    let percent = (images - open) * 20 / images.max(1) * 5;
    let bar: String = (0..20).map(|step| if step * 5 < percent { '━' } else { '─' }).collect();
    let mut text = format!("{bar} {percent}% of {images} images");
    if percent > 0 {
        text.push_str(&format!(", {} sent", size(bytes_sent)));
    }
    let OnTheWay { bytes_moved, bytes_to_move } = on_the_way;
    if bytes_to_move > 0 {
        let percent = bytes_moved.min(bytes_to_move) * 20 / bytes_to_move * 5;
        text.push_str(&format!(", {percent}% of {} on the way", size(bytes_to_move)));
    }
    if failed + not_found > 0 {
        text.push_str(&format!(", {} not mirrored", failed + not_found));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_moves_with_the_images() {
        let totals = |open| Totals { images: 40, open, ..Totals::default() };
        let at = |open| stage(totals(open), OnTheWay::default());
        assert!(at(40).ends_with(" 0% of 40 images"), "{}", at(40));
        assert!(at(20).contains("━━━━━━━━━━────────── 50% of 40 images"), "{}", at(20));
        assert_eq!(at(20), at(19), "one line for each twentieth");
        assert!(stage(Totals::default(), OnTheWay::default()).contains("0% of 0"));
        let moving = OnTheWay { bytes_moved: 1_300, bytes_to_move: 2_000 };
        let text = stage(totals(40), moving);
        assert!(text.ends_with(" 0% of 40 images, 65% of 2.0 kB on the way"), "{text}");
    }
}
