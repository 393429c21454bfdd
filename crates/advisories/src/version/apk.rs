//! Versions of Alpine's packages: `number{.number}[letter]{_suffix[number]}[~commit][-r#]`, as apk-tools compares them.
//! <https://gitlab.alpinelinux.org/alpine/apk-tools/-/blob/master/doc/apk-package.5.scd>

use std::cmp::Ordering;
use std::fmt;

/// From early to late: where one version goes on and the other doesn't, or goes on otherwise, this decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// `_alpha`, `_beta`, `_pre`, `_rc`: before the version itself.
    Before(u8),
    End,
    Revision(u64),
    Commit,
    SuffixNumber(u64),
    /// `_cvs`, `_svn`, `_git`, `_hg`, `_p`: after the version itself.
    After(u8),
    Letter(u8),
    Number(u64),
    /// After a dot, with zeros before it: a fraction, so that 1.01 is before 1.1. The more zeros, the earlier.
    Fraction(std::cmp::Reverse<usize>, u64),
    Component(u64),
}

const BEFORE: [&str; 4] = ["alpha", "beta", "pre", "rc"];
const AFTER: [&str; 5] = ["cvs", "svn", "git", "hg", "p"];

#[derive(Debug, Clone)]
pub struct Version {
    text: Box<str>,
    parts: Box<[Part]>,
}

impl Version {
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        parts.push(Part::Number(number(take_digits(&mut rest))?));
        while let Some(after) = rest.strip_prefix('.') {
            rest = after;
            let digits = take_digits(&mut rest);
            let zeros = digits.bytes().take_while(|digit| *digit == b'0').count();
            parts.push(match zeros {
                0 => Part::Component(number(digits)?),
                _ if zeros == digits.len() => Part::Fraction(std::cmp::Reverse(zeros), 0),
                _ => Part::Fraction(std::cmp::Reverse(zeros), number(&digits[zeros..])?),
            });
        }
        if let Some(letter) = rest.bytes().next().filter(u8::is_ascii_lowercase) {
            parts.push(Part::Letter(letter));
            rest = &rest[1..];
        }
        while let Some(after) = rest.strip_prefix('_') {
            let of = |names: &[&str]| {
                // "p" is the start of "pre": the whole name counts.
                let name: usize = after.bytes().take_while(u8::is_ascii_lowercase).count();
                names.iter().position(|suffix| *suffix == &after[..name])
            };
            let at = of(&BEFORE).map(|at| (Part::Before(at as u8), BEFORE[at].len()));
            let (part, length) =
                at.or(of(&AFTER).map(|at| (Part::After(at as u8), AFTER[at].len())))?;
            parts.push(part);
            rest = &after[length..];
            let digits = take_digits(&mut rest);
            if !digits.is_empty() {
                parts.push(Part::SuffixNumber(number(digits)?));
            }
        }
        // The commit says which, not in which order.
        if let Some(after) = rest.strip_prefix('~') {
            let end = after.bytes().take_while(u8::is_ascii_hexdigit).count();
            parts.push(Part::Commit);
            rest = &after[end..];
        }
        if let Some(after) = rest.strip_prefix("-r") {
            rest = after;
            parts.push(Part::Revision(number(take_digits(&mut rest))?));
        }
        parts.push(Part::End);
        rest.is_empty().then(|| Self { text: text.into(), parts: parts.into() })
    }
}

fn take_digits<'a>(text: &mut &'a str) -> &'a str {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(end);
    *text = rest;
    digits
}

