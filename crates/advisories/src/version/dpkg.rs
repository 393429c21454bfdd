//! Versions of Debian's packages: `[epoch:]upstream[-revision]`.
//! <https://www.debian.org/doc/debian-policy/ch-controlfields.html#version>

use std::cmp::Ordering;
use std::fmt;

/// Compared as dpkg does; the text is kept as it was.
#[derive(Debug, Clone)]
pub struct Version(Box<str>);

impl Version {
    /// `None` for a text that holds no number: dpkg knows no such version.
    pub fn parse(text: &str) -> Option<Self> {
        text.bytes().any(|byte| byte.is_ascii_digit()).then(|| Self(text.into()))
    }

    fn parts(&self) -> (u64, &str, &str) {
        let (epoch, rest) = match self.0.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, &*self.0),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let (epoch, upstream, revision) = self.parts();
        let (other_epoch, other_upstream, other_revision) = other.parts();
        epoch
            .cmp(&other_epoch)
            .then_with(|| compare(upstream.as_bytes(), other_upstream.as_bytes()))
            .then_with(|| compare(revision.as_bytes(), other_revision.as_bytes()))
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
        f.write_str(&self.0)
    }
}

/// By turns: what is no digit, by weight; then digits, by number.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        loop {
            let of = |text: &[u8]| text.first().copied().filter(|byte| !byte.is_ascii_digit());
            let (first, second) = (of(a), of(b));
            if first.is_none() && second.is_none() {
                break;
            }
            match weight(first).cmp(&weight(second)) {
                Ordering::Equal => {}
                order => return order,
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (first, second) = (number(&mut a), number(&mut b));
        match first.len().cmp(&second.len()).then_with(|| first.cmp(second)) {
            Ordering::Equal => {}
            order => return order,
        }
    }
    Ordering::Equal
}

/// `~` comes before the end, the end before letters, letters before all else.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(letter) if letter.is_ascii_alphabetic() => letter.into(),
        Some(other) => i32::from(other) + 256,
    }
}

/// Takes the digits off the front, without zeros before them.
fn number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    /// From the least to the greatest, each before all that follow: dpkg's own tests, and what Debian's packages have.
    #[test]
    fn versions_come_in_dpkgs_order() {
        let ordered = [
            "0~~",
            "0~~a",
            "0~",
            "0",
            "0a",
            "0+",
            "0.0",
            "1.0~beta1~svn1245",
            "1.0~beta1",
            "1.0",
            "1.0-1~bpo12+1",
            "1.0-1",
            "1.0-1+deb12u1",
            "1.0-1+deb12u2",
            "1.0-1+deb12u10",
            "1.0-1.1",
            "1.0-2",
            "1.0+dfsg-1",
            "1.0.1",
            "1.9",
            "1.10",
            "2.36-9+deb12u4",
            "2.36-9+deb12u10",
            "2.36-9+deb12u10+b1",
            "7.6-0",
            "7.6p2-4",
            "1:0.4",
            "1:1.0~rc1-1",
            "1:1.0-1",
            "2:0.1",
            "10:0",
        ];
        for (at, lower) in ordered.iter().enumerate() {
            assert_eq!(version(lower).cmp(&version(lower)), Ordering::Equal);
            for higher in &ordered[at + 1..] {
                assert_eq!(
                    version(lower).cmp(&version(higher)),
                    Ordering::Less,
                    "{lower} {higher}"
                );
            }
        }
    }

    #[test]
    fn what_is_missing_is_zero() {
        for (a, b) in [
            ("1.0", "0:1.0"),
            ("1.0", "1.0-0"),
            ("1.00", "1.0"),
            ("1.0-01", "1.0-1"),
            ("1.", "1.0"),
        ] {
            assert_eq!(version(a), version(b), "{a} {b}");
        }
        assert!(Version::parse("unknown").is_none() && Version::parse("").is_none());
    }

    fn text() -> impl Strategy<Value = String> {
        "([0-9]:)?[0-9][0-9a-c.+~]{0,6}(-[0-9a-c.+~]{1,4})?"
    }

    /// dpkg itself, where there is one.
    fn by_dpkg(a: &str, b: &str) -> Option<Ordering> {
        for (relation, order) in
            [("lt", Ordering::Less), ("eq", Ordering::Equal), ("gt", Ordering::Greater)]
        {
            let done =
                Command::new("dpkg").args(["--compare-versions", a, relation, b]).output().ok()?;
            if done.status.success() {
                return Some(order);
            }
        }
        None
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn it_agrees_with_dpkg_where_there_is_one(a in text(), b in text()) {
            if let Some(order) = by_dpkg(&a, &b) {
                prop_assert_eq!(version(&a).cmp(&version(&b)), order);
            }
        }
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
        fn any_text_compares_without_a_panic(a in ".{0,20}", b in ".{0,20}") {
            if let (Some(a), Some(b)) = (Version::parse(&a), Version::parse(&b)) {
                prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            }
        }
    }
}
