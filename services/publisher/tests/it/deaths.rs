//! A publisher that dies on its way.

use mecapy_publisher::{PROVENANCE, REPORT, SARIF, SBOM};
use mecapy_registry::{Copier, Digest, Registry, Verifier};
use mecapy_store::BuildState;
use mecapy_testkit::{Infra, Server};

use crate::attached::{attempt, listed};
use crate::proxy::Proxy;
use crate::staging::{is_staged, sweep};
use crate::{World, registry};

fn lead(world: &mut World, registry: &Registry) {
    world.publish.primary = Copier::new(registry.clone());
    world.publish.staging.staging = registry.clone();
}

#[tokio::test]
async fn whichever_call_was_its_last_the_next_one_publishes_the_image() {
    // Each call costs what it costs, and not what the hash of a password does.
    let infra = Infra::start_open(&[Server::Primary]).await;
    let mut world = World::new().await;
    world.server = infra.primary();
    world.registry = registry(&world.server, &world.server.password);
    let verifier = Verifier::new(world.registry.clone());
    let mut last = 0;
    loop {
        let event = world.scanned(u32::try_from(last).unwrap() + 1).await;
        world.record(&event, true).await;
        let digest: Digest = event.digest.parse().unwrap();
        let proxy = Proxy::deaf_after(&world.server, last).await;
        lead(&mut world, &proxy.registry());
        let is_dead = tokio::select! {
            () = proxy.is_silent() => true,
            outcome = attempt(&world, &event) => {
                outcome.unwrap();
                false
            }
        };
        if !is_dead {
            break;
        }
        // What it has left is whole, and what leads to the newest leads to nothing without its reports.
        for tag in [event.tag.as_str(), "latest"] {
            if world.tag(tag).await == Some(digest) {
                verifier.verify(&world.published(), &digest).await.unwrap();
            }
        }
        let is_newest = world.tag("latest").await == Some(digest);
        assert!(!is_newest || listed(&world, &event).await.len() == 4, "after call {last}");

        let registry = world.registry.clone();
        lead(&mut world, &registry);
        world.handle(&event).await.unwrap();
        assert_eq!(world.build(&event).await.state, BuildState::Ready, "after call {last}");
        for tag in [event.tag.as_str(), "latest"] {
            assert_eq!(world.tag(tag).await, Some(digest), "{tag} after call {last}");
        }
        verifier.verify(&world.published(), &digest).await.unwrap();
        let listed = listed(&world, &event).await;
        let mut kinds: Vec<_> =
            listed.iter().filter_map(|one| one.artifact_type.as_deref()).collect();
        kinds.sort_unstable();
        let mut all = [SBOM, REPORT, SARIF, PROVENANCE];
        all.sort_unstable();
        assert_eq!(kinds, all, "after call {last}");
        last += 1;
    }
    // Two mounts, the manifest, its tag, four reports of two blobs and a manifest each, their list, `latest`.
    assert!(last > 18, "{last} calls");
}

#[tokio::test]
async fn whichever_call_of_a_sweep_was_its_last_a_build_that_began_meanwhile_is_published() {
    let mut world = World::new().await;
    let verifier = Verifier::new(world.registry.clone());
    let (registry, staging) = (world.registry.clone(), world.staging());
    let mut last = 0;
    loop {
        let version = u32::try_from(last).unwrap() + 1;
        let event = world.scanned(version).await;
        world.record(&event, true).await;
        world.handle(&event).await.unwrap();
        let proxy = Proxy::deaf_after(&world.server, last).await;
        world.publish.staging.staging = proxy.registry();
        let is_dead = tokio::select! {
            () = proxy.is_silent() => true,
            () = sweep(&world, &event, &staging) => false,
        };
        world.publish.staging.staging = registry.clone();
        let is_left = is_staged(&world, &event).await;
        if !is_dead {
            assert!(!is_left);
            break;
        }
        // Another build made the same image, and left it where it was before the sweep.
        let digest: Digest = event.digest.parse().unwrap();
        let same = world.scanned(version).await;
        world.record(&same, true).await;
        if !is_left {
            registry.delete_manifest(&staging, &digest).await.unwrap();
        }
        world.handle(&same).await.unwrap();
        assert_eq!(world.build(&same).await.state, BuildState::Ready, "after call {last}");
        assert_eq!(world.tag("latest").await, Some(digest), "after call {last}");
        verifier.verify(&world.published(), &digest).await.unwrap();
        sweep(&world, &same, &staging).await;
        assert!(!is_staged(&world, &same).await, "after call {last}");
        last += 1;
    }
    // How it wants to be asked, the manifest, its deletion.
    assert!(last >= 3, "{last} calls");
}
