//! Waits for the end of a run, by its rows.

use std::time::Duration;

use mecapy_store::PgPool;
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
            Ok(Some((true, _))) => return Ok(()),
            Ok(Some((false, totals))) => {
                heard = Instant::now();
                progress.stage(&stage(totals));
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

async fn look(pool: &PgPool, id: &str) -> Result<Option<(bool, Totals)>, mecapy_store::Error> {
    let Some(run) = mirror_runs::get(pool, id).await? else { return Ok(None) };
    Ok(Some((run.has_ended(), mirror_runs::totals(pool, id).await?)))
}

/// In steps of a twentieth, so that a log has twenty lines of it and not a thousand.
fn stage(totals: Totals) -> String {
    let Totals { images, open, failed, not_found, bytes_sent, .. } = totals;
    let percent = (images - open) * 20 / images.max(1) * 5;
    let bar: String = (0..20).map(|step| if step * 5 < percent { '━' } else { '─' }).collect();
    let mut text = format!("{bar} {percent}% of {images} images");
    if percent > 0 {
        text.push_str(&format!(", {} sent", size(bytes_sent)));
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
        let at = |open| stage(Totals { images: 40, open, ..Totals::default() });
        assert!(at(40).ends_with(" 0% of 40 images"), "{}", at(40));
        assert!(at(20).contains("━━━━━━━━━━────────── 50% of 40 images"), "{}", at(20));
        assert_eq!(at(20), at(19), "one line for each twentieth");
        assert!(stage(Totals::default()).contains("0% of 0"));
    }
}
