use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use mecapy_advisories::{
    Database, Error, Import, Installed, Mirror, Scheme, download, import, replace,
};

use crate::exports::{now, record, write, zip};

fn imported(records: &[(&str, &str, &str)]) -> Import {
    let folder = tempfile::tempdir().unwrap();
    for (id, ecosystem, fixed) in records {
        write(
            &folder.path().join(id),
            ecosystem,
            &zip(&[("a.json", &record(id, ecosystem, fixed))]),
        );
    }
    let paths: Vec<_> = records.iter().map(|(id, ..)| folder.path().join(id)).collect();
    import(&paths, vec!["test".to_owned()], now()).unwrap()
}

fn hits(database: &Database, version: &str) -> usize {
    database.hits("PyPI", "demo", &Installed::new(Scheme::Pep440, version)).unwrap().len()
}

#[test]
fn a_folder_of_exports_is_one_file_that_knows_every_ecosystem() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "PyPI",
        &zip(&[("A.json", &record("A", "PyPI", "2")), ("README", "no record")]),
    );
    write(folder.path(), "Debian:12", &zip(&[("B.json", &record("B", "Debian:12", "2-1"))]));
    write(folder.path(), "Alpine", &zip(&[("C.json", &record("C", "Alpine:v3.20", "2-r1"))]));
    let database = import(&[folder.path().to_owned()], Vec::new(), now()).unwrap().open().unwrap();
    let ecosystems: Vec<&String> = database.info().ecosystems.keys().collect();
    assert_eq!(ecosystems, ["Alpine:v3.20", "Debian:12", "PyPI"]);
    let found = |ecosystem, scheme, version| {
        database.hits(ecosystem, "demo", &Installed::new(scheme, version)).unwrap().len()
    };
    assert_eq!(found("Debian:12", Scheme::Dpkg, "2-1~deb12u1"), 1);
    assert_eq!(found("Debian:12", Scheme::Dpkg, "2-1"), 0);
    assert_eq!(found("Debian:13", Scheme::Dpkg, "1"), 0);
    assert_eq!(found("Alpine:v3.20", Scheme::Apk, "2-r0"), 1);
}

#[test]
fn a_zip_with_a_record_that_cannot_be_read_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "PyPI",
        &zip(&[("A.json", &record("A", "PyPI", "2")), ("B.json", "{\"id\": 7}")]),
    );
    let error = import(&[folder.path().to_owned()], Vec::new(), now()).unwrap_err();
    assert!(matches!(&error, Error::Record { name, .. } if name == "B.json"), "{error}");
    let error = import(&["/nowhere/all.zip".into()], Vec::new(), now()).unwrap_err();
    assert!(matches!(error, Error::DatabaseFile { .. }), "{error}");
}

#[test]
fn who_reads_sees_the_old_database_or_the_new_one_and_never_a_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("advisories.db");
    let (one, other) =
        (imported(&[("A", "PyPI", "2")]), imported(&[("A", "PyPI", "2"), ("BB", "PyPI", "3")]));
    replace(&path, &one, false).unwrap();
    let old = Database::open(&path).unwrap();
    let (done, all_are_up) = (AtomicBool::new(false), Barrier::new(3));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    all_are_up.wait();
                    let mut seen = 0;
                    loop {
                        let database = Database::open(&path).unwrap();
                        assert_eq!(hits(&database, "1"), database.info().advisories);
                        seen += 1;
                        if done.load(Ordering::Relaxed) {
                            break seen;
                        }
                    }
                })
            })
            .collect();
        all_are_up.wait();
        for _ in 0..50 {
            replace(&path, &other, true).unwrap();
            replace(&path, &one, true).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    });
    // The file it opened is long gone from the folder.
    assert_eq!(hits(&old, "1"), 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn one_that_knows_much_less_or_is_older_is_refused_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/advisories.db");
    let full = imported(&[("AA", "PyPI", "2"), ("BB", "Debian:12", "3")]);
    assert!(replace(&path, &full, false).unwrap().before.is_none());
    for (less, why) in [
        (imported(&[("AA", "PyPI", "2")]), "Debian:12 had 1 advisories and has 0"),
        (imported(&[("CCC", "PyPI", "2"), ("DDD", "Debian:12", "3")]), "older"),
    ] {
        let error = replace(&path, &less, false).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(Database::open(&path).unwrap().info(), full.info());
    }
    let less = imported(&[("AA", "PyPI", "2")]);
    assert_eq!(replace(&path, &less, true).unwrap().before.as_ref(), Some(full.info()));
    assert_eq!(Database::open(&path).unwrap().info(), less.info());
}

#[test]
fn what_is_no_database_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("advisories.db");
    assert!(matches!(Database::open(&path), Err(Error::DatabaseMissing { .. })));
    std::fs::write(&path, zip(&[])).unwrap();
    assert!(matches!(Database::open(&path), Err(Error::NotADatabase { .. })));
}

#[tokio::test]
async fn an_export_is_fetched_whole_or_not_at_all() {
    mecapy_service::install_tls();
    let bytes = zip(&[("A.json", &record("A", "PyPI", "2"))]);
    let served = bytes.clone();
    let app = Router::new()
        .route("/PyPI/all.zip", get(async move || served))
        .route("/Debian:12/all.zip", get(async || StatusCode::NOT_FOUND));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mirror = Mirror::new(&format!("http://{}/", listener.local_addr().unwrap()));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("PyPI.zip");
    let length = download(&client, &mirror.export("PyPI"), &to).await.unwrap();
    assert_eq!((length, std::fs::read(&to).unwrap()), (bytes.len() as u64, bytes));
    assert_eq!(import(&[to], Vec::new(), now()).unwrap().info().advisories, 1);
    let error = download(&client, &mirror.export("Debian:12"), &folder.path().join("x")).await;
    assert!(matches!(error, Err(Error::Download { .. })));
}
