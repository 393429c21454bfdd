use crate::program::mecapy;

const RECORD: &str = r#"{"id": "PYSEC-2025-1", "modified": "2025-10-01T00:00:00Z", "aliases": ["CVE-2025-1"],
    "affected": [{"package": {"ecosystem": "PyPI", "name": "demo"}, "versions": ["1.0"]}]}"#;

#[tokio::test]
async fn an_import_makes_a_database_and_info_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (record, database) = (path("PYSEC-2025-1.json"), path("advisories.db"));
    std::fs::write(&record, RECORD).unwrap();

    let missing = mecapy(&["advisories", "info", "--database", &database]).await.expect(1);
    assert!(missing.stderr.contains("`mecapy advisories update` makes one"), "{missing:#?}");
    let made = mecapy(&["advisories", "import", &record, "--database", &database, "--json"])
        .await
        .expect(0);
    assert_eq!(made.json()["advisories"], 1);
    // The path may come from the services' configuration too.
    let config = path("mecapy.toml");
    std::fs::write(&config, format!("[scanner]\ndatabase = {database:?}\n")).unwrap();
    let shown = mecapy(&["advisories", "info", "--config", &config]).await.expect(0);
    assert!(shown.stdout.contains("PyPI") && shown.stdout.contains("2025-10-01"), "{shown:#?}");
    let info =
        mecapy(&["advisories", "info", "--config", &config, "--json"]).await.expect(0).json();
    assert_eq!(info["ecosystems"]["PyPI"]["packages"], 1);
    assert!(info["age_hours"].as_i64().unwrap() > 24);

    std::fs::write(&record, RECORD.replace("2025-10-01", "2025-09-01")).unwrap();
    let older = ["advisories", "import", &record, "--database", &database];
    let refused = mecapy(&older).await.expect(1);
    assert!(refused.stderr.contains("--force"), "{refused:#?}");
    mecapy(&[&older[..], &["--force"]].concat()).await.expect(0);
    mecapy(&["advisories", "info"]).await.expect(2);
}

#[tokio::test]
async fn an_update_fetches_the_exports_that_are_named() {
    use axum::Router;
    use axum::routing::get;
    let app = Router::new().route("/PyPI/all.zip", get(async || "no zip at all"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("advisories.db");
    let update = ["advisories", "update", "--from", &url, "--database", database.to_str().unwrap()];
    let broken = mecapy(&[&update[..], &["--ecosystem", "PyPI"]].concat()).await.expect(1);
    assert!(broken.stderr.contains("no zip archive"), "{broken:#?}");
    let missing = mecapy(&[&update[..], &["--ecosystem", "Debian:12"]].concat()).await.expect(1);
    assert!(missing.stderr.contains("/Debian:12/all.zip can't be fetched"), "{missing:#?}");
    assert!(!database.exists(), "nothing is put in place of what could not be fetched");
}
