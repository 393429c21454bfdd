//! `[builder]`: what the builder may be told.

use std::path::PathBuf;
use std::time::Duration;

use mecapy_service::{ConfigError, Secret};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::base_options::BaseOptions;
use crate::egress::{host_and_port, proxy_address};
use crate::requirements::package_name;
use crate::validation::{Rules, python_version};

/// The installer itself has some threads for each core.
const MIN_PROCESSES: u32 = 64;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Builds handled at once. Most need no engine and take milliseconds.
    pub concurrency: usize,
    /// Steps with the engine at once.
    pub parallel_engine_builds: usize,
    /// A build that nobody has begun gives way to one of a newer version of its function.
    pub supersede_queued: bool,
    /// What a source may hold.
    pub validation: Rules,
    pub max_requirements: usize,
    /// Packages that are built from their sources, by name: of these code runs while an image is built.
    pub source_packages: Vec<String>,
    /// Pythons and variants of which there are base images.
    pub python_versions: Vec<String>,
    pub variants: Vec<String>,
    /// Of the base image, where it has several.
    pub platform: String,
    /// For everything that the engine does for one build.
    pub limit_seconds: u64,
    /// Of each step's container.
    pub memory_bytes: u64,
    pub cpus: f64,
    /// Its processes and threads.
    pub max_processes: u32,
    /// Largest image, unpacked.
    pub max_image_bytes: u64,
    pub max_log_bytes: usize,
    /// How long a resolution of the same requirements is taken again.
    pub resolution_ttl_seconds: u64,
    /// A network of the engine that builds run in, with all that can be reached from there. Absent: one of their own
    /// that leads to the package index and nowhere else.
    pub network: Option<String>,
    /// Hosts that builds may reach beside those of the index, `host` (ports 80 and 443) or `host:port`.
    pub allowed_hosts: Vec<String>,
    /// PEM certificates that builds trust instead of their own, as behind a TLS-inspecting proxy.
    pub ca_bundle: Option<PathBuf>,
    /// The package index (PEP 503), with credentials if it needs any; PyPI when absent.
    pub index_url: Option<Secret>,
    /// Proxies of builds, with credentials if they need any.
    pub http_proxy: Option<Secret>,
    pub https_proxy: Option<Secret>,
    pub no_proxy: Option<String>,
    pub base: BaseOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 16,
            parallel_engine_builds: 2,
            supersede_queued: true,
            validation: Rules::default(),
            max_requirements: 50,
            source_packages: Vec::new(),
            python_versions: ["3.11", "3.12", "3.13"].map(str::to_owned).to_vec(),
            variants: ["slim", "numpy", "scipy"].map(str::to_owned).to_vec(),
            platform: "linux/amd64".to_owned(),
            limit_seconds: 300,
            memory_bytes: 2 << 30,
            cpus: 2.0,
            max_processes: 512,
            max_image_bytes: 2 << 30,
            max_log_bytes: 10 << 20,
            resolution_ttl_seconds: 3600,
            network: None,
            allowed_hosts: Vec::new(),
            ca_bundle: None,
            index_url: None,
            http_proxy: None,
            https_proxy: None,
            no_proxy: None,
            base: BaseOptions::default(),
        }
    }
}

