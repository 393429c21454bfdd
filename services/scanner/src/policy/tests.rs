use mecapy_advisories::severity::Rating;
use proptest::prelude::*;

use super::*;
use crate::package::Ecosystem;
use crate::verdict::{Verdict, decide};

fn at(day: &str) -> DateTime<Utc> {
    format!("{day}T12:00:00Z").parse().unwrap()
}

fn openssl(severity: Severity) -> Finding {
    Finding {
        id: "CVE-2024-1".into(),
        aliases: vec!["DEBIAN-CVE-2024-1".into(), "DSA-1-1".into()],
        ecosystem: Ecosystem::Deb,
        package: "openssl".into(),
        installed: "3.0.11-1~deb12u1".into(),
        purls: vec![
            "pkg:deb/debian/libssl3@3.0.11-1~deb12u1?arch=amd64&distro=debian-12".into(),
            "pkg:deb/debian/openssl@3.0.11-1~deb12u1?arch=amd64&distro=debian-12".into(),
        ],
        fixed: Some("3.0.11-1~deb12u2".into()),
        upgrade_to: Some("3.0.11-1~deb12u2".into()),
        rating: Rating { severity, score: None },
        summary: String::new(),
        published: Some(at("2025-10-01")),
        locations: Vec::new(),
    }
}

fn critical() -> Finding {
    openssl(Severity::Critical)
}

fn ignoring(yaml: &str) -> Policy {
    Policy { ignores: ignore::parse(yaml).unwrap(), ..Policy::default() }
}

const IGNORE: &str = "ignore:
  - id: CVE-2024-1
    package: openssl
    reason: the function opens no socket
    expires: 2025-11-01
";

#[test]
fn an_ignored_finding_does_not_count_until_its_day_and_bites_again_on_it() {
    let policy = ignoring(IGNORE);
    let decision = decide(&[critical()], &policy, at("2025-10-31"));
    assert_eq!((decision.verdict, decision.counts.critical), (Verdict::Passed, 0));
    assert_eq!(
        decision.suppressed[0].reason,
        "ignored until 2025-11-01: the function opens no socket"
    );
    assert_eq!(decide(&[critical()], &policy, at("2025-11-01")).verdict, Verdict::Rejected);
    assert_ne!(
        policy.fingerprint(at("2025-10-31")).unwrap(),
        policy.fingerprint(at("2025-11-01")).unwrap()
    );
}

#[test]
fn an_ignore_is_by_any_name_of_the_flaw_and_of_one_package_alone() {
    let by_notice = ignoring(&IGNORE.replace("CVE-2024-1", "DSA-1-1"));
    assert!(by_notice.suppresses(&critical(), at("2025-10-02")).is_some());
    let of_another = ignoring(&IGNORE.replace("openssl", "curl"));
    assert!(of_another.suppresses(&critical(), at("2025-10-02")).is_none());
    let of_any = ignoring(&IGNORE.replace("    package: openssl\n", ""));
    assert!(of_any.suppresses(&critical(), at("2025-10-02")).is_some());
}

#[test]
fn a_list_that_says_less_than_it_must_is_refused_whole() {
    for (wrong, part) in [
        (IGNORE.replace("    reason: the function opens no socket\n", ""), "reason"),
        (IGNORE.replace("the function opens no socket", "''"), "reason"),
        (IGNORE.replace("    expires: 2025-11-01\n", ""), "expires"),
        (IGNORE.replace("2025-11-01", "never"), ""),
        (IGNORE.replace("package:", "pakage:"), "pakage"),
        (IGNORE.replace("ignore:", "ignored:"), "ignore"),
        ("".to_owned(), ""),
    ] {
        let problem = ignore::parse(&wrong).unwrap_err();
        assert!(problem.contains(part), "{problem}");
    }
}

