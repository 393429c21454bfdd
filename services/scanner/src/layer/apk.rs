//! apk's database: what is installed, from which source, and which files belong to it.
//! <https://wiki.alpinelinux.org/wiki/Apk_spec>

use super::{ApkPackage, python};

/// Paragraphs of `lib/apk/db/installed`: a letter, a colon, a value on each line.
pub fn installed(contents: &[u8]) -> Vec<ApkPackage> {
    let text = String::from_utf8_lossy(contents);
    let mut packages = Vec::new();
    let mut paragraph = Paragraph::default();
    for line in text.lines().chain([""]) {
        match line.split_once(':') {
            // Letters have a meaning by their case.
            Some((key, value)) => paragraph.set(key, value.trim()),
            None if line.trim().is_empty() => {
                packages.extend(std::mem::take(&mut paragraph).package());
            }
            None => {}
        }
    }
    packages
}

#[derive(Default)]
struct Paragraph<'a> {
    name: &'a str,
    version: &'a str,
    architecture: &'a str,
    origin: &'a str,
    folder: &'a str,
    python: Vec<String>,
}

impl<'a> Paragraph<'a> {
    fn set(&mut self, key: &str, value: &'a str) {
        match key {
            "P" => self.name = value,
            "V" => self.version = value,
            "A" => self.architecture = value,
            "o" => self.origin = value,
            "F" => self.folder = value,
            "R" => {
                let path = match self.folder {
                    "" => value.to_owned(),
                    folder => format!("{folder}/{value}"),
                };
                if python::is_metadata(&path) {
                    self.python.push(path);
                }
            }
            _ => {}
        }
    }

    fn package(self) -> Option<ApkPackage> {
        let origin = if self.origin.is_empty() { self.name } else { self.origin };
        (!self.name.is_empty()).then(|| ApkPackage {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            architecture: self.architecture.to_owned(),
            origin: origin.to_owned(),
            python: self.python,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_version_and_origin_are_read_and_python_files_kept() {
        let packages = installed(
            b"C:Q1abc=\nP:libcrypto3\nV:3.1.4-r5\nA:x86_64\no:openssl\nF:usr/lib\nR:libcrypto.so.3\n\n\
              P:py3-six\nV:1.16.0-r9\nA:x86_64\nF:usr/lib/python3.12/site-packages\nR:six.py\n\
              F:usr/lib/python3.12/site-packages/six-1.16.0-py3.12.egg-info\nR:PKG-INFO\n\n",
        );
        let read: Vec<(&str, &str, &str)> = packages
            .iter()
            .map(|package| (&*package.name, &*package.version, &*package.origin))
            .collect();
        assert_eq!(
            read,
            [("libcrypto3", "3.1.4-r5", "openssl"), ("py3-six", "1.16.0-r9", "py3-six")]
        );
        assert_eq!(packages[0].python, [""; 0]);
        assert_eq!(
            packages[1].python,
            ["usr/lib/python3.12/site-packages/six-1.16.0-py3.12.egg-info/PKG-INFO"]
        );
    }

    #[test]
    fn letters_of_the_other_case_are_other_fields() {
        // "p" is what a package provides, "a" something of a file's rights.
        let packages =
            installed(b"P:musl\nV:1.2.5-r0\nA:x86_64\np:so:libc.musl=1\na:0:0:755\nr:x\n");
        assert_eq!(
            (packages.len(), &*packages[0].name, &*packages[0].architecture),
            (1, "musl", "x86_64")
        );
    }

    #[test]
    fn what_is_no_paragraph_is_no_package() {
        assert_eq!(installed(b""), []);
        assert_eq!(installed(b"no colon\n\nV:1\n\xff\xfe\n"), []);
    }
}
