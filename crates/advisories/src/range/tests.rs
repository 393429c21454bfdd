use std::str::FromStr;

use pep440_rs::Version;
use proptest::prelude::*;

use super::*;

fn introduced(text: &str) -> Event {
    Event::Introduced(text.to_owned())
}

fn fixed(text: &str) -> Event {
    Event::Fixed(text.to_owned())
}

fn last_affected(text: &str) -> Event {
    Event::LastAffected(text.to_owned())
}

fn affected(events: &[Event]) -> Affected {
    Affected::new(Scheme::Pep440, &[events.to_vec()], &[] as &[&str])
}

fn listed(versions: &[&str]) -> Affected {
    Affected::new(Scheme::Pep440, &[], versions)
}

fn holds(affected: &Affected, version: &str) -> bool {
    affected.contains(&Installed::new(Scheme::Pep440, version))
}

#[test]
fn a_range_holds_its_start_and_not_the_fix() {
    let range = affected(&[introduced("1.2"), fixed("1.4")]);
    for (version, expected) in [
        ("1.1.9", false),
        ("1.2", true),
        ("1.2.0", true),
        ("1.3.99", true),
        ("1.4", false),
        ("1.4.0", false),
    ] {
        assert_eq!(holds(&range, version), expected, "{version}");
    }
}

#[test]
fn pre_releases_of_the_fix_are_affected_and_its_post_releases_are_not() {
    let range = affected(&[introduced("0"), fixed("2.0")]);
    assert!(holds(&range, "2.0rc1"));
    assert!(holds(&range, "2.0.dev0"));
    assert!(!holds(&range, "2.0.post1"));
}

#[test]
fn zero_is_below_every_version() {
    let range = affected(&[introduced("0"), fixed("1")]);
    assert!(holds(&range, "0.dev0"));
    assert!(holds(&range, "0a1"));
}

#[test]
fn an_epoch_outranks_every_version_without_one() {
    let range = affected(&[introduced("0"), fixed("2.0")]);
    assert!(!holds(&range, "1!1.0"));
}

#[test]
fn last_affected_holds_itself_and_nothing_above() {
    let range = affected(&[introduced("0"), last_affected("3.1")]);
    assert!(holds(&range, "3.1"));
    assert!(holds(&range, "3.1.0"));
    assert!(!holds(&range, "3.1.0.1"));
    assert_eq!(range.fixed_after(&Installed::new(Scheme::Pep440, "3.1")), None);
}

#[test]
fn last_affected_said_again_reaches_to_the_highest() {
    let range = affected(&[introduced("0"), last_affected("1.2.1"), last_affected("1.2.0")]);
    assert!(holds(&range, "1.2.1"));
    assert!(!holds(&range, "1.2.2"));
}

#[test]
fn a_range_without_an_end_holds_everything_after() {
    assert!(holds(&affected(&[introduced("2.6")]), "99"));
    assert!(!holds(&affected(&[introduced("2.6")]), "2.5"));
}

#[test]
fn events_count_in_the_order_of_versions_not_of_the_file() {
    let range = affected(&[
        introduced("2.0"),
        fixed("2.0.6"),
        introduced("0"),
        fixed("1.26.17"),
        introduced("3"),
        fixed("3.1"),
    ]);
    for (version, expected) in
        [("1.26.16", true), ("1.26.17", false), ("2.0.5", true), ("2.0.6", false), ("3.0", true)]
    {
        assert_eq!(holds(&range, version), expected, "{version}");
    }
}

#[test]
fn a_second_fix_without_a_new_introduction_changes_nothing() {
    let range = affected(&[introduced("5.0"), fixed("5.0.12"), fixed("5.0.46")]);
    assert!(!holds(&range, "5.0.20"));
}

#[test]
fn listed_versions_are_affected_whatever_the_ranges_say() {
    let both = Affected::new(
        Scheme::Pep440,
        &[vec![introduced("0"), fixed("2.1.1")]],
        &["2.0", "3.0.0b3-", "2.11.6"],
    );
    assert!(holds(&both, "2.11.6"));
    assert!(holds(&both, "3.0.0b3-"));
    assert!(!holds(&both, "2.11.7"));
    assert_eq!(both.listed.len(), 1, "2.0 is in the range: no need to keep it");
}

#[test]
fn listed_versions_compare_as_versions() {
    assert!(holds(&listed(&["1.0"]), "1.0.0"));
    assert!(!holds(&listed(&["1.0"]), "1.0.1"));
}

#[test]
fn bounds_that_are_no_versions_are_read_as_the_numbers_in_them() {
    let range = affected(&[introduced("0"), last_affected("2.9.0-NA")]);
    assert!(holds(&range, "2.9.0"));
    assert!(!holds(&range, "2.9.1"));

    let range = affected(&[introduced("0"), fixed("7.2.0-12.1")]);
    assert!(holds(&range, "7.2.0"));
    assert!(!holds(&range, "7.2.1"));
    assert_eq!(
        range.fixed_after(&Installed::new(Scheme::Pep440, "7.1")).as_deref(),
        Some("7.2.0-12.1")
    );

    let range = affected(&[introduced("0"), last_affected(r"0.2.0-alpha\.33")]);
    assert!(holds(&range, "0.2.0a33"));
    assert!(!holds(&range, "0.2.0"));
}

