//! What a function's image is made of: lower layers that many functions share, and one small layer with its code.
//! Pure: the blobs are given, each as its digest says.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::GzDecoder;
use mecapy_registry::{Content, Descriptor, Digest, Manifest, media_types};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::imports;

/// Where the code is in the image.
pub(crate) const CODE_PATH: &str = "/app/user_function.py";
/// And what it must be there, so that a file of ours can stand for it.
pub(crate) const CODE_MODE: u32 = 0o444;
/// What the runner of an image says of itself: whether it can wait for code, and for one turn after another.
const PARKS: &str = "org.mecapy.parks";
const ONCE: &str = "2";
const AGAIN_AND_AGAIN: &str = "3";
/// The code has at most 1 MB; the rest is the tar's.
pub(crate) const LAYER_LIMIT: u64 = 2 << 20;

/// What two images have in common when a container of one can stand for one of the other: the same lower layers,
/// and the same configuration but for labels and command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey(Digest);

impl PoolKey {
    /// For people: enough to tell one from another.
    pub(crate) fn short(self) -> String {
        self.0.hex().chars().take(12).collect()
    }
}

/// A function's code, out of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    pub key: PoolKey,
    pub bytes: Bytes,
    /// Seconds since 1970, as the image has it.
    pub mtime: u64,
    /// The modules that it imports before it does anything else.
    pub imports: Vec<String>,
    /// Whether they may be imported before its turn.
    pub early_imports: bool,
    /// How many of its tasks one container may run.
    pub uses: u32,
}

impl Code {
    pub(crate) fn sha256(&self) -> String {
        Digest::of(&self.bytes).hex()
    }
}

#[cfg(test)]
impl Code {
    pub(crate) fn of_bytes(bytes: Bytes) -> Self {
        let (key, imports) = (PoolKey(Digest::of(b"dependencies")), Vec::new());
        Self { key, bytes, mtime: 0, imports, early_imports: true, uses: 1 }
    }
}

/// Why a function of this image runs in a container of its own image only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsuitable {
    #[error("it is not an image of layers: {0}")]
    Image(String),
    #[error("its runner can't wait for code")]
    Runner,
    #[error("its last layer is not one file with code: {0}")]
    Layer(String),
}

#[derive(Deserialize)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(default)]
    config: Map<String, Value>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// The blobs that are needed of an image: its config, and its last layer.
pub(crate) fn blobs(manifest: &Manifest) -> Result<(Descriptor, Descriptor), Unsuitable> {
    let content = manifest.parse().map_err(|error| Unsuitable::Image(error.to_string()))?;
    let Content::Image { config, layers } = content else {
        return Err(Unsuitable::Image("it is an index".to_owned()));
    };
    let Some(code) = layers.last() else {
        return Err(Unsuitable::Image("it has no layers".to_owned()));
    };
    if code.media_type != media_types::OCI_LAYER_GZIP
        && code.media_type != media_types::DOCKER_LAYER_GZIP
    {
        return Err(Unsuitable::Layer(format!("it is {}", code.media_type)));
    }
    if code.size > LAYER_LIMIT {
        return Err(Unsuitable::Layer(format!("it has {} bytes", code.size)));
    }
    Ok((config, code.clone()))
}

/// Takes an image apart.
pub(crate) fn read(config: &[u8], layer: &[u8]) -> Result<Code, Unsuitable> {
    let Config { os, architecture, variant, mut config, rootfs } =
        serde_json::from_slice(config).map_err(|error| Unsuitable::Image(error.to_string()))?;
    let labels = config.remove("Labels").unwrap_or_default();
    let can_go_on = match labels.get(PARKS).and_then(Value::as_str) {
        Some(ONCE) => false,
        Some(AGAIN_AND_AGAIN) => true,
        _ => return Err(Unsuitable::Runner),
    };
    // The worker's own command is run.
    config.remove("Cmd");
    let Some((top, lower)) = rootfs.diff_ids.split_last() else {
        return Err(Unsuitable::Image("it has no layers".to_owned()));
    };
    let tar = unpack(layer, *top)?;
    let (bytes, mtime) = only_file(&tar)?;
    let shared = json!({
        "layers": lower, "config": config,
        "os": os, "architecture": architecture, "variant": variant,
    });
    let text = String::from_utf8_lossy(&bytes);
    let early_imports = imports::may_be_early(&text);
    let imports = if early_imports { imports::leading(&text) } else { Vec::new() };
    let key = PoolKey(Digest::of(shared.to_string().as_bytes()));
    let uses = if can_go_on { imports::uses(&text) } else { 1 };
    Ok(Code { key, bytes: bytes.clone(), mtime, imports, early_imports, uses })
}

fn unpack(layer: &[u8], diff_id: Digest) -> Result<Vec<u8>, Unsuitable> {
    let mut tar = Vec::new();
    let unpacked = GzDecoder::new(layer).take(LAYER_LIMIT).read_to_end(&mut tar);
    unpacked.map_err(|error| Unsuitable::Layer(error.to_string()))?;
    if Digest::of(&tar) != diff_id {
        return Err(Unsuitable::Layer(format!("it is not {diff_id} unpacked")));
    }
    Ok(tar)
}

