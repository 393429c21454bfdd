use proptest::prelude::*;

use super::*;

fn limits() -> Limits {
    Limits::default()
}

/// A header block with the given type, name and size, and the right checksum.
fn header(kind: u8, name: &[u8], size: u64) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name);
    bytes[TYPE_OFFSET] = kind;
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut padded = data.to_vec();
    padded.resize(data.len().next_multiple_of(BLOCK), 0);
    padded
}

fn entry(kind: u8, name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut entry = header(kind, name, data.len() as u64);
    entry.extend(padded(data));
    entry
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length.to_string().len() + rest.len() != length {
            length = length.to_string().len() + rest.len();
        }
        data.extend(format!("{length}{rest}").bytes());
    }
    entry(b'x', b"PaxHeaders/x", &data)
}

fn read(tar: &[u8]) -> Result<Vec<(String, Kind)>, Error> {
    let limits = limits();
    let mut archive = Archive::new(tar, &limits);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next()? {
        entries.push((entry.path, entry.kind));
    }
    Ok(entries)
}

fn paths(tar: &[u8]) -> Vec<String> {
    read(tar).unwrap().into_iter().map(|(path, _)| path).collect()
}

#[test]
fn paths_are_seen_from_the_root_however_they_are_written() {
    for raw in ["a/b", "./a/b", "/a/b", "a//b/", "./a/./b", "x/../a/b", "a/x/y/../../b"] {
        assert_eq!(normalise(raw.as_bytes()).unwrap(), "a/b", "{raw}");
    }
    assert_eq!(normalise(b"./").unwrap(), "");
}

#[test]
fn paths_that_climb_out_or_hold_a_zero_byte_are_refused() {
    for raw in ["..", "../etc/passwd", "a/../../b", "/..", "a\0b"] {
        assert!(matches!(normalise(raw.as_bytes()), Err(Error::UnsafePath { .. })), "{raw}");
    }
}

#[test]
fn long_names_of_gnu_and_pax_name_the_entry_after_them() {
    let long = "d/".repeat(120) + "end";
    let gnu = [
        entry(b'L', b"././@LongLink", format!("{long}\0").as_bytes()),
        entry(b'0', b"short", b"data"),
    ]
    .concat();
    assert_eq!(paths(&gnu), [long.as_str()]);
    let pax = [
        pax(&[("mtime", "1"), ("path", &long)]),
        entry(b'0', b"short", b"data"),
        entry(b'0', b"next", b""),
    ]
    .concat();
    assert_eq!(paths(&pax), [long.as_str(), "next"]);
}

#[test]
fn a_pax_value_can_hold_line_ends_without_hiding_the_next_record() {
    let tar =
        [pax(&[("comment", "x\n20 path=decoy\n"), ("path", "real")]), entry(b'0', b"short", b"")]
            .concat();
    assert_eq!(paths(&tar), ["real"]);
}

#[test]
fn a_pax_size_is_the_size_of_the_data() {
    let mut tar = pax(&[("size", "5")]);
    tar.extend(header(b'0', b"a", 0));
    tar.extend(padded(b"hello"));
    tar.extend(entry(b'0', b"b", b""));
    assert_eq!(paths(&tar), ["a", "b"]);
}

#[test]
fn links_and_folders_have_no_data_whatever_size_they_claim() {
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let tar = [header(kind, b"a", 4096), entry(b'0', b"b", b"")].concat();
        assert_eq!(paths(&tar), ["a", "b"], "{}", char::from(kind));
    }
}

#[test]
fn kinds_are_told_apart() {
    let tar: Vec<u8> = [b"0a", b"5b", b"2c", b"1d", b"6e", b"7f"]
        .iter()
        .flat_map(|at| entry(at[0], &at[1..], b""))
        .collect();
    let kinds: Vec<Kind> = read(&tar).unwrap().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(
        kinds,
        [Kind::File, Kind::Directory, Kind::Symlink, Kind::HardLink, Kind::Other, Kind::File]
    );
    assert_eq!(read(&entry(0, b"old/", b"")).unwrap(), [("old".to_owned(), Kind::Directory)]);
}

#[test]
fn sparse_files_do_not_lead_astray() {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[0] = b's';
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(512);
    header.as_gnu_mut().unwrap().set_is_extended(true);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend(tar::GnuExtSparseHeader::new().as_bytes());
    tar.extend([1; 512]);
    tar.extend(entry(b'0', b"next", b""));
    assert_eq!(
        read(&tar).unwrap(),
        [("s".to_owned(), Kind::Other), ("next".to_owned(), Kind::File)]
    );

    let pax = [
        pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.name", "real")]),
        entry(b'0', b"decoy", b"x"),
    ]
    .concat();
    assert_eq!(read(&pax).unwrap(), [("real".to_owned(), Kind::Other)]);
}

