//! An image's packages, from the indexes of its layers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mecapy_registry::Digest;
use serde::{Deserialize, Serialize};

use crate::layer::{Facts, LayerIndex, remove_below, remove_tree};
use crate::package::{Ecosystem, OsRelease, Package, Source};

/// A layer of an image.
#[derive(Debug, Clone)]
pub struct Layer {
    pub digest: Digest,
    pub index: Arc<LayerIndex>,
}

/// What is installed in an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    pub os: Option<OsRelease>,
    /// Sorted.
    pub packages: Vec<Package>,
}

/// A file as the image shows it: the facts of the uppermost layer that has it.
struct Shown<'a> {
    layer: Digest,
    facts: &'a Facts,
    /// Of a package manager's packages: the layer that brought each, where it isn't this one.
    since: BTreeMap<ManagedKey<'a>, Digest>,
}

/// Name, version, architecture.
type ManagedKey<'a> = (&'a str, &'a str, &'a str);

/// The packages of a package manager's database.
fn managed(facts: &Facts) -> Option<Vec<ManagedKey<'_>>> {
    match facts {
        Facts::Dpkg(packages) => {
            Some(packages.iter().map(|p| (&*p.name, &*p.version, &*p.architecture)).collect())
        }
        Facts::Apk(packages) => {
            Some(packages.iter().map(|p| (&*p.name, &*p.version, &*p.architecture)).collect())
        }
        _ => None,
    }
}

/// Puts layers on one another, the base first.
pub fn merge(layers: &[Layer]) -> Contents {
    let mut files: BTreeMap<String, Shown<'_>> = BTreeMap::new();
    for layer in layers {
        let index = layer.index.as_ref();
        // All that a layer hides is in the layers below it, wherever in the layer it says so.
        let replaced = previous(&files, index);
        for path in &index.opaque {
            remove_below(&mut files, path);
        }
        for path in index.whiteouts.iter().chain(&index.links) {
            remove_tree(&mut files, path);
        }
        for (path, facts) in &index.files {
            remove_tree(&mut files, path);
            // Where it has a folder now, a lower layer's file is gone.
            for (slash, _) in path.match_indices('/') {
                files.remove(&path[..slash]);
            }
            let since = replaced.get(path.as_str()).cloned().unwrap_or_default();
            files.insert(path.clone(), Shown { layer: layer.digest, facts, since });
        }
    }
    contents(&files)
}

/// For each database of a package manager that the layer writes anew: which layer brought what was in it before.
fn previous<'a>(
    files: &BTreeMap<String, Shown<'a>>,
    index: &'a LayerIndex,
) -> BTreeMap<&'a str, BTreeMap<ManagedKey<'a>, Digest>> {
    let mut previous = BTreeMap::new();
    for path in
        index.files.iter().filter(|(_, facts)| managed(facts).is_some()).map(|(path, _)| path)
    {
        let Some(shown) = files.get(path) else { continue };
        let Some(packages) = managed(shown.facts) else { continue };
        let since = packages
            .into_iter()
            .map(|key| (key, shown.since.get(&key).copied().unwrap_or(shown.layer)));
        previous.insert(path.as_str(), since.collect());
    }
    previous
}

fn contents(files: &BTreeMap<String, Shown<'_>>) -> Contents {
    let mut packages = Vec::new();
    let mut installed: BTreeSet<&str> = BTreeSet::new();
    let mut owned: BTreeSet<&str> = BTreeSet::new();
    for (path, shown) in files {
        let package = |ecosystem, key: ManagedKey<'_>, source| Package {
            ecosystem,
            name: key.0.to_owned(),
            version: key.1.to_owned(),
            source: Some(source),
            architecture: Some(key.2.to_owned()).filter(|architecture| !architecture.is_empty()),
            path: path.clone(),
            layer: shown.since.get(&key).copied().unwrap_or(shown.layer),
        };
        match shown.facts {
            Facts::Dpkg(found) => {
                for p in found {
                    installed.insert(&p.name);
                    let key = (&*p.name, &*p.version, &*p.architecture);
                    packages.push(package(Ecosystem::Deb, key, p.source.clone()));
                }
            }
            Facts::Apk(found) => {
                for p in found {
                    owned.extend(p.python.iter().map(String::as_str));
                    let source = Source { name: p.origin.clone(), version: p.version.clone() };
                    let key = (&*p.name, &*p.version, &*p.architecture);
                    packages.push(package(Ecosystem::Apk, key, source));
                }
            }
            _ => {}
        }
    }
    // A file list alone says nothing: it counts when dpkg has its package installed.
    for shown in files.values() {
        if let Facts::DpkgFiles { package, paths } = shown.facts
            && installed.contains(package.as_str())
        {
            owned.extend(paths.iter().map(String::as_str));
        }
    }
    for (path, shown) in files {
        if let Facts::Python { name, version } = shown.facts
            && !owned.contains(path.as_str())
        {
            packages.push(Package {
                ecosystem: Ecosystem::Pypi,
                name: name.clone(),
                version: version.clone(),
                source: None,
                architecture: None,
                path: path.clone(),
                layer: shown.layer,
            });
        }
    }
    packages.sort();
    packages.dedup();
    let os = ["etc/os-release", "usr/lib/os-release"].iter().find_map(|path| {
        match files.get(*path)?.facts {
            Facts::OsRelease(os) => Some(os.clone()),
            _ => None,
        }
    });
    Contents { os, packages }
}

#[cfg(test)]
mod tests;