#[test]
fn an_end_that_cannot_be_read_is_no_end() {
    assert!(holds(&affected(&[introduced("1.0"), fixed("unreleased")]), "9"));
}

#[test]
fn an_installed_version_that_cannot_be_compared_is_affected() {
    assert!(holds(&affected(&[introduced("1.0"), fixed("2.0")]), "unknown"));
    assert!(holds(&affected(&[introduced("1.0"), last_affected("2.0")]), ""));
    assert!(!holds(&listed(&["1.0"]), "unknown"));
}

#[test]
fn a_local_build_is_as_affected_as_the_release_it_builds() {
    let range = affected(&[introduced("0"), last_affected("2.6.0")]);
    assert!(holds(&range, "2.6.0+cu124"));
    let range = affected(&[introduced("0"), fixed("2.6.0")]);
    assert!(!holds(&range, "2.6.0+cu124"));
    let range = affected(&[introduced("0"), last_affected("2.6.0+cu118")]);
    assert!(!holds(&range, "2.6.0+cu124"));
}

#[test]
fn the_fix_is_the_next_one_up_that_is_itself_not_affected() {
    let django = affected(&[introduced("3.2"), fixed("3.2.19"), introduced("4.0"), fixed("4.1.9")]);
    assert_eq!(
        django.fixed_after(&Installed::new(Scheme::Pep440, "3.2.5")).as_deref(),
        Some("3.2.19")
    );
    assert_eq!(
        django.fixed_after(&Installed::new(Scheme::Pep440, "4.0")).as_deref(),
        Some("4.1.9")
    );

    let again = Affected::new(
        Scheme::Pep440,
        &[vec![introduced("0"), fixed("1.5")], vec![introduced("1.4"), fixed("1.6")]],
        &[] as &[&str],
    );
    assert_eq!(again.fixed_after(&Installed::new(Scheme::Pep440, "1.0")).as_deref(), Some("1.6"));
}

/// Versions in every form that PEP 440 knows.
fn version() -> impl Strategy<Value = String> {
    (
        prop::option::weighted(0.1, 0..3u8),
        prop::collection::vec(0..6u8, 1..4),
        prop::option::weighted(0.3, ("a|b|rc", 0..3u8)),
        prop::option::weighted(0.2, 0..3u8),
        prop::option::weighted(0.2, 0..3u8),
    )
        .prop_map(|(epoch, release, pre, post, dev)| {
            let mut text = epoch.map(|epoch| format!("{epoch}!")).unwrap_or_default();
            text.push_str(&release.iter().map(ToString::to_string).collect::<Vec<_>>().join("."));
            text.extend(pre.map(|(letter, number)| format!("{letter}{number}")));
            text.extend(post.map(|number| format!(".post{number}")));
            text.extend(dev.map(|number| format!(".dev{number}")));
            text
        })
}

/// The evaluation of the schema, word for word, for events with at most one end after each introduction.
fn by_the_schema(events: &[Event], version: &str) -> bool {
    let version = Version::from_str(version).unwrap();
    let key = |event: &Event| match event {
        Event::Introduced(text) if text == "0" => None,
        Event::Introduced(text) | Event::Fixed(text) | Event::LastAffected(text) => {
            Some(Version::from_str(text).unwrap())
        }
    };
    let mut sorted = events.to_vec();
    sorted.sort_by_key(key);
    let mut vulnerable = false;
    for event in &sorted {
        let at = key(event);
        match event {
            Event::Introduced(_) if at.as_ref().is_none_or(|at| version >= *at) => {
                vulnerable = true
            }
            Event::Fixed(_) if at.as_ref().is_some_and(|at| version >= *at) => vulnerable = false,
            Event::LastAffected(_) if at.as_ref().is_some_and(|at| version > *at) => {
                vulnerable = false
            }
            _ => {}
        }
    }
    vulnerable
}

/// `introduced`, an end, `introduced`, an end, … at distinct rising versions, in any order.
fn events() -> impl Strategy<Value = Vec<Event>> {
    (prop::collection::vec(version(), 1..8), any::<bool>(), prop::collection::vec(any::<bool>(), 8))
        .prop_map(|(versions, from_zero, ends)| {
            let mut versions: Vec<Version> =
                versions.iter().map(|text| Version::from_str(text).unwrap()).collect();
            versions.sort();
            versions.dedup();
            let mut events = Vec::new();
            if from_zero {
                events.push(introduced("0"));
            }
            for (at, version) in versions.iter().enumerate() {
                // "0" is no version in an introduction: it is below them all.
                let text = Some(version.to_string()).filter(|text| text != "0");
                let text = text.unwrap_or_else(|| "0.0".to_owned());
                events.push(match (events.len() % 2, ends[at]) {
                    (0, _) => Event::Introduced(text),
                    (_, true) => Event::Fixed(text),
                    (_, false) => Event::LastAffected(text),
                });
            }
            events
        })
        .prop_shuffle()
}

