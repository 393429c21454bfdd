//! What a destination has under the name of a blob, and is not all of it.

use axum::http::StatusCode;
use bytes::Bytes;
use mecapy_registry::{
    Appender, Copier, DistributionInventory, Error, Inventory as _, ProgressSink, Source, Target,
};
use mecapy_testkit::unique;

use crate::append::{base, code, patch};
use crate::faults::{assert_nothing, assert_whole, copy, image};
use crate::images::{Family, noise};
use crate::proxy::{Fate, Passing, Proxy, Step};
use crate::servers::{fallback, fallback_server, primary, primary_server};

fn has_length(length: u64) -> Fate {
    Fate::Answer(StatusCode::OK, vec![("content-length", length.to_string())])
}

fn assert_is_another_size(error: &Error) {
    assert!(matches!(error, Error::SizeMismatch { .. }) && !error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_blob_that_shows_no_length_is_there_if_it_can_be_read() {
    // How the destination answers a GET, and whether the blob is there then.
    let answers = [
        (Fate::Pass, true),
        // A length is not all that tells.
        (Fate::EndEarly(usize::MAX), true),
        // Cut to nothing, and cut in its middle.
        (Fate::Shorten(0), false),
        (Fate::EndEarly(60), false),
    ];
    for (read, is_whole) in answers {
        let (repository, to) = (unique("broken"), fallback().await);
        let image = image(&repository).await;
        copy(&primary().await, &to, &repository, &image).await.unwrap();
        // Its blobs stay.
        to.delete_manifest(&repository, &image.digest).await.unwrap();
        let to = Proxy::start(fallback_server().await, {
            let read = read.clone();
            move |passing| match passing.step() {
                Step::LookForBlob => has_length(0),
                Step::ReadBlob => read.clone(),
                _ => Fate::Pass,
            }
        })
        .await;
        let copied = copy(&primary().await, &to.registry(), &repository, &image).await;
        assert!(!to.passed(Step::ReadBlob).is_empty());
        if is_whole {
            let report = copied.unwrap();
            assert!(report.bytes_skipped > 300_000, "{read:?}: {report:?}");
            assert_whole(&repository, &image).await;
        } else {
            assert_is_another_size(&copied.unwrap_err());
            assert!(to.passed(Step::PutManifest).is_empty());
            assert_nothing(&repository, &image).await;
        }
    }
}

#[tokio::test]
async fn a_blob_that_has_gone_between_two_looks_is_sent() {
    let repository = unique("broken");
    let image = image(&repository).await;
    let to = Proxy::start(fallback_server().await, |passing| match passing.step() {
        Step::LookForBlob => has_length(0),
        _ => Fate::Pass,
    })
    .await;
    // The registry has nothing of it, and so says to a GET.
    let report = copy(&primary().await, &to.registry(), &repository, &image).await.unwrap();
    assert_eq!(report.bytes_sent, image.size_bytes().unwrap());
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn a_blob_of_another_size_is_not_taken_for_one_that_is_put() {
    let to = Proxy::start(primary_server().await, |passing| match passing.step() {
        Step::LookForBlob if passing.before == 0 => {
            Fate::Answer(StatusCode::BAD_GATEWAY, Vec::new())
        }
        Step::LookForBlob => has_length(5),
        _ => Fate::Pass,
    })
    .await;
    let content = Bytes::from(unique("content"));
    let error = to.registry().put_blob(&unique("broken"), content).await.unwrap_err();
    assert_is_another_size(&error);
    assert_eq!(to.passed(Step::LookForBlob).len(), 2, "a look that failed was had again");
    assert!(to.passed(Step::StartUpload).is_empty());
}

#[tokio::test]
async fn a_layer_of_another_size_is_not_taken_for_one_that_is_put() {
    let registry = primary().await;
    let base = base(&registry, Family::Oci).await;
    let append = async |appender: Appender| {
        appender.append(&base, &unique("broken"), "v1", code(), &patch()).await
    };
    let layer = append(Appender::new(registry.clone())).await.unwrap().layer.digest.to_string();
    let to = Proxy::start(primary_server().await, move |passing| match passing.step() {
        Step::LookForBlob if passing.path.ends_with(&layer) => has_length(5),
        _ => Fate::Pass,
    })
    .await;
    assert_is_another_size(&append(Appender::new(to.registry())).await.unwrap_err());
    assert!(to.passed(Step::PutManifest).is_empty());
}

fn of_another_size(passing: &Passing) -> Fate {
    match passing.step() {
        Step::LookForBlob => has_length(5),
        // A mount that the registry can't do.
        Step::StartUpload if passing.path.contains("mount=") => {
            let session = "/v2/broken/blobs/uploads/a-session".to_owned();
            Fate::Answer(StatusCode::ACCEPTED, vec![("location", session)])
        }
        _ => Fate::Pass,
    }
}

#[tokio::test]
async fn what_would_move_is_not_told_of_a_destination_with_a_blob_of_another_size() {
    let repository = unique("broken");
    let image = image(&repository).await;
    let to = Proxy::start(fallback_server().await, of_another_size).await;
    let from = Source { registry: primary().await, repository, digest: image.digest };
    let target = Target { repository: from.repository.clone(), ..Target::default() };
    let error = Copier::new(to.registry()).foresee(&from, &target).await.unwrap_err();
    assert_is_another_size(&error);
}

#[tokio::test]
async fn an_image_whose_blob_has_another_size_is_not_put_back() {
    let (registry, repository) = (primary().await, unique("broken"));
    let image = image(&repository).await;
    registry.delete_manifest(&repository, &image.digest).await.unwrap();
    let proxy = Proxy::start(primary_server().await, of_another_size).await;
    let inventory = DistributionInventory::new(proxy.registry());
    let error = inventory.restore(&repository, &image, &["v1".into()]).await.unwrap_err();
    assert_is_another_size(&error);
    assert_eq!(registry.resolve(&repository, "v1").await.unwrap(), None);
}

#[tokio::test]
async fn no_session_is_left_where_a_blob_of_another_size_is_found() {
    let repository = unique("broken");
    let files = [("large", noise(&repository, 40_000))];
    let image = crate::images::push(&primary().await, &repository, Family::Oci, &files).await;
    let registry = Proxy::start(primary_server().await, of_another_size).await;
    let from = Source { registry: registry.registry(), repository, digest: image.digest };
    let to = Target { repository: unique("broken"), ..Target::default() };
    let copier = Copier::new(registry.registry());
    let error = copier.copy(&from, &to, &ProgressSink::none()).await.unwrap_err();
    assert_is_another_size(&error);
    assert!(!registry.passed(Step::CancelUpload).is_empty());
}
