//! Which images of which repositories are wanted for how long.

use std::collections::BTreeMap;

use mecapy_service::ConfigError;
use serde::{Deserialize, Serialize};

/// What holds for the repositories of a pattern. A limit of 0 is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// `mecapy/functions/*`: `*` stands for anything, slashes too. The longest pattern that fits counts.
    pub repositories: String,
    /// Images of functions that were deleted go.
    pub deleted_functions: bool,
    /// Images that no task and no build used for so long go.
    pub unused_days: u32,
    /// Of the tags `v{version}-…`, those of so many newest versions stay.
    pub keep_versions: u32,
    /// `latest` is moved to the newest version that is ready, and manifests that no tag leads to any more go after
    /// so long.
    pub stale_latest_days: u32,
    /// Whatever a tag leads to stays.
    pub keep_tagged: bool,
    /// Images that functions are built on: those of live functions stay.
    pub are_bases: bool,
}

/// What a single run may be asked to do otherwise.
const LIMITS: &[&str] = &["unused_days", "keep_versions", "stale_latest_days"];

/// Policies by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policies(pub BTreeMap<String, Policy>);

impl Default for Policies {
    fn default() -> Self {
        let functions = Policy {
            repositories: "mecapy/functions/*".to_owned(),
            deleted_functions: true,
            unused_days: 90,
            keep_versions: 10,
            stale_latest_days: 30,
            ..Policy::default()
        };
        let base = Policy {
            repositories: "mecapy/base/*".to_owned(),
            unused_days: 365,
            keep_tagged: true,
            are_bases: true,
            ..Policy::default()
        };
        Self([("functions".to_owned(), functions), ("base".to_owned(), base)].into())
    }
}

impl Policies {
    /// The policy of a repository, with its name.
    pub fn of(&self, repository: &str) -> Option<(&str, &Policy)> {
        self.0
            .iter()
            .filter(|(_, policy)| fits(&policy.repositories, repository))
            .max_by_key(|(_, policy)| policy.repositories.len())
            .map(|(name, policy)| (name.as_str(), policy))
    }

    /// With what one run was asked to do otherwise: policy name to keys as TOML. Limits of policies that are there,
    /// and nothing else: an event must not name repositories that the configuration leaves alone.
    pub fn with<'o>(
        &self,
        overrides: impl IntoIterator<Item = (&'o String, &'o String)>,
    ) -> Result<Self, ConfigError> {
        let mut policies = self.clone();
        for (name, text) in overrides {
            let wrong =
                |problem: String| ConfigError::key(format!("janitor.policies.{name}"), problem);
            let given: toml::Table =
                text.parse().map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
            let Some(known) = policies.0.get(name).cloned() else {
                return Err(wrong("there is no such policy in the configuration".to_owned()));
            };
            if let Some(key) = given.keys().find(|key| !LIMITS.contains(&key.as_str())) {
                return Err(wrong(format!(
                    "a run can't change {key}: it can change {}",
                    LIMITS.join(", ")
                )));
            }
            let mut merged =
                toml::Table::try_from(known).map_err(|error| wrong(error.to_string()))?;
            merged.extend(given);
            let policy = merged
                .try_into()
                .map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
            policies.0.insert(name.clone(), policy);
        }
        policies.validate()?;
        Ok(policies)
    }

    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut patterns = BTreeMap::new();
        for (name, policy) in &self.0 {
            let key = format!("janitor.policies.{name}.repositories");
            if policy.repositories.is_empty() {
                return Err(ConfigError::key(
                    key,
                    "must be set: a pattern like mecapy/functions/*",
                ));
            }
            if let Some(other) = patterns.insert(&policy.repositories, name) {
                return Err(ConfigError::key(key, format!("is the pattern of {other} already")));
            }
        }
        Ok(())
    }
}

/// Whether a pattern with `*` fits a name.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut rest = rest;
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_with_its_stars() {
        for (pattern, name, does) in [
            ("mecapy/functions/*", "mecapy/functions/user-a-func-1", true),
            ("mecapy/functions/*", "mecapy/functions", false),
            ("mecapy/functions/*", "x/mecapy/functions/a", false),
            ("*", "anything/at/all", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("*-func-1", "user-func-1", true),
        ] {
            assert_eq!(fits(pattern, name), does, "{pattern} {name}");
        }
    }

    #[test]
    fn a_repository_without_a_policy_has_none() {
        let policies = Policies::default();
        assert_eq!(policies.of("mecapy/functions/user-a-func-1").unwrap().0, "functions");
        assert_eq!(policies.of("mecapy/base/python").unwrap().0, "base");
        for other in ["system/nats", "mecapy/staging/deps", "mecapy/functionsx"] {
            assert!(policies.of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_run_may_override_a_key_and_a_slip_names_it() {
        let overrides = |name: &str, text: &str| {
            Policies::default().with(&BTreeMap::from([(name.to_owned(), text.to_owned())]))
        };
        let policies = overrides("functions", "unused_days = 30").unwrap();
        assert_eq!(policies.0["functions"].unused_days, 30);
        assert_eq!(policies.0["functions"].keep_versions, 10);
        assert_eq!(policies.0["base"], Policies::default().0["base"]);
        let wrong = overrides("functions", "unused_day = 30").unwrap_err().to_string();
        assert!(
            wrong.contains("janitor.policies.functions") && wrong.contains("unused_day"),
            "{wrong}"
        );
        assert!(overrides("functions", "=").is_err());
    }

    #[test]
    fn a_run_reaches_no_repository_that_the_configuration_leaves_alone() {
        for (name, text) in [
            ("functions", "repositories = '*'"),
            ("functions", "deleted_functions = true"),
            ("base", "keep_tagged = false"),
            ("base", "are_bases = false"),
            ("new", "unused_days = 1"),
            ("new", "repositories = '*'\nunused_days = 1"),
        ] {
            let overrides = BTreeMap::from([(name.to_owned(), text.to_owned())]);
            assert!(Policies::default().with(&overrides).is_err(), "{name}: {text}");
        }
    }
}
