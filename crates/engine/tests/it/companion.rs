//! Containers that serve others while their owner lives.

use futures::StreamExt as _;
use mecapy_engine::{BuildRequest, Companion, RunRequest};
use mecapy_testkit::{eventually, unique};
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use crate::fixture::{BASE, LONG, Lines, container_exists, engine};

/// Echoes what it reads, and answers on a port of its loopback.
const PROGRAM: &str = "
import socket, sys, threading
server = socket.create_server(('127.0.0.1', 4711))
def serve():
    while True:
        connection, _ = server.accept()
        connection.sendall(b'from the companion')
        connection.close()
threading.Thread(target=serve, daemon=True).start()
for line in sys.stdin:
    sys.stdout.write(line)
    sys.stdout.flush()
";

async fn start()
-> (Companion, mecapy_engine::CompanionOutput, mecapy_engine::CompanionInput, String) {
    let name = unique("mecapy-engine-test");
    let cmd = ["python", "-I", "-S", "-c", PROGRAM].map(str::to_owned).to_vec();
    let request =
        RunRequest { image: BASE.into(), name: name.clone(), cmd, ..RunRequest::default() };
    let (companion, output, input) = engine().await.start_companion(request).await.unwrap();
    (companion, output, input, name)
}

async fn until_gone(name: &str) {
    eventually("the container is gone", LONG, async || (!container_exists(name)).then_some(()))
        .await;
}

#[tokio::test]
async fn a_build_in_its_network_reaches_it_and_nothing_else() {
    let (companion, mut output, mut input, name) = start().await;
    input.write_all(b"hello\n").await.unwrap();
    assert_eq!(output.next().await.unwrap(), "hello\n");
    let lines = Lines::default();
    let ask = "import os, socket\n\
               print(sorted(os.listdir('/sys/class/net')))\n\
               print(socket.create_connection(('127.0.0.1', 4711), 10).recv(100))\n";
    let request = BuildRequest {
        dockerfile: format!("FROM {BASE}\nCOPY ask.py /tmp/\nRUN [\"python\", \"/tmp/ask.py\"]\n"),
        files: vec![mecapy_engine::ContextFile::new("ask.py", ask)],
        tag: format!("mecapy-engine-test/{}:v1", unique("companion")),
        network: Some(companion.network()),
        no_cache: true,
        ..BuildRequest::default()
    };
    let tag = request.tag.clone();
    let engine = engine().await;
    engine.build(request, &lines.sink(), &CancellationToken::new()).await.unwrap();
    engine.remove_image(&tag).await.unwrap();
    assert!(lines.contain("['lo']") && lines.contain("from the companion"), "{:?}", lines.all());
    drop(companion);
    until_gone(&name).await;
}

#[tokio::test]
async fn it_goes_when_its_owner_can_no_longer_be_heard() {
    let (companion, output, input, name) = start().await;
    // As when the owner's process dies: nothing is removed by it.
    std::mem::forget(companion);
    drop((output, input));
    until_gone(&name).await;
}
