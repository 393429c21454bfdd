use axum::http::StatusCode;
use mecapy_registry::Error;
use mecapy_testkit::unique;

use crate::fake::{Fake, answer, status};
use crate::images::{Family, push};
use crate::servers::primary;

#[tokio::test]
async fn tags_and_repositories_are_listed() {
    let registry = primary().await;
    let repository = unique("listing");
    let image = push(&registry, &repository, Family::Oci, &[("a", "content".into())]).await;
    for tag in ["v1", "latest"] {
        registry.put_manifest(&repository, tag, &image).await.unwrap();
    }
    let mut tags = registry.tags(&repository).await.unwrap();
    tags.sort();
    assert_eq!(tags, ["latest", "v1"]);
    assert!(registry.catalog().await.unwrap().contains(&repository));
}

#[tokio::test]
async fn every_page_of_a_list_is_read() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        "/v2/_catalog?n=1000" => answer(
            StatusCode::OK,
            &[("link", r#"</v2/_catalog?last=b&n=1000>; rel="next""#)],
            r#"{"repositories":["a","b"]}"#,
        ),
        "/v2/_catalog?last=b&n=1000" => answer(
            StatusCode::OK,
            &[("link", r#"<?last=c&n=1000>; rel="next""#)],
            r#"{"repositories":["c"]}"#,
        ),
        "/v2/_catalog?last=c&n=1000" => answer(StatusCode::OK, &[], r#"{"repositories":null}"#),
        _ => status(StatusCode::NOT_FOUND),
    })
    .await;
    assert_eq!(fake.registry().catalog().await.unwrap(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_page_that_leads_to_itself_ends_the_list() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => answer(
            StatusCode::OK,
            &[("link", r#"</v2/a/tags/list?n=1000>; rel="next""#)],
            r#"{"name":"a","tags":["x"]}"#,
        ),
    })
    .await;
    let error = fake.registry().tags("a").await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}
