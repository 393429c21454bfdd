//! Sources made to break whoever reads them. Each must end in a verdict, and the process go on.

use std::process::Command;

use mecapy_builder::validation::{Rules, check};
use mecapy_proto::ErrorCode;
use ruff_python_ast::PythonVersion;

use crate::memory::peak_mib;

const SIZE: usize = 490 * 1024;

fn repeated(unit: &str) -> String {
    unit.repeat(SIZE / unit.len())
}

fn verdict(source: &str, python: PythonVersion) -> Option<ErrorCode> {
    check(source.as_bytes(), python, &Rules::default()).err().map(|rejection| rejection.code)
}

/// Set in the process that has this test to itself: what others use of memory is not counted there.
const ALONE: &str = "MECAPY_TEST_ALONE";

#[test]
fn what_nests_without_end_is_an_error_and_no_crash() {
    if std::env::var_os(ALONE).is_none() {
        let test = "hostile::what_nests_without_end_is_an_error_and_no_crash";
        let alone = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&alone.stdout);
        let complained = String::from_utf8_lossy(&alone.stderr);
        assert!(alone.status.success() && said.contains("1 passed"), "{said}{complained}");
        return;
    }
    let before = peak_mib();
    let units = [
        "-",
        "~",
        "not ",
        "+",
        "1+",
        "1**",
        "a.",
        "a[",
        "a(",
        "(",
        "[",
        "{",
        "{1:",
        "((",
        "f(",
        "lambda:",
        "lambda a:",
        "lambda a, b:",
        "lambda a=",
        "1 if 1 else ",
        "await ",
        "a and ",
        "a or ",
        "a<",
        "a:=",
        "(a:=",
        "*",
        "**",
        "yield ",
        "(yield ",
        "f'{",
        "f'{a!r:{",
        "f\"{f'{",
        "t'{",
        "[x for x in ",
        "{**",
        "if 1:\n ",
        "if a: ",
        "while 1: ",
        "with a, ",
        "with (",
        "@",
        "@a\n",
        "class A: ",
        "def f(a=",
        "async ",
        "async def f(): ",
        "try: ",
        "match a:\n case ",
        "match (",
        "case [",
        "type A = ",
        "type A[B: ",
        "def f[T: ",
        "from . import ",
        "import a.",
        "from .",
        "a = ",
        "a: ",
        "print >> ",
        "x = [",
        "global a, ",
        "del (",
        "assert ",
        "return ",
        "raise a from ",
        "else: ",
        "except: ",
        "for a in ",
        "\\\n",
        "'",
        "\"\"\"",
        "'a' ",
        "f'' ",
        "1_",
        "0x",
        "1e",
        "\u{feff}",
        "\u{0}",
        "\u{c}",
        "\r",
        "\t",
        "; ",
        "...",
        ":",
        ",",
        "=",
        "`",
        "?",
        "!",
        "$",
        "é",
        "\u{202e}",
        "#",
        "# coding: ",
        "a\\\n.",
        "(\n",
        ")\n",
        "]",
        "}",
        "pass\n",
        "\n ",
        "\n\t",
    ];
    let parents = ["", "def f():\n  return g("];
    for unit in units {
        for parent in parents {
            let source = format!("{parent}{}", repeated(unit));
            // Only that there is one counts; what it is, CPython decides elsewhere.
            let _ = verdict(&source, PythonVersion::PY311);
        }
        let _ = verdict(&format!("{}1", repeated(unit)), PythonVersion::PY314);
    }
    let grown = peak_mib() - before;
    assert!(grown < 200, "{grown} MiB more");
}

#[test]
fn deep_trees_that_are_valid_python_are_refused_as_too_deep() {
    for (start, unit, end) in [
        ("x = ", "-", "1\n"),
        ("x = ", "1+", "1\n"),
        ("x = ", "a.", "b\n"),
        ("x = ", "not ", "a\n"),
        ("x = ", "lambda: ", "a\n"),
        ("x = ", "1 if 1 else ", "a\n"),
        ("x = ", "2**", "2\n"),
        ("x = f", "()", "\n"),
        ("x = f", "[0]", "\n"),
    ] {
        let source = format!("{start}{}{end}", repeated(unit));
        assert_eq!(verdict(&source, PythonVersion::PY311), Some(ErrorCode::SyntaxError), "{unit}");
    }
}

#[test]
fn long_code_that_is_flat_is_accepted() {
    for unit in [
        "x = -1 + a.b(c)[d]\n",
        "def f(a, b=1):\n    return [a, b]\n",
        "# a comment\n",
        "'a string'\n",
        "x = 'a' 'b'\n",
    ] {
        assert_eq!(verdict(&repeated(unit), PythonVersion::PY311), None, "{unit}");
    }
    let list = format!("x = [{}]\n", repeated("-1, (2, 'a'), "));
    assert_eq!(verdict(&list, PythonVersion::PY311), None);
}

#[test]
fn bytes_that_are_no_text_are_a_typed_error() {
    for bytes in [
        &b"\xff\xfe"[..],
        b"x = '\xe9'\n",
        b"\x80",
        b"# coding: utf-7\n",
        b"\xef\xbb\xbf# coding: latin-1\n",
    ] {
        let rejection = check(bytes, PythonVersion::PY311, &Rules::default()).unwrap_err();
        assert_eq!(rejection.code, ErrorCode::InvalidEncoding, "{bytes:?}");
    }
}
