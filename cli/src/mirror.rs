//! `mecapy mirror`: the copy on the fallback registry.

mod drill;
mod follow;
mod shown;

use std::str::FromStr;

use clap::{Args, Subcommand};
use mecapy_proto::TaskId;
use mecapy_proto::v1::MirrorRequested;
use mecapy_store::PgPool;
use mecapy_store::mirror_runs;

use crate::exit::{self, Exit, Stop};
use crate::servers::Servers;
use crate::session::Session;
use crate::{table, watch};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy the most used images to the fallback registry, and wait until they are there
    #[command(after_help = exit::HELP)]
    Run(Run),
    /// List runs, newest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 20, value_name = "NUMBER")]
        limit: u32,
    },
    /// Show a run with what became of each image
    Show { run: String },
    /// Try out the recovery: pull mirrored images from the fallback alone, start each, remove them again
    #[command(after_help = exit::HELP)]
    Drill(drill::Drill),
}

#[derive(Debug, Args)]
pub struct Run {
    /// How far back use counts, in days [default: the mirror's, 7d]
    #[arg(long, value_name = "DAYS")]
    pub window: Option<Days>,
    /// How many images, the most used first [default: the mirror's, 100]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: Option<u32>,
    /// This digest instead of the most used ones (more than one may be given)
    #[arg(long, value_name = "SHA256", conflicts_with_all = ["window", "limit"])]
    pub digest: Vec<String>,
    /// Only tell what would move, and how many bytes
    #[arg(long)]
    pub dry_run: bool,
    /// Read so much of the copies back from the fallback and hash it
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub verify: u32,
    /// Don't wait for the end
    #[arg(long)]
    pub no_wait: bool,
}

/// `7d`, or `7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days(pub u32);

impl FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('d').unwrap_or(text);
        match number.parse() {
            Ok(days @ 1..=3650) => Ok(Self(days)),
            _ => Err(format!("{text:?} is no number of days: write 7d")),
        }
    }
}

pub async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    match command {
        Command::Run(arguments) => start(arguments, &servers, session).await,
        Command::List { limit } => list(&servers.pool().await?, limit, session).await,
        Command::Show { run } => show(&servers.pool().await?, &run, session).await,
        Command::Drill(arguments) => drill::run(arguments, &servers, session).await,
    }
}

async fn start(arguments: Run, servers: &Servers, session: &Session) -> anyhow::Result<Exit> {
    let request = MirrorRequested {
        run_id: format!("manual-{}", TaskId::new()),
        window_days: arguments.window.map_or(0, |days| days.0),
        limit: arguments.limit.unwrap_or_default(),
        dry_run: arguments.dry_run,
        digests: digests(&arguments.digest)?,
        verify_percent: arguments.verify,
        reason: "manual".to_owned(),
    };
    let id = request.run_id.clone();
    // Before it is asked for: without the database there is no way to tell what came of it.
    let pool = if arguments.no_wait { None } else { Some(servers.pool().await?) };
    servers.bus().await?.publish(&request).await?;
    let Some(pool) = pool else {
        session.output.show(&serde_json::json!({ "run_id": id }).to_string(), || id.clone());
        session.hint(&format!("see what comes of it: mecapy mirror show {id}"));
        return Ok(Exit::Done);
    };
    let go_on = || format!("the run goes on: mecapy mirror show {id}");
    watch::unless_interrupted(follow::until_ended(&pool, &id, session), go_on).await?;
    show(&pool, &id, session).await
}

/// As the registry names them; `sha256:` may be left out.
fn digests(given: &[String]) -> Result<Vec<String>, Stop> {
    let digest = |text: &String| {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let wrong = || Stop::Usage(format!("--digest: {text:?} is no sha256 digest"));
        is_hex.then(|| format!("sha256:{hex}")).ok_or_else(wrong)
    };
    given.iter().map(digest).collect()
}

async fn show(pool: &PgPool, id: &str, session: &Session) -> anyhow::Result<Exit> {
    let run = mirror_runs::get(pool, id)
        .await?
        .ok_or_else(|| Stop::NotFound(format!("there is no mirror run {id}")))?;
    let totals = mirror_runs::totals(pool, id).await?;
    let images = mirror_runs::images(pool, id).await?;
    session.output.show(&shown::json(&run, totals, &images)?.to_string(), || {
        shown::text(&run, totals, &images)
    });
    Ok(if totals.failed + totals.not_found == 0 { Exit::Done } else { Exit::Failed })
}

async fn list(pool: &PgPool, limit: u32, session: &Session) -> anyhow::Result<Exit> {
    let (mut rows, mut json) = (Vec::new(), Vec::new());
    for run in mirror_runs::list(pool, limit).await? {
        let totals = mirror_runs::totals(pool, &run.id).await?;
        json.push(shown::json_summary(&run, totals));
        rows.push(shown::row(&run, totals));
    }
    session.output.show(&serde_json::to_string(&json)?, || {
        if rows.is_empty() {
            return "There are no mirror runs.".to_owned();
        }
        table::render(shown::HEADER, &rows)
    });
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_days() {
        assert_eq!("7d".parse(), Ok(Days(7)));
        assert_eq!("30".parse(), Ok(Days(30)));
        for wrong in ["", "d", "0d", "7h", "-1", "9999"] {
            assert!(wrong.parse::<Days>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_digest_is_taken_with_its_algorithm_and_without() {
        let hex = "ab".repeat(32);
        let both = [hex.clone(), format!("sha256:{hex}")];
        assert_eq!(digests(&both).unwrap(), [both[1].clone(), both[1].clone()]);
        for wrong in ["", "sha256:", "sha512:ab", &hex.to_uppercase(), "v1"] {
            assert!(digests(&[wrong.to_owned()]).is_err(), "{wrong:?}");
        }
    }
}
