use axum::http::StatusCode;
use mecapy_registry::{Digest, Error, media_types};
use mecapy_testkit::unique;

use crate::fake::{Fake, answer, status};
use crate::images::{Family, push, push_index};
use crate::servers::primary;

#[tokio::test]
async fn a_manifest_comes_back_byte_for_byte_in_both_families() {
    let registry = primary().await;
    for family in [Family::Oci, Family::Docker] {
        let repository = unique("manifests");
        let put = push(&registry, &repository, family, &[("a", "content".into())]).await;
        registry.put_manifest(&repository, "v1", &put).await.unwrap();
        assert_eq!(registry.manifest(&repository, "v1").await.unwrap(), put);
        let digest = put.digest.to_string();
        assert_eq!(registry.manifest(&repository, &digest).await.unwrap(), put);
        let resolved = registry.resolve(&repository, "v1").await.unwrap().unwrap();
        assert_eq!(resolved, put.descriptor());
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let registry = primary().await;
    let repository = unique("manifests");
    assert_eq!(registry.resolve(&repository, "v1").await.unwrap(), None);
    assert!(registry.manifest(&repository, "v1").await.unwrap_err().is_not_found());
    assert!(registry.tags(&repository).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_deleted_manifest_takes_its_tags_along_and_is_gone_once() {
    let registry = primary().await;
    let repository = unique("manifests");
    let put = push(&registry, &repository, Family::Oci, &[("a", "content".into())]).await;
    registry.put_manifest(&repository, "v1", &put).await.unwrap();
    assert!(registry.delete_manifest(&repository, &put.digest).await.unwrap());
    assert_eq!(registry.resolve(&repository, "v1").await.unwrap(), None);
    assert!(!registry.delete_manifest(&repository, &put.digest).await.unwrap());
    // Its list is `null` now.
    assert!(registry.tags(&repository).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_index_is_refused_before_its_children() {
    let registry = primary().await;
    let (from, to) = (unique("from"), unique("to"));
    let child = push(&registry, &from, Family::Oci, &[("a", "content".into())]).await;
    let index = push_index(&registry, &from, &[&child]).await;
    let error = registry.put_manifest(&to, "v1", &index).await.unwrap_err();
    assert!(matches!(error, Error::Status { status: 400, .. }), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_manifest_with_another_digest_than_asked_is_refused() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => answer(StatusCode::OK, &[("content-type", media_types::OCI_MANIFEST)], "{}"),
    })
    .await;
    let asked = Digest::of(b"something else").to_string();
    let error = fake.registry().manifest("a", &asked).await.unwrap_err();
    assert!(error.is_digest_mismatch(), "{error}");
    // A HEAD without a digest is answered by a GET, which is checked too.
    let error = fake.registry().resolve("a", &asked).await.unwrap_err();
    assert!(error.is_digest_mismatch(), "{error}");
    let resolved = fake.registry().resolve("a", "latest").await.unwrap().unwrap();
    assert_eq!(resolved.digest, Digest::of(b"{}"));
}
