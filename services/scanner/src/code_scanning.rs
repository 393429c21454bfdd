//! Findings of base images for GitHub's code scanning: there the people look who keep their Dockerfiles.
//! <https://docs.github.com/en/rest/code-scanning/code-scanning#upload-an-analysis-as-sarif-data>
//!
//! It is told and no more: an upload that fails fails no scan.

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use mecapy_service::Secret;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

const TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(30);
/// GitHub's own limit, of the compressed bytes.
const LIMIT_BYTES: usize = 10 << 20;

/// `[scanner.code_scanning]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `owner/name` of the repository with the Dockerfiles. None: nothing is uploaded.
    pub repository: Option<String>,
    /// The branch that the findings are shown for.
    pub git_ref: String,
    /// A token that may write security events.
    pub token: Secret,
    pub api: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            repository: None,
            git_ref: "refs/heads/main".to_owned(),
            token: Secret::default(),
            api: "https://api.github.com".to_owned(),
        }
    }
}

impl Options {
    pub fn validate(&self) -> Result<(), String> {
        let Some(repository) = &self.repository else { return Ok(()) };
        if repository.split('/').filter(|part| !part.is_empty()).count() != 2 {
            return Err(format!("repository: {repository:?} is not owner/name"));
        }
        if !self.git_ref.starts_with("refs/") {
            return Err(format!("git_ref: {:?} does not begin with refs/", self.git_ref));
        }
        if self.token.expose().is_empty() {
            return Err("token: is missing".to_owned());
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("GitHub could not be asked")]
    Request(#[from] reqwest::Error),
    #[error("GitHub answered {status} to {what}: {body}")]
    Refused { what: &'static str, status: StatusCode, body: String },
    #[error("the findings have {bytes} bytes when compressed: more than GitHub takes")]
    TooLarge { bytes: usize },
    #[error("the findings could not be compressed")]
    Compress(#[from] std::io::Error),
}

impl Error {
    fn is_transient(&self) -> bool {
        match self {
            Self::Request(_) => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::TooLarge { .. } | Self::Compress(_) => false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct CodeScanning {
    client: reqwest::Client,
    options: Options,
    repository: String,
}

impl CodeScanning {
    /// `None`: it is off.
    pub fn new(options: &Options) -> Result<Option<Self>, Error> {
        let Some(repository) = options.repository.clone() else { return Ok(None) };
        let client =
            reqwest::Client::builder().timeout(LIMIT).user_agent("mecapy-scanner").build()?;
        Ok(Some(Self { client, options: options.clone(), repository }))
    }

    /// Uploads an analysis, and gives GitHub's name for it.
    pub async fn upload(&self, sarif: &[u8]) -> Result<String, Error> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(sarif)?;
        let compressed = encoder.finish()?;
        if compressed.len() > LIMIT_BYTES {
            return Err(Error::TooLarge { bytes: compressed.len() });
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(compressed);
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            match self.try_upload(&encoded).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "code scanning is asked again");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                ended => return ended,
            }
        }
        self.try_upload(&encoded).await
    }

    async fn try_upload(&self, encoded: &str) -> Result<String, Error> {
        // Code scanning shows findings at a commit; an image is built from the newest.
        let branch = self.options.git_ref.trim_start_matches("refs/");
        let request = self
            .request(Method::GET, &format!("commits/{branch}"))
            .header("accept", "application/vnd.github.sha");
        let commit = accepted("the branch", request.send().await?).await?.text().await?;
        let request = self
            .request(Method::POST, "code-scanning/sarifs")
            .header("accept", "application/vnd.github+json")
            .json(&json!({
                "commit_sha": commit.trim(),
                "ref": self.options.git_ref,
                "sarif": encoded,
                "tool_name": "mecapy-scanner",
            }));
        #[derive(Deserialize)]
        struct Uploaded {
            id: String,
        }
        let uploaded: Uploaded =
            accepted("the findings", request.send().await?).await?.json().await?;
        Ok(uploaded.id)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let api = self.options.api.trim_end_matches('/');
        self.client
            .request(method, format!("{api}/repos/{}/{path}", self.repository))
            .bearer_auth(self.options.token.expose())
            .header("x-github-api-version", "2022-11-28")
    }
}

async fn accepted(what: &'static str, response: Response) -> Result<Response, Error> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = response.text().await.unwrap_or_default();
    body.truncate(body.floor_char_boundary(300));
    Err(Error::Refused { what, status, body })
}
