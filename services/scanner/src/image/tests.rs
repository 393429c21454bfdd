use proptest::prelude::*;

use super::*;
use crate::layer::{ApkPackage, DpkgPackage};
use crate::package::Source;

fn layer(number: u8, index: LayerIndex) -> Layer {
    Layer { digest: Digest::of(&[number]), index: Arc::new(index) }
}

fn python(path: &str, name: &str, version: &str) -> LayerIndex {
    let facts = Facts::Python { name: name.to_owned(), version: version.to_owned() };
    LayerIndex { files: BTreeMap::from([(path.to_owned(), facts)]), ..LayerIndex::default() }
}

fn hiding(set: impl FnOnce(&mut LayerIndex)) -> LayerIndex {
    let mut index = LayerIndex::default();
    set(&mut index);
    index
}

fn dpkg(packages: &[(&str, &str)]) -> Facts {
    let package = |(name, version): &(&str, &str)| DpkgPackage {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        architecture: "amd64".to_owned(),
        source: Source { name: (*name).to_owned(), version: (*version).to_owned() },
    };
    Facts::Dpkg(packages.iter().map(package).collect())
}

fn names(layers: &[Layer]) -> Vec<(String, String)> {
    merge(layers).packages.into_iter().map(|package| (package.name, package.version)).collect()
}

const NUMPY: &str = "opt/venv/lib/python3.11/site-packages/numpy-1.24.0.dist-info/METADATA";

#[test]
fn a_package_is_reported_with_the_layer_that_brought_it() {
    let contents =
        merge(&[layer(1, LayerIndex::default()), layer(2, python(NUMPY, "numpy", "1.24.0"))]);
    assert_eq!(contents.packages.len(), 1);
    assert_eq!(contents.packages[0].layer, Digest::of(&[2]));
    assert_eq!(contents.packages[0].path, NUMPY);
}

#[test]
fn whiteouts_of_a_file_or_of_any_folder_above_it_hide_it() {
    let base = layer(1, python(NUMPY, "numpy", "1.24.0"));
    for hidden in [NUMPY, "opt/venv/lib/python3.11/site-packages/numpy-1.24.0.dist-info", "opt"] {
        let upper = hiding(|index| index.whiteouts.extend([hidden.to_owned()]));
        assert_eq!(names(&[base.clone(), layer(2, upper)]), [], "{hidden}");
    }
    for other in
        ["op", "opt/venv/lib/python3.1", "optional", "opt/venv/lib/python3.11/site-packages/numpy"]
    {
        let upper = hiding(|index| index.whiteouts.extend([other.to_owned()]));
        assert_eq!(names(&[base.clone(), layer(2, upper)]).len(), 1, "{other}");
    }
}

#[test]
fn an_opaque_folder_hides_what_is_below_it_in_lower_layers_only() {
    let base = layer(1, python(NUMPY, "numpy", "1.24.0"));
    let mut upper = python("opt/venv/six-1.16.0.dist-info/METADATA", "six", "1.16.0");
    upper.opaque.insert("opt/venv".to_owned());
    assert_eq!(names(&[base.clone(), layer(2, upper)]), [("six".to_owned(), "1.16.0".to_owned())]);

    let root = hiding(|index| index.opaque.extend([String::new()]));
    assert_eq!(names(&[base, layer(2, root)]), []);
}

#[test]
fn a_whiteout_does_not_hide_what_its_own_layer_brings() {
    let base = layer(1, python(NUMPY, "numpy", "1.24.0"));
    let mut upper = python(NUMPY, "numpy", "1.24.1");
    upper.whiteouts.insert("opt/venv".to_owned());
    assert_eq!(names(&[base, layer(2, upper)]), [("numpy".to_owned(), "1.24.1".to_owned())]);
}

#[test]
fn what_a_layer_hid_can_come_back_above_it() {
    let gone = hiding(|index| index.whiteouts.extend(["opt".to_owned()]));
    let layers = [
        layer(1, python(NUMPY, "numpy", "1.24.0")),
        layer(2, gone),
        layer(3, python(NUMPY, "numpy", "1.24.0")),
    ];
    assert_eq!(merge(&layers).packages[0].layer, Digest::of(&[3]));
}

#[test]
fn a_symlink_in_the_place_of_a_folder_hides_the_folder() {
    let link = hiding(|index| index.links.extend(["opt/venv".to_owned()]));
    assert_eq!(names(&[layer(1, python(NUMPY, "numpy", "1.24.0")), layer(2, link)]), []);
}

#[test]
fn a_new_dpkg_status_replaces_the_old_and_old_packages_keep_their_layer() {
    let status = "var/lib/dpkg/status".to_owned();
    let index = |packages| LayerIndex {
        files: BTreeMap::from([(status.clone(), dpkg(packages))]),
        ..LayerIndex::default()
    };
    let layers = [
        layer(1, index(&[("bash", "5.2"), ("gone", "1")])),
        layer(2, index(&[("bash", "5.2"), ("curl", "8.14")])),
        layer(3, index(&[("bash", "5.3"), ("curl", "8.14")])),
    ];
    let packages = merge(&layers).packages;
    let found: Vec<_> =
        packages.iter().map(|package| (&*package.name, &*package.version, package.layer)).collect();
    assert_eq!(found, [("bash", "5.3", Digest::of(&[3])), ("curl", "8.14", Digest::of(&[2]))]);
}

