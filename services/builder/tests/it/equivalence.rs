//! The Dockerfile that users are shown, built by the engine, beside the image that we made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mecapy_builder::Built;
use mecapy_engine::{BuildRequest, ContextFile, LogSink};
use mecapy_registry::{ImageRef, Registry};
use mecapy_testkit::unique;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::fixture::{LONG, build, builder, credentials, engine, options, primary, request};

const CODE: &str = "import six\nprint(six.__version__)\n";

/// Every file of an image: its kind, mode, owner, and what is in it.
const TREE: &str = r#"
import hashlib, os, stat
skipped = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv", "/tmp/tree.py", "/tmp/ca.crt")
def tell(path):
    about = os.lstat(path)
    if stat.S_ISLNK(about.st_mode):
        content = os.readlink(path)
    elif not stat.S_ISREG(about.st_mode):
        content = ""
    elif path.endswith(".pyc"):
        content = "compiled"  # It names the time of its source.
    else:
        content = hashlib.sha256(open(path, "rb").read()).hexdigest()
    print(f"{path} {about.st_mode:o} {about.st_uid}:{about.st_gid} {content}")
for folder, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in skipped]
    for name in folders + files:
        path = os.path.join(folder, name)
        if path not in skipped:
            tell(path)
"#;

async fn docker(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("docker").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn tree(image: &str) -> BTreeSet<String> {
    let arguments = ["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python"];
    let text = docker(&[&arguments[..], &[image, "-I", "-S", "-B", "-c", TREE]].concat()).await;
    text.lines().map(str::to_owned).collect()
}

/// What a container gets of the image, without what names the way it was made.
async fn config(image: &str) -> BTreeMap<String, Value> {
    let text = docker(&["image", "inspect", image, "--format", "{{json .Config}}"]).await;
    let mut config: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    // Of the build's last container, and of the engine's version.
    for key in ["Image", "Hostname", "OnBuild", "ArgsEscaped"] {
        config.remove(key);
    }
    if let Some(Value::Object(labels)) = config.get_mut("Labels") {
        labels.remove("org.mecapy.dependencies.key");
    }
    config.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)) && *value != "");
    config
}

async fn built_by_the_engine(registry: &Registry, built: &Built) -> String {
    let options = options();
    let mut files = vec![ContextFile::new("user_function.py", CODE)];
    let mut dockerfile = built.dockerfile.clone();
    if let Some(lock) = &built.lock {
        files.push(ContextFile::new("requirements.lock", lock.clone()));
        // What a user behind a proxy that inspects TLS adds.
        if let Some(bundle) = &options.ca_bundle {
            files.push(ContextFile::new("ca.crt", std::fs::read(PathBuf::from(bundle)).unwrap()));
            let trust = "USER root\nCOPY ca.crt /tmp/ca.crt\nARG SSL_CERT_FILE=/tmp/ca.crt\n";
            dockerfile = dockerfile.replacen("USER root\n", trust, 1);
        }
    }
    let tag = format!("mecapy-builder-test/{}:v1", unique("equivalence"));
    let login = credentials(registry).map(|login| (registry.host().to_owned(), login));
    let request = BuildRequest {
        dockerfile,
        files,
        tag: tag.clone(),
        registries: login.into_iter().collect(),
        // Another test takes away what it finds in the cache.
        no_cache: true,
        ..BuildRequest::default()
    };
    let built = engine().await.build(request, &LogSink::discard(), &CancellationToken::new()).await;
    built.unwrap_or_else(|error| panic!("{error:?}"));
    tag
}

#[tokio::test]
async fn the_dockerfile_that_is_shown_makes_the_same_files_and_the_same_config() {
    let (registry, engine) = (primary().await, engine().await);
    for requirements in ["", "six==1.17.0\n"] {
        let (built, text) = build(&builder(options()).await, &request(CODE, requirements)).await;
        let built = built.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        let ours = ImageRef { tag: None, ..built.image.clone() };
        engine.pull(&ours, credentials(&registry).as_ref(), LONG).await.unwrap();
        let ours = ours.to_string();
        let theirs = built_by_the_engine(&registry, &built).await;

        let (our_tree, their_tree) = (tree(&ours).await, tree(&theirs).await);
        let (our_config, their_config) = (config(&ours).await, config(&theirs).await);
        for image in [ours, theirs] {
            engine.remove_image(&image).await.unwrap();
        }
        let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
            one.difference(other).take(20).cloned().collect::<Vec<_>>().join("\n")
        };
        assert!(our_tree.len() > 1_000);
        assert_eq!(
            (only(&our_tree, &their_tree), only(&their_tree, &our_tree)),
            (String::new(), String::new())
        );
        assert_eq!(our_config, their_config);
    }
}
