//! From the log of a build, which must not wait, to onlookers, which may be slow.

use mecapy_bus::LiveLines;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::build_log::Live;

/// Lines that wait; more are left out, since the whole log is kept elsewhere.
const MAX_WAITING: usize = 1_000;
/// Lines in one message.
const MAX_BATCH: usize = 100;

/// The end of a log that takes its lines, and the task that sends them: it ends with the log.
pub fn channel(lines: LiveLines) -> (Live, JoinHandle<()>) {
    let (sender, mut receiver) = mpsc::channel::<String>(MAX_WAITING);
    let task = tokio::spawn(async move {
        let mut batch = Vec::new();
        while receiver.recv_many(&mut batch, MAX_BATCH).await > 0 {
            lines.send(batch.join("\n")).await;
            batch.clear();
        }
    });
    let live = Box::new(move |line: &str| {
        let _ = sender.try_send(line.to_owned());
    });
    (live, task)
}
