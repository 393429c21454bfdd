use std::io::Read as _;
use std::path::Path;

use axum::http::StatusCode;
use base64::Engine as _;
use bytes::Bytes;
use mecapy_registry::{
    Appended, Appender, Base, ConfigPatch, Content, Descriptor, Digest, FolderLayer, ImageRef,
    LayerFile, Manifest, Registry, TarLayer, append_layer,
};
use mecapy_testkit::unique;
use serde_json::Value;
use tokio::process::Command;

use crate::images::{Family, noise, push, push_index};
use crate::proxy::{Fate, Proxy, Step};
use crate::servers::{delete_blob, primary, primary_server};

const CODE: &str = "print('hello')\n";

pub fn code() -> TarLayer {
    let path = "app/user_function.py".to_owned();
    let file = LayerFile { path, mode: 0o444, bytes: Bytes::from(CODE) };
    TarLayer::from_files([file]).unwrap()
}

pub fn patch() -> ConfigPatch {
    ConfigPatch {
        labels: [("org.mecapy.function.id".into(), "456".into())].into(),
        cmd: Some(vec!["python".into(), "user_function.py".into()]),
        user: Some("mecapy".into()),
        workdir: Some("/app".into()),
        env: [("PATH".into(), "/opt/venv/bin".into())].into(),
    }
}

async fn append(registry: &Registry, base: &Base, target: &str) -> Appended {
    // As services run it: in a task of its own.
    let (registry, base, target) = (registry.clone(), base.clone(), target.to_owned());
    let run = async move { append_layer(&registry, &base, &target, "v1", code(), &patch()).await };
    tokio::spawn(run).await.unwrap().unwrap()
}

pub async fn base(registry: &Registry, family: Family) -> Base {
    let repository = unique("deps");
    let files = [("etc/base", noise(&repository, 20_000)), ("opt/deps", noise("deps", 5_000))];
    let manifest = push(registry, &repository, family, &files).await;
    Base { repository, manifest }
}

#[tokio::test]
async fn the_same_input_makes_the_same_image_wherever_it_is_put() {
    let registry = primary().await;
    let base = base(&registry, Family::Docker).await;
    let (one, two) = (unique("functions"), unique("functions"));
    let first = append(&registry, &base, &one).await;
    assert_eq!(append(&registry, &base, &one).await, first);
    assert_eq!(append(&registry, &base, &two).await, first);
    let other = ConfigPatch { user: Some("root".into()), ..patch() };
    let other = append_layer(&registry, &base, &one, "v2", code(), &other).await.unwrap();
    assert_ne!(other.digest, first.digest);
    assert_eq!(other.layer, first.layer);
}

fn edited(code: &str) -> TarLayer {
    let path = "app/user_function.py".to_owned();
    let bytes = Bytes::from(code.to_owned());
    TarLayer::from_files([LayerFile { path, mode: 0o444, bytes }]).unwrap()
}

#[tokio::test]
async fn an_edit_asks_for_nothing_that_is_known_of_what_it_stands_on() {
    let registry = primary().await;
    let base = base(&registry, Family::Docker).await;
    let proxy = Proxy::start(primary_server().await, |_| Fate::Pass).await;
    let target = unique("functions");
    let appender = Appender::new(proxy.registry());
    let put = async |code: &str| {
        appender.append(&base, &target, "v1", edited(code), &patch()).await.unwrap()
    };
    put("1").await;
    let steps = [
        Step::ReadBlob,
        Step::LookForBlob,
        Step::LookForManifest,
        Step::StartUpload,
        Step::PutBlob,
        Step::PutManifest,
    ];
    let counts = || steps.map(|step| proxy.passed(step).len());
    let before = counts();
    let second = put("2").await;
    let asked: Vec<_> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(asked, [0, 0, 0, 2, 2, 1]);
    assert_eq!(
        append_layer(&registry, &base, &target, "v2", edited("2"), &patch()).await.unwrap(),
        second
    );
}

#[tokio::test]
async fn what_was_known_and_is_gone_is_brought_again() {
    let registry = primary().await;
    let base = base(&registry, Family::Docker).await;
    let target = unique("functions");
    let appender = Appender::new(registry.clone());
    appender.append(&base, &target, "v1", edited("1"), &patch()).await.unwrap();
    // As when a registry was tidied up: what it held is held no more.
    let Content::Image { layers, .. } = base.manifest.parse().unwrap() else { panic!() };
    for layer in &layers {
        delete_blob(&target, &layer.digest).await;
    }
    appender.append(&base, &target, "v2", edited("2"), &patch()).await.unwrap();
    for layer in &layers {
        assert!(registry.blob_exists(&target, &layer.digest).await.unwrap());
    }
}