impl Options {
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse =
            |key: &str, problem: String| Err(ConfigError::key(format!("builder.{key}"), problem));
        for (key, value) in [
            ("concurrency", self.concurrency as u64),
            ("parallel_engine_builds", self.parallel_engine_builds as u64),
            ("limit_seconds", self.limit_seconds),
            ("memory_bytes", self.memory_bytes),
        ] {
            if value == 0 {
                return refuse(key, "must be at least 1".to_owned());
            }
        }
        if !(self.cpus.is_finite() && self.cpus > 0.0) {
            return refuse("cpus", "must be above 0".to_owned());
        }
        if let Some(name) = self.source_packages.iter().find(|name| package_name(name).is_none()) {
            return refuse("source_packages", format!("{name:?} is no name of a package"));
        }
        if self.max_processes < MIN_PROCESSES {
            return refuse("max_processes", format!("must be at least {MIN_PROCESSES}"));
        }
        let is_index = |url: &Secret| {
            Url::parse(url.expose())
                .is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
        };
        if self.index_url.as_ref().is_some_and(|url| !is_index(url)) {
            return refuse("index_url", "is no http:// or https:// URL".to_owned());
        }
        if let Some(version) =
            self.python_versions.iter().find(|version| python_version(version).is_none())
        {
            return refuse("python_versions", format!("{version:?} is not one of 3.9 to 3.14"));
        }
        if let Some(variant) = self.variants.iter().find(|variant| !is_variant(variant)) {
            return refuse("variants", format!("{variant:?} is not made of a-z and 0-9"));
        }
        if let Some(host) = self.allowed_hosts.iter().find(|host| host_and_port(host).is_none()) {
            return refuse("allowed_hosts", format!("{host:?} is no host, and no host:port"));
        }
        for (key, url) in [("http_proxy", &self.http_proxy), ("https_proxy", &self.https_proxy)] {
            if let Some(Err(problem)) = url.as_ref().map(|url| proxy_address(url.expose())) {
                return refuse(key, problem.to_owned());
            }
        }
        if let Some(path) = self.ca_bundle.as_ref().filter(|path| !path.is_file()) {
            return refuse("ca_bundle", format!("there is no file {}", path.display()));
        }
        self.base.validate()
    }

    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.limit_seconds)
    }

    /// What must not be seen in a log: the URLs with credentials, and the credentials themselves.
    pub fn secrets(&self) -> Vec<Secret> {
        let urls = [&self.index_url, &self.http_proxy, &self.https_proxy];
        urls.into_iter()
            .flatten()
            .flat_map(|url| credentials(url.expose()))
            .map(Secret::new)
            .collect()
    }
}

/// Part of a tag, of a path and of a Dockerfile.
pub(crate) fn is_variant(text: &str) -> bool {
    (1..=20).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// `user:password` of a URL, and the password alone.
fn credentials(url: &str) -> Vec<String> {
    let Some((_, rest)) = url.split_once("://") else { return Vec::new() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let Some((user, _)) = authority.rsplit_once('@') else { return Vec::new() };
    let password = user.split_once(':').map(|(_, password)| password.to_owned());
    // A very short one would blacken every other word, and protects nothing.
    std::iter::once(user.to_owned()).chain(password).filter(|secret| secret.len() >= 4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut Options)) -> String {
        let mut options = Options::default();
        change(&mut options);
        options.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid_and_a_bad_value_names_its_key() {
        assert_eq!(Options::default().validate(), Ok(()));
        assert!(problem(|o| o.concurrency = 0).starts_with("builder.concurrency: "));
        assert!(problem(|o| o.max_processes = 1).starts_with("builder.max_processes: "));
        assert!(
            problem(|o| o.source_packages.push("a b".into()))
                .starts_with("builder.source_packages: ")
        );
        assert!(
            problem(|o| o.index_url = Some(Secret::new("index.example/simple")))
                .starts_with("builder.index_url: ")
        );
        assert!(problem(|o| o.cpus = f64::NAN).starts_with("builder.cpus: "));
        assert!(
            problem(|o| o.python_versions.push("2.7".into()))
                .starts_with("builder.python_versions: ")
        );
        assert!(problem(|o| o.variants.push("a\nb".into())).starts_with("builder.variants: "));
        assert!(
            problem(|o| o.allowed_hosts.push("http://x".into()))
                .starts_with("builder.allowed_hosts: ")
        );
        assert!(
            problem(|o| o.https_proxy = Some(Secret::new("proxy:3128")))
                .starts_with("builder.https_proxy: ")
        );
        assert!(
            problem(|o| o.ca_bundle = Some("/does/not/exist".into()))
                .starts_with("builder.ca_bundle: ")
        );
    }

    #[test]
    fn what_is_secret_in_a_url_is_found() {
        let options = Options {
            index_url: Some(Secret::new("https://user:hunter2@index.example/simple")),
            https_proxy: Some(Secret::new("http://token1@proxy:3128")),
            ..Options::default()
        };
        let secrets: Vec<String> =
            options.secrets().iter().map(|secret| secret.expose().to_owned()).collect();
        assert_eq!(secrets, ["user:hunter2", "hunter2", "token1"]);
        assert_eq!(credentials("https://index.example/simple@1"), Vec::<String>::new());
    }
}
