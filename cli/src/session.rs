//! What every command is given: where the servers are, and how to talk to the person.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use mecapy_proto::TaskId;
use mecapy_service::Secret;

use crate::arguments::{Confirm, Global};
use crate::exit::Stop;
use crate::gateway::Client;
use crate::source;
use crate::terminal::Output;

#[derive(Debug)]
pub struct Session {
    pub output: Output,
    pub quiet: bool,
    pub config: Option<PathBuf>,
    url: String,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
}

impl Session {
    pub fn new(global: Global) -> Self {
        let Global { json, quiet, url, token, token_file, config } = global;
        Self { output: Output::new(json), quiet, config, url, token, token_file }
    }

    pub fn client(&self) -> Result<Client, Stop> {
        let token = token(self.token.as_ref(), self.token_file.as_deref(), |name| {
            std::env::var(name).ok().filter(|value| !value.is_empty())
        })?;
        Client::new(&self.url, token.as_ref())
    }

    /// What a person may want to do next; a program knows.
    pub fn hint(&self, text: &str) {
        if !self.quiet && !self.output.is_json() {
            self.output.note(text);
        }
    }

    /// Asks before something that can't be undone. Where nobody can answer, `--yes` must have been given.
    pub fn confirm(&self, question: &str, given: Confirm) -> Result<(), Stop> {
        if given.yes {
            return Ok(());
        }
        let input = std::io::stdin();
        if !input.is_terminal() || !std::io::stderr().is_terminal() {
            return Err(Stop::Usage(format!(
                "{question} Say --yes: there is no terminal to ask on"
            )));
        }
        self.output.note(&format!("{question} [y/N]"));
        let mut answer = String::new();
        let _ = input.lock().read_line(&mut answer);
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Stop::Interrupted("nothing was done".to_owned())),
        }
    }
}

/// The token: as given on the command line, else by the environment, where the value comes before the file.
fn token(
    given: Option<&Secret>,
    file: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, Stop> {
    let from_file = |file: &Path| source::text(file).map(|text| Secret::new(text.trim()));
    match (given, file) {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, Some(file)) => from_file(file).map(Some),
        (None, None) => match (variable("MECAPY_TOKEN"), variable("MECAPY_TOKEN_FILE")) {
            (Some(token), _) => Ok(Some(Secret::new(token))),
            (None, Some(file)) => from_file(Path::new(&file)).map(Some),
            (None, None) => Ok(None),
        },
    }
}

/// Marks the requests of one command: sent again, they are still the same piece of work.
pub fn idempotency_key() -> String {
    format!("cli-{}", TaskId::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_comes_before_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\n").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let environment = |name: &str| match name {
            "MECAPY_TOKEN" => Some("from-variable".to_owned()),
            _ => Some("/does/not/exist".to_owned()),
        };
        let expose = |token: Option<Secret>| token.map(|token| token.expose().to_owned());
        assert_eq!(
            expose(token(Some(&Secret::new("given")), None, environment).unwrap()).as_deref(),
            Some("given")
        );
        assert_eq!(
            expose(token(None, Some(file.path()), environment).unwrap()).as_deref(),
            Some("from-file")
        );
        assert_eq!(
            expose(token(None, None, environment).unwrap()).as_deref(),
            Some("from-variable")
        );
        let only_file = |name: &str| (name == "MECAPY_TOKEN_FILE").then(|| path.clone());
        assert_eq!(expose(token(None, None, only_file).unwrap()).as_deref(), Some("from-file"));
        assert!(token(None, None, |_| None).unwrap().is_none());
        assert!(token(None, Some(Path::new("/does/not/exist")), |_| None).is_err());
    }
}
