//! The base image: what the function contract promises, and what a build must not leave in it.

use mecapy_engine::End;

use crate::fixture::{BASE, docker, run};

#[tokio::test]
async fn a_function_finds_what_the_contract_promises() {
    let code = r#"
import json, os, pwd, shutil, subprocess, sys
json.dump({
    "user": pwd.getpwuid(os.getuid()).pw_name,
    "argv": sys.argv,
    "prefix": sys.prefix,
    "python": shutil.which("python"),
    "uv": subprocess.run(["uv", "--version"], capture_output=True, text=True).stdout.split()[:1],
    "links": [os.readlink("/inputs.json"), os.readlink("/output.json")],
    "main": __name__,
    "stdin": sys.stdin.read(),
    "isolated": sys.flags.isolated,
}, open("/output.json", "w"))
"#;
    let outcome = run(code, |request| request.stdin = "{}".into()).await;
    assert_eq!(outcome.end, End::Exited(0), "{}", outcome.stderr.text());
    let seen: serde_json::Value = serde_json::from_slice(&outcome.output.unwrap()).unwrap();
    let expected = serde_json::json!({
        "user": "mecapy",
        "argv": ["user_function.py"],
        "prefix": "/opt/venv",
        "python": "/opt/venv/bin/python",
        "uv": ["uv"],
        "links": ["/tmp/inputs.json", "/tmp/output.json"],
        "main": "__main__",
        "stdin": "",
        "isolated": 0,
    });
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_the_build_needed_to_reach_the_index_is_not_in_the_image() {
    let environment = docker(&["inspect", "--format", "{{json .Config.Env}}", BASE]);
    for word in ["PIP_", "UV_", "PROXY", "SSL_", "CERT"] {
        assert!(!environment.to_uppercase().contains(word), "{environment}");
    }
    let files = docker(&[
        "run",
        "--rm",
        "--user",
        "0",
        "--network",
        "none",
        BASE,
        "find",
        "/",
        "-xdev",
        "(",
        "-name",
        "ca-bundle.crt",
        "-o",
        "-path",
        "/root/.cache/*",
        "-o",
        "-path",
        "/opt/venv/lib/*/site-packages/pip*",
        ")",
    ]);
    assert_eq!(files, "");
    assert_eq!(docker(&["inspect", "--format", "{{.Config.User}}", BASE]).trim(), "mecapy");
}
