//! Logs of tasks, for who follows them while they are written.

use futures::StreamExt as _;
use mecapy_bus::{LateFollower, Live, Position, Words};
use mecapy_proto::TaskId;

use crate::chain::{Chain, PATIENCE};

fn at(attempt: u32, bytes: u64) -> Position {
    Position { attempt, bytes }
}

fn words(text: &str, end: Option<Position>) -> Words {
    Words { text: text.to_owned(), end, is_last: false }
}

/// Where no answer is late, however slow the machine is.
fn live(chain: &Chain) -> Live {
    Live::new(chain.bus.clone()).with_answers_within(PATIENCE)
}

/// The next one.
async fn next<T>(from: &mut (impl futures::Stream<Item = T> + Unpin)) -> T {
    tokio::time::timeout(PATIENCE, from.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn who_follows_a_log_late_is_told_all_of_it_once() {
    let chain = Chain::start().await;
    let (live, id) = (live(&chain), TaskId::new());
    let lines = live.task_log(id);
    let mut followers = Box::pin(live.late_followers().await.unwrap());
    let mut log = Box::pin(live.follow_task_log(id, Position::default()).await.unwrap());
    chain.bus.flush().await;

    let (first, ()) = tokio::join!(next(&mut log), async {
        let follower: LateFollower = next(&mut followers).await;
        assert_eq!((follower.task, follower.attempt), (id, 0));
        // Written before the answer, and part of it.
        lines.send_at(at(1, 4), "two\n".to_owned()).await;
        follower.answer("one\ntwo\n".to_owned(), at(1, 8), false).await;
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
            next(&mut followers).await.answer(text.to_owned(), end, false).await;
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

#[tokio::test]
async fn what_is_lost_on_its_way_is_asked_for_and_told_once() {
    let chain = Chain::start().await;
    let (live, id) = (live(&chain), TaskId::new());
    let lines = live.task_log(id);
    let mut followers = Box::pin(live.late_followers().await.unwrap());
    let mut log = Box::pin(live.follow_task_log(id, at(1, 4)).await.unwrap());
    chain.bus.flush().await;
    let (first, ()) = tokio::join!(next(&mut log), async {
        next(&mut followers).await.answer("one\ntwo\n".to_owned(), at(1, 8), false).await;
    });
    assert_eq!(first, words("two\n", Some(at(1, 8))));

    // `three` did not come.
    lines.send_at(at(1, 14), "four\n".to_owned()).await;
    lines.send_at(at(1, 19), "five\n".to_owned()).await;
    let (again, ()) = tokio::join!(next(&mut log), async {
        let follower = next(&mut followers).await;
        assert_eq!(follower.attempt, 1);
        follower.answer("three\nfour\n".to_owned(), at(1, 19), false).await;
    });
    assert_eq!(again, words("three\nfour\n", Some(at(1, 19))));
    assert_eq!(next(&mut log).await, words("five\n", Some(at(1, 24))));

    // Who has it has not all of it any more; what it has ends within what did not come.
    lines.send_at(at(1, 40), "nine\n".to_owned()).await;
    let (again, ()) = tokio::join!(next(&mut log), async {
        next(&mut followers).await.answer("ven\n".to_owned(), at(1, 35), false).await;
    });
    let note = "\n[... 7 bytes before this; the log has them ...]\n";
    assert_eq!(again, words(&format!("{note}ven\n"), Some(at(1, 35))));
    let note = "\n[... 5 bytes before this; the log has them ...]\n";
    assert_eq!(next(&mut log).await, words(&format!("{note}nine\n"), Some(at(1, 45))));

    // The beginning of another attempt.
    lines.send_at(at(2, 4), "two\n".to_owned()).await;
    let (again, ()) = tokio::join!(next(&mut log), async {
        let follower = next(&mut followers).await;
        assert_eq!(follower.attempt, 2);
        follower.answer("one\ntwo\n".to_owned(), at(2, 8), false).await;
    });
    assert_eq!(again, words("one\ntwo\n", Some(at(2, 8))));
}

#[tokio::test]
async fn what_nobody_has_any_more_is_told_by_a_note() {
    let chain = Chain::start().await;
    // Nobody answers, and that is soon known.
    let soon = std::time::Duration::from_millis(50);
    let (live, id) = (Live::new(chain.bus.clone()).with_answers_within(soon), TaskId::new());
    let lines = live.task_log(id);
    let mut log = Box::pin(live.follow_task_log(id, Position::default()).await.unwrap());
    chain.bus.flush().await;
    lines.send_at(at(1, 4), "two\n".to_owned()).await;
    let note = "[... 4 bytes before this; the log has them ...]\n";
    assert_eq!(next(&mut log).await, words(&format!("{note}two\n"), Some(at(1, 8))));
    lines.send_at(at(1, 8), "three\n".to_owned()).await;
    assert_eq!(next(&mut log).await, words("three\n", Some(at(1, 14))));
    lines.send_at(at(1, 20), "five\n".to_owned()).await;
    let note = "\n[... 6 bytes before this; the log has them ...]\n";
    assert_eq!(next(&mut log).await, words(&format!("{note}five\n"), Some(at(1, 25))));
}

#[tokio::test]
async fn who_follows_a_log_knows_when_it_has_all_of_it() {
    let chain = Chain::start().await;
    let (live, id) = (live(&chain), TaskId::new());
    let lines = live.task_log(id);
    let last = |text: &str, end: Position| Words { is_last: true, ..words(text, Some(end)) };
    let mut followers = Box::pin(live.late_followers().await.unwrap());
    let mut log = Box::pin(live.follow_task_log(id, Position::default()).await.unwrap());
    chain.bus.flush().await;
    lines.send_at(at(1, 0), "one\n".to_owned()).await;
    assert_eq!(next(&mut log).await, words("one\n", Some(at(1, 4))));
    lines.send_last_at(at(1, 4), "two\n".to_owned()).await;
    assert_eq!(next(&mut log).await, last("two\n", at(1, 8)));
    // A function that says nothing more, and one that was silent.
    lines.send_last_at(at(1, 8), String::new()).await;
    assert_eq!(next(&mut log).await, last("", at(1, 8)));
    lines.send_last_at(at(2, 0), String::new()).await;
    assert_eq!(next(&mut log).await, last("", at(2, 0)));

    // Who comes after the end, with a part of it or with all.
    next(&mut followers).await;
    for (told, new) in [(at(1, 4), "two\n"), (at(1, 8), "")] {
        let mut log = Box::pin(live.follow_task_log(id, told).await.unwrap());
        let (first, ()) = tokio::join!(next(&mut log), async {
            next(&mut followers).await.answer("one\ntwo\n".to_owned(), at(1, 8), true).await;
        });
        assert_eq!(first, last(new, at(1, 8)));
    }
}
