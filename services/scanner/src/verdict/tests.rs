use mecapy_advisories::severity::Rating;
use proptest::prelude::*;

use super::*;

fn decide(findings: &[Finding]) -> Decision {
    super::decide(findings, &Policy::default(), Utc::now())
}

fn finding(
    package: &str,
    installed: &str,
    severity: Severity,
    id: &str,
    upgrade_to: Option<&str>,
) -> Finding {
    Finding {
        id: id.to_owned(),
        aliases: Vec::new(),
        ecosystem: Ecosystem::Pypi,
        package: package.to_owned(),
        installed: installed.to_owned(),
        purls: vec![format!("pkg:pypi/{package}@{installed}")],
        published: None,
        fixed: upgrade_to.map(str::to_owned),
        upgrade_to: upgrade_to.map(str::to_owned),
        rating: Rating { severity, score: None },
        summary: String::new(),
        locations: Vec::new(),
    }
}

#[test]
fn nothing_found_passes() {
    let decision = decide(&[]);
    assert_eq!(decision.verdict, Verdict::Passed);
    assert!(decision.reasons.is_empty() && decision.warnings.is_empty());
}

#[test]
fn a_high_is_a_warning_and_passes() {
    let decision =
        decide(&[finding("numpy", "1.24.0", Severity::High, "CVE-2023-1", Some("1.24.1"))]);
    assert_eq!(decision.verdict, Verdict::Passed);
    assert_eq!(decision.warnings, ["numpy 1.24.0 has HIGH CVE-2023-1"]);
}

#[test]
fn an_unrated_finding_is_counted_and_warned_of() {
    let decision = decide(&[finding("scipy", "1.9.0", Severity::Unknown, "CVE-2023-2", None)]);
    assert_eq!((decision.verdict, decision.counts.unknown), (Verdict::Passed, 1));
    assert_eq!(decision.warnings, ["scipy 1.9.0 has UNKNOWN CVE-2023-2"]);
}

#[test]
fn one_critical_rejects_and_says_what_to_upgrade_to() {
    let decision = decide(&[
        finding("pyyaml", "5.3", Severity::Critical, "CVE-2020-14343", Some("5.4")),
        finding("pyyaml", "5.3", Severity::Critical, "CVE-2020-1747", Some("5.4")),
        finding("pycrypto", "2.6.1", Severity::Critical, "CVE-2013-7459", None),
    ]);
    assert_eq!(decision.verdict, Verdict::Rejected);
    assert_eq!(
        decision.reasons,
        [
            "pycrypto 2.6.1 has CRITICAL CVE-2013-7459: no fixed version is known: do without it",
            "pyyaml 5.3 has CRITICAL CVE-2020-14343, CVE-2020-1747: upgrade to 5.4 or later",
        ]
    );
}

fn findings() -> impl Strategy<Value = Vec<Finding>> {
    let one = ("[a-c]", "[1-3]", 0..5usize, "CVE-[0-9]", prop::option::of("[4-6]")).prop_map(
        |(package, installed, severity, id, fix)| {
            finding(&package, &installed, Severity::ALL[severity], &id, fix.as_deref())
        },
    );
    prop::collection::vec(one, 0..12)
}

proptest! {
    #[test]
    fn passed_means_no_critical_and_nothing_else(findings in findings()) {
        let decision = decide(&findings);
        let critical = findings.iter().any(|finding| finding.rating.severity == Severity::Critical);
        prop_assert_eq!(decision.verdict == Verdict::Rejected, critical);
        prop_assert_eq!(decision.reasons.is_empty(), !critical);
    }

    #[test]
    fn every_finding_is_counted_once(findings in findings()) {
        let counts = decide(&findings).counts;
        let total: u32 = Severity::ALL.into_iter().map(|severity| counts.of(severity)).sum();
        prop_assert_eq!(total as usize, findings.len());
    }

    #[test]
    fn one_more_finding_never_turns_rejected_into_passed(findings in findings(), more in findings()) {
        let before = decide(&findings).verdict;
        let all: Vec<Finding> = findings.into_iter().chain(more).collect();
        if before == Verdict::Rejected {
            prop_assert_eq!(decide(&all).verdict, Verdict::Rejected);
        }
    }

    #[test]
    fn every_critical_finding_is_named_in_the_reasons(findings in findings()) {
        let text = decide(&findings).reasons.join("\n");
        for finding in findings.iter().filter(|finding| finding.rating.severity == Severity::Critical) {
            prop_assert!(text.contains(&finding.id));
        }
    }
}