#[test]
fn python_metadata_that_an_installed_dpkg_package_owns_is_left_out() {
    let path = "usr/lib/python3/dist-packages/six-1.16.0.egg-info";
    let mut index = python(path, "six", "1.16.0");
    let files =
        Facts::DpkgFiles { package: "python3-six".to_owned(), paths: vec![path.to_owned()] };
    index.files.insert("var/lib/dpkg/info/python3-six.list".to_owned(), files);
    assert_eq!(
        names(&[layer(1, index.clone())]).len(),
        1,
        "the package is not installed: its list says nothing"
    );

    index.files.insert("var/lib/dpkg/status".to_owned(), dpkg(&[("python3-six", "1.16.0-4")]));
    assert_eq!(names(&[layer(1, index)]), [("python3-six".to_owned(), "1.16.0-4".to_owned())]);
}

#[test]
fn the_os_is_read_from_etc_before_usr() {
    let os = |id: &str| {
        Facts::OsRelease(OsRelease {
            id: id.to_owned(),
            version_id: "1".into(),
            pretty_name: id.into(),
        })
    };
    let mut index = LayerIndex::default();
    index.files.insert("usr/lib/os-release".to_owned(), os("debian"));
    assert_eq!(merge(&[layer(1, index.clone())]).os.unwrap().id, "debian");
    index.files.insert("etc/os-release".to_owned(), os("mine"));
    assert_eq!(merge(&[layer(1, index)]).os.unwrap().id, "mine");
}

/// A layer over a tree of a few short paths.
fn small_index() -> impl Strategy<Value = LayerIndex> {
    let path = prop::collection::vec("[ab]", 1..4).prop_map(|parts| parts.join("/"));
    let paths = prop::collection::btree_set(path, 0..3);
    (paths.clone(), paths.clone(), paths, any::<u8>()).prop_map(
        |(files, whiteouts, opaque, version)| LayerIndex {
            files: files
                .into_iter()
                .map(|path| {
                    (path.clone(), Facts::Python { name: path, version: version.to_string() })
                })
                .collect(),
            whiteouts,
            opaque,
            links: BTreeSet::new(),
        },
    )
}

/// The same, one path at a time, from the top: the first layer that says something of the path decides.
fn shows(layers: &[LayerIndex], path: &str) -> Option<Facts> {
    let above = |path: &str| -> Vec<String> {
        path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
    };
    for layer in layers.iter().rev() {
        if let Some(facts) = layer.files.get(path) {
            return Some(facts.clone());
        }
        let parents = above(path);
        let gone = layer.whiteouts.contains(path)
            || parents.iter().any(|parent| {
                layer.whiteouts.contains(parent)
                    || layer.opaque.contains(parent)
                    || layer.files.contains_key(parent)
            });
        // A file can't stand where this layer has a folder.
        let replaced = layer.files.keys().any(|file| file.starts_with(&format!("{path}/")));
        if gone || replaced {
            return None;
        }
    }
    None
}

proptest! {
    #[test]
    fn merging_agrees_with_a_lookup_from_the_top(indexes in prop::collection::vec(small_index(), 0..5)) {
        // In one layer nothing lies below a file.
        let indexes: Vec<LayerIndex> = indexes.into_iter().map(|mut index| {
            let paths: Vec<String> = index.files.keys().cloned().collect();
            index.files.retain(|path, _| !paths.iter().any(|other| path.starts_with(&format!("{other}/"))));
            index
        }).collect();
        let layers: Vec<Layer> = indexes.iter().enumerate()
            .map(|(at, index)| layer(u8::try_from(at).unwrap(), index.clone())).collect();
        let merged: BTreeMap<String, String> =
            merge(&layers).packages.into_iter().map(|package| (package.path, package.version)).collect();
        let all: BTreeSet<&String> = indexes.iter().flat_map(|index| index.files.keys()).collect();
        for path in all {
            let expected = shows(&indexes, path).map(|facts| match facts {
                Facts::Python { version, .. } => version,
                _ => unreachable!(),
            });
            prop_assert_eq!(merged.get(path), expected.as_ref(), "{}", path);
        }
    }
}

#[test]
fn packages_of_alpine_have_the_layer_that_brought_them_and_own_their_python_files() {
    let database = "lib/apk/db/installed".to_owned();
    let metadata = "usr/lib/python3.12/site-packages/six-1.16.0.dist-info/METADATA".to_owned();
    let apk = |names: &[&str]| {
        Facts::Apk(
            names
                .iter()
                .map(|name| ApkPackage {
                    name: (*name).to_owned(),
                    version: "1-r0".to_owned(),
                    architecture: "x86_64".to_owned(),
                    origin: format!("{name}-src"),
                    python: if *name == "py3-six" { vec![metadata.clone()] } else { Vec::new() },
                })
                .collect(),
        )
    };
    let six = Facts::Python { name: "six".to_owned(), version: "1.16.0".to_owned() };
    let with = |number, files: Vec<(String, Facts)>| {
        layer(number, hiding(|index| index.files.extend(files)))
    };
    let base = with(1, vec![(database.clone(), apk(&["musl"]))]);
    let more = with(2, vec![(database, apk(&["musl", "py3-six"])), (metadata, six)]);
    let contents = merge(&[base, more]);
    let found: Vec<(&str, Digest, &str)> = contents
        .packages
        .iter()
        .map(|p| (&*p.name, p.layer, &*p.source.as_ref().unwrap().name))
        .collect();
    assert_eq!(
        found,
        [("musl", Digest::of(&[1]), "musl-src"), ("py3-six", Digest::of(&[2]), "py3-six-src")]
    );
    assert!(contents.packages.iter().all(|package| package.ecosystem == Ecosystem::Apk));
}
