//! dpkg's database: what is installed, from which source, and which files belong to it.
//! <https://manpages.debian.org/bookworm/dpkg/dpkg-query.1.html>

use super::{DpkgPackage, Facts, python};
use crate::package::Source;

/// Paragraphs of `var/lib/dpkg/status`, or the one of a file in `status.d/`, as distroless images have it.
pub fn status(contents: &[u8]) -> Vec<DpkgPackage> {
    let text = String::from_utf8_lossy(contents);
    let mut packages = Vec::new();
    let mut paragraph = Paragraph::default();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            packages.extend(std::mem::take(&mut paragraph).package());
        } else if !line.starts_with([' ', '\t'])
            && let Some((key, value)) = line.split_once(':')
        {
            paragraph.set(key, value.trim());
        }
    }
    packages
}

#[derive(Default)]
struct Paragraph<'a> {
    package: &'a str,
    version: &'a str,
    architecture: &'a str,
    source: &'a str,
    status: Option<&'a str>,
}

impl<'a> Paragraph<'a> {
    fn set(&mut self, key: &str, value: &'a str) {
        // Keys are of any case.
        match key.to_ascii_lowercase().as_str() {
            "package" => self.package = value,
            "version" => self.version = value,
            "architecture" => self.architecture = value,
            "source" => self.source = value,
            "status" => self.status = Some(value),
            _ => {}
        }
    }

    /// `None` for one of which only configuration is left, or nothing.
    fn package(self) -> Option<DpkgPackage> {
        let state = self.status.and_then(|status| status.split_whitespace().nth(2));
        if self.package.is_empty() || matches!(state, Some("not-installed" | "config-files")) {
            return None;
        }
        // "name (version)" where the source's version differs, "name" where it doesn't, nothing where it is the same.
        let (name, version) = match self.source.split_once('(') {
            Some((name, version)) => (name.trim(), version.trim_end_matches(')').trim()),
            None => (self.source, ""),
        };
        let or = |value: &'a str, other: &'a str| {
            if value.is_empty() { other } else { value }.to_owned()
        };
        Some(DpkgPackage {
            name: self.package.to_owned(),
            version: self.version.to_owned(),
            architecture: self.architecture.to_owned(),
            source: Source { name: or(name, self.package), version: or(version, self.version) },
        })
    }
}

/// `info/<package>[:<architecture>].list`: one absolute path a line.
pub fn file_list(path: &str, contents: &[u8]) -> Option<Facts> {
    owned(path, ".list", contents, Some)
}

/// `status.d/<package>.md5sums`: a hash, two spaces, a path.
pub fn sums(path: &str, contents: &[u8]) -> Option<Facts> {
    owned(path, ".md5sums", contents, |line| line.split_once(' ').map(|(_, path)| path))
}

fn owned<'a>(
    path: &str,
    suffix: &str,
    contents: &'a [u8],
    path_of: fn(&'a str) -> Option<&'a str>,
) -> Option<Facts> {
    let file = path.rsplit('/').next()?.strip_suffix(suffix)?;
    let package = file.split(':').next()?.to_owned();
    let paths: Vec<String> = contents
        .split(|byte| *byte == b'\n')
        .filter_map(|line| path_of(std::str::from_utf8(line).ok()?))
        .map(|path| path.trim().trim_start_matches("./").trim_start_matches('/'))
        .filter(|path| python::is_metadata(path))
        .map(ToOwned::to_owned)
        .collect();
    (!paths.is_empty()).then_some(Facts::DpkgFiles { package, paths })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_name_and_version_are_read_in_all_three_forms() {
        let packages = status(
            b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.41-12\n\n\
              Package: bash\nStatus: install ok installed\nVersion: 5.2.37-2+b3\nSource: bash (5.2.37-2)\n\n\
              Package: adduser\nStatus: hold ok installed\nVersion: 3.152\nDescription: x\n Package: no\n",
        );
        let sources: Vec<(&str, &str, &str)> = packages
            .iter()
            .map(|package| (&*package.name, &*package.source.name, &*package.source.version))
            .collect();
        assert_eq!(
            sources,
            [
                ("libc6", "glibc", "2.41-12"),
                ("bash", "bash", "5.2.37-2"),
                ("adduser", "adduser", "3.152")
            ]
        );
    }

    #[test]
    fn removed_packages_are_left_out_and_half_installed_ones_are_not() {
        let packages = status(
            b"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\n\
              Package: half\nStatus: install reinstreq half-installed\nVersion: 1\n",
        );
        assert_eq!(packages.iter().map(|package| &*package.name).collect::<Vec<_>>(), ["half"]);
    }

    #[test]
    fn a_paragraph_without_a_status_is_installed() {
        assert_eq!(status(b"Package: base-files\nVersion: 13\n").len(), 1);
    }

    #[test]
    fn of_a_file_list_only_what_python_packages_are_found_by_is_kept() {
        let list = b"/.\n/usr/lib/python3/dist-packages/six.py\n/usr/lib/python3/dist-packages/six-1.16.0.egg-info\n";
        let expected = Facts::DpkgFiles {
            package: "python3-six".to_owned(),
            paths: vec!["usr/lib/python3/dist-packages/six-1.16.0.egg-info".to_owned()],
        };
        assert_eq!(
            file_list("var/lib/dpkg/info/python3-six:amd64.list", list),
            Some(expected.clone())
        );
        let sums_file = b"d41d8cd98f00b204e9800998ecf8427e  usr/lib/python3/dist-packages/six-1.16.0.egg-info\n";
        assert_eq!(sums("var/lib/dpkg/status.d/python3-six.md5sums", sums_file), Some(expected));
        assert_eq!(file_list("var/lib/dpkg/info/bash.list", b"/bin/bash\n"), None);
    }
}