#[tokio::test]
async fn the_image_is_the_base_and_one_layer_in_the_ocis_family() {
    let registry = primary().await;
    for family in [Family::Oci, Family::Docker] {
        let base = base(&registry, family).await;
        let target = unique("functions");
        let appended = append(&registry, &base, &target).await;
        let manifest = registry.manifest(&target, "v1").await.unwrap();
        assert_eq!(manifest.digest, appended.digest);
        assert_eq!(manifest.media_type, Family::Oci.manifest());
        assert_eq!(manifest.size_bytes().unwrap(), appended.size_bytes);

        let (config, layers) = image(&manifest);
        let (_, below) = image(&base.manifest);
        let digests = |layers: &[Descriptor]| layers.iter().map(|l| l.digest).collect::<Vec<_>>();
        assert_eq!(digests(&layers[..below.len()]), digests(&below));
        assert!(layers.iter().all(|layer| layer.media_type == Family::Oci.layer()));
        assert_eq!(&layers[below.len()..], std::slice::from_ref(&appended.layer));
        assert_eq!(config.media_type, Family::Oci.config());

        // The manifest holds both, and the registry has them as well.
        assert!(config.data.is_some() && appended.layer.data.is_some());
        let config = registry.blob_bytes(&target, &stored(&config), 100_000).await.unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["config"]["Labels"]["org.mecapy.function.id"], "456");
        assert_eq!(config["config"]["Labels"]["base"], "yes");
        assert_eq!(config["config"]["User"], "mecapy");

        let gzip = registry.blob_bytes(&target, &stored(&appended.layer), 100_000).await.unwrap();
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(gzip.as_ref()).read_to_end(&mut tar).unwrap();
        assert_eq!(tar, *code().tar());
        assert_eq!(config["rootfs"]["diff_ids"][2], Digest::of(&tar).to_string());
        // The base's layers came along.
        for layer in &below {
            registry.blob_bytes(&target, layer, 100_000).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_folder_is_sent_again_from_its_start_when_the_registry_stumbles() {
    let registry = primary().await;
    let base = base(&registry, Family::Docker).await;
    let proxy = Proxy::start(primary_server().await, |passing| match passing.step() {
        Step::PutBlob if passing.before < 2 => {
            Fate::Answer(StatusCode::SERVICE_UNAVAILABLE, Vec::new())
        }
        _ => Fate::Pass,
    })
    .await;
    // Many pieces of an upload, since noise hardly becomes smaller.
    let content = noise("folder", 3_000_000);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "venv/x", &content[..]).unwrap();
    let tar: Vec<Result<Bytes, std::io::Error>> = vec![Ok(tar.into_inner().unwrap().into())];
    let layer = FolderLayer::pack(futures::stream::iter(tar), "opt/venv", false).await.unwrap();

    let target = unique("deps");
    let appender = Appender::new(proxy.registry());
    let appended = appender.append_folder(&base, &target, "key", &layer, &patch()).await.unwrap();
    assert!(proxy.passed(Step::PutBlob).len() > 2);
    assert_eq!(appended.layer.digest, layer.digest());
    let gzip = registry.blob_bytes(&target, &appended.layer, 4_000_000).await.unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(gzip.as_ref()));
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str(), Some("opt/venv/x"));
    let mut sent = Vec::new();
    entry.read_to_end(&mut sent).unwrap();
    assert!(sent == content);
}

#[tokio::test]
async fn an_index_is_no_base() {
    let registry = primary().await;
    let image = base(&registry, Family::Oci).await;
    let manifest = push_index(&registry, &image.repository, &[&image.manifest]).await;
    let base = Base { repository: image.repository, manifest };
    let target = unique("functions");
    let result = append_layer(&registry, &base, &target, "v1", code(), &patch()).await;
    assert!(result.unwrap_err().to_string().contains("index"));
}

#[tokio::test]
async fn docker_pulls_the_image_and_finds_the_file() {
    let registry = primary().await;
    for family in [Family::Oci, Family::Docker] {
        let base = base(&registry, family).await;
        let target = unique("functions");
        let appended = append(&registry, &base, &target).await;
        let image =
            ImageRef::new(registry.host(), &target).with_digest(appended.digest).to_string();
        let home = tempfile::tempdir().unwrap();
        write_login(&registry, home.path());
        let container = unique("mecapy-test");
        let code = home.path().join("code");
        docker(home.path(), &["pull", "--quiet", &image]).await.unwrap();
        let found = async {
            docker(home.path(), &["create", "--name", &container, &image]).await?;
            let from = format!("{container}:/app/user_function.py");
            docker(home.path(), &["cp", &from, &code.to_string_lossy()]).await?;
            docker(home.path(), &["inspect", "--format", "{{json .Config.Cmd}}", &image]).await
        };
        let found = found.await;
        // Before any assertion, so that nothing stays on the machine.
        let _ = docker(home.path(), &["rm", "--force", &container]).await;
        let _ = docker(home.path(), &["rmi", &image]).await;
        assert_eq!(found.unwrap().trim(), r#"["python","user_function.py"]"#);
        assert_eq!(std::fs::read_to_string(code).unwrap(), CODE);
    }
}

/// The same without what its manifest holds of it.
fn stored(blob: &Descriptor) -> Descriptor {
    Descriptor { data: None, ..blob.clone() }
}

fn image(manifest: &Manifest) -> (Descriptor, Vec<Descriptor>) {
    match manifest.parse().unwrap() {
        Content::Image { config, layers } => (config, layers),
        Content::Index { .. } => panic!("an index"),
    }
}

/// What `docker login` would write, without touching the machine's own logins.
fn write_login(registry: &Registry, home: &Path) {
    let (username, password) = registry.credentials().unwrap();
    let pair = format!("{username}:{}", password.expose());
    let auth = base64::engine::general_purpose::STANDARD.encode(pair);
    let config = serde_json::json!({"auths": {registry.host(): {"auth": auth}}});
    std::fs::write(home.join("config.json"), config.to_string()).unwrap();
}

async fn docker(config: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").arg("--config").arg(config).args(arguments).output().await;
    let output = output.map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
