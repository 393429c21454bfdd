//! Why a call did not succeed.

use std::fmt;

use reqwest::StatusCode;
use serde::Deserialize;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "can't reach the gateway at {url}: {cause} (its address is given by --url or MECAPY_URL)"
    )]
    Unreachable {
        url: String,
        cause: String,
        /// The gateway may have got the request, and done what it asks for.
        may_have_arrived: bool,
    },
    #[error("{0}")]
    Refused(Problem),
    #[error("{url} does not answer as a gateway of this version: {cause}")]
    NotOurs { url: String, cause: String },
}

impl Error {
    /// Whether the same call may succeed a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => matches!(problem.status, 502..=504),
            Self::NotOurs { .. } => false,
        }
    }

    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused(problem) if problem.code.is_empty() => "refused",
            Self::Refused(problem) => &problem.code,
            Self::NotOurs { .. } => "not-a-gateway",
        }
    }

    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => problem.field.as_deref(),
            _ => None,
        }
    }
}

/// `application/problem+json` (RFC 9457), with our code and the field that it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    pub title: String,
    pub detail: Option<String>,
    pub code: String,
    pub field: Option<String>,
}

impl Problem {
    /// Also of an answer that something in between gave.
    pub fn read(status: StatusCode, body: &[u8]) -> Self {
        let mut problem: Self = serde_json::from_slice(body).unwrap_or_default();
        problem.status = status.as_u16();
        if problem.title.is_empty() && problem.detail.is_none() {
            problem.title = format!("the server answered {status}");
        }
        if status == StatusCode::UNAUTHORIZED {
            problem.detail = Some(format!(
                "{} (the token is given by --token-file, MECAPY_TOKEN_FILE or MECAPY_TOKEN)",
                problem.detail.as_deref().unwrap_or(&problem.title)
            ));
        }
        problem
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.detail.as_deref().unwrap_or(&self.title);
        match &self.field {
            Some(field) if !text.contains(field.as_str()) => write!(f, "{field}: {text}")?,
            _ => f.write_str(text)?,
        }
        if !self.code.is_empty() {
            write!(f, " ({})", self.code)?;
        }
        Ok(())
    }
}

/// What is at the bottom of an error: "Connection refused", not "error sending request".
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_the_field_and_the_code() {
        let body = br#"{"type":"x","title":"Invalid","status":422,"detail":"2.7 is not supported","code":"unsupported-python","field":"python_version"}"#;
        let problem = Problem::read(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(
            problem.to_string(),
            "python_version: 2.7 is not supported (unsupported-python)"
        );
    }

    #[test]
    fn an_answer_of_something_in_between_still_says_something() {
        let problem = Problem::read(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(problem.to_string(), "the server answered 502 Bad Gateway");
        assert!(Error::Refused(problem).is_passing());
    }

    #[test]
    fn a_missing_token_says_how_to_give_one() {
        let problem = Problem::read(StatusCode::UNAUTHORIZED, br#"{"title":"Unauthorized"}"#);
        assert!(problem.to_string().contains("MECAPY_TOKEN_FILE"));
    }
}
