//! The verdict beside that of `ast.parse`, for files of the standard library that are on this machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mecapy_builder::validation::{Rules, check};
use mecapy_proto::ErrorCode;
use ruff_python_ast::PythonVersion;

/// Files that are compared at most.
const SAMPLE: usize = 600;
/// Broken copies of files that are compared at most.
const MUTANTS: usize = 600;

const VERDICTS: &str = r#"
import ast, sys, warnings
warnings.simplefilter("ignore")
for path in sys.stdin.read().split("\n"):
    try:
        with open(path, "rb") as file:
            ast.parse(file.read())
        print("ok")
    except Exception as error:
        print(type(error).__name__, str(error).replace("\n", " "))
"#;

/// What we refuse and CPython takes, by the words of the refusal. The reverse is never fine.
const KNOWN_STRICTER: &[(ErrorCode, &str, &str)] = &[(
    ErrorCode::InvalidEncoding,
    "the coding line names",
    "only UTF-8, ASCII and Latin-1 sources are taken; CPython knows a hundred encodings",
)];

struct Interpreter {
    program: &'static str,
    version: PythonVersion,
    library: PathBuf,
}

/// The Pythons of this machine, one of each version.
fn interpreters() -> Vec<Interpreter> {
    let mut found: Vec<Interpreter> = Vec::new();
    for program in [
        "python3",
        "python3.9",
        "python3.10",
        "python3.11",
        "python3.12",
        "python3.13",
        "python3.14",
    ] {
        let ask = "import sys, sysconfig; print(sys.version_info[0], sys.version_info[1], sysconfig.get_path('stdlib'))";
        let Ok(output) = Command::new(program).args(["-I", "-c", ask]).output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.trim().splitn(3, ' ');
        let (Some(major), Some(minor), Some(library)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let version =
            PythonVersion { major: major.parse().unwrap(), minor: minor.parse().unwrap() };
        let is_new = found.iter().all(|known| known.version != version);
        if is_new && version >= PythonVersion::PY39 && version <= PythonVersion::PY314 {
            found.push(Interpreter { program, version, library: library.into() });
        }
    }
    found
}

impl Interpreter {
    /// `ok` or the error, for each file.
    fn verdicts(&self, files: &[PathBuf]) -> Vec<String> {
        let mut python = Command::new(self.program)
            .args(["-I", "-c", VERDICTS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let list = files.iter().map(|file| file.to_str().unwrap()).collect::<Vec<_>>().join("\n");
        python.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        let verdicts: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(verdicts.len(), files.len(), "{} stopped early", self.program);
        verdicts
    }

    fn sample(&self, most: usize) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect(&self.library, &mut files);
        files.sort();
        let step = files.len().div_ceil(most).max(1);
        files.into_iter().step_by(step).collect()
    }

    fn compare(&self, files: &[PathBuf], describe: impl Fn(usize) -> String) {
        let rules = Rules {
            max_code_bytes: usize::MAX,
            forbidden_imports: Vec::new(),
            forbidden_calls: Vec::new(),
        };
        let mut differences = Vec::new();
        for (index, (file, theirs)) in files.iter().zip(self.verdicts(files)).enumerate() {
            let ours = check(&std::fs::read(file).unwrap(), self.version, &rules)
                // A relative import is good syntax, that a single file has no use for.
                .or_else(|refused| {
                    if refused.code == ErrorCode::ForbiddenImport { Ok(()) } else { Err(refused) }
                });
            let is_known = ours.as_ref().is_err_and(|refused| {
                KNOWN_STRICTER.iter().any(|(code, words, _)| {
                    refused.code == *code && refused.message.contains(words)
                })
            });
            if (theirs == "ok") != ours.is_ok() && !(theirs == "ok" && is_known) {
                differences.push(format!(
                    "{}: {} says {theirs}, we say {ours:?}",
                    describe(index),
                    self.program
                ));
            }
        }
        assert!(
            differences.is_empty(),
            "{} of {}:\n{}",
            differences.len(),
            files.len(),
            differences.join("\n")
        );
        println!("{}: the same verdict on {} files", self.program, files.len());
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("site-packages") && !path.ends_with("dist-packages") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "py") {
            files.push(path);
        }
    }
}

fn skipped() {
    println!("SKIPPED: there is no python3 from 3.9 to 3.14 on this machine");
}

#[test]
fn the_standard_library_gets_the_verdict_of_cpython() {
    let interpreters = interpreters();
    if interpreters.is_empty() {
        skipped();
    }
    for python in interpreters {
        let files = python.sample(SAMPLE);
        python.compare(&files, |index| files[index].display().to_string());
    }
}

#[test]
fn broken_copies_of_it_get_the_verdict_of_cpython() {
    let Some(python) = interpreters().into_iter().next() else { return skipped() };
    let folder = std::env::temp_dir().join(mecapy_testkit::unique("mutants"));
    std::fs::create_dir(&folder).unwrap();
    let originals: Vec<PathBuf> = python
        .sample(SAMPLE)
        .into_iter()
        .filter(|file| {
            std::fs::read(file)
                .is_ok_and(|code| !code.is_empty() && code.is_ascii() && code.len() < 50_000)
        })
        .collect();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut files = Vec::new();
    let mut changes = Vec::new();
    for number in 0..MUTANTS {
        let original = &originals[number % originals.len()];
        let mut code = std::fs::read(original).unwrap();
        let at = next(code.len());
        let change = match next(5) {
            0 => {
                code.remove(at);
                format!("without byte {at}")
            }
            1 => {
                let bracket = b"()[]{}:,='\""[next(11)];
                code.insert(at, bracket);
                format!("with {:?} at {at}", char::from(bracket))
            }
            2 => {
                code.truncate(at);
                format!("cut at {at}")
            }
            3 => {
                let end = (at + 1 + next(12)).min(code.len());
                code.drain(at..end);
                format!("without bytes {at} to {end}")
            }
            _ => {
                let blank = [b"\t".as_slice(), b"  ", b"\n", b"\x0c"][next(4)];
                code.splice(at..at, blank.iter().copied());
                format!("with {blank:?} at {at}")
            }
        };
        let file = folder.join(format!("{number}.py"));
        std::fs::write(&file, code).unwrap();
        files.push(file);
        changes.push(format!("{} {change}", original.display()));
    }
    let compared =
        std::panic::catch_unwind(|| python.compare(&files, |index| changes[index].clone()));
    std::fs::remove_dir_all(&folder).unwrap();
    if let Err(differences) = compared {
        std::panic::resume_unwind(differences);
    }
}
