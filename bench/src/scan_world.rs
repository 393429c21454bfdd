//! An image like that of a function with numpy and scipy: 300 MB of layers in a registry, and an engine that scans it.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use chrono::Utc;
use flate2::Compression;
use flate2::write::GzEncoder;
use mecapy_advisories::{Database, import};
use mecapy_registry::{Descriptor, Digest, Hasher, Manifest, Registry, media_types};
use mecapy_scanner::layer::Limits;
use mecapy_scanner::policy::Policy;
use mecapy_scanner::trivy::{self, Trivy};
use mecapy_scanner::verdict::decide;
use mecapy_scanner::{Advisories, Engine, LayerCache, Osv, Report as ScanReport, Target};
use mecapy_testkit::RegistryServer;
use tokio::process::Command;

use crate::db_open::export;
use crate::mirror_world::{noise, options as options_of};

/// Of the base: what `python:3.11-slim` has.
const BASE: Layer = Layer { files: 5_000, bytes: 85_000_000, dpkg: 110, python: 3 };
/// Of numpy and scipy, with what they bring.
const DEPENDENCIES: Layer = Layer { files: 3_500, bytes: 215_000_000, dpkg: 0, python: 4 };

#[derive(Clone, Copy)]
struct Layer {
    files: usize,
    bytes: usize,
    dpkg: usize,
    python: usize,
}

pub struct Image {
    pub repository: String,
    layers: Vec<(Descriptor, Digest)>,
}

/// A layer as a registry has it, and the digest of its tar, which configs name it by.
struct Packed {
    gzip: Vec<u8>,
    diff_id: Digest,
}

impl Image {
    pub async fn push(registry: &Registry, repository: &str) -> Result<Self> {
        let mut image = Self { repository: repository.to_owned(), layers: Vec::new() };
        for layer in [BASE, DEPENDENCIES] {
            image.add(registry, layer.pack()?).await?;
        }
        Ok(image)
    }

    async fn add(&mut self, registry: &Registry, layer: Packed) -> Result<()> {
        let stored = registry.put_blob(&self.repository, Bytes::from(layer.gzip)).await?;
        let layer_type = media_types::OCI_LAYER_GZIP;
        self.layers.push((Descriptor::new(layer_type, stored.digest, stored.size), layer.diff_id));
        Ok(())
    }

    /// The image with a layer of code on top.
    pub async fn with_code(&self, registry: &Registry, code: &str) -> Result<Digest> {
        let mut image = Self { repository: self.repository.clone(), layers: self.layers.clone() };
        let code = ("app/user_function.py".to_owned(), code.as_bytes().to_vec());
        image.add(registry, pack([code])?).await?;
        let (layers, diff_ids): (Vec<_>, Vec<_>) = image.layers.into_iter().unzip();
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = registry.put_blob(&self.repository, config.to_string().into()).await?;
        let json = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_types::OCI_MANIFEST,
            "config": Descriptor::new(media_types::OCI_CONFIG, config.digest, config.size),
            "layers": layers,
        });
        let manifest = Manifest::new(json.to_string().into(), media_types::OCI_MANIFEST);
        registry.put_manifest(&self.repository, &manifest.digest.to_string(), &manifest).await?;
        Ok(manifest.digest)
    }

    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|(layer, _)| layer.size).sum()
    }
}

impl Layer {
    /// Files of which half compresses well, as of machine code, with what package managers leave among them.
    fn pack(self) -> Result<Packed> {
        let size = self.bytes / self.files;
        let noise = noise(size * 4);
        let files = (0..self.files).map(|at| {
            let start = at * 37 % (size * 3);
            let mut bytes = noise[start..start + size].to_vec();
            bytes[size / 2..].fill(b'x');
            // No two alike.
            bytes[..8].copy_from_slice(&(at as u64).to_le_bytes());
            (format!("opt/venv/lib/python3.11/site-packages/p{}/m{at}.so", at % 40), bytes)
        });
        let mut kept = Vec::new();
        if self.dpkg > 0 {
            let status: String = (0..self.dpkg)
                .map(|at| format!("Package: lib{at}\nStatus: install ok installed\nVersion: 1.{at}-2\nArchitecture: amd64\nSource: src{at}\n\n"))
                .collect();
            kept.push(("var/lib/dpkg/status".to_owned(), status.into_bytes()));
            kept.push(("etc/os-release".to_owned(), b"ID=debian\nVERSION_ID=12\n".to_vec()));
            kept.extend((0..self.dpkg).map(|at| {
                (
                    format!("var/lib/dpkg/info/lib{at}.list"),
                    "/usr/lib/file\n".repeat(60).into_bytes(),
                )
            }));
        }
        let names = ["numpy", "scipy", "pillow", "requests", "pip", "setuptools", "wheel"];
        let from = if self.dpkg > 0 { 4 } else { 0 };
        kept.extend(names[from..from + self.python].iter().map(|name| {
            let path =
                format!("opt/venv/lib/python3.11/site-packages/{name}-9.0.dist-info/METADATA");
            (path, format!("Name: {name}\nVersion: 9.0\n\n{}", "text ".repeat(2000)).into_bytes())
        }));
        pack(files.chain(kept))
    }
}

fn pack(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Packed> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut hasher = Hasher::new();
    let mut write = |bytes: &[u8]| {
        hasher.update(bytes);
        encoder.write_all(bytes)
    };
    for (path, bytes) in files {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        write(&header)?;
        write(&bytes)?;
        write(&vec![0; bytes.len().next_multiple_of(512) - bytes.len()])?;
    }
    write(&[0; 1024])?;
    Ok(Packed { gzip: encoder.finish()?, diff_id: hasher.finish() })
}

/// The advisories of a real export where there is one.
pub fn advisories() -> Result<Advisories> {
    let database = match export() {
        Some(export) => import(&[export], Vec::new(), Utc::now())?.open()?,
        None => Database::starter()?,
    };
    Ok(Advisories::fixed(database, chrono::Duration::days(36_500)))
}

pub fn engine(advisories: &Advisories, layers: LayerCache) -> Osv {
    Osv::new(advisories.clone(), layers, Limits::default(), Duration::from_secs(120))
}

/// The peer, where it is and has a database: nothing of an image is known to it, as its cache is in memory.
pub async fn trivy(server: &RegistryServer) -> Option<Trivy> {
    let cache = std::env::var_os("TRIVY_CACHE_DIR").map(PathBuf::from)?;
    let version = Command::new("trivy").arg("version").output().await.ok()?;
    let is_here = String::from_utf8_lossy(&version.stdout).contains(trivy::VERSION);
    if !is_here || !cache.join("db/trivy.db").is_file() {
        return None;
    }
    let options = trivy::Options { cache, ..Default::default() };
    let limit = Duration::from_secs(600);
    Some(Trivy::new(options, options_of(server), limit, chrono::Duration::days(36_500)))
}

/// From the question to the reports, as the scanner does it.
pub async fn scan(
    engine: &impl Engine,
    registry: &Registry,
    repository: &str,
    digest: Digest,
) -> Result<usize> {
    let scan = engine.scan(Target { registry, repository, digest }).await?;
    let decision = decide(&scan.findings, &Policy::default(), Utc::now());
    let report = ScanReport::new(scan, decision, Utc::now());
    report.to_json()?;
    report.to_cyclonedx()?;
    report.to_sarif("function-1/")?;
    Ok(report.scan.contents.packages.len())
}
