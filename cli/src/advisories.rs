//! `mecapy advisories`: the database that the scanner matches with.

use std::path::{Path, PathBuf};

use chrono::Utc;
use clap::{Args, Subcommand};
use mecapy_advisories::{Database, Info, Mirror, download, import, replace};
use serde::{Deserialize, Serialize};

use crate::exit::{self, Exit, Stop};
use crate::session::Session;
use crate::table;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch osv.dev's exports and put a database of them in place; scanners that run take it up
    #[command(after_help = exit::HELP)]
    Update(Update),
    /// Make the database of exports that are here: zips, records, or folders of these
    #[command(after_help = exit::HELP)]
    Import(Import),
    /// Show what the database holds, and how old it is
    #[command(after_help = exit::HELP)]
    Info {
        #[command(flatten)]
        database: Place,
    },
}

#[derive(Debug, Args)]
pub struct Place {
    /// The database [default: the configuration's scanner.database]
    #[arg(long, value_name = "FILE")]
    pub database: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    pub database: Place,
    /// Where the exports are: <URL>/<ECOSYSTEM>/all.zip [default: osv.dev's]
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// An export to fetch (more than one may be given)
    #[arg(long, value_name = "NAME", default_values = ["PyPI", "Debian:12", "Debian:13", "Alpine"])]
    pub ecosystem: Vec<String>,
    /// Replace the database also by one that knows much less or is older
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Import {
    /// Files, folders, or URLs of zips
    #[arg(required = true, value_name = "PATH|URL")]
    pub exports: Vec<String>,
    #[command(flatten)]
    pub database: Place,
    /// Replace the database also by one that knows much less or is older
    #[arg(long)]
    pub force: bool,
}

/// The sections of the services' configuration that these commands read.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Configured {
    scanner: Scanner,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Scanner {
    database: Option<PathBuf>,
}

pub async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    match command {
        Command::Update(update) => {
            let path = update.database.path(session)?;
            let mirror = update.from.as_deref().map(Mirror::new).unwrap_or_default();
            let exports = update.ecosystem.iter().map(|name| mirror.export(name)).collect();
            make(exports, &path, update.force, session).await
        }
        Command::Import(import) => {
            let path = import.database.path(session)?;
            make(import.exports, &path, import.force, session).await
        }
        Command::Info { database } => {
            let database = Database::open(&database.path(session)?)?;
            show(database.info(), session)
        }
    }
}

impl Place {
    fn path(&self, session: &Session) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.database {
            return Ok(path.clone());
        }
        let configured: Configured = mecapy_service::check(session.config.as_deref())?;
        configured.scanner.database.ok_or_else(|| {
            Stop::Usage(
                "name the file with --database, or scanner.database in the configuration"
                    .to_owned(),
            )
            .into()
        })
    }
}

/// Fetches what is elsewhere, reads all of it, and only then replaces the database.
async fn make(
    exports: Vec<String>,
    path: &Path,
    force: bool,
    session: &Session,
) -> anyhow::Result<Exit> {
    let fetched = tempfile::tempdir()?;
    let client = reqwest::Client::new();
    let mut paths = Vec::new();
    for (at, export) in exports.iter().enumerate() {
        if !export.starts_with("http://") && !export.starts_with("https://") {
            paths.push(PathBuf::from(export));
            continue;
        }
        let to = fetched.path().join(format!("{at}.zip"));
        let bytes = download(&client, export, &to).await?;
        session.hint(&format!("fetched {export}: {} kB", bytes.div_ceil(1000)));
        paths.push(to);
    }
    let made = import(&paths, exports, Utc::now())?;
    let replaced = replace(path, &made, force)?;
    match replaced.before {
        Some(before) => session.hint(&format!(
            "{} is replaced: {} advisories, {} before",
            path.display(),
            made.info().advisories,
            before.advisories
        )),
        None => session.hint(&format!("{} is made", path.display())),
    }
    show(made.info(), session)
}

fn show(info: &Info, session: &Session) -> anyhow::Result<Exit> {
    let age_hours = info.age(Utc::now()).map(|age| age.num_hours());
    let mut json = serde_json::to_value(info)?;
    json["age_hours"] = age_hours.into();
    session.output.show(&json.to_string(), || text(info, age_hours));
    Ok(Exit::Done)
}

fn text(info: &Info, age_hours: Option<i64>) -> String {
    let age =
        age_hours.map_or("-".to_owned(), |hours| format!("{} d {} h", hours / 24, hours % 24));
    let fields = [
        ("version", info.version.clone()),
        ("age", age),
        ("imported", info.imported_at.format("%Y-%m-%d %H:%M UTC").to_string()),
        ("records", info.records.to_string()),
        ("withdrawn", info.withdrawn.to_string()),
        ("elsewhere", info.elsewhere.to_string()),
        ("advisories", info.advisories.to_string()),
        ("packages", info.packages.to_string()),
    ];
    let mut text: String =
        fields.iter().map(|(name, value)| format!("{name:<11}{value}\n")).collect();
    let rows: Vec<Vec<String>> = info
        .ecosystems
        .iter()
        .map(|(name, of)| {
            let newest = of.newest.map(|newest| newest.format("%Y-%m-%d").to_string());
            vec![
                name.clone(),
                of.advisories.to_string(),
                of.packages.to_string(),
                newest.unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table::render(&["ecosystem", "advisories", "packages", "newest"], &rows));
    text
}
