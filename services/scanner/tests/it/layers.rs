//! What is read of a layer, and what is refused.

use std::io::{self, Read};

use mecapy_registry::Digest;
use mecapy_scanner::Error;
use mecapy_scanner::image::{self, Layer};
use mecapy_scanner::layer::{Facts, LayerIndex, Limits, index};

use crate::tarball::{Tarball, dist_info, gzip};

fn read(bytes: &[u8]) -> Result<LayerIndex, Error> {
    index(&mut &bytes[..], &Limits::default())
}

fn packages(layers: Vec<LayerIndex>) -> Vec<String> {
    let layer = |index| Layer { digest: Digest::of(b"layer"), index: std::sync::Arc::new(index) };
    let layers: Vec<Layer> = layers.into_iter().map(layer).collect();
    image::merge(&layers)
        .packages
        .into_iter()
        .map(|package| format!("{} {}", package.name, package.version))
        .collect()
}

#[test]
fn a_layer_is_read_the_same_however_it_is_compressed() {
    let tarball = || Tarball::new().folder("opt/").python("numpy", "1.24.0").symlink("opt/x", "/y");
    let plain = read(&tarball().tar()).unwrap();
    assert_eq!(packages(vec![plain.clone()]), ["numpy 1.24.0"]);
    assert_eq!(read(&tarball().gzip()).unwrap(), plain);
    assert_eq!(read(&tarball().zstd()).unwrap(), plain);
    // As some builders write it: several gzip members, or zstd frames after one that may be skipped.
    let tar = tarball().tar();
    assert_eq!(read(&[gzip(&tar[..700]), gzip(&tar[700..])].concat()).unwrap(), plain);
    let skippable =
        [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4], tarball().zstd().as_slice()].concat();
    assert_eq!(read(&skippable).unwrap(), plain);
}

#[test]
fn an_alpine_layer_gives_its_packages_wherever_the_release_keeps_its_database() {
    let installed = "C:Q1x=\nP:libcrypto3\nV:3.1.4-r5\nA:x86_64\no:openssl\n\nP:py3-six\nV:1.16.0-r9\nF:usr/lib/python3.12/site-packages/six-1.16.0.dist-info\nR:METADATA\n";
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        let layer = Tarball::new()
            .file("etc/os-release", "ID=alpine\nVERSION_ID=3.20.3\n")
            .file(path, installed)
            .file(
                "usr/lib/python3.12/site-packages/six-1.16.0.dist-info/METADATA",
                "Name: six\nVersion: 1.16.0\n",
            )
            .python("numpy", "1.24.0");
        let index = read(&layer.gzip()).unwrap();
        let stored = serde_json::to_value(&index).unwrap();
        assert_eq!(serde_json::from_value::<LayerIndex>(stored).unwrap(), index);
        assert_eq!(
            packages(vec![index]),
            ["libcrypto3 3.1.4-r5", "py3-six 1.16.0-r9", "numpy 1.24.0"]
        );
        let hidden = Tarball::new().symlink(path, "/elsewhere").tar();
        assert!(matches!(read(&hidden), Err(Error::Unreadable { .. })));
    }
}

#[test]
fn a_debian_layer_gives_its_packages_and_its_release() {
    let layer = Tarball::new()
        .file("etc/os-release", "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n")
        .file(
            "var/lib/dpkg/status",
            "Package: python3-six\nStatus: install ok installed\nArchitecture: all\nVersion: 1.17.0-1\nSource: six\n",
        )
        .file("var/lib/dpkg/info/python3-six.list", "/usr/lib/python3/dist-packages/six-1.17.0.dist-info/METADATA\n")
        .file("usr/lib/python3/dist-packages/six-1.17.0.dist-info/METADATA", "Name: six\nVersion: 1.17.0\n")
        .python("six", "1.16.0");
    let index = read(&layer.gzip()).unwrap();
    assert!(
        matches!(&index.files["etc/os-release"], Facts::OsRelease(os) if os.version_id == "13")
    );
    // The six that dpkg owns is matched as Debian's; the other is PyPI's.
    assert_eq!(packages(vec![index]), ["python3-six 1.17.0-1", "six 1.16.0"]);
}

#[test]
fn a_distroless_layer_has_its_packages_in_status_d() {
    let layer = Tarball::new()
        .file(
            "var/lib/dpkg/status.d/base",
            "Package: base-files\nVersion: 13\nArchitecture: amd64\n",
        )
        .file(
            "var/lib/dpkg/status.d/base.md5sums",
            "d41d8cd98f00b204e9800998ecf8427e  etc/debian_version\n",
        )
        .file(
            "var/lib/dpkg/status.d/libc6",
            "Package: libc6\nVersion: 2.41-12\nSource: glibc (2.41-12)\n",
        );
    assert_eq!(packages(vec![read(&layer.tar()).unwrap()]), ["base-files 13", "libc6 2.41-12"]);
}

