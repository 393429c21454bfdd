use proptest::prelude::*;

use super::*;

fn parse_all(text: &str) -> Result<Vec<String>, Rejection> {
    Requirements::parse(text, 50).map(|r| r.render().lines().map(str::to_owned).collect())
}

fn refused(text: &str) -> String {
    let rejection = parse_all(text).expect_err(text);
    assert_eq!(rejection.code, ErrorCode::InvalidRequirement, "{text}");
    rejection.message
}

#[test]
fn requirements_are_written_anew_in_one_form() {
    let text = "\u{feff}# what we need\r\nPandas [Excel, aws]>=2.0 , <3   # tables\n\nflask_login==1.0\\\n.*\nNumPy;python_version>'3.9' and (os_name==\"posix\")\nruamel.yaml ~= 0.18\n";
    assert_eq!(
        parse_all(text).unwrap(),
        [
            "flask-login==1.0.*",
            "numpy ; python_full_version >= '3.10' and os_name == 'posix'",
            "pandas[aws,excel]>=2.0,<3",
            "ruamel-yaml~=0.18"
        ]
    );
    assert_eq!(parse_all("\n \n# nothing\n").unwrap(), Vec::<String>::new());
}

#[test]
fn order_case_and_blanks_make_no_difference() {
    assert_eq!(
        Requirements::parse("b==1\nA >= 2", 50),
        Requirements::parse("a>=2\n\nB == 1 # b\n", 50)
    );
}

#[test]
fn a_name_that_ends_in_a_mark_is_refused_before_the_parser_that_gives_up_on_it() {
    for text in ["a_", "a-==1", "a[b_]", "a[b_ == 1.0", "a[b., c]", "a[c, b- x]", "a [ b_\t;"] {
        assert!(refused(text).contains("ends in a mark"), "{text}");
    }
}

#[test]
fn everything_that_leads_elsewhere_is_refused() {
    for text in [
        "-r other.txt",
        "-e .",
        "--index-url https://evil.example/simple",
        "numpy --index-url https://evil.example/simple",
        "numpy\n  --extra-index-url=https://evil.example",
        "numpy \\\n--index-url https://evil.example",
        "-\\\nr other.txt",
        "num\\\npy --pre",
        "--hash=sha256:00",
        "numpy # --index-url https://evil.example/simple",
        "# comment \\\n--index-url https://evil.example/simple",
        "numpy # harmless\u{2028}--index-url https://evil.example/simple",
        "numpy\u{0b}--index-url https://evil.example/simple",
        "numpy\r--index-url https://evil.example/simple",
        "numpy\0",
        "https://evil.example/numpy.whl",
        "numpy @ https://evil.example/numpy.whl",
        "numpy@https://evil.example/numpy.whl",
        "numpy @ file:///etc/passwd",
        "git+https://evil.example/numpy",
        "numpy @ git+ssh://evil.example/numpy",
        "./numpy",
        "../numpy",
        "/numpy",
        "~/numpy",
        "numpy/",
        "C:\\numpy",
        ".",
        "numpy.whl",
        "numpy-1.0.tar.gz",
        "num$py",
        "numpy==${VERSION}",
        "numpy @ https://x/${SECRET}",
        "numpy; os_name == '$HOME'",
        "numpy --config-settings a=b",
        "numpy --global-option=x",
        "numpy --no-binary :all:",
        "nümpy",
        "numpy\\",
    ] {
        refused(text);
    }
}

#[test]
fn what_is_no_requirement_is_refused_with_its_line() {
    for text in [
        "numpy=1",
        "numpy==",
        "numpy>=a.b",
        "=1",
        "numpy 1.0",
        "numpy[",
        "numpy[a",
        "numpy[a-]",
        "numpy[,]",
        "numpy;",
        "numpy; os",
        "numpy; os_name == 'x' and",
        "a b",
        "-",
        "numpy; python_version ~= 'x'",
        "numpy; os_name == 'a\"b'",
        "numpy; 'a' == 'b'",
    ] {
        let message = refused(&format!("\n{text}"));
        assert!(message.starts_with("line 2: "), "{text}: {message}");
    }
}

#[test]
fn a_marker_that_would_grow_is_refused() {
    let terms =
        |n: usize| (0..n).map(|i| format!("os_name in '{i}'")).collect::<Vec<_>>().join(" and ");
    assert!(parse_all(&format!("a; {}", terms(8))).is_ok());
    refused(&format!("a; {}", terms(9)));
    refused(&format!("a; {}os_name == 'x'{}", "(".repeat(100), ")".repeat(100)));
}

#[test]
fn a_name_required_twice_is_named_with_both_lines() {
    assert!(
        refused("Foo_bar==1\nnumpy\nfoo.bar==2")
            .contains("`foo-bar` is required twice, in lines 1 and 3")
    );
    assert_eq!(parse_all("numpy\nNumPy\n").unwrap(), ["numpy"]);
    let split = "numpy==1 ; python_version < '3.10'\nnumpy==2 ; python_version >= '3.10'";
    assert_eq!(parse_all(split).unwrap().len(), 2);
    refused("numpy==1 ; python_version < '3.11'\nnumpy==2 ; python_version >= '3.10'");
}

