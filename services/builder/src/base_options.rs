//! `[builder.base]`: what base images are made of, and when.

use std::path::PathBuf;
use std::time::Duration;

use mecapy_registry::ImageRef;
use mecapy_service::{ConfigError, Schedule};
use serde::{Deserialize, Serialize};

use crate::base_matrix::Cell;

const PYTHON: &str = "{python}";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaseOptions {
    /// Holds a folder `python-{variant}` for each variant: Dockerfile, smoke.py, and what they need.
    pub folder: PathBuf,
    /// What the slim images stand on; `{python}` is the version.
    pub python_image: String,
    /// Ask the registry for that image before each build, so that its updates get in. Off: where it was made on this
    /// machine, and no registry has it.
    pub pull: bool,
    /// The matrix of a request that names none, and of the schedule.
    pub python_versions: Vec<String>,
    pub variants: Vec<String>,
    /// When all of them are built, UTC.
    pub schedule: Option<Schedule>,
    /// Base images that are built at once.
    pub concurrency: usize,
    /// For all that the engine does for one of them.
    pub limit_seconds: u64,
}

impl Default for BaseOptions {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("/usr/share/mecapy/base"),
            python_image: format!("python:{PYTHON}-slim"),
            pull: true,
            python_versions: ["3.11", "3.12"].map(str::to_owned).to_vec(),
            variants: ["slim", "numpy", "scipy"].map(str::to_owned).to_vec(),
            schedule: "0 4 * * 0".parse().ok(),
            concurrency: 2,
            limit_seconds: 900,
        }
    }
}

impl BaseOptions {
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, problem: String| {
            Err(ConfigError::key(format!("builder.base.{key}"), problem))
        };
        if self.concurrency == 0 {
            return refuse("concurrency", "must be at least 1".to_owned());
        }
        if self.limit_seconds == 0 {
            return refuse("limit_seconds", "must be at least 1".to_owned());
        }
        if !self.python_image.contains(PYTHON) {
            return refuse("python_image", format!("must have {PYTHON} where the version goes"));
        }
        if let Err(error) = self.python_image("3.11").parse::<ImageRef>() {
            return refuse("python_image", error.to_string());
        }
        for python in &self.python_versions {
            if let Err(problem) = Cell::new(python, "slim") {
                return refuse("python_versions", problem);
            }
        }
        for variant in &self.variants {
            if let Err(problem) = Cell::new("3.11", variant) {
                return refuse("variants", problem);
            }
        }
        Ok(())
    }

    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.limit_seconds)
    }

    /// What the slim image of this Python stands on, as the engine knows it.
    pub fn python_image(&self, python: &str) -> String {
        self.python_image.replace(PYTHON, python)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_bad_value_names_its_key() {
        assert_eq!(BaseOptions::default().validate(), Ok(()));
        assert!(BaseOptions::default().schedule.is_some());
        let problem = |change: fn(&mut BaseOptions)| {
            let mut options = BaseOptions::default();
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        assert!(problem(|o| o.concurrency = 0).starts_with("builder.base.concurrency: "));
        assert!(
            problem(|o| o.python_image = "python:3.11".into())
                .starts_with("builder.base.python_image: ")
        );
        assert!(
            problem(|o| o.python_image = "Python {python}".into())
                .starts_with("builder.base.python_image: ")
        );
        assert!(
            problem(|o| o.python_versions.push("2.7".into()))
                .starts_with("builder.base.python_versions: ")
        );
        assert!(problem(|o| o.variants.push("../x".into())).starts_with("builder.base.variants: "));
    }
}