#[test]
fn whiteouts_hide_packages_of_lower_layers() {
    let base =
        read(&Tarball::new().python("numpy", "1.24.0").python("six", "1.16.0").tar()).unwrap();
    let folder = "opt/venv/lib/python3.11/site-packages";
    let gone =
        read(&Tarball::new().file(&format!("{folder}/.wh.numpy-1.24.0.dist-info"), "").tar())
            .unwrap();
    assert_eq!(packages(vec![base.clone(), gone]), ["six 1.16.0"]);

    let opaque =
        Tarball::new().file(&format!("{folder}/.wh..wh..opq"), "").python("numpy", "2.0.0");
    assert_eq!(packages(vec![base.clone(), read(&opaque.tar()).unwrap()]), ["numpy 2.0.0"]);

    // The opaque mark hides lower layers wherever in its own layer it stands.
    let late = Tarball::new().python("numpy", "2.0.0").file(&format!("{folder}/.wh..wh..opq"), "");
    assert_eq!(packages(vec![base.clone(), read(&late.tar()).unwrap()]), ["numpy 2.0.0"]);

    let bookkeeping = Tarball::new().file(".wh..wh.plnk/1.2", "").file(".wh..wh.aufs", "");
    assert_eq!(
        packages(vec![base, read(&bookkeeping.tar()).unwrap()]),
        ["numpy 1.24.0", "six 1.16.0"]
    );
}

#[test]
fn a_whiteout_of_nothing_or_of_its_own_folder_is_refused() {
    for path in ["a/.wh.", "a/.wh..", "a/.wh..."] {
        let layer = Tarball::new().file(path, "").tar();
        assert!(matches!(read(&layer), Err(Error::UnsafePath { .. })), "{path}");
    }
}

#[test]
fn a_hard_link_to_metadata_is_the_package_under_its_other_name() {
    let cache = "root/.cache/uv/archive-v0/x/numpy-1.24.0.dist-info/METADATA";
    let layer = Tarball::new()
        .file(cache, "Name: numpy\nVersion: 1.24.0\n")
        .hard_link(&dist_info("numpy", "1.24.0"), cache);
    let index = read(&layer.tar()).unwrap();
    assert_eq!(index.files[&dist_info("numpy", "1.24.0")], index.files[cache]);
    // The cache may go with the next layer: the package stays.
    let clean = read(&Tarball::new().file("root/.wh..cache", "").tar()).unwrap();
    assert_eq!(packages(vec![index, clean]), ["numpy 1.24.0"]);
}

#[test]
fn metadata_behind_a_link_is_known_by_its_path() {
    let hidden = Tarball::new()
        .file("x", "Name: numpy\nVersion: 1.24.0\n")
        .hard_link(&dist_info("numpy", "1.24.0"), "x")
        .symlink(&dist_info("six", "1.16.0"), "/x");
    assert_eq!(packages(vec![read(&hidden.tar()).unwrap()]), ["numpy 1.24.0", "six 1.16.0"]);
}

#[test]
fn a_package_database_behind_a_link_is_refused() {
    let symlink = Tarball::new().symlink("var/lib/dpkg/status", "/elsewhere").tar();
    let hard_link = Tarball::new().hard_link("var/lib/dpkg/status", "x").tar();
    for layer in [symlink, hard_link] {
        assert!(matches!(read(&layer), Err(Error::Unreadable { .. })));
    }
}

#[test]
fn of_two_entries_with_one_path_the_later_counts() {
    let path = dist_info("numpy", "1.24.0");
    let twice =
        Tarball::new().python("numpy", "1.24.0").file(&path, "Name: numpy\nVersion: 1.24.1\n");
    assert_eq!(packages(vec![read(&twice.tar()).unwrap()]), ["numpy 1.24.1"]);
    let replaced = Tarball::new().python("numpy", "1.24.0").symlink("opt/venv", "/elsewhere");
    assert_eq!(packages(vec![read(&replaced.tar()).unwrap()]), [] as [&str; 0]);
}

#[test]
fn paths_cannot_hide_a_package_and_cannot_leave_the_image() {
    for path in
        ["./opt//x/six-1.16.0.dist-info/METADATA", "/opt/x/y/../six-1.16.0.dist-info/METADATA"]
    {
        let index = read(&Tarball::new().file(path, "Name: six\nVersion: 1.16.0\n").tar()).unwrap();
        assert_eq!(index.files.keys().collect::<Vec<_>>(), ["opt/x/six-1.16.0.dist-info/METADATA"]);
    }
    let long = format!("{}six-1.16.0.dist-info/METADATA", "deep/".repeat(200));
    assert_eq!(
        packages(vec![read(&Tarball::new().file(&long, "").tar()).unwrap()]),
        ["six 1.16.0"]
    );
    let escape = Tarball::new().file("a/../../etc/os-release", "ID=x\n").tar();
    assert!(matches!(read(&escape), Err(Error::UnsafePath { .. })));
}

/// As many zeros as are asked for, compressed on the way.
fn bomb(compress: impl Fn(Box<dyn Read>) -> Vec<u8>, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(size.min(1 << 30));
    header.set_cksum();
    let start = header.as_bytes().to_vec();
    // Many files of 1 GiB: no header says how much it is in all.
    let mut reader: Box<dyn Read> = Box::new(io::empty());
    let mut left = size;
    while left > 0 {
        let piece = left.min(1 << 30);
        reader =
            Box::new(reader.chain(io::Cursor::new(start.clone())).chain(io::repeat(0).take(piece)));
        left -= piece;
    }
    compress(reader)
}

