//! How hard a registry is pressed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mecapy_registry::{Copier, Manifest, Options, ProgressSink, Registry, Source, Target};
use mecapy_testkit::unique;

use crate::faults::{copy, image};
use crate::images::{Family, noise, push};
use crate::proxy::{Crowd, Fate, Proxy, Step};
use crate::servers::{fallback_server, options, primary};

#[tokio::test]
async fn all_copies_to_a_registry_share_ten_uploads() {
    let from = primary().await;
    // Ten blobs each, with its config.
    let ten = async || -> (String, Manifest) {
        let repository = unique("crowd");
        let names: Vec<String> = (0..9).map(|number| format!("{repository}-{number}")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), noise(name, 1_000))).collect();
        let image = push(&from, &repository, Family::Oci, &files).await;
        (repository, image)
    };
    let images = [ten().await, ten().await];
    // An upload goes on once ten were there: with fewer at once this would not come to an end.
    let ten = Arc::new(Crowd::of(10));
    let to = Proxy::start(fallback_server().await, move |passing| match passing.step() {
        Step::PutBlob => Fate::Await(ten.clone()),
        _ => Fate::Pass,
    })
    .await;
    let copier = Copier::new(to.registry());
    let copies = images.iter().map(|(repository, image)| {
        let (copier, from) = (&copier, &from);
        async move {
            let digest = image.digest;
            let from = Source { registry: from.clone(), repository: repository.clone(), digest };
            let to = Target { repository: repository.clone(), ..Target::default() };
            copier.copy(&from, &to, &ProgressSink::none()).await
        }
    });
    futures::future::try_join_all(copies).await.unwrap();
    assert!(to.passed(Step::PutBlob).len() >= 20);
    assert_eq!(to.most_uploads(), 10);
}

#[tokio::test]
async fn a_copy_takes_as_long_as_its_cap_wants() {
    const PER_SECOND: u64 = 200_000;
    let repository = unique("crowd");
    let image = image(&repository).await;
    let server = options(fallback_server().await);
    let capped = Options { max_bytes_per_second: Some(PER_SECOND), ..server };
    let to = Registry::new(&capped).unwrap();
    let began = Instant::now();
    let report = copy(&primary().await, &to, &repository, &image).await.unwrap();
    // But for what may go ahead of its time.
    let least = report.bytes_sent as f64 / PER_SECOND as f64 - 0.3;
    assert!(least > 2.0, "{report:?}");
    assert!(began.elapsed() >= Duration::from_secs_f64(least), "{:?}", began.elapsed());
}
