use std::path::Path;
use std::sync::Arc;

use mecapy_bus::{
    Backbone, ConsumerOptions, Delivery, Handler, HandlerError, Outcome, Outgoing, topology,
};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::CleanupRequested;
use mecapy_service::{Context, Health, Secret};
use mecapy_store::cleanup_items::NewItem;
use mecapy_store::cleanup_runs::{self, Ended, Planned, Request};
use mecapy_store::registry_images::{self, Seen, Verdict};
use mecapy_store::{PgPool, cleanup_items};
use serde::{Deserialize, Serialize};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::program::mecapy;
use crate::servers::Servers;

const REPOSITORY: &str = "mecapy/functions/user-acme-func-7";

fn digest() -> String {
    format!("sha256:{}", "0a".repeat(32))
}

/// A janitor that finds one image to delete, and does what it is asked at once. `too-much` stops it.
struct OneImage {
    pool: PgPool,
    objects: Arc<Objects>,
}

impl Handler<CleanupRequested> for OneImage {
    async fn handle(&self, event: CleanupRequested, _: &Delivery) -> Result<Outcome, HandlerError> {
        let is_undo = !event.undo.is_empty();
        let request = Request {
            id: &event.run_id,
            kind: if is_undo { "undo" } else { "cleanup" },
            dry_run: event.dry_run,
            confirmed: event.confirm,
            reason: &event.reason,
            target: &event.undo,
        };
        let run = cleanup_runs::take(&self.pool, &request).await?;
        if event.undo == "nonsense" {
            cleanup_runs::hindered(
                &self.pool,
                &run.id,
                "nothing is known of \u{1b}[2Jnonsense",
                true,
            )
            .await?;
            return Ok(Outcome::nothing());
        }
        let stops = event.policy_overrides.contains_key("functions") && !event.confirm;
        let planned = Planned {
            images: 1,
            stopped: if stops {
                "1 of 2 images would be deleted".to_owned()
            } else {
                String::new()
            },
            ..Planned::default()
        };
        let item = NewItem {
            depth: 2,
            repository: REPOSITORY.to_owned(),
            digest: digest(),
            action: "delete",
            tags: vec!["v1-0a".to_owned()],
            moved_to: None,
            owners: Vec::new(),
            policy: "functions".to_owned(),
            rule: "unused",
            reason: "no task or build used it for 100 days".to_owned(),
        };
        let items = if is_undo { vec![] } else { vec![item] };
        assert!(cleanup_runs::plan(&self.pool, &run.id, run.fence, &planned, &items).await?);
        if is_undo {
            for item in cleanup_items::items(&self.pool, &event.undo).await? {
                cleanup_items::undo(&self.pool, &item, &run.id, true, "").await?;
            }
        } else if !event.dry_run && !stops {
            for item in cleanup_items::items(&self.pool, &run.id).await? {
                cleanup_items::settle(&self.pool, &item, &["planned"], "done", "").await?;
            }
        }
        for (name, body) in
            [("report.json", "{\"images_deleted\": 1}"), ("report.txt", "Cleanup  of one image\n")]
        {
            let key = Key::cleanup_report(&run.id, name);
            self.objects.put(&key, body.into()).await.map_err(HandlerError::transient)?;
        }
        let freed = if event.dry_run || stops { 0 } else { 5 };
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                let ended = Ended { freed_bytes: freed, ..Ended::default() };
                cleanup_runs::finish(conn, &run.id, &ended).await?;
                Ok(Outgoing::none())
            })
        }))
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct OnlyS3 {
    s3: mecapy_objects::Options,
}

async fn start(servers: &Servers) -> (PgPool, DropGuard) {
    mecapy(&["setup", "--config", servers.config()]).await.expect(0);
    let config: OnlyS3 = mecapy_service::check(Some(Path::new(servers.config()))).unwrap();
    let shutdown = CancellationToken::new();
    let context = Context {
        service: "janitor",
        replica: "test".to_owned(),
        health: Health::default(),
        shutdown: shutdown.clone(),
        hand_back: CancellationToken::new(),
    };
    let nats = mecapy_bus::Options {
        url: servers.nats.url.clone(),
        user: Some(servers.nats.user.clone()),
        password: Some(Secret::new(servers.nats.password.clone())),
    };
    let postgres = mecapy_store::Options { url: servers.postgres.clone(), ..Default::default() };
    let backbone = Backbone::start(&context, &nats, &postgres).await.unwrap();
    let pool = backbone.pool.clone();
    let janitor = OneImage { pool: pool.clone(), objects: Arc::new(Objects::new(&config.s3)) };
    tokio::spawn(async move {
        let options = ConsumerOptions { durable: topology::JANITOR, concurrency: 1 };
        backbone.consume::<CleanupRequested, _>(&context, options, janitor).await;
    });
    (pool, shutdown.drop_guard())
}

