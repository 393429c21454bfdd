//! What can be reached from inside a build.

use std::path::PathBuf;

use mecapy_builder::{BaseBuilder, BaseOptions, Cell, Options};
use mecapy_proto::BuildId;
use mecapy_testkit::{Infra, unique};
use tokio_util::sync::CancellationToken;

use crate::bases::{folder, small_slim};
use crate::fixture::{engine, log, options, primary};

/// Tries each address directly, and then asks the proxy of the build for it.
const PROBE: &str = r#"
import os, socket, sys
print("interfaces", sorted(os.listdir("/sys/class/net")))
proxy = os.environ["HTTPS_PROXY"].removeprefix("http://").rsplit(":", 1)
for target in open("/tmp/targets").read().split():
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 5).close()
        print("direct", target, "REACHED")
    except OSError as error:
        print("direct", target, "no:", error)
    with socket.create_connection((proxy[0], int(proxy[1])), 10) as connection:
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        print("proxy", target, connection.recv(100).split(b"\r\n")[0].decode())
        connection.close()
    with socket.create_connection((proxy[0], int(proxy[1])), 10) as connection:
        connection.sendall(f"GET http://{target}/ HTTP/1.1\r\nHost: pypi.org\r\n\r\n".encode())
        print("plain", target, connection.recv(100).split(b"\r\n")[0].decode())
"#;

const PYTHON_IMAGE: &str = "mecapy/python:3.11-slim";

async fn docker(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("docker").args(arguments).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Where the servers of this test run are, from wherever a container might see them.
async fn servers() -> Vec<String> {
    let infra = Infra::shared().await;
    let mut targets = vec!["169.254.169.254:80".to_owned(), "192.0.2.1:443".to_owned()];
    // The machine itself, as containers on the usual network see it.
    let route = "import socket; lines = [l.split() for l in open('/proc/net/route')]; \
                 print(socket.inet_ntoa(int(next(l[2] for l in lines if l[1] == '00000000'), 16).to_bytes(4, 'little')))";
    let gateway = docker(&["run", "--rm", PYTHON_IMAGE, "python", "-c", route]).await;
    assert!(gateway.parse::<std::net::Ipv4Addr>().is_ok(), "{gateway:?}");
    let published = [
        infra.nats().await.url,
        infra.postgres().await,
        infra.s3().await.endpoint,
        format!("http://{}", infra.primary().host),
    ];
    for url in published {
        let authority = url.split("://").nth(1).unwrap().split('/').next().unwrap();
        let port = authority.rsplit(':').next().unwrap();
        targets.extend([format!("127.0.0.1:{port}"), format!("{gateway}:{port}")]);
    }
    // The containers' own addresses, with every port that they listen on.
    for id in docker(&["ps", "-q", "--filter", "network=bridge"]).await.split_whitespace() {
        let format = "{{.NetworkSettings.IPAddress}} {{range $p, $_ := .NetworkSettings.Ports}}{{$p}} {{end}}";
        let about = docker(&["inspect", "-f", format, id]).await;
        let mut words = about.split_whitespace();
        if let Some(address) = words.next() {
            let ports = words.filter_map(|port| port.strip_suffix("/tcp"));
            targets.extend(ports.map(|port| format!("{address}:{port}")));
        }
    }
    targets
}

#[tokio::test]
async fn from_inside_a_build_the_package_index_is_all_that_can_be_reached() {
    let targets = servers().await;
    assert!(targets.len() > 10, "{targets:?}");
    // The engine keeps what was made, by its name: this one goes after the test.
    let variant: String =
        unique("probe").chars().filter(char::is_ascii_alphanumeric).take(20).collect();
    let probe = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY probe.py targets /tmp/\n\
                 RUN [\"python\", \"/tmp/probe.py\"]\n";
    // The index is the last one: that it is reached shows that the others could have been.
    let all = format!("{} pypi.org:443", targets.join(" "));
    let slim = small_slim("network");
    let folder = folder(&[("slim", &slim, "print('fine')\n"), (&variant, probe, "")]);
    for (name, text) in [("probe.py", PROBE), ("targets", &all)] {
        std::fs::write(folder.path().join(format!("python-{variant}")).join(name), text).unwrap();
    }
    let base = BaseOptions {
        folder: PathBuf::from(folder.path()),
        python_image: "mecapy/python:{python}-slim".to_owned(),
        pull: false,
        ..BaseOptions::default()
    };
    let registry = primary().await;
    let options = Options { base, index_url: None, ..options() };
    let builder = BaseBuilder::new(options, engine().await, &registry, registry.clone()).unwrap();
    let (log, _) = log();
    let cell = Cell::new("3.11", &variant).unwrap();
    let built = builder.build(&cell, BuildId::new(), &log, &CancellationToken::new()).await;
    builder.finish().await;
    let kept = format!("mecapy-build/base:3.11-{variant}-*");
    let kept = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", &kept]).await;
    for image in kept.lines() {
        assert!(engine().await.remove_image(image).await.unwrap());
    }
    let text = log.text();
    assert!(built.is_ok(), "{built:?}\n{text}");
    assert!(text.contains("interfaces ['lo']"), "{text}");
    assert!(!text.contains("REACHED"), "{text}");
    for target in &targets {
        for way in ["proxy", "plain"] {
            assert!(text.contains(&format!("{way} {target} HTTP/1.1 403")), "{target}\n{text}");
        }
        assert!(text.contains(&format!("direct {target} no:")), "{target}\n{text}");
    }
    assert!(text.contains("proxy pypi.org:443 HTTP/1.1 200"), "{text}");
}
