use std::io::Write as _;
use std::path::Path;

use mecapy_advisories::severity::Severity;
use mecapy_registry::{Digest, Registry};

use super::*;
use crate::package::Ecosystem;

fn digest() -> Digest {
    Digest::of(b"image")
}

fn report(more: &str) -> String {
    format!(
        r#"{{"SchemaVersion": 2, "ArtifactType": "container_image", "ArtifactName": "x", "Metadata": {{
             "OS": {{"Family": "debian", "Name": "12.5"}}, "RepoDigests": ["registry:5000/x@{}"]}},
            "Results": [
              {{"Target": "x (debian 12.5)", "Class": "os-pkgs", "Type": "debian",
                "Packages": [{{"Name": "libssl3", "Version": "3.0.11", "Release": "1~deb12u1", "Epoch": 1, "Arch": "amd64",
                  "SrcName": "openssl", "SrcVersion": "3.0.11", "SrcRelease": "1~deb12u1", "Layer": {{"DiffID": "{layer}"}}}}]
                {more}}}]}}"#,
        digest(),
        layer = Digest::of(b"layer"),
    )
}

fn vulnerability(id: &str, severity: &str) -> String {
    format!(
        r#"{{"VulnerabilityID": "{id}", "VendorIDs": ["DSA-1-1"], "PkgName": "libssl3",
            "PkgIdentifier": {{"PURL": "pkg:deb/debian/libssl3@3.0.11-1~deb12u1?distro=debian-12.5"}},
            "InstalledVersion": "3.0.11-1~deb12u1", "FixedVersion": "3.0.11-1~deb12u2, 3.1", "Status": "fixed",
            "Layer": {{"Digest": "{}"}}, "SeveritySource": "nvd", "Severity": "{severity}", "Title": "bad",
            "CVSS": {{"nvd": {{"V3Score": 9.8}}}}, "PublishedDate": "2024-01-02T03:04:05Z"}}"#,
        Digest::of(b"layer")
    )
}