/// The layer's one file. Anything else in it would be missing from a container that is not of this image.
fn only_file(tar: &[u8]) -> Result<(Bytes, u64), Unsuitable> {
    let unreadable = |error: std::io::Error| Unsuitable::Layer(error.to_string());
    let other = |what: String| Err(Unsuitable::Layer(what));
    let mut archive = tar::Archive::new(tar);
    let mut found = None;
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if found.is_some() || Some(path.as_str()) != CODE_PATH.strip_prefix('/') {
            return other(format!("it holds {path}"));
        }
        if entry.pax_extensions().map_err(unreadable)?.is_some() {
            return other(format!("{path} has extended attributes"));
        }
        let header = entry.header();
        let owner = (header.uid().map_err(unreadable)?, header.gid().map_err(unreadable)?);
        let mode = header.mode().map_err(unreadable)? & 0o7777;
        if !header.entry_type().is_file() || owner != (0, 0) || mode != CODE_MODE {
            return other(format!("{path} is not a file of root with mode {CODE_MODE:o}"));
        }
        let mtime = header.mtime().map_err(unreadable)?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(unreadable)?;
        found = Some((bytes.into(), mtime));
    }
    found.map_or_else(|| other("it is empty".to_owned()), Ok)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;
    use mecapy_registry::{LayerFile, TarLayer};

    use super::*;

    const CODE: &str = "import json\nprint(1)\n";

    fn file(path: &str, mode: u32) -> LayerFile {
        LayerFile { path: path.to_owned(), mode, bytes: Bytes::from_static(CODE.as_bytes()) }
    }

    fn code() -> TarLayer {
        TarLayer::from_files([file("app/user_function.py", 0o444)]).unwrap()
    }

    fn gzip(tar: &TarLayer) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar.tar()).unwrap();
        encoder.finish().unwrap()
    }

    fn image(tar: &TarLayer, change: impl FnOnce(&mut Value)) -> Result<Code, Unsuitable> {
        let mut config = json!({
            "os": "linux", "architecture": "amd64",
            "config": {
                "Env": ["PATH=/bin"], "User": "mecapy", "Cmd": ["python", "user_function.py"],
                "Labels": {"org.mecapy.parks": "2", "org.mecapy.function.id": "7"},
            },
            "rootfs": {"type": "layers", "diff_ids": [
                Digest::of(b"base"), Digest::of(b"dependencies"), Digest::of(tar.tar()),
            ]},
        });
        change(&mut config);
        read(config.to_string().as_bytes(), &gzip(tar))
    }

    #[test]
    fn an_image_is_its_code_and_what_it_shares() {
        let found = image(&code(), |_| ()).unwrap();
        assert_eq!((&found.bytes[..], found.mtime), (CODE.as_bytes(), 0));
        assert_eq!(found.imports, ["json"]);
        let other = TarLayer::from_files([LayerFile {
            bytes: Bytes::from_static(b"2"),
            ..file("app/user_function.py", 0o444)
        }])
        .unwrap();
        let labelled = image(&other, |c| c["config"]["Labels"]["x"] = json!("y")).unwrap();
        assert_eq!(labelled.key, found.key, "code and labels are each function's own");
    }

    #[test]
    fn tasks_share_a_container_where_the_code_asks_for_it_and_the_runner_can() {
        let code = TarLayer::from_files([LayerFile {
            bytes: Bytes::from_static(b"# mecapy: reuse 5\n"),
            ..file("app/user_function.py", 0o444)
        }])
        .unwrap();
        assert_eq!(image(&code, |_| ()).unwrap().uses, 1);
        let newer = image(&code, |c| c["config"]["Labels"][PARKS] = json!("3")).unwrap();
        assert_eq!(newer.uses, 5);
    }

    #[test]
    fn another_layer_below_or_another_configuration_is_another_pool() {
        let key = image(&code(), |_| ()).unwrap().key;
        for change in [
            (|c| c["rootfs"]["diff_ids"][0] = json!(Digest::of(b"other"))) as fn(&mut Value),
            |c| c["rootfs"]["diff_ids"][1] = json!(Digest::of(b"other")),
            |c| c["config"]["Env"] = json!(["PATH=/sbin"]),
            |c| c["config"]["User"] = json!("root"),
            |c| c["config"]["WorkingDir"] = json!("/tmp"),
            |c| c["config"]["Entrypoint"] = json!(["sh"]),
            |c| c["architecture"] = json!("arm64"),
        ] {
            assert_ne!(image(&code(), change).unwrap().key, key);
        }
    }

    #[test]
    fn what_is_not_exactly_a_function_on_a_runner_that_waits_is_unsuitable() {
        assert_eq!(image(&code(), |c| c["config"]["Labels"] = json!({})), Err(Unsuitable::Runner));
        assert_eq!(
            image(&code(), |c| c["config"]["Labels"] = json!(null)),
            Err(Unsuitable::Runner)
        );
        let wrong = image(&code(), |c| c["rootfs"]["diff_ids"][2] = json!(Digest::of(b"x")));
        assert!(matches!(wrong, Err(Unsuitable::Layer(_))), "{wrong:?}");
        for files in [
            vec![file("app/user_function.py", 0o644)],
            vec![file("app/other.py", 0o444)],
            vec![file("app/user_function.py", 0o444), file("opt/venv/bin/python", 0o555)],
            vec![],
        ] {
            let found = image(&TarLayer::from_files(files).unwrap(), |_| ());
            assert!(matches!(found, Err(Unsuitable::Layer(_))), "{found:?}");
        }
        let mut builder = tar::Builder::new(Vec::new());
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        link.set_mode(0o444);
        builder.append_link(&mut link, "app/user_function.py", "/etc/passwd").unwrap();
        let found = image(&TarLayer::from_tar(builder.into_inner().unwrap().into()), |_| ());
        assert!(matches!(found, Err(Unsuitable::Layer(_))), "{found:?}");
    }
}