/// apk itself takes no more than 18 digits.
fn number(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.len() < 19).then(|| digits.parse().ok()).flatten()
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    /// From the least to the greatest, each before all that follow.
    #[test]
    fn versions_come_in_apks_order() {
        let ordered = [
            "0.1_alpha",
            "0.1_alpha1",
            "0.1_alpha2",
            "0.1_alpha3",
            "0.1_beta",
            "0.1_pre1",
            "0.1_pre2",
            "0.1_rc1",
            "0.1_rc1-r1",
            "0.1",
            "0.1-r1",
            "0.1_git20240101",
            "0.1_p1",
            "0.1_p1-r1",
            "0.1a",
            "0.1b",
            "0.1.1",
            "0.1.3_pre9",
            "0.1.3_rc1",
            "0.1.3",
            "0.1.10",
            "0.2",
            "0.10",
            "1.0.1",
            "1.1.1k-r0",
            "1.1.1l-r0",
            "1.1.1l-r1",
            "1.1.1t-r10",
            "1.2.0",
            "1.2.3-r0",
            "1.2.3-r1",
            "3.0.9-r1",
            "3.1.0_rc1-r0",
            "3.1.0-r0",
            "23.01",
            "23.1",
            "20240101",
        ];
        for (at, lower) in ordered.iter().enumerate() {
            assert_eq!(version(lower), version(lower));
            for higher in &ordered[at + 1..] {
                assert_eq!(
                    version(lower).cmp(&version(higher)),
                    Ordering::Less,
                    "{lower} {higher}"
                );
            }
        }
    }

    /// Pairs that apk-tools tests itself with.
    #[test]
    fn pairs_come_out_as_apk_says() {
        use Ordering::{Equal, Greater, Less};
        for (a, order, b) in [
            ("2.34", Greater, "0.1.0_alpha"),
            ("0.1.0_alpha2", Greater, "0.1.0_alpha"),
            ("2.3.0b-r1", Less, "2.3.0b-r2"),
            ("3.1_p16", Less, "3.1_p17"),
            ("1.06-r6", Less, "006"),
            ("2.01.01_alpha10", Greater, "0.94"),
            ("1.39", Greater, "1.00_beta2"),
            ("1.02.07", Less, "1.02.10-r1"),
            ("2.5.1-r8", Less, "2.5.1a-r1"),
            ("0.01", Less, "0.06"),
            ("0.98", Less, "1.00"),
            ("1.8.5", Less, "1.8.5_p2"),
            ("0.9.28-r2", Less, "0.9.28.1"),
            ("1.07-r1", Less, "1.07.5"),
            ("4.5_p1-r1", Greater, "4.5_p1"),
            ("2.1_pre20", Less, "2.1_pre26"),
            ("0.17", Greater, "0.5.0"),
            ("1.3_pre1-r1", Less, "1.3.2"),
            ("1.0_p10-r0", Greater, "1.0_p9-r0"),
            ("0.1.0_alpha_pre2", Less, "0.1.0_alpha"),
            ("2.16.1-r3", Equal, "2.16.1-r3"),
        ] {
            assert_eq!(version(a).cmp(&version(b)), order, "{a} {b}");
        }
    }

    #[test]
    fn what_apk_would_not_take_is_no_version() {
        for text in [
            "",
            "a",
            "1.",
            "1..2",
            "1.2-3",
            "1.2_new",
            "1.2-r",
            "1.2-r1x",
            "1.2 ",
            "9999999999999999999",
        ] {
            assert!(Version::parse(text).is_none(), "{text:?}");
        }
    }

    fn text() -> impl Strategy<Value = String> {
        "[0-9]{1,2}(\\.[0-9]{1,2}){0,3}[a-c]?(_(alpha|beta|pre|rc|p|git)[0-9]?){0,2}(-r[0-9])?"
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in text(), b in text(), c in text()) {
            let mut all = [version(&a), version(&b), version(&c)];
            prop_assert_eq!(all[0].cmp(&all[1]), all[1].cmp(&all[0]).reverse());
            all.sort();
            prop_assert!(all[0] <= all[1] && all[1] <= all[2] && all[0] <= all[2]);
        }

        #[test]
        fn a_revision_comes_after_and_a_candidate_before(text in "[0-9]{1,2}(\\.[0-9]{1,2}){0,3}") {
            let with = |suffix: &str| version(&format!("{text}{suffix}"));
            prop_assert!(with("-r1") > with(""));
            prop_assert!(with("_rc1-r1") < with(""));
            prop_assert!(with("_p1") > with("-r9"));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,20}") {
            let _ = Version::parse(&text);
        }
    }
}
