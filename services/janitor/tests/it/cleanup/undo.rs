//! What was deleted comes back.

use super::*;

#[tokio::test]
async fn an_image_comes_back_with_what_refers_to_it() {
    let world = World::new().await;
    let (one, other) = (world.function("one").await, world.function("other").await);
    let mut made = Vec::new();
    for function in [one, other] {
        let repository = world.repository(function);
        let image = put_image(&world.primary, &repository, "image", None).await;
        world.primary.put_manifest(&repository, "v1-0a", &image).await.unwrap();
        let sbom = put_image(&world.primary, &repository, "sbom", Some(&image)).await;
        world.primary.put_manifest(&repository, &sbom.digest.to_string(), &sbom).await.unwrap();
        let schema = format!("sha256-{}", image.digest.hex());
        let referrers = put_index(&world.primary, &repository, &schema, &[&sbom]).await;
        made.push((repository, schema, [image.digest, sbom.digest, referrers]));
    }
    world.age(5).await;
    let mut conn = world.pool.acquire().await.unwrap();
    for function in [one, other] {
        functions::delete(&mut conn, function).await.unwrap();
    }
    world.cleanup("run").await;
    let (repository, schema, digests) = &made[0];
    let undone = world.undo("undo", &format!("{repository}:v1-0a")).await;
    assert_eq!(undone.len(), 3, "{undone:?}");
    assert!(undone.iter().all(|(state, _)| state == "undone"), "{undone:?}");
    for digest in digests {
        assert!(world.has(repository, *digest).await, "{digest}");
    }
    assert_eq!(world.tag(repository, schema).await, Some(digests[2]));
    for digest in made[1].2 {
        assert!(!world.has(&made[1].0, digest).await, "only what was named");
    }
}

#[tokio::test]
async fn a_deletion_without_an_outcome_can_be_undone() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let old = world.publish(function, 1).await;
    world.publish(function, 2).await;
    world.age(100).await;
    world.cleanup("run").await;
    // As after a kill between the deletion and its row, by a run that nobody went on with.
    for sql in [
        "update cleanup_items set state = 'planned'",
        "update cleanup_runs set state = 'failed' where id = 'run'",
    ] {
        sqlx::query(sql).execute(&world.pool).await.unwrap();
    }
    assert_eq!(world.undo("undo", "run").await, [state("undone")]);
    world.pull(&repository, old).await;
    // The run, asked for again, leaves it.
    world.cleanup("run").await;
    assert!(world.has(&repository, old).await);
}

#[tokio::test]
async fn undo_brings_an_image_back_whole_and_it_stays() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let old = world.publish(function, 1).await;
    let older = world.publish(function, 2).await;
    world.publish(function, 3).await;
    world.age(100).await;
    world.cleanup("run").await;
    assert!(!world.has(&repository, old).await && !world.has(&repository, older).await);
    let image = format!("{repository}:v1-0a");
    assert_eq!(world.undo("undo-image", &image).await, [state("undone")]);
    assert_eq!(world.tag(&repository, "v1-0a").await, Some(old));
    world.pull(&repository, old).await;
    assert!(!world.has(&repository, older).await, "only what was named");
    assert_eq!(world.undo("undo-run", "run").await, [state("undone")]);
    world.pull(&repository, older).await;
    // The next night does not take it away again.
    world.age(100).await;
    world.cleanup("next").await;
    assert_eq!(world.run("next").await.planned_images, 0);
    let nothing = CleanupRequested { undo: image, ..request("undo-again") };
    let refused = world.request(&nothing).await;
    assert!(
        matches!(&refused, Err(HandlerError::Permanent(why)) if why.contains("nothing that was deleted")),
        "{refused:?}"
    );
    assert_eq!(world.run("undo-again").await.state, "failed");
}

#[tokio::test]
async fn undo_takes_from_the_fallback_what_the_registry_lost_and_says_when_it_cannot() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let mirrored = world.publish(function, 1).await;
    let lost = world.publish(function, 2).await;
    world.publish(function, 3).await;
    world::push(&world.fallback, &repository, &format!("{function} version 1"), &["v1-0a"]).await;
    world.age(100).await;
    world.cleanup("run").await;
    let mut meddler = Meddler::new(DistributionInventory::new(world.primary.clone()));
    meddler.has_lost_blobs = true;
    let janitor = world.janitor_with(Arc::new(meddler));
    handle(&janitor, &CleanupRequested { undo: "run".to_owned(), ..request("undo") })
        .await
        .unwrap();
    assert_eq!(
        world.item("run", mirrored).await,
        ("undone".to_owned(), "from the fallback registry".to_owned())
    );
    assert_eq!(world.tag(&repository, "v1-0a").await, Some(mirrored));
    world.pull(&repository, mirrored).await;
    let (state, why) = world.item("run", lost).await;
    assert_eq!(state, "undo_failed");
    assert!(why.contains("the fallback registry does not hold it"), "{why}");
}
