//! Why advisories can't be read or found. None of these ever means that there are none.

use std::io;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the advisory database {} can't be read", path.display())]
    DatabaseFile { path: PathBuf, source: io::Error },
    #[error("{} is no advisory database of this version: import it again with `mecapy advisories import`", path.display())]
    NotADatabase { path: PathBuf },
    #[error("the advisory database {path} is damaged ({problem}): import it again")]
    DatabaseCorrupt { path: String, problem: &'static str },
    #[error(
        "the advisory database {path} has no advisory about a package of PyPI, Debian or Alpine"
    )]
    DatabaseEmpty { path: String },
    #[error(
        "the newest advisory of {family} is of {newest}: more than {limit_days} days old; import a newer database"
    )]
    DatabaseTooOld { family: String, newest: DateTime<Utc>, limit_days: i64 },
    #[error("there is no advisory database at {} yet: `mecapy advisories update` makes one", path.display())]
    DatabaseMissing { path: PathBuf },

    #[error("the export {} is no zip archive", path.display())]
    Archive { path: PathBuf, source: zip::result::ZipError },
    #[error("the advisory {name} can't be read")]
    Record { name: String, source: serde_json::Error },
    #[error("the advisory {name} has more than {limit_bytes} bytes")]
    RecordTooLarge { name: String, limit_bytes: u64 },

    #[error("{url} can't be fetched")]
    Download { url: String, source: reqwest::Error },
    #[error("{url} has more than {limit_bytes} bytes")]
    DownloadTooLarge { url: String, limit_bytes: u64 },
    #[error("{} can't be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the database was not replaced: {problem}; --force replaces it all the same")]
    Suspicious { problem: String },
    #[error("the database could not be encoded")]
    Encode(#[from] serde_json::Error),
}
