//! Ecosystems by the names that OSV gives them: `PyPI`, `Debian:12`, `Alpine:v3.20`.

use crate::version::Scheme;

pub const PYPI: &str = "PyPI";

/// What is before the colon.
pub fn family(ecosystem: &str) -> &str {
    ecosystem.split(':').next().unwrap_or(ecosystem)
}

/// How versions compare there; `None`: nothing of it is ever in an image of ours.
pub fn scheme(ecosystem: &str) -> Option<Scheme> {
    match family(ecosystem) {
        PYPI => Some(Scheme::Pep440),
        "Debian" => Some(Scheme::Dpkg),
        "Alpine" => Some(Scheme::Apk),
        _ => None,
    }
}

/// The ecosystem of a distribution's packages, by its `/etc/os-release`; `None` where OSV has none that we read.
pub fn of_distribution(id: &str, version_id: &str) -> Option<String> {
    let mut numbers = version_id.split('.');
    let major = numbers.next().filter(|major| !major.is_empty())?;
    match id {
        "debian" => Some(format!("Debian:{major}")),
        "alpine" => Some(format!("Alpine:v{major}.{}", numbers.next()?)),
        _ => None,
    }
}

/// A package's name as advisories have it.
pub fn normalise_name(ecosystem: &str, name: &str) -> String {
    if ecosystem == PYPI { normalise_pypi_name(name) } else { name.to_owned() }
}

/// PEP 503: lower case, runs of `-`, `_` and `.` are one `-`.
pub fn normalise_pypi_name(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    let mut gap = false;
    for c in name.trim().chars() {
        if matches!(c, '-' | '_' | '.') {
            gap = true;
        } else {
            if std::mem::take(&mut gap) {
                normal.push('-');
            }
            normal.extend(c.to_lowercase());
        }
    }
    if gap {
        normal.push('-');
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_as_pep_503_says() {
        for (name, normal) in [
            ("PyYAML", "pyyaml"),
            ("ruamel.yaml", "ruamel-yaml"),
            ("a_-.b", "a-b"),
            (" Jinja2 ", "jinja2"),
            ("-x-", "-x-"),
        ] {
            assert_eq!(normalise_pypi_name(name), normal);
        }
    }

    #[test]
    fn a_distribution_has_the_ecosystem_of_its_release() {
        for (id, version, ecosystem) in [
            ("debian", "12", Some("Debian:12")),
            ("debian", "12.5", Some("Debian:12")),
            ("alpine", "3.20.3", Some("Alpine:v3.20")),
            ("alpine", "3", None),
            // Testing and sid say no version.
            ("debian", "", None),
            ("ubuntu", "24.04", None),
        ] {
            assert_eq!(of_distribution(id, version).as_deref(), ecosystem, "{id} {version}");
        }
    }
}