#[test]
fn without_a_fix_a_finding_counts_unless_the_policy_says_otherwise() {
    let unfixed = Finding { fixed: None, upgrade_to: None, ..critical() };
    let mut policy = Policy::default();
    assert_eq!(
        decide(std::slice::from_ref(&unfixed), &policy, Utc::now()).verdict,
        Verdict::Rejected
    );
    policy.options.ignore_unfixed = true;
    let decision = decide(&[unfixed, critical()], &policy, Utc::now());
    assert_eq!((decision.verdict, decision.suppressed.len()), (Verdict::Rejected, 1));
    assert_eq!(decision.suppressed[0].reason, "no fixed version is known");
}

#[test]
fn a_new_advisory_is_warned_of_during_its_grace_and_rejects_after_it() {
    let mut policy = Policy::default();
    policy.options.grace_days = 7;
    let decision = decide(&[critical()], &policy, at("2025-10-07"));
    assert_eq!((decision.verdict, decision.counts.critical), (Verdict::Passed, 1));
    assert_eq!(
        decision.warnings,
        ["openssl 3.0.11-1~deb12u1 has CRITICAL CVE-2024-1: rejected from 2025-10-08 on"]
    );
    assert_eq!(decide(&[critical()], &policy, at("2025-10-09")).verdict, Verdict::Rejected);
    // What nobody dates, or dates in the future, has no grace.
    let undated = Finding { published: None, ..critical() };
    assert_eq!(decide(&[undated], &policy, at("2025-10-02")).verdict, Verdict::Rejected);
    assert_eq!(decide(&[critical()], &policy, at("2025-09-30")).verdict, Verdict::Rejected);
}

#[test]
fn severities_reject_and_warn_as_the_policy_says() {
    let mut policy = Policy::default();
    policy.options.reject.insert(Severity::High);
    policy.options.warn = [Severity::Medium].into();
    let decide = |severity| decide(&[openssl(severity)], &policy, Utc::now());
    assert_eq!(decide(Severity::High).verdict, Verdict::Rejected);
    assert_eq!(
        decide(Severity::High).reasons,
        ["openssl 3.0.11-1~deb12u1 has HIGH CVE-2024-1: upgrade to 3.0.11-1~deb12u2 or later"]
    );
    assert_eq!(decide(Severity::Medium).warnings.len(), 1);
    assert_eq!(decide(Severity::Low).warnings.len(), 0);
    for (action, verdict, warnings) in [
        (Action::Reject, Verdict::Rejected, 0),
        (Action::Warn, Verdict::Passed, 1),
        (Action::Allow, Verdict::Passed, 0),
    ] {
        let options = Options { unknown: action, ..Options::default() };
        let policy = Policy { options, ..Policy::default() };
        let decision =
            super::super::verdict::decide(&[openssl(Severity::Unknown)], &policy, Utc::now());
        assert_eq!((decision.verdict, decision.warnings.len()), (verdict, warnings));
    }
}

#[test]
fn a_policy_that_contradicts_itself_is_refused() {
    let wrong = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        options.validate().unwrap_err()
    };
    assert_eq!(Options::default().validate(), Ok(()));
    assert!(wrong(|options| options.reject.clear()).contains("nothing would be rejected"));
    assert!(wrong(|options| _ = options.warn.insert(Severity::Critical)).contains("CRITICAL"));
    assert!(wrong(|options| _ = options.reject.insert(Severity::Unknown)).contains("unknown"));
}

fn openvex(product: &str, status: &str, more: &str) -> String {
    format!(
        r#"{{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://example.org/vex/1", "author": "x",
            "timestamp": "2025-10-01T00:00:00Z", "version": 1,
            "statements": [{{"vulnerability": {{"name": "CVE-2024-1"}}, "products": [{product}],
              "status": "{status}"{more}}}]}}"#
    )
}

fn by_vex(documents: &[String]) -> Policy {
    let mut statements: Vec<Statement> =
        documents.iter().flat_map(|document| vex::parse(document).unwrap()).collect();
    statements.sort_by_key(|statement| statement.timestamp);
    Policy { statements, ..Policy::default() }
}

const NOT_PRESENT: &str = r#", "justification": "vulnerable_code_not_present""#;

