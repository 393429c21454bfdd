//! The lock: exactly which packages a function gets, each with the hashes of its files.

use std::collections::BTreeSet;
use std::str::FromStr;

use mecapy_proto::ErrorCode;
use mecapy_registry::Digest;
use pep440_rs::Version;
use pep508_rs::PackageName;

use crate::rejection::Rejection;
use crate::requirements::{Requirements, package_name, split_lines};

/// Part of the key of every dependency image. Raise it when the way it is made changes what is in it.
const RECIPE: &str = "mecapy-dependencies-2";

/// What the resolver printed can't be read as a lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the resolver's lock can't be read: {0}")]
pub struct Unreadable(String);

/// Packages in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    packages: Vec<Locked>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Locked {
    name: PackageName,
    version: Version,
    /// `algorithm:hex`, one at least.
    hashes: BTreeSet<String>,
}

impl Lock {
    /// Reads `name==version --hash=…` lines, and nothing else.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let lines = split_lines(text).map_err(|rejection| Unreadable(rejection.message))?;
        let read = |line: &crate::requirements::Line| {
            let (name, version) = line.requirement.split_once("==")?;
            let locked = Locked {
                name: package_name(name)?,
                version: Version::from_str(version).ok()?,
                hashes: line.hashes.iter().cloned().collect(),
            };
            (!locked.hashes.is_empty()).then_some(locked)
        };
        let packages = lines.iter().map(|line| {
            read(line).ok_or_else(|| {
                Unreadable(format!("line {} is no `name==version` with hashes", line.number))
            })
        });
        let mut packages = packages.collect::<Result<Vec<_>, _>>()?;
        packages.sort();
        if let Some(twice) = packages.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Unreadable(format!("`{}` is in it twice", twice[0].name)));
        }
        Ok(Self { packages })
    }

    /// Where the user named hashes, leaves only those: another file of the same version is not installed.
    pub fn restrict(mut self, requirements: &Requirements) -> Result<Self, Rejection> {
        for package in &mut self.packages {
            let Some(allowed) = requirements.hashes(&package.name) else { continue };
            package.hashes.retain(|hash| allowed.contains(hash.as_str()));
            if package.hashes.is_empty() {
                return Err(Rejection::new(
                    ErrorCode::InvalidRequirement,
                    format!(
                        "none of the hashes given for `{}` belongs to {}=={}, which was chosen",
                        package.name, package.name, package.version
                    ),
                ));
            }
        }
        Ok(self)
    }

    pub fn len(&self) -> usize {
        self.packages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// As installers read it.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for Locked { name, version, hashes } in &self.packages {
            text.push_str(&format!("{name}=={version}"));
            for hash in hashes {
                text.push_str(&format!(" \\\n    --hash={hash}"));
            }
            text.push('\n');
        }
        text
    }

    /// Which of these packages are in it.
    pub fn among(&self, names: &BTreeSet<PackageName>) -> Vec<String> {
        let locked = self.packages.iter().map(|package| &package.name);
        locked.filter(|name| names.contains(name)).map(ToString::to_string).collect()
    }

    /// Names the image that holds these packages: 32 hex digits. `from_source`: those of them that are built.
    pub fn dependency_key(
        &self,
        base: &Digest,
        python: &str,
        platform: &str,
        from_source: &[String],
    ) -> String {
        let mut parts =
            vec![RECIPE.to_owned(), base.to_string(), python.to_owned(), platform.to_owned()];
        parts.push(self.render());
        parts.extend_from_slice(from_source);
        let mut hex = Digest::of(parts.join("\0").as_bytes()).hex();
        hex.truncate(32);
        hex
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn lock() -> Lock {
        let text = format!(
            "b==2 \\\n    --hash={}\na==1.0 \\\n    --hash={} \\\n    --hash={}\n",
            hash('3'),
            hash('2'),
            hash('1')
        );
        Lock::parse(&text).unwrap()
    }

    #[test]
    fn a_lock_is_written_in_one_form_whatever_the_order() {
        let text = format!(
            "a==1.0 \\\n    --hash={} \\\n    --hash={}\nb==2 \\\n    --hash={}\n",
            hash('1'),
            hash('2'),
            hash('3')
        );
        assert_eq!(lock().render(), text);
        assert_eq!(Lock::parse(&text), Ok(lock()));
    }

    #[test]
    fn what_is_not_pinned_and_hashed_is_no_lock() {
        let hash = hash('1');
        for text in [
            "a==1".to_owned(),
            format!("a>=1 --hash={hash}"),
            format!("a==1.* --hash={hash}"),
            format!("a --hash={hash}"),
            format!("a @ https://x/a.whl --hash={hash}"),
            format!("a==1 ; os_name == 'x' --hash={hash}"),
            format!("--index-url https://x\na==1 --hash={hash}"),
            format!("a==1 --hash={hash}\nA==2 --hash={hash}"),
        ] {
            assert!(Lock::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_users_hashes_are_the_only_ones_left() {
        let required = |text: &str| Requirements::parse(text, 50).unwrap();
        let one = lock().restrict(&required(&format!("a --hash={}\nb", hash('2')))).unwrap();
        assert!(
            !one.render().contains(&hash('1'))
                && one.render().contains(&hash('2'))
                && one.render().contains(&hash('3'))
        );
        let none = lock().restrict(&required(&format!("a --hash={}", hash('9')))).unwrap_err();
        assert_eq!(none.code, ErrorCode::InvalidRequirement);
    }

    #[test]
    fn packages_are_found_by_name() {
        let names = ["A", "c"].iter().filter_map(|name| package_name(name)).collect();
        assert_eq!(lock().among(&names), ["a"]);
    }

    #[test]
    fn the_key_changes_with_everything_that_is_in_the_image() {
        let base = Digest::of(b"base");
        let key = lock().dependency_key(&base, "3.11", "linux/amd64", &[]);
        assert_eq!(key.len(), 32);
        assert_eq!(key, lock().dependency_key(&base, "3.11", "linux/amd64", &[]));
        let restricted = lock()
            .restrict(&Requirements::parse(&format!("a --hash={}", hash('1')), 50).unwrap())
            .unwrap();
        for other in [
            lock().dependency_key(&Digest::of(b"other"), "3.11", "linux/amd64", &[]),
            lock().dependency_key(&base, "3.12", "linux/amd64", &[]),
            lock().dependency_key(&base, "3.11", "linux/arm64", &[]),
            lock().dependency_key(&base, "3.11", "linux/amd64", &["a".to_owned()]),
            restricted.dependency_key(&base, "3.11", "linux/amd64", &[]),
        ] {
            assert_ne!(key, other);
        }
    }
}