#[test]
fn the_end_is_zeros_or_the_end_of_the_stream_and_nothing_else() {
    let file = entry(b'0', b"a", b"data");
    assert_eq!(paths(&[]), [] as [&str; 0]);
    assert_eq!(paths(&file), ["a"]);
    assert_eq!(paths(&[file.clone(), vec![0; 1024]].concat()), ["a"]);
    assert_eq!(paths(&[file.clone(), vec![0; 512]].concat()), ["a"]);
    let hidden = [file.clone(), vec![0; 512], file.clone()].concat();
    assert!(matches!(read(&hidden), Err(Error::Archive { .. })));
    let beyond = [file.clone(), vec![0; 1024], file.clone()].concat();
    assert_eq!(paths(&beyond), ["a"], "engines stop here too");
}

#[test]
fn an_archive_that_is_cut_anywhere_is_an_error() {
    let tar = [entry(b'0', b"a", &[7; 700]), entry(b'0', b"b", &[7; 10])].concat();
    for end in (1..tar.len()).filter(|end| *end != 512 + 1024) {
        assert!(read(&tar[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_wrong_checksum_is_an_error() {
    let mut tar = entry(b'0', b"a", b"");
    tar[0] = b'b';
    assert!(matches!(read(&tar), Err(Error::Archive { problem: "a checksum is wrong" })));
}

#[test]
fn limits_hold_before_the_data_is_read() {
    let limits = Limits { layer_entries: 3, layer_bytes: 1 << 20, ..limits() };
    let error = |tar: &[u8]| {
        let mut archive = Archive::new(tar, &limits);
        loop {
            match archive.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("no error"),
                Err(error) => return error,
            }
        }
    };
    assert!(matches!(error(&entry(b'0', b"a", b"").repeat(4)), Error::TooManyEntries { limit: 3 }));
    assert!(matches!(error(&header(b'0', b"a", 5 << 30)), Error::TooLarge { .. }));
    assert!(matches!(
        error(&header(b'0', b"a", u64::MAX / 2)),
        Error::TooLarge { .. } | Error::Archive { .. }
    ));
    let claimed = [pax(&[("size", "18446744073709551615")]), entry(b'0', b"a", b"")].concat();
    assert!(matches!(error(&claimed), Error::TooLarge { .. }));
    assert!(matches!(
        error(&header(b'x', b"a", 2 << 20)),
        Error::TooLarge { .. } | Error::Archive { .. }
    ));
}

#[test]
fn only_the_start_of_a_file_is_held_when_only_that_is_asked_for() {
    let tar = [entry(b'0', b"a", &[7; 2000]), entry(b'0', b"b", b"")].concat();
    let limits = limits();
    let mut archive = Archive::new(tar.as_slice(), &limits);
    archive.next().unwrap();
    assert_eq!(archive.read_start(10).unwrap(), [7; 10]);
    assert_eq!(archive.next().unwrap().unwrap().path, "b");
}

#[test]
fn a_file_over_its_limit_is_an_error_that_names_it() {
    let limits = Limits { file_bytes: 100, ..limits() };
    let tar = entry(b'0', b"a", &[7; 200]);
    let mut archive = Archive::new(tar.as_slice(), &limits);
    archive.next().unwrap();
    assert!(matches!(archive.read("a"), Err(Error::FileTooLarge { limit_bytes: 100, .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read(&bytes);
    }

    #[test]
    fn a_changed_byte_is_no_panic_and_no_endless_loop(at in 0..4096usize, to in any::<u8>()) {
        let mut tar = [pax(&[("path", "long/name")]), entry(b'0', b"a", &[1; 600]), entry(b'L', b"l", b"name\0")].concat();
        let at = at % tar.len();
        tar[at] = to;
        let _ = read(&tar);
    }

    #[test]
    fn what_another_writer_writes_is_read_as_it_was_meant(
        files in prop::collection::vec(("[a-z]{1,8}(/[a-z]{1,60}){0,4}", prop::collection::vec(any::<u8>(), 0..1500)), 0..6)
    ) {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, data) in &files {
            let mut header = Header::new_gnu();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, path, data.as_slice()).unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let limits = limits();
        let mut archive = Archive::new(tar.as_slice(), &limits);
        for (path, data) in &files {
            let entry = archive.next().unwrap().unwrap();
            prop_assert_eq!(&entry.path, path);
            prop_assert_eq!(&archive.read(path).unwrap(), data);
        }
        prop_assert!(archive.next().unwrap().is_none());
    }
}