#[tokio::test]
async fn a_cleanup_is_planned_applied_undone_and_listed() {
    let servers = Servers::new().await;
    let (_, _janitor) = start(&servers).await;
    let cleanup = async |arguments: &[&str]| {
        mecapy(&[&["cleanup"], arguments, &["--config", servers.config()]].concat()).await
    };
    let planned = cleanup(&["plan"]).await.expect(0);
    assert_eq!(planned.stdout, "Cleanup  of one image\n");
    assert!(planned.stderr.contains("mecapy cleanup apply"), "{planned:#?}");
    let applied = cleanup(&["apply", "--json"]).await.expect(0);
    assert_eq!(applied.json()["images_deleted"], 1);

    let stopped = cleanup(&["apply", "--policy", "functions:unused_days=1"]).await.expect(1);
    assert!(stopped.stderr.contains("apply --confirm"), "{stopped:#?}");
    cleanup(&["apply", "--policy", "functions:unused_days=1", "--confirm"]).await.expect(0);
    cleanup(&["plan", "--policy", "unused_days=1"]).await.expect(2);

    let history = cleanup(&["history", "--json"]).await.expect(0).json();
    let runs = history.as_array().unwrap();
    assert_eq!(runs.len(), 4);
    assert!(runs[3]["run_id"].as_str().unwrap().starts_with("plan-"), "{history}");
    assert_eq!((&runs[3]["dry_run"], &runs[2]["items"]["done"]), (&true.into(), &1.into()));
    let table = cleanup(&["history"]).await.expect(0).stdout;
    assert!(
        table.contains("stopped") && table.contains("applied") && table.contains("dry run"),
        "{table}"
    );

    let run = runs[2]["run_id"].as_str().unwrap();
    let undone = cleanup(&["undo", run]).await.expect(0);
    assert!(undone.stdout.contains(&format!("undone  {REPOSITORY}@{}", digest())), "{undone:#?}");
    let refused = cleanup(&["undo", "nonsense"]).await.expect(1);
    assert!(refused.stderr.contains("nothing is known of nonsense"), "{refused:#?}");
}

#[tokio::test]
async fn an_image_is_explained_as_the_newest_plan_had_it() {
    let servers = Servers::new().await;
    let (pool, _janitor) = start(&servers).await;
    let seen = Seen {
        digest: digest(),
        media_type: "m".to_owned(),
        size: 1,
        holds: serde_json::json!({}),
        subject: None,
        pushed_at: None,
        first_seen_at: "2026-01-02T00:00:00Z".parse().unwrap(),
        tags: Vec::new(),
    };
    registry_images::update(&pool, REPOSITORY, &[seen], &[]).await.unwrap();
    let verdict = Verdict {
        repository: REPOSITORY.to_owned(),
        digest: digest(),
        tags: "v1-0a,latest".to_owned(),
        action: "keep",
        rule: "current",
        reason: "it is what a live function runs".to_owned(),
    };
    registry_images::record_verdicts(&pool, "plan-1", &[verdict]).await.unwrap();
    let explain = async |image: &str| {
        mecapy(&["cleanup", "explain", image, "--config", servers.config()]).await
    };
    for image in
        [format!("{REPOSITORY}:latest"), format!("h:1/{REPOSITORY}@{}", digest()), digest()]
    {
        let told = explain(&image).await.expect(0).stdout;
        for part in [
            "keep",
            "current",
            "it is what a live function runs",
            "v1-0a, latest",
            "plan-1",
            "2026-01-02",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    let unknown = explain(&format!("{REPOSITORY}:v2-0b")).await.expect(4);
    assert!(unknown.stderr.contains("mecapy cleanup plan"), "{unknown:#?}");
    explain("sha256:x").await.expect(2);
}
