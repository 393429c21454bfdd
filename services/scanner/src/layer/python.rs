//! Installed Python distributions: `*.dist-info/METADATA`, `*.egg-info` as a file or folder, and eggs.
//! <https://packaging.python.org/en/latest/specifications/recording-installed-packages/>

use mecapy_advisories::ecosystem::normalise_pypi_name;

use super::Facts;

/// What is read of a metadata file. Name and version are in its first lines; a description can be long.
pub const METADATA_BYTES: u64 = 64 << 10;

pub fn is_metadata(path: &str) -> bool {
    folder(path).is_some()
}

/// The `.dist-info`, `.egg-info` or `.egg` that the metadata file belongs to.
fn folder(path: &str) -> Option<&str> {
    if path.ends_with(".egg-info") {
        return Some(path);
    }
    path.strip_suffix("/METADATA")
        .filter(|folder| folder.ends_with(".dist-info"))
        .or_else(|| path.strip_suffix("/PKG-INFO").filter(|folder| folder.ends_with(".egg-info")))
        .or_else(|| {
            path.strip_suffix("/EGG-INFO/PKG-INFO").filter(|folder| folder.ends_with(".egg"))
        })
}

/// Name and version from the file's headers, and where these are missing from its path.
pub fn facts(path: &str, metadata: &[u8]) -> Facts {
    let text = String::from_utf8_lossy(metadata);
    let (mut name, mut version) = (None, None);
    for line in text.trim_start_matches('\u{feff}').lines() {
        if line.trim().is_empty() {
            break;
        }
        // A line that starts with a space goes on with the header above it.
        let Some((key, value)) = line.split_once(':').filter(|_| !line.starts_with([' ', '\t']))
        else {
            continue;
        };
        let field = match key.trim_end() {
            key if key.eq_ignore_ascii_case("name") => &mut name,
            key if key.eq_ignore_ascii_case("version") => &mut version,
            _ => continue,
        };
        field.get_or_insert(value.trim().to_owned());
    }
    let (path_name, path_version) = by_path(path);
    let present = |value: Option<String>| value.filter(|value| !value.is_empty());
    let name = present(name).unwrap_or(path_name);
    Facts::Python {
        name: normalise_pypi_name(&name),
        version: present(version).unwrap_or(path_version),
    }
}

/// `…/name-version.dist-info`, `…/name-version-py3.11.egg-info`.
fn by_path(path: &str) -> (String, String) {
    let folder = folder(path).unwrap_or(path);
    let folder = folder.rsplit('/').next().unwrap_or(folder);
    let stem = folder.rsplit_once('.').map_or(folder, |(stem, _)| stem);
    let mut parts = stem.split('-');
    let name = parts.next().unwrap_or_default();
    let version = parts.next().unwrap_or_default();
    (name.to_owned(), version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(name: &str, version: &str) -> Facts {
        Facts::Python { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn metadata_is_found_in_every_layout() {
        for path in [
            "opt/venv/lib/python3.11/site-packages/numpy-1.24.0.dist-info/METADATA",
            "usr/lib/python3/dist-packages/PyYAML-6.0.egg-info/PKG-INFO",
            "usr/lib/python3/dist-packages/six-1.16.0.egg-info",
            "srv/lib/six-1.16.0-py3.11.egg/EGG-INFO/PKG-INFO",
            "numpy-1.24.0.dist-info/METADATA",
        ] {
            assert!(is_metadata(path), "{path}");
        }
        for path in [
            "opt/METADATA",
            "opt/numpy.dist-info/RECORD",
            "opt/x/PKG-INFO",
            "opt/numpy-1.24.0.dist-info",
            "opt/numpy-1.24.0.dist-info/licenses/METADATA",
        ] {
            assert!(!is_metadata(path), "{path}");
        }
    }

    #[test]
    fn name_and_version_are_read_from_the_headers_only() {
        let metadata = "Metadata-Version: 2.1\r\nName: Ruamel.YAML\r\nversion:  0.17\r\nSummary: x\r\n Version: 9\r\n\r\nName: other\r\nVersion: 1\r\n";
        assert_eq!(
            facts("x-1.dist-info/METADATA", metadata.as_bytes()),
            python("ruamel-yaml", "0.17")
        );
    }

    #[test]
    fn the_first_of_two_headers_counts() {
        assert_eq!(
            facts("x-1.dist-info/METADATA", b"Name: a\nVersion: 1\nName: b\nVersion: 2\n"),
            python("a", "1")
        );
    }

    #[test]
    fn what_the_headers_lack_is_taken_from_the_path() {
        assert_eq!(
            facts("lib/scikit_learn-1.2.dist-info/METADATA", b""),
            python("scikit-learn", "1.2")
        );
        assert_eq!(
            facts("lib/six-1.16.0-py3.11.egg-info/PKG-INFO", b"Name: six\n"),
            python("six", "1.16.0")
        );
        assert_eq!(
            facts("lib/six-1.16.0-py3.11.egg/EGG-INFO/PKG-INFO", b"Version:\n"),
            python("six", "1.16.0")
        );
        assert_eq!(facts("lib/six.egg-info", b""), python("six", ""));
    }

    #[test]
    fn bytes_that_are_no_text_are_no_panic() {
        assert_eq!(
            facts("a-1.dist-info/METADATA", b"\xff\xfe:\x00\nName: a\xff\nVersion: 2\n"),
            python("a\u{fffd}", "2")
        );
    }
}
