//! Pages are told when to look again.

use mecapy_store::builds;
use serde_json::json;

use super::browser::Browser;
use crate::door::{ACME, Door, OTHER};
use crate::sse::Events;

#[tokio::test]
async fn a_build_tells_its_log_its_changes_and_its_end() {
    let door = Door::open().await;
    let build = door.submit("stats").await.build();
    let acme = Browser::logged_in(&door, ACME).await;
    let page = acme.see(&format!("/console/builds/{build}")).await;
    let path = format!("/console/events/builds/{build}");
    assert!(page.has(&format!("data-live=\"{path}\"")));
    let mut events = Events::of(acme.open(&path).await);
    assert_eq!(events.next().await.unwrap().0, "changed", "its first state");
    builds::start(&door.pool, build).await.unwrap();
    door.live.build_log(build).send("\u{1b}[1mresolving\u{1b}[0m <b>".into()).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(events.next().await.unwrap());
    }
    seen.sort_by(|one, two| one.0.cmp(&two.0));
    assert_eq!(seen[0].0, "changed");
    assert_eq!(
        seen[1],
        ("log".into(), json!("resolving <b>")),
        "text: the script shows it as such"
    );
    door.make_ready(build).await;
    let mut names = Vec::new();
    while let Some((name, _)) = events.next().await {
        names.push(name);
    }
    assert_eq!(names.last().map(String::as_str), Some("end"), "{names:?}");
    assert!(names.contains(&"changed".to_owned()));
    assert!(!acme.see(&format!("/console/builds/{build}")).await.has("data-live"));
}

#[tokio::test]
async fn a_task_tells_its_end_and_nothing_to_others() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    let path = format!("/console/events/tasks/{task}");
    let other = Browser::logged_in(&door, OTHER).await;
    assert_eq!(other.get(&path).await.status, 404);
    assert_eq!(Browser::new(&door).get(&path).await.status, 303);
    let acme = Browser::logged_in(&door, ACME).await;
    let mut events = Events::of(acme.open(&path).await);
    assert_eq!(events.next().await.unwrap().0, "changed");
    acme.post(&format!("/console/tasks/{task}/cancel"), &[]).await;
    let mut last = String::new();
    while let Some((name, _)) = events.next().await {
        last = name;
    }
    assert_eq!(last, "end");
}

#[tokio::test]
async fn lists_look_again_when_anything_happens() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    let acme = Browser::logged_in(&door, ACME).await;
    assert!(acme.see("/console/tasks").await.has("data-live=\"/console/events\""));
    let mut events = Events::of(acme.open("/console/events").await);
    acme.post(&format!("/console/tasks/{task}/cancel"), &[]).await;
    assert_eq!(events.next().await.unwrap().0, "changed");
}
