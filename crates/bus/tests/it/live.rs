//! Logs of tasks, for who follows them while they are written.

use futures::StreamExt as _;
use mecapy_bus::{LateFollower, Live, Position, Words};
use mecapy_proto::TaskId;

use crate::chain::{Chain, PATIENCE};

fn at(attempt: u32, bytes: u64) -> Position {
    Position { attempt, bytes }
}

fn words(text: &str, end: Option<Position>) -> Words {
    Words { text: text.to_owned(), end }
}

/// The next one.
async fn next<T>(from: &mut (impl futures::Stream<Item = T> + Unpin)) -> T {
    tokio::time::timeout(PATIENCE, from.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn who_follows_a_log_late_is_told_all_of_it_once() {
    let chain = Chain::start().await;
    let (live, id) = (Live::new(chain.bus.clone()), TaskId::new());
    let lines = live.task_log(id);
    let mut followers = Box::pin(live.late_followers().await.unwrap());
    let mut log = Box::pin(live.follow_task_log(id, Position::default()).await.unwrap());
    chain.bus.flush().await;

    let (first, ()) = tokio::join!(next(&mut log), async {
        let follower: LateFollower = next(&mut followers).await;
        assert_eq!(follower.task, id);
        // Written before the answer, and part of it.
        lines.send_at(at(1, 4), "two\n".to_owned()).await;
        follower.answer("one\ntwo\n".to_owned(), at(1, 8)).await;
    });
    assert_eq!(first, words("one\ntwo\n", Some(at(1, 8))));
    lines.send_at(at(1, 8), "three\n".to_owned()).await;
    assert_eq!(next(&mut log).await, words("three\n", Some(at(1, 14))));

    // Another attempt begins anew; what the one before still says is nobody's any more.
    lines.send_at(at(2, 0), "again\n".to_owned()).await;
    assert_eq!(next(&mut log).await, words("again\n", Some(at(2, 6))));
    lines.send_at(at(1, 14), "late\n".to_owned()).await;
    lines.send_at(at(2, 6), "more\n".to_owned()).await;
    assert_eq!(next(&mut log).await, words("more\n", Some(at(2, 11))));

    // Who comes again goes on where it was, and who has not all says so.
    for (told, text, end, expected) in [
        (at(2, 6), "again\nmore\n", at(2, 11), "more\n"),
        (at(1, 14), "again\nmore\n", at(2, 11), "again\nmore\n"),
        (at(0, 0), "more\n", at(2, 11), "[... 6 bytes before this; the log has them ...]\nmore\n"),
    ] {
        let mut log = Box::pin(live.follow_task_log(id, told).await.unwrap());
        let (first, ()) = tokio::join!(next(&mut log), async {
            next(&mut followers).await.answer(text.to_owned(), end).await;
        });
        assert_eq!(first, words(expected, Some(end)));
    }

    // Nobody has it, or one who does not count: what comes is shown.
    drop(followers);
    let mut log = Box::pin(live.follow_task_log(id, Position::default()).await.unwrap());
    chain.bus.flush().await;
    lines.send("as ever\n".to_owned()).await;
    assert_eq!(next(&mut log).await, words("as ever\n", None));
}
