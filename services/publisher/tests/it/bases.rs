//! Base images: to both registries, and no tag moves before both have them.

use mecapy_bus::HandlerError;
use mecapy_proto::BuildId;
use mecapy_proto::v1::{ScanDone, Verdict};
use mecapy_registry::{Copier, Digest, Options, Registry};
use mecapy_store::{BuildState, bases};
use mecapy_testkit::{Infra, unique};

use crate::{World, registry};

const REPOSITORY: &str = "mecapy/base/python";

struct Bases {
    world: World,
    fallback: Registry,
    /// A base that no other test has.
    base: String,
}

impl Bases {
    async fn new() -> Self {
        let mut world = World::new().await;
        let server = Infra::shared().await.fallback();
        let fallback = registry(&server, &server.password);
        world.publish.fallback = Some(Copier::new(fallback.clone()));
        let base: String = unique("3.11-v").chars().filter(|c| *c != '_').collect();
        Self { world, fallback, base }
    }

    async fn scanned(&self, run: &str) -> ScanDone {
        let manifest = self.world.staged("mecapy/staging/base", &unique(run)).await;
        let digest = manifest.digest.to_string();
        let image = format!("{}/mecapy/staging/base@{digest}", self.world.server.host);
        let tag = format!("{}-20260101-{}", self.base, &manifest.digest.hex()[..8]);
        let build = BuildId::new();
        let mut conn = self.world.pool.acquire().await.unwrap();
        let cells = [(build, self.base.clone())];
        assert!(bases::create_run(&mut conn, run, "manual", &cells).await.unwrap());
        self.world.to_publishing(build, &image, &digest, &tag).await;
        let event = ScanDone {
            base: self.base.clone(),
            build_id: build.to_string(),
            image,
            digest,
            tag,
            verdict: Verdict::Passed.into(),
            ..Default::default()
        };
        self.world.record(&event, true).await;
        event
    }

    /// What a tag leads to, on the primary and the fallback.
    async fn tag(&self, tag: &str) -> [Option<Digest>; 2] {
        let mut found = [None, None];
        for (registry, found) in [&self.world.registry, &self.fallback].into_iter().zip(&mut found)
        {
            *found = registry.resolve(REPOSITORY, tag).await.unwrap().map(|there| there.digest);
        }
        found
    }
}

fn on_both(event: &ScanDone) -> [Option<Digest>; 2] {
    [Some(event.digest.parse().unwrap()); 2]
}

#[tokio::test]
async fn a_base_goes_to_both_registries_under_a_tag_of_its_own_and_the_one_that_moves() {
    let bases = Bases::new().await;
    let event = bases.scanned("one").await;
    bases.world.handle(&event).await.unwrap();
    let build = bases.world.build(&event).await;
    assert_eq!(build.state, BuildState::Ready);
    let image = format!("{REPOSITORY}:{}@{}", event.tag, event.digest);
    assert!(build.docker_image.unwrap().ends_with(&image));
    assert_eq!(bases.tag(&event.tag).await, on_both(&event));
    assert_eq!(bases.tag(&bases.base).await, on_both(&event));
    assert!(bases::run(&bases.world.pool, "one").await.unwrap().unwrap().ended_at.is_some());
    // With what goes with it, the same on both.
    let digest = event.digest.parse().unwrap();
    let on_primary = bases.world.registry.referrers(REPOSITORY, &digest).await.unwrap();
    assert_eq!(on_primary.len(), 4);
    assert_eq!(bases.fallback.referrers(REPOSITORY, &digest).await.unwrap(), on_primary);

    // The next one takes the moving tag; the first keeps its own.
    let next = bases.scanned("two").await;
    bases.world.handle(&next).await.unwrap();
    assert_eq!(bases.tag(&bases.base).await, on_both(&next));
    assert_eq!(bases.tag(&event.tag).await, on_both(&event));
}

#[tokio::test]
async fn no_tag_moves_while_a_registry_lacks_the_image() {
    let mut bases = Bases::new().await;
    let first = bases.scanned("one").await;
    bases.world.handle(&first).await.unwrap();

    let nowhere = Options { host: "127.0.0.1:9".into(), plain_http: true, ..Options::default() };
    bases.world.publish.fallback = Some(Copier::new(Registry::new(&nowhere).unwrap()));
    let next = bases.scanned("two").await;
    let away = bases.world.handle(&next).await;
    assert!(matches!(away, Err(HandlerError::Transient(_))), "{away:?}");
    assert_eq!(bases.tag(&bases.base).await, on_both(&first));

    bases.world.publish.fallback = Some(Copier::new(bases.fallback.clone()));
    bases.world.handle(&next).await.unwrap();
    assert_eq!(bases.tag(&bases.base).await, on_both(&next));
}

#[tokio::test]
async fn a_base_that_was_overtaken_leaves_the_moving_tag() {
    let bases = Bases::new().await;
    let (older, newer) = (bases.scanned("one").await, bases.scanned("two").await);
    bases.world.handle(&newer).await.unwrap();
    bases.world.handle(&older).await.unwrap();
    assert_eq!(bases.tag(&bases.base).await, on_both(&newer));
    assert_eq!(bases.tag(&older.tag).await, on_both(&older));
}

#[tokio::test]
async fn an_event_that_names_another_base_is_a_dead_letter() {
    let bases = Bases::new().await;
    let event = bases.scanned("one").await;
    for base in ["", "3.11-slim"] {
        let forged = ScanDone { base: base.to_owned(), ..event.clone() };
        let refused = bases.world.handle(&forged).await;
        assert!(matches!(refused, Err(HandlerError::Permanent(_))), "{base:?}: {refused:?}");
    }
    // Nor does a function's image become a base.
    let function = bases.world.scanned(1).await;
    bases.world.record(&function, true).await;
    let forged = ScanDone { base: "3.11-slim".to_owned(), ..function };
    assert!(matches!(bases.world.handle(&forged).await, Err(HandlerError::Permanent(_))));
}

#[tokio::test]
async fn the_last_try_of_a_base_ends_it_and_its_run() {
    let mut bases = Bases::new().await;
    let event = bases.scanned("one").await;
    let nowhere = Options { host: "127.0.0.1:9".into(), plain_http: true, ..Options::default() };
    bases.world.publish.fallback = Some(Copier::new(Registry::new(&nowhere).unwrap()));
    bases.world.handle_again(&event, mecapy_bus::topology::MAX_DELIVERIES - 1).await.unwrap();
    let build = bases.world.build(&event).await;
    assert_eq!(build.state, BuildState::Failed);
    assert_eq!(build.failure().unwrap().code, "push-failed");
    assert!(bases::run(&bases.world.pool, "one").await.unwrap().unwrap().ended_at.is_some());
}
