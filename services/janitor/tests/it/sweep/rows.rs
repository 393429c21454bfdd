use mecapy_store::stalled;

use super::work::to_scanning;
use super::world::World;

#[tokio::test]
async fn rows_of_long_ago_go_and_those_that_are_needed_stay() {
    let world = World::start().await;
    world
        .execute(
            "insert into inbox (consumer, message_id, handled_at) values
                 ('builder', 'of last month', now() - interval '31 days'),
                 ('builder', 'as old as a stream', now() - interval '7 days'),
                 ('builder', 'of yesterday', now() - interval '1 day')",
        )
        .await;
    world
        .execute(&format!(
            "insert into image_usage (day, digest, function_id, tasks)
             select current_date - days, 'd', {}, 1 from unnest(array[401, 399, 0]) days",
            world.function
        ))
        .await;
    world
        .execute(
            "insert into layer_indexes (layer_digest, analyser_version, contents, used_at)
             select days::text, '1', '{}', now() - days * interval '1 day' from unnest(array[31, 29]) days",
        )
        .await;
    world
        .execute(
            "with webhook as (
                 insert into webhooks (id, owner, url, description, events, secret)
                 values (gen_random_uuid(), 'o', 'u', '', '{}', 's') returning id
             )
             insert into webhook_deliveries (id, webhook_id, event_id, event_type, body, give_up_at, ended_at, letter_due)
             select gen_random_uuid(), webhook.id, d.event_id, 't', '{}', now(), now() - d.days * interval '1 day', d.letter_due
             from webhook, (values ('old', 31, false), ('young', 29, false), ('not yet a dead letter', 31, true))
                 as d (event_id, days, letter_due)",
        )
        .await;
    let (open, request) = world.build(1).await;
    let (built, _) = world.build(2).await;
    let mut conn = world.pool.acquire().await.unwrap();
    for build in [open, built] {
        stalled::keep_request(&mut conn, build, &request).await.unwrap();
    }
    drop(conn);
    world.execute("update builds set updated_at = now()").await;
    to_scanning(&world, built, "sha256:x").await;

    let report = world.housekeep().await;
    assert_eq!(report.of("inbox_rows"), 1);
    assert_eq!(report.of("usage_rows"), 1);
    assert_eq!(report.of("layer_index_rows"), 1);
    assert_eq!(report.of("kept_event_rows"), 1);
    assert_eq!(report.of("delivery_rows"), 1);
    assert_eq!(world.count("webhook_deliveries where event_id = 'old'").await, 0);
    assert_eq!(world.count("inbox where message_id = 'of last month'").await, 0);
    assert_eq!(world.count("inbox").await, 2);
    assert_eq!(world.count("image_usage where day = current_date - 401").await, 0);
    assert_eq!(world.count("layer_indexes where layer_digest = '29'").await, 1);
    assert_eq!(world.count(&format!("kept_events where id = '{open}'")).await, 1);
}

#[tokio::test]
async fn a_layer_that_is_asked_for_counts_as_used() {
    let world = World::start().await;
    world
        .execute(
            "insert into layer_indexes (layer_digest, analyser_version, contents, used_at)
             values ('asked', '1', '{}', now() - interval '29 days')",
        )
        .await;
    let found = mecapy_store::layers::get(&world.pool, &["asked".into()], "1").await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(world.count("layer_indexes where used_at > now() - interval '1 minute'").await, 1);
}
