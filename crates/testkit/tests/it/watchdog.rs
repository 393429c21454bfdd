use std::process::{Command, Stdio};
use std::time::Duration;

use mecapy_testkit::{Infra, Server, eventually, unique};

/// Far more than anything here takes: what passes it hangs.
const LONG: Duration = Duration::from_secs(180);

/// Set in the process that [`a_killed_process_leaves_no_container`] starts and kills:
/// the name of a file to write once its servers run.
const VICTIM: &str = "TESTKIT_VICTIM";

fn containers() -> Vec<String> {
    let list = Command::new("docker")
        .args(["ps", "--all", "--filter=label=org.mecapy.testkit", "--format={{.Names}}"])
        .output()
        .unwrap();
    let names = String::from_utf8(list.stdout).unwrap();
    names.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_dropped_set_is_removed() {
    let infra = Infra::start(&[Server::S3]).await;
    let port = infra.s3().await.endpoint;
    drop(infra);
    eventually("nobody listens any more", LONG, async || {
        let address = port.trim_start_matches("http://");
        std::net::TcpStream::connect(address).is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_process_leaves_no_container() {
    if let Ok(file) = std::env::var(VICTIM) {
        let _infra = Infra::start(&[Server::S3]).await;
        let own = format!("{:?}", _infra);
        std::fs::write(file, own).unwrap();
        return std::future::pending().await;
    }
    let file = std::env::temp_dir().join(unique("victim"));
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "watchdog::a_killed_process_leaves_no_container"])
        .env(VICTIM, &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = eventually("the victim has a server", LONG, async || {
        let own = std::fs::read_to_string(&file).ok()?;
        containers().into_iter().find(|name| own.contains(name))
    })
    .await;
    victim.kill().unwrap(); // SIGKILL
    victim.wait().unwrap();
    eventually("its container is gone", LONG, async || {
        (!containers().contains(&started)).then_some(())
    })
    .await;
    let _ = std::fs::remove_file(file);
}