#[test]
fn more_than_the_limit_is_another_error_than_an_invalid_one() {
    let many = |n: usize| (0..n).map(|i| format!("p{i}\n")).collect::<String>();
    assert_eq!(Requirements::parse(&many(50), 50).unwrap().len(), 50);
    assert_eq!(
        Requirements::parse(&many(51), 50).unwrap_err().code,
        ErrorCode::TooManyRequirements
    );
    refused(&" ".repeat(1024 * 1024));
}

#[test]
fn hashes_are_kept_apart_from_the_requirement() {
    let (a, b) = ("a".repeat(64), "B".repeat(128));
    let text = format!("six==1.0 \\\n    --hash=sha256:{a} \\\n    --hash sha512:{b}\nnumpy\n");
    let requirements = Requirements::parse(&text, 50).unwrap();
    assert_eq!(requirements.render(), "numpy\nsix==1.0\n");
    let six = requirements.hashes(&package_name("six").unwrap()).unwrap();
    assert_eq!(six.len(), 2);
    assert!(six.contains(format!("sha512:{}", b.to_lowercase()).as_str()));
    assert_eq!(requirements.hashes(&package_name("numpy").unwrap()), None);
    assert_ne!(
        requirements.fingerprint_text(),
        Requirements::parse("six==1.0\nnumpy", 50).unwrap().fingerprint_text()
    );
    for bad in [
        "six --hash=md5:00",
        "six --hash=sha256:00",
        "six --hash",
        "six--hash=sha256:00",
        &format!("six --hash=sha256:{a} --pre"),
    ] {
        refused(bad);
    }
}

/// Pieces that attacks and mistakes are made of.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "numpy",
        "a",
        "A_b",
        "[x]",
        "[",
        "]",
        "==1.0",
        ">=2",
        "~=1.1",
        "===x",
        "!=1.*",
        ",",
        ";",
        "python_version<'3.9'",
        "os_name=='x'",
        "extra=='y'",
        " and ",
        " or ",
        "(",
        ")",
        "#",
        " #",
        "\\\n",
        "\n",
        "\r\n",
        "\r",
        " ",
        "\t",
        "-r",
        " -e",
        "--index-url",
        "--hash=",
        "sha256:",
        "$",
        "${A}",
        "@",
        "://",
        "git+",
        "/",
        ".",
        "..",
        "~",
        "'",
        "\"",
        "\u{2028}",
        "\0",
        "é",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => any::<String>(), 1 => "[ -~]{0,8}"]
}

fn version() -> impl Strategy<Value = String> {
    (
        prop::collection::vec(0_u32..1000, 1..4),
        prop::sample::select(vec!["", "a1", "rc2", ".post1", ".dev3"]),
    )
        .prop_map(|(parts, end)| {
            format!("{}{end}", parts.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
        })
}

fn requirement() -> impl Strategy<Value = String> {
    let operator = prop::sample::select(vec!["==", ">=", "<=", "<", ">", "!="]);
    let specifiers = prop::collection::vec((operator, version()), 0..3).prop_map(|all| {
        all.into_iter().map(|(op, version)| format!("{op}{version}")).collect::<Vec<_>>().join(",")
    });
    let marker = prop::sample::select(vec![
        "",
        " ; python_version >= '3.10'",
        "; os_name == 'posix' or sys_platform != 'win32'",
        " ; extra == 'x'",
    ]);
    let extras = prop::collection::btree_set("[a-z][a-z0-9]{0,4}", 0..3).prop_map(|all| {
        if all.is_empty() {
            String::new()
        } else {
            format!("[{}]", all.into_iter().collect::<Vec<_>>().join(","))
        }
    });
    // A name with the ending of an archive is taken for a file.
    let archives =
        ["whl", "tbz", "txz", "tlz", "zip", "tgz", "tar", "gz", "bz2", "xz", "lz", "lzma"];
    let name = "[a-z][a-z0-9_.-]{0,6}[a-z0-9]".prop_filter("no archive", move |name| {
        name.rsplit_once('.').is_none_or(|(_, ending)| !archives.contains(&ending))
    });
    (name, extras, specifiers, marker).prop_map(|(name, extras, specifiers, marker)| {
        format!("{name}{extras}{specifiers}{marker}")
    })
}

fn is_plain(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_alphanumeric())
        && line.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        && !line.contains(['$', '@', '#', '\\', '/', '`'])
        && !line.contains(" -")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_only_plain_requirements_come_out(pieces in prop::collection::vec(piece(), 0..12)) {
        let text = pieces.concat();
        if let Ok(requirements) = Requirements::parse(&text, 50) {
            let rendered = requirements.render();
            prop_assert_eq!(rendered.lines().count(), requirements.len());
            for line in rendered.lines() {
                prop_assert!(is_plain(line), "{} from {:?}", line, text);
            }
            prop_assert_eq!(Requirements::parse(&rendered, 50).map(|r| r.render()), Ok(rendered));
        }
    }

    #[test]
    fn every_valid_requirement_is_taken_and_means_the_same_after(text in requirement()) {
        let read: Requirement<NoUrl> = text.parse().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        let requirements = Requirements::parse(&text, 50).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let again: Requirement<NoUrl> = requirements.render().trim_end().parse().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        prop_assert_eq!(&again.name, &read.name);
        prop_assert_eq!(&again.version_or_url, &read.version_or_url);
        prop_assert_eq!(&again.marker, &read.marker);
    }
}
