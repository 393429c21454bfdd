//! The verdict beside that of `ast.parse`, for files of the standard library that are on this machine, and in the image
//! of another Python.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mecapy_builder::validation::{Rules, check};
use mecapy_proto::ErrorCode;
use ruff_python_ast::PythonVersion;

/// Broken copies of files that are compared.
const MUTANTS: usize = 2_400;
/// Larger files are broken as well as small ones, and take longer.
const MUTANT_BYTES: usize = 40_000;

const VERDICTS: &str = r#"
import ast, sys, tokenize, warnings
warnings.simplefilter("ignore")
for path in sys.stdin.read().split("\n"):
    try:
        with open(path, "rb") as file:
            ast.parse(file.read())
        try:
            with tokenize.open(path) as file:
                file.read()
            print("ok")
        except (SyntaxError, UnicodeDecodeError):
            print("ok unreadable")
    except Exception as error:
        print(type(error).__name__, str(error).replace("\n", " "))
"#;

/// What we refuse and CPython takes, by the words of the refusal. The reverse is never fine.
/// The third is the verdict of CPython beside which it is fine, the fourth the reason.
const KNOWN_STRICTER: &[(ErrorCode, &str, &str, &str)] = &[
    (
        ErrorCode::InvalidEncoding,
        "the coding line names",
        "ok",
        "only UTF-8, ASCII and Latin-1 sources are taken; CPython knows a hundred encodings",
    ),
    (
        ErrorCode::InvalidEncoding,
        "is not UTF-8",
        "ok unreadable",
        "given bytes, `ast.parse` of 3.9 to 3.11 does not decode comments; given the file, as functions are run, the \
         same CPython refuses it",
    ),
];

struct Interpreter {
    /// Its program, and what comes before its arguments.
    command: Vec<String>,
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
            let command = vec![program.to_owned()];
            found.push(Interpreter { command, version, library: library.into() });
        }
    }
    found
}

impl Interpreter {
    /// `ok` or the error, for each file.
    fn verdicts(&self, files: &[PathBuf]) -> Vec<String> {
        let mut python = Command::new(&self.command[0])
            .args(&self.command[1..])
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
        assert_eq!(verdicts.len(), files.len(), "{self} stopped early");
        verdicts
    }

    /// Every file of its standard library, with the test suite where that is installed.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect(&self.library, &mut files);
        files.sort();
        files
    }

    fn compare(&self, files: &[PathBuf], describe: impl Fn(usize) -> String) {
        let rules = Rules {
            max_code_bytes: usize::MAX,
            forbidden_imports: Vec::new(),
            forbidden_calls: Vec::new(),
        };
        let mut differences = Vec::new();
        let ours = || {
            let verdict = |file| {
                check(&std::fs::read(file).unwrap(), self.version, &rules)
                    // A relative import is good syntax, that a single file has no use for.
                    .or_else(|refused| match refused.code {
                        ErrorCode::ForbiddenImport => Ok(()),
                        _ => Err(refused),
                    })
            };
            files.iter().map(verdict).collect::<Vec<_>>()
        };
        let (theirs, ours) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| self.verdicts(files));
            let ours = ours();
            (theirs.join().unwrap(), ours)
        });
        for (index, (ours, theirs)) in ours.into_iter().zip(theirs).enumerate() {
            let is_known = ours.as_ref().is_err_and(|refused| {
                KNOWN_STRICTER.iter().any(|(code, words, beside, _)| {
                    refused.code == *code && refused.message.contains(words) && theirs == *beside
                })
            });
            if theirs.starts_with("ok") != ours.is_ok() && !is_known {
                differences
                    .push(format!("{}: {self} says {theirs}, we say {ours:?}", describe(index)));
            }
        }
        assert!(
            differences.is_empty(),
            "{} of {}:\n{}",
            differences.len(),
            files.len(),
            differences.join("\n")
        );
        println!("{self}: the same verdict on {} files", files.len());
    }

    /// That of an image, with its library in this folder.
    fn of_image(image: &str, version: PythonVersion, folder: &Path) -> Self {
        let path = folder.to_str().unwrap();
        let copy = "import sysconfig, tarfile, sys\n\
                    with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', dereference=True) as tar:\n    \
                    tar.add(sysconfig.get_path('stdlib'), '.')";
        let copy = format!(
            "docker run --rm --network none {image} python -I -c \"{copy}\" | tar -x -C {path}"
        );
        let copied = Command::new("sh").args(["-c", &copy]).status().unwrap();
        assert!(copied.success(), "is the image {image} there? Run scripts/images tests");
        let volume = format!("{path}:{path}:ro");
        let command =
            ["docker", "run", "--rm", "-i", "--network", "none", "-v", &volume, image, "python"];
        Self { command: command.map(str::to_owned).to_vec(), version, library: folder.into() }
    }
}

impl std::fmt::Display for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.command[0], self.version)
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
        let files = python.files();
        python.compare(&files, |index| files[index].display().to_string());
    }
}

