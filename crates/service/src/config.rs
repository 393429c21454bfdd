//! Configuration: defaults, then a TOML file, then `MECAPY_*` variables.
//!
//! `MECAPY_NATS__URL` sets `url` of `[nats]`. Wherever a key `x` can stand, `x_file` can: its value is a path,
//! and the file's text, less the line end, becomes `x`. That is how secrets come in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Every section that some service reads. One file serves all of them, so a section that belongs to another
/// service is fine, and one that belongs to none is a slip of the pen.
const SECTIONS: &[&str] = &[
    "admin",
    "telemetry",
    "shutdown",
    "nats",
    "bus",
    "postgres",
    "s3",
    "registries",
    "docker",
    "gateway",
    "builder",
    "scanner",
    "publisher",
    "worker",
    "mirror",
    "janitor",
    "notifier",
    "webhooks",
];

/// A service's configuration.
pub trait Config: Serialize + DeserializeOwned + Default + Send + 'static {
    fn service(&self) -> &crate::Options;

    /// What types can't say: the key, and what is wrong with it.
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}: {problem}")]
    Key { key: String, problem: String },
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
}

impl ConfigError {
    pub fn key(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Key { key: key.into(), problem: problem.into() }
    }
}

/// Reads and checks the configuration.
pub fn load<C: Config>(file: Option<&Path>) -> Result<C, ConfigError> {
    let config: C = check(file)?;
    config.service().telemetry.validate()?;
    config.validate()?;
    Ok(config)
}

/// Reads any type the way services read theirs: for the CLI, which has no service of its own.
pub fn check<C: Serialize + DeserializeOwned + Default>(
    file: Option<&Path>,
) -> Result<C, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigError::File {
                path: path.to_owned(),
                problem: "no such file".to_owned(),
            });
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    // Only what names a section: MECAPY_TOKEN and its like are the CLI's and the scripts' own.
    let variables = Env::prefixed("MECAPY_").filter(|key| key.as_str().contains("__")).split("__");
    figment = figment.merge(variables);

    let given: BTreeMap<String, Value> = figment.extract().map_err(|error| explain(&error))?;
    if let Some(section) = given.keys().find(|key| !SECTIONS.contains(&key.as_str())) {
        return Err(ConfigError::key(
            section,
            format!("no such section; there are {}", SECTIONS.join(", ")),
        ));
    }
    let mut given: Dict = given.into_iter().collect();
    read_files(&mut given, "")?;

    Figment::from(Serialized::defaults(C::default()))
        .merge(Serialized::defaults(given))
        .extract()
        .map_err(|error| explain(&error))
}

/// Puts the text of the file that `x_file` names in the place of `x`.
fn read_files(dict: &mut Dict, parent: &str) -> Result<(), ConfigError> {
    let keys: Vec<String> = dict.keys().cloned().collect();
    for key in keys {
        let full = if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") };
        if let Some(Value::Dict(_, inner)) = dict.get_mut(&key) {
            read_files(inner, &full)?;
        } else if let (Some(plain), Some(path)) =
            (key.strip_suffix("_file"), dict.get(&key).and_then(Value::as_str).map(str::to_owned))
        {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| ConfigError::key(&full, format!("can't read {path}: {error}")))?;
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            let plain = plain.to_owned();
            dict.remove(&key);
            dict.insert(plain, Value::from(text));
        }
    }
    Ok(())
}

fn explain(error: &figment::Error) -> ConfigError {
    let key = error.path.join(".");
    let problem = error.kind.to_string();
    ConfigError::key(if key.is_empty() { "configuration".to_owned() } else { key }, problem)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde::Deserialize;

    use super::*;
    use crate::Secret;

    #[derive(Debug, Serialize, Deserialize, Default)]
    #[serde(default)]
    struct Sample {
        nats: Nats,
        service: crate::Options,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Nats {
        url: String,
        password: Option<Secret>,
    }

    impl Default for Nats {
        fn default() -> Self {
            Self { url: "nats://127.0.0.1:4222".to_owned(), password: None }
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn problem(text: &str) -> String {
        check::<Sample>(Some(file(text).path())).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let sample: Sample = check(Some(file("[builder]\nx = 1\n").path())).unwrap();
        assert_eq!(sample.nats.url, "nats://127.0.0.1:4222");
    }

    #[test]
    fn a_secret_comes_from_the_file_that_is_named_and_is_not_shown() {
        let secret = file("s3cret\n");
        let text = format!("[nats]\npassword_file = {:?}\n", secret.path());
        let sample: Sample = check(Some(file(&text).path())).unwrap();
        assert_eq!(sample.nats.password.as_ref().map(Secret::expose), Some("s3cret"));
        assert!(!format!("{sample:?}").contains("s3cret"));
        assert!(!toml::to_string(&sample).unwrap().contains("s3cret"));
    }

    #[test]
    fn an_error_names_the_key() {
        assert!(
            problem("[nats]\nurl = 5\n").starts_with("nats.url: "),
            "{}",
            problem("[nats]\nurl = 5\n")
        );
        assert!(problem("[nats]\nurls = 'x'\n").contains("urls"));
        assert!(problem("[natz]\n").starts_with("natz: no such section"));
        assert!(
            problem("[nats]\npassword_file = '/does/not/exist'\n")
                .starts_with("nats.password_file: ")
        );
    }

    #[test]
    fn a_file_that_is_missing_is_an_error() {
        assert!(check::<Sample>(Some(Path::new("/does/not/exist.toml"))).is_err());
    }
}
