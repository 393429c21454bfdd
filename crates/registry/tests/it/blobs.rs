use axum::http::{Method, StatusCode};
use bytes::Bytes;
use futures::TryStreamExt as _;
use mecapy_registry::{Descriptor, Digest, Error};
use mecapy_testkit::unique;
use tokio::io::AsyncReadExt as _;

use crate::fake::{Fake, answer, cut, status};
use crate::images::noise;
use crate::servers::primary;

#[tokio::test]
async fn a_blob_comes_back_as_it_was_put() {
    let registry = primary().await;
    let repository = unique("blobs");
    let content = noise(&repository, 3_000_000);
    let blob = registry.put_blob(&repository, content.clone()).await.unwrap();
    assert_eq!((blob.digest, blob.size), (Digest::of(&content), 3_000_000));
    assert!(registry.blob_exists(&repository, &blob.digest).await.unwrap());
    assert_eq!(registry.blob_bytes(&repository, &blob, 3_000_000).await.unwrap(), content);

    let pieces: Vec<Bytes> =
        registry.blob(&repository, &blob).await.unwrap().try_collect().await.unwrap();
    assert_eq!(pieces.concat(), content);

    let mut read = Vec::new();
    let mut reader = registry.blob(&repository, &blob).await.unwrap().into_reader();
    reader.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, content);
    // Again is well, and an empty one too.
    registry.put_blob(&repository, content).await.unwrap();
    let empty = registry.put_blob(&repository, Bytes::new()).await.unwrap();
    assert!(registry.blob_bytes(&repository, &empty, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_blob_is_not_read_under_another_size_or_beyond_the_limit() {
    let registry = primary().await;
    let repository = unique("blobs");
    let blob = registry.put_blob(&repository, noise(&repository, 1000)).await.unwrap();
    let wrong = Descriptor { size: 999, ..blob.clone() };
    let error = registry.blob_bytes(&repository, &wrong, 10_000).await.unwrap_err();
    assert!(error.is_digest_mismatch(), "{error}");
    let error = registry.blob_bytes(&repository, &blob, 999).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 999, .. }), "{error}");
}

#[tokio::test]
async fn an_unknown_blob_is_not_found() {
    let registry = primary().await;
    let repository = unique("blobs");
    let unknown = Descriptor::new("x", Digest::of(repository.as_bytes()), 1);
    assert!(!registry.blob_exists(&repository, &unknown.digest).await.unwrap());
    assert!(registry.blob(&repository, &unknown).await.err().unwrap().is_not_found());
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_it_is_and_from_nowhere_else() {
    let registry = primary().await;
    let (from, to) = (unique("from"), unique("to"));
    let blob = registry.put_blob(&from, noise(&from, 1000)).await.unwrap();
    assert!(!registry.mount_blob(&to, &blob.digest, &unique("elsewhere")).await.unwrap());
    assert!(!registry.blob_exists(&to, &blob.digest).await.unwrap());
    assert!(registry.mount_blob(&to, &blob.digest, &from).await.unwrap());
    assert!(registry.blob_exists(&to, &blob.digest).await.unwrap());
}

#[tokio::test]
async fn a_mount_that_fails_leaves_no_session_behind() {
    let fake = Fake::start(|asked| match (&asked.method, asked.path.as_str()) {
        (&Method::POST, _) => {
            answer(StatusCode::ACCEPTED, &[("location", "/v2/to/blobs/uploads/1?_state=s")], "")
        }
        (&Method::DELETE, _) => status(StatusCode::NO_CONTENT),
        _ => status(StatusCode::OK),
    })
    .await;
    let mounted = fake.registry().mount_blob("to", &Digest::of(b"x"), "from").await.unwrap();
    assert!(!mounted);
    assert_eq!(fake.count(Method::DELETE, "/v2/to/blobs/uploads/1?_state=s"), 1);
}

#[tokio::test]
async fn the_end_of_a_wrong_blob_is_never_handed_on() {
    let right = noise("right", 200_000);
    let served = {
        let mut wrong = right.to_vec();
        wrong[150_000] ^= 1;
        Bytes::from(wrong)
    };
    let fake = Fake::start(move |asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => answer(StatusCode::OK, &[], served.clone()),
    })
    .await;
    let blob = Descriptor::new("x", Digest::of(&right), right.len() as u64);
    let mut stream = fake.registry().blob("a", &blob).await.unwrap();
    let mut received = 0;
    let error = loop {
        match stream.try_next().await {
            Ok(Some(piece)) => received += piece.len(),
            Ok(None) => panic!("a wrong blob ended well"),
            Err(error) => break error,
        }
    };
    assert!(error.is_digest_mismatch() && !error.is_transient(), "{error}");
    assert!(received < right.len());
    assert!(stream.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_blob_cut_on_its_way_is_read_again() {
    let content = noise("cut", 100_000);
    let served = content.clone();
    let fake = Fake::start(move |asked| match (asked.path.as_str(), asked.before) {
        ("/v2/", _) => status(StatusCode::OK),
        (_, 0) => cut(&served, 10_000),
        _ => answer(StatusCode::OK, &[], served.clone()),
    })
    .await;
    let blob = Descriptor::new("x", Digest::of(&content), content.len() as u64);
    assert_eq!(fake.registry().blob_bytes("a", &blob, 100_000).await.unwrap(), content);
}