#[test]
fn decompression_bombs_are_refused_at_the_limit() {
    let limits = Limits { layer_bytes: 64 << 20, ..Limits::default() };
    let gzip = bomb(
        |mut reader| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            io::copy(&mut reader, &mut encoder).unwrap();
            encoder.finish().unwrap()
        },
        128 << 20,
    );
    let zstd = bomb(|reader| zstd::encode_all(reader, 1).unwrap(), 128 << 20);
    assert!(gzip.len() < 1 << 20 && zstd.len() < 1 << 20);
    for layer in [gzip, zstd] {
        let error = index(&mut layer.as_slice(), &limits).unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { limit_bytes } if limit_bytes == 64 << 20),
            "{error}"
        );
    }
}

#[test]
fn a_file_of_5_gb_is_refused_by_its_header() {
    let mut header = tar::Header::new_gnu();
    header.set_path("big").unwrap();
    header.set_size(5_000_000_000);
    header.set_cksum();
    let error = read(&gzip(header.as_bytes())).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn endless_entries_are_refused() {
    let limits = Limits { layer_entries: 1000, ..Limits::default() };
    let mut header = tar::Header::new_gnu();
    header.set_path("x").unwrap();
    header.set_size(0);
    header.set_cksum();
    let layer = gzip(&header.as_bytes().repeat(2000));
    let error = index(&mut layer.as_slice(), &limits).unwrap_err();
    assert!(matches!(error, Error::TooManyEntries { limit: 1000 }), "{error}");
}

#[test]
fn more_to_keep_than_there_is_room_for_is_refused() {
    let limits = Limits { index_bytes: 10_000, ..Limits::default() };
    let whiteouts =
        (0..200).fold(Tarball::new(), |tar, at| tar.file(&format!(".wh.x{at}"), "")).tar();
    let links = (0..200).fold(Tarball::new(), |tar, at| tar.symlink(&format!("l{at}"), "x")).tar();
    let packages =
        (0..200).fold(Tarball::new(), |tar, at| tar.python(&format!("p{at}"), "1")).tar();
    for layer in [whiteouts, links, packages] {
        let error = index(&mut layer.as_slice(), &limits).unwrap_err();
        assert!(matches!(error, Error::IndexTooLarge { .. }), "{error}");
    }
}

#[test]
fn a_package_database_over_its_limit_is_refused_and_long_metadata_is_not() {
    let limits = Limits { file_bytes: 100_000, ..Limits::default() };
    let long = "x".repeat(200_000);
    let status = Tarball::new().file("var/lib/dpkg/status", &long).tar();
    let error = index(&mut status.as_slice(), &limits).unwrap_err();
    assert!(matches!(error, Error::FileTooLarge { .. }), "{error}");
    let metadata = Tarball::new()
        .file(&dist_info("six", "1.16.0"), format!("Name: six\nVersion: 1.16.0\n\n{long}"));
    assert_eq!(
        packages(vec![index(&mut metadata.tar().as_slice(), &limits).unwrap()]),
        ["six 1.16.0"]
    );
}

#[test]
fn a_layer_that_is_cut_or_is_no_archive_is_an_error() {
    let whole = Tarball::new().python("numpy", "1.24.0").file("x", vec![7; 100_000]);
    let tar = whole.tar();
    for layer in [gzip(&tar), zstd::encode_all(tar.as_slice(), 3).unwrap()] {
        for end in [3, layer.len() / 3, layer.len() / 2] {
            assert!(read(&layer[..end]).is_err(), "cut at {end}");
        }
    }
    assert!(read(b"this is no archive at all").is_err());
    assert!(read(&vec![7; 4096]).is_err());
    assert_eq!(read(b"").unwrap(), LayerIndex::default());
}

#[test]
fn an_index_survives_being_stored() {
    let layer = Tarball::new()
        .file("etc/os-release", "ID=debian\n")
        .file("var/lib/dpkg/status", "Package: bash\nVersion: 5.2\nArchitecture: amd64\n")
        .file("var/lib/dpkg/info/x.list", "/usr/x-1.egg-info\n")
        .file("a/.wh.b", "")
        .file("c/.wh..wh..opq", "")
        .symlink("d", "e")
        .python("numpy", "1.24.0");
    let index = read(&layer.tar()).unwrap();
    let stored = serde_json::to_value(&index).unwrap();
    assert_eq!(serde_json::from_value::<LayerIndex>(stored).unwrap(), index);
}

#[test]
fn the_source_is_read_to_its_last_byte() {
    // Whoever checks the digest on the way must have seen what comes after the archive's end too.
    let mut layer = Tarball::new().python("numpy", "1.24.0").tar();
    layer.extend(vec![9; 300_000]);
    let mut source = layer.as_slice();
    index(&mut source, &Limits::default()).unwrap();
    assert!(source.is_empty());
}