fn vulnerable(severity: &str) -> String {
    let one = vulnerability("CVE-2024-1", severity);
    report(&format!(r#", "Vulnerabilities": [{one}, {one}]"#))
}

#[test]
fn packages_and_findings_are_read() {
    let (contents, findings) = output::parse(vulnerable("CRITICAL").as_bytes(), digest()).unwrap();
    assert_eq!(contents.os.unwrap().id, "debian");
    assert_eq!(contents.packages[0].version, "1:3.0.11-1~deb12u1");
    assert_eq!(contents.packages[0].source.as_ref().unwrap().name, "openssl");
    assert_eq!(findings.len(), 1, "in two places it is one finding");
    let finding = &findings[0];
    assert_eq!((finding.ecosystem, finding.rating.severity), (Ecosystem::Deb, Severity::Critical));
    assert_eq!(finding.fixed.as_deref(), Some("3.0.11-1~deb12u2"));
    assert_eq!(
        (finding.rating.score, finding.aliases.as_slice()),
        (Some(9.8), &["DSA-1-1".to_owned()][..])
    );
}

#[test]
fn what_is_not_wholly_understood_is_no_answer() {
    let good = vulnerable("CRITICAL");
    for (wrong, part) in [
        (good.replace(r#""SchemaVersion": 2"#, r#""SchemaVersion": 3"#), "schema"),
        (good.replace("container_image", "filesystem"), "filesystem"),
        (good.replace(&digest().to_string(), &Digest::of(b"other").to_string()), "another image"),
        (good.replace("CRITICAL", "DREADFUL"), "DREADFUL"),
        (good.replace(r#""Severity": "CRITICAL", "#, ""), "Severity"),
        (good.replace(r#""VulnerabilityID": "CVE-2024-1", "#, ""), "VulnerabilityID"),
        (good[..good.len() / 2].to_owned(), ""),
        (String::new(), ""),
    ] {
        let problem = output::parse(wrong.as_bytes(), digest()).unwrap_err();
        assert!(problem.contains(part), "{problem}");
    }
}

/// A program that answers like trivy: a version, then what it is told.
fn trivy(folder: &Path, version: &str, image: &str) -> Trivy {
    let program = folder.join("trivy");
    let updated = Utc::now() - chrono::Duration::hours(5);
    let script = format!(
        "#!/bin/sh\ncase \"$3\" in\nversion) echo '{{\"Version\": \"{version}\", \"VulnerabilityDB\": {{\"Version\": 2, \"UpdatedAt\": \"{}\"}}}}';;\nimage) {image};;\nesac\n",
        updated.to_rfc3339()
    );
    // By another process: what this one has open for writing, the children that other tests start in this moment have
    // too, and a file that somebody may write to is not run.
    let mut install = std::process::Command::new("install")
        .args(["--mode=755", "/dev/stdin"])
        .arg(&program)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    install.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
    let options = Options { program, ..Options::default() };
    let limit = Duration::from_secs(60);
    Trivy::new(options, RegistryOptions::default(), limit, chrono::Duration::days(7))
}

async fn scan(trivy: &Trivy) -> Result<Scan, Error> {
    let options = RegistryOptions {
        host: "registry:5000".to_owned(),
        plain_http: true,
        ..RegistryOptions::default()
    };
    let registry = Registry::new(&options).unwrap();
    trivy.scan(Target { registry: &registry, repository: "x", digest: digest() }).await
}

#[tokio::test]
async fn findings_and_failures_are_told_apart_by_the_exit_code() {
    mecapy_service::install_tls();
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (bad, clean) = (put("bad", &vulnerable("HIGH")), put("clean", &report("")));

    let found = scan(&trivy(folder.path(), VERSION, &format!("cat {bad}; exit 10"))).await.unwrap();
    assert_eq!((found.engine.name.as_str(), found.findings.len()), ("trivy", 1));
    assert_eq!((found.database.age_hours, found.layers.len()), (Some(5), 0));
    let none = scan(&trivy(folder.path(), VERSION, &format!("cat {clean}; exit 0"))).await.unwrap();
    assert_eq!(none.findings, []);
    for image in [
        "echo 'FATAL no such image' >&2; exit 1".to_owned(),
        // A failure that printed what looks like an answer.
        format!("cat {clean}; exit 1"),
        // Exit code and findings don't fit.
        format!("cat {bad}; exit 0"),
        format!("cat {clean}; exit 10"),
        "exit 0".to_owned(),
        "kill -9 $$".to_owned(),
    ] {
        let error = scan(&trivy(folder.path(), VERSION, &image)).await.unwrap_err();
        assert!(matches!(error, Error::Trivy(_)) && error.is_transient(), "{image}: {error}");
    }
}

#[tokio::test]
async fn a_server_is_asked_when_one_is_named() {
    mecapy_service::install_tls();
    let folder = tempfile::tempdir().unwrap();
    let (asked, answer) = (folder.path().join("asked"), folder.path().join("answer"));
    std::fs::write(&answer, report("")).unwrap();
    let image = format!("echo \"$@\" >{}; cat {}", asked.display(), answer.display());
    let mut trivy = trivy(folder.path(), VERSION, &image);
    trivy.options.server = Some("http://trivy.example:4954".to_owned());
    scan(&trivy).await.unwrap();
    let asked = std::fs::read_to_string(asked).unwrap();
    assert!(asked.contains(" --server=http://trivy.example:4954 "), "{asked}");
    assert!(asked.contains(" --image-src=remote "), "{asked}");
}

#[tokio::test]
async fn one_that_takes_too_long_is_ended() {
    mecapy_service::install_tls();
    let folder = tempfile::tempdir().unwrap();
    let mut trivy = trivy(folder.path(), VERSION, "exec sleep 60");
    trivy.limit = Duration::from_millis(300);
    assert!(matches!(scan(&trivy).await, Err(Error::TimedOut { .. })));
}

#[tokio::test]
async fn another_version_or_a_compromised_one_is_never_run() {
    mecapy_service::install_tls();
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    for version in ["0.65.0", "0.69.4"] {
        let mut trivy = trivy(folder.path(), version, &format!("touch {}", ran.display()));
        if version == "0.69.4" {
            trivy.options.version = version.to_owned();
            assert!(trivy.options.validate().is_err());
        }
        let error = scan(&trivy).await.unwrap_err();
        assert!(matches!(error, Error::Trivy(Failure::Version { .. })), "{error}");
        assert!(trivy.check().is_err(), "the service isn't ready");
    }
    assert!(!ran.exists());
}

#[tokio::test]
async fn one_without_a_database_or_with_an_old_one_gives_no_answer() {
    mecapy_service::install_tls();
    let folder = tempfile::tempdir().unwrap();
    let mut old = trivy(folder.path(), VERSION, "exit 0");
    old.max_age = chrono::Duration::hours(4);
    let error = scan(&old).await.unwrap_err();
    assert!(matches!(error, Error::Trivy(Failure::DatabaseTooOld { .. })), "{error}");
    let missing = Options { program: folder.path().join("nowhere"), ..Options::default() };
    let missing = Trivy::new(
        missing,
        RegistryOptions::default(),
        Duration::from_secs(1),
        chrono::Duration::days(7),
    );
    assert!(matches!(scan(&missing).await, Err(Error::Trivy(Failure::Run { .. }))));
}