proptest! {
    #[test]
    fn ranges_agree_with_the_schemas_own_algorithm(events in events(), version in version()) {
        prop_assert_eq!(holds(&affected(&events), &version), by_the_schema(&events, &version));
    }

    #[test]
    fn the_order_in_the_file_never_matters(events in events(), version in version(), seed in any::<u64>()) {
        let mut other = events.clone();
        let at = usize::try_from(seed % other.len() as u64).unwrap();
        other.rotate_left(at);
        prop_assert_eq!(holds(&affected(&events), &version), holds(&affected(&other), &version));
    }

    #[test]
    fn a_fix_is_above_what_is_installed_and_not_affected(events in events(), version in version()) {
        let affected = affected(&events);
        let installed = Installed::new(Scheme::Pep440, &version);
        if affected.contains(&installed) && let Some(fix) = affected.fixed_after(&installed) {
            prop_assert!(!holds(&affected, &fix));
            prop_assert!(Version::from_str(&fix).unwrap() > Version::from_str(&version).unwrap());
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in ".{0,40}", bound in ".{0,40}") {
        let affected = affected(&[introduced(&bound), fixed(&text), last_affected(&bound)]);
        let _ = affected.contains(&Installed::new(Scheme::Pep440, &text));
        let _ = affected.fixed_after(&Installed::new(Scheme::Pep440, &bound));
    }

    #[test]
    fn listing_what_the_ranges_hold_changes_nothing(events in events(), versions in prop::collection::vec(version(), 0..10), probe in version()) {
        let ranges = affected(&events);
        let inside: Vec<&String> = versions.iter().filter(|version| holds(&ranges, version)).collect();
        let both = Affected::new(Scheme::Pep440, &[events], &inside);
        prop_assert_eq!(holds(&both, &probe), holds(&ranges, &probe));
    }
}

fn of(scheme: Scheme, events: &[Event]) -> Affected {
    Affected::new(scheme, &[events.to_vec()], &[] as &[&str])
}

#[test]
fn a_debian_range_holds_by_dpkgs_order() {
    let range = of(Scheme::Dpkg, &[introduced("0"), fixed("2.36-9+deb12u10")]);
    let holds = |version| range.contains(&Installed::new(Scheme::Dpkg, version));
    assert!(holds("2.36-9+deb12u9") && holds("2.36-9") && holds("2.36-9+deb12u10~bpo1"));
    assert!(!holds("2.36-9+deb12u10") && !holds("2.36-9+deb12u11") && !holds("1:0.1"));
    let installed = Installed::new(Scheme::Dpkg, "2.36-9+deb12u4");
    assert_eq!(range.fixed_after(&installed).as_deref(), Some("2.36-9+deb12u10"));
}

#[test]
fn an_alpine_range_holds_by_apks_order() {
    let range = of(Scheme::Apk, &[introduced("3.0.0-r0"), fixed("3.1.4-r5")]);
    let holds = |version| range.contains(&Installed::new(Scheme::Apk, version));
    assert!(holds("3.1.4-r4") && holds("3.1.4_rc1-r9") && holds("3.0.0-r0"));
    assert!(!holds("3.1.4-r5") && !holds("3.1.10-r0") && !holds("1.1.1w-r1"));
    assert!(holds("no version"), "what can't be compared is affected");
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    prop::sample::select(&[Scheme::Pep440, Scheme::Dpkg, Scheme::Apk][..])
}

proptest! {
    #[test]
    fn what_is_kept_of_a_range_is_the_range(scheme in any_scheme(), events in events(), more in prop::collection::vec(version(), 0..4), odd in "[a-z]{0,5}") {
        let mut listed = more;
        listed.push(odd);
        let affected = Affected::new(scheme, &[events], &listed);
        let mut writer = Writer::default();
        affected.write(&mut writer);
        let mut reader = Reader(&writer.0);
        prop_assert_eq!(Affected::read(scheme, &mut reader), Ok(affected));
        prop_assert!(reader.is_empty());
    }

    #[test]
    fn damaged_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), scheme in any_scheme()) {
        let _ = Affected::read(scheme, &mut Reader(&bytes));
    }

    #[test]
    fn a_fix_of_debian_is_above_what_is_installed(installed in "[0-9]\\.[0-9](-[0-9])?(\\+deb12u[0-9])?", fix in "[0-9]\\.[0-9](-[0-9])?(\\+deb12u[0-9])?") {
        let range = of(Scheme::Dpkg, &[introduced("0"), fixed(&fix)]);
        let installed = Installed::new(Scheme::Dpkg, &installed);
        prop_assert_eq!(range.contains(&installed), range.fixed_after(&installed).is_some());
    }
}