#[test]
fn openvex_takes_a_finding_away_for_the_package_that_it_names() {
    for (product, takes_away) in [
        (r#"{"@id": "pkg:deb/debian/openssl"}"#, true),
        (r#"{"@id": "pkg:deb/debian/openssl@3.0.11-1~deb12u1?arch=source"}"#, true),
        (
            r#"{"@id": "x", "identifiers": {"purl": "pkg:deb/debian/openssl@3.0.11-1%7Edeb12u1"}}"#,
            true,
        ),
        (r#"{"@id": "pkg:deb/debian/libssl3"}, {"@id": "pkg:deb/debian/openssl"}"#, true),
        (r#"{"@id": "pkg:deb/debian/libssl3"}"#, false),
        (r#"{"@id": "pkg:deb/debian/openssl@3.0.11-1"}"#, false),
        (r#"{"@id": "pkg:deb/ubuntu/openssl"}"#, false),
        (r#"{"@id": "pkg:oci/x", "subcomponents": [{"@id": "pkg:deb/debian/openssl"}]}"#, false),
        ("", false),
    ] {
        let policy = by_vex(&[openvex(product, "not_affected", NOT_PRESENT)]);
        let suppressed = policy.suppresses(&critical(), Utc::now());
        assert_eq!(suppressed.is_some(), takes_away, "{product}");
    }
}

#[test]
fn the_newest_statement_counts_whatever_the_order_of_the_files() {
    let product = r#"{"@id": "pkg:deb/debian/openssl"}"#;
    let old = openvex(product, "not_affected", NOT_PRESENT);
    let new = openvex(product, "affected", r#", "timestamp": "2025-10-05T00:00:00Z""#);
    for documents in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
        assert_eq!(by_vex(&documents).suppresses(&critical(), Utc::now()), None);
    }
    let fixed = openvex(product, "fixed", r#", "timestamp": "2025-10-06T00:00:00Z""#);
    let reason = by_vex(&[fixed, new, old]).suppresses(&critical(), Utc::now());
    assert_eq!(reason.as_deref(), Some("VEX: fixed"));
}

#[test]
fn a_document_that_is_no_openvex_or_gives_no_reason_is_refused() {
    let product = r#"{"@id": "pkg:deb/debian/openssl"}"#;
    assert!(
        vex::parse(&openvex(product, "not_affected", "")).unwrap_err().contains("justification")
    );
    assert!(vex::parse(&openvex(product, "harmless", NOT_PRESENT)).is_err());
    let other =
        openvex(product, "fixed", "").replace("https://openvex.dev/ns", "https://example.org");
    assert!(vex::parse(&other).unwrap_err().contains("context"));
}

#[test]
fn files_are_read_again_and_a_broken_one_leaves_the_policy_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ignore.yaml");
    let options = Options { ignore_file: Some(path.clone()), ..Options::default() };
    assert!(matches!(Policy::load(&options), Err(Error::PolicyFile { .. })));
    std::fs::write(&path, IGNORE).unwrap();
    let policies = Policies::new(Policy::load(&options).unwrap());
    assert!(!policies.refresh().unwrap());
    std::fs::write(&path, "ignore: []\n").unwrap();
    assert!(policies.refresh().unwrap());
    assert_eq!(policies.current().ignores, []);
    std::fs::write(&path, "ignore: 7\n").unwrap();
    assert!(policies.refresh().is_err());
    assert_eq!(policies.current().ignores, []);
}

proptest! {
    /// Whatever is ignored: a finding that nobody has looked at is never taken away.
    #[test]
    fn only_what_is_named_is_taken_away(id in "CVE-[0-9]{4}-[0-9]", day in 0..400i64) {
        let policy = ignoring(&IGNORE.replace("CVE-2024-1", &id));
        let now = at("2025-01-01") + Duration::days(day);
        let taken = policy.suppresses(&critical(), now).is_some();
        prop_assert_eq!(taken, id == "CVE-2024-1" && now < at("2025-11-01") - Duration::hours(12));
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in ".{0,60}") {
        let _ = ignore::parse(&text);
        let _ = vex::parse(&text);
        let _ = vex::Purl::parse(&text);
    }
}
