//! A function's files, as they lie on disk.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::exit::Stop;

/// Where a folder has its code, the first that is there.
const ENTRY_FILES: &[&str] = &["user_function.py", "main.py"];
const REQUIREMENTS: &str = "requirements.txt";
const MAX_NAME: usize = 64;
/// Far more than the server takes: it is not for us to say its limit, only to not send what can't be meant.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub code: String,
    pub requirements: String,
}

/// Reads a .py file, or a folder with one. A folder's requirements.txt is taken; a file alone has none.
pub fn read(path: &Path, name: Option<&str>, requirements: Option<&Path>) -> Result<Source, Stop> {
    let (code_file, requirements_file) = if path.is_dir() {
        let code = ENTRY_FILES
            .iter()
            .map(|entry| path.join(entry))
            .find(|file| file.is_file())
            .ok_or_else(|| {
                Stop::Usage(format!("{}: there is no {}", path.display(), ENTRY_FILES.join(" or ")))
            })?;
        let beside = path.join(REQUIREMENTS);
        (code, requirements.map(Path::to_owned).or_else(|| beside.is_file().then_some(beside)))
    } else {
        (path.to_owned(), requirements.map(Path::to_owned))
    };
    let code = text(&code_file)?;
    let requirements = requirements_file.map(|file| text(&file)).transpose()?.unwrap_or_default();
    let name = match name {
        Some(name) => name.to_owned(),
        None => name_of(path)
            .ok_or_else(|| Stop::Usage(format!("{}: give a --name", path.display())))?,
    };
    Ok(Source { name, code, requirements })
}

/// UTF-8 text of a file.
pub fn text(file: &Path) -> Result<String, Stop> {
    let name = file.display().to_string();
    let open = File::open(file).map_err(|error| Stop::Usage(format!("{name}: {error}")))?;
    read_text(open, &name)
}

pub fn standard_input() -> Result<String, Stop> {
    read_text(std::io::stdin().lock(), "standard input")
}

fn read_text(from: impl std::io::Read, name: &str) -> Result<String, Stop> {
    let wrong = |problem: &dyn std::fmt::Display| Stop::Usage(format!("{name}: {problem}"));
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(&format!("more than {} MiB", MAX_BYTES / 1024 / 1024)));
    }
    String::from_utf8(bytes).map_err(|error| {
        wrong(&format!("not UTF-8 (byte {}): save it as UTF-8", error.utf8_error().valid_up_to()))
    })
}

/// From the folder's name, or the file's; from the folder of a file whose name says nothing.
fn name_of(path: &Path) -> Option<String> {
    let path: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let own = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let says_nothing =
        ENTRY_FILES.iter().any(|entry| Path::new(entry).file_stem() == own) && !path.is_dir();
    let name = if says_nothing { path.parent().and_then(Path::file_name) } else { own };
    name.map(|name| slug(&name.to_string_lossy())).filter(|name| !name.is_empty())
}

/// Lower-case letters, digits, and single dashes inside: what the gateway takes as a name.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(MAX_NAME);
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this name, which lives as long as what is returned beside it.
    fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("My_Stats.");
        std::fs::create_dir(&folder).unwrap();
        for (name, content) in files {
            std::fs::write(folder.join(name), content).unwrap();
        }
        (parent, folder)
    }

    #[test]
    fn a_folder_is_its_entry_file_and_its_requirements() {
        let (_parent, folder) =
            folder(&[("main.py", b"x = 1\n"), ("requirements.txt", b"numpy\n")]);
        let source = read(&folder, None, None).unwrap();
        assert_eq!(
            source,
            Source {
                name: "my-stats".into(),
                code: "x = 1\n".into(),
                requirements: "numpy\n".into()
            }
        );
    }

    #[test]
    fn user_function_comes_before_main() {
        let (_parent, folder) = folder(&[("main.py", b"1"), ("user_function.py", b"2")]);
        assert_eq!(read(&folder, None, None).unwrap().code, "2");
    }

    #[test]
    fn a_file_alone_takes_no_requirements_that_happen_to_lie_beside_it() {
        let (_parent, folder) =
            folder(&[("main.py", b"1"), ("mean.py", b"2"), ("requirements.txt", b"numpy\n")]);
        let source = read(&folder.join("mean.py"), None, None).unwrap();
        assert_eq!((source.name.as_str(), source.requirements.as_str()), ("mean", ""));
        let requirements = folder.join("requirements.txt");
        let source = read(&folder.join("main.py"), None, Some(&requirements)).unwrap();
        assert_eq!((source.name.as_str(), source.requirements.as_str()), ("my-stats", "numpy\n"));
    }

    #[test]
    fn what_cannot_be_read_names_the_file() {
        let (_parent, folder) = folder(&[("latin.py", b"# \xe9\n")]);
        for (path, said) in [
            ("missing.py", "No such file"),
            ("latin.py", "not UTF-8 (byte 2)"),
            ("", "there is no user_function.py or main.py"),
        ] {
            let error = read(&folder.join(path), None, None).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_name_is_made_to_fit() {
        for (given, fits) in [
            ("Stats", "stats"),
            ("my_func 2", "my-func-2"),
            ("--a__b--", "a-b"),
            ("été", "t"),
            ("数", ""),
        ] {
            assert_eq!(slug(given), fits);
        }
        assert_eq!(slug(&"a".repeat(100)).len(), MAX_NAME);
    }
}
