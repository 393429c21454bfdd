//! Registries that hardly move, or have no room.

use mecapy_registry::Registry;
use mecapy_testkit::{Infra, Server, unique};

use crate::byte_proxy::{Trickler, Way};
use crate::faults::{assert_whole, copy, image};
use crate::images::{Family, noise, push};
use crate::servers::{fallback, fallback_server, options, primary, primary_server};

#[tokio::test]
async fn a_source_that_sends_a_byte_now_and_then_is_left_and_asked_for_the_rest() {
    let repository = unique("slow");
    let image = image(&repository).await;
    let from = Trickler::start(primary_server().await, Way::FromRegistry, 300_000).await;
    copy(&from.registry(), &fallback().await, &repository, &image).await.unwrap();
    assert!(from.has_trickled());
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn a_destination_that_takes_a_byte_now_and_then_is_left_and_gets_the_blob_anew() {
    let repository = unique("slow");
    let image = image(&repository).await;
    let to = Trickler::start(fallback_server().await, Way::ToRegistry, 300_000).await;
    copy(&primary().await, &to.registry(), &repository, &image).await.unwrap();
    assert!(to.has_trickled());
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn an_answer_that_never_comes_to_its_end_is_asked_for_again() {
    let repository = unique("slow");
    let image = image(&repository).await;
    for after in [0, 300, 1_000] {
        let from = Trickler::start(primary_server().await, Way::FromRegistry, after).await;
        let read = from.registry().manifest(&repository, &image.digest.to_string()).await;
        assert_eq!(read.unwrap(), image, "after {after} bytes");
        assert!(from.has_trickled(), "after {after} bytes");
    }
}

#[tokio::test]
async fn a_destination_whose_disk_is_full_has_nothing_half_and_gets_it_once_there_is_room() {
    let infra = Infra::start(&[Server::Cramped]).await;
    let to = Registry::new(&options(infra.cramped())).unwrap();
    let (from, repository) = (primary().await, unique("full"));
    // It compresses to the half.
    let files = [("large", noise(&repository, 24_000_000)), ("small", noise("small", 100))];
    let large = push(&from, &repository, Family::Oci, &files).await;
    let error = copy(&from, &to, &repository, &large).await.unwrap_err();
    assert!(error.is_transient(), "somebody may make room: {error}");
    for reference in ["v1", "latest", &large.digest.to_string()] {
        assert_eq!(to.resolve(&repository, reference).await.unwrap(), None);
    }

    // Its disk is in memory: started again, it has all of it.
    infra.stop(Server::Cramped).await;
    infra.resume(Server::Cramped).await;
    let files = [("fits", noise(&repository, 4_000_000)), ("small", noise("small", 100))];
    let fits = push(&from, &repository, Family::Oci, &files).await;
    copy(&from, &to, &repository, &fits).await.unwrap();
    let verifier = mecapy_registry::Verifier::new(to.clone());
    verifier.verify(&repository, &fits.digest).await.unwrap();
}