#[test]
fn the_standard_library_of_another_python_gets_its_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let image = "mecapy/python:3.13-slim";
    let python = Interpreter::of_image(image, PythonVersion::PY313, folder.path());
    let files = python.files();
    // Debian's packages come without the test suite.
    assert!(files.len() > 400, "{} files", files.len());
    python.compare(&files, |index| files[index].display().to_string());
}

/// The same numbers in every run: a difference comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Where the token at `at` begins and ends: a word, a number, or one sign.
fn token_around(code: &[u8], at: usize) -> (usize, usize) {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    if !is_word(&code[at]) {
        return (at, at + 1);
    }
    let start = code[..at].iter().rposition(|b| !is_word(b)).map_or(0, |before| before + 1);
    let end = code[at..].iter().position(|b| !is_word(b)).map_or(code.len(), |after| at + after);
    (start, end)
}

/// The byte after the `\n` before `at`.
fn line_start(code: &[u8], at: usize) -> usize {
    code[..at].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1)
}

const KINDS: usize = 12;

/// One change, of a kind, and what it was.
fn change(code: &mut Vec<u8>, kind: usize, random: &mut Random) -> String {
    let at = random.below(code.len());
    match kind {
        0 => {
            code.remove(at);
            format!("without byte {at}")
        }
        1 => {
            let sign = random.of(b"()[]{}:,='\"");
            code.insert(at, sign);
            format!("with {:?} at {at}", char::from(sign))
        }
        2 => {
            code.truncate(at);
            format!("cut at {at}")
        }
        3 => {
            let end = (at + 1 + random.below(12)).min(code.len());
            code.drain(at..end);
            format!("without bytes {at} to {end}")
        }
        4 => {
            let blank = random.of(&[b"\t".as_slice(), b"  ", b"\n", b"\x0c", b"\\\n", b"\x1a"]);
            code.splice(at..at, blank.iter().copied());
            format!("with {blank:?} at {at}")
        }
        5 => {
            let (start, end) = token_around(code, at);
            code.drain(start..end);
            format!("without the token from {start} to {end}")
        }
        6 => {
            let (start, end) = token_around(code, at);
            let token = code[start..end].to_vec();
            code.splice(end..end, [b" ".as_slice(), &token].concat());
            format!("with the token at {start} twice")
        }
        7 => {
            code.insert(at, 0);
            format!("with a null byte at {at}")
        }
        8 => {
            let byte = random.of(b"\x80\xc3\xe9\xff\xa0");
            code.insert(at, byte);
            format!("with byte {byte:#x} at {at}")
        }
        9 => {
            let first = random.of(&[
                b"\xef\xbb\xbf".as_slice(),
                b"\xff\xfe",
                b"# coding: latin-1\n",
                b"# -*- coding: utf-8 -*-\r\n",
                b"\xef\xbb\xbf# coding: latin-1\n",
                b"#!/usr/bin/python\n# vim: set fileencoding=ascii :\n",
                b"# coding: no-such-codec\n",
                b"\x0c# coding: utf8\n",
                b"\n\n# coding: no-such-codec\n",
                b"# coding=utf-8-sig\n",
                b"\xc3\xa9 = 1\n",
            ]);
            code.splice(0..0, first.iter().copied());
            format!("with {:?} before it", String::from_utf8_lossy(first))
        }
        10 => {
            let ends: Vec<usize> = (0..code.len()).filter(|at| code[*at] == b'\n').collect();
            let Some(first) = ends.get(random.below(ends.len())).copied() else {
                return "as it is".into();
            };
            let end =
                random.of(&[b"\r\n".as_slice(), b"\r", b"\x0b", b"\xc2\x85", b"\xe2\x80\xa8"]);
            code.splice(first..=first, end.iter().copied());
            format!("with {end:?} for the line end at {first}")
        }
        _ => {
            let start = line_start(code, at);
            let blanks = code[start..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
            let indent =
                random.of(&[b"\t".as_slice(), b" ", b"\t\t", b" \t", b"        ", b"\x0c", b""]);
            code.splice(start..start + blanks, indent.iter().copied());
            format!("with {indent:?} before the line at {start}")
        }
    }
}

#[test]
fn broken_copies_of_it_get_the_verdict_of_cpython() {
    let Some(python) = interpreters().into_iter().next() else { return skipped() };
    let folder = tempfile::tempdir().unwrap();
    let originals: Vec<Vec<u8>> = python
        .files()
        .iter()
        .filter_map(|file| std::fs::read(file).ok())
        .filter(|code| !code.is_empty() && code.is_ascii() && code.len() < MUTANT_BYTES)
        .collect();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut files, mut changes) = (Vec::new(), Vec::new());
    for number in 0..MUTANTS {
        let mut code = originals[random.below(originals.len())].clone();
        changes.push(change(&mut code, number % KINDS, &mut random));
        let file = folder.path().join(format!("{number}.py"));
        std::fs::write(&file, code).unwrap();
        files.push(file);
    }
    python.compare(&files, |index| format!("{index}, {}", changes[index]));
}
