//! What a hostile container may send, and what becomes of it.

use std::{
    fs,
    io::{self, Cursor},
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

use ::tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

/// Kind, name, link's target, mode, content.
type Member<'a> = (EntryType, &'a str, &'a str, u32, &'a str);

/// The names are written as they are: the crate would refuse some.
fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, target, mode, content) in members {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Unpacks into `here` of a directory that has `outside`, too.
fn unpacked(members: &[Member<'_>]) -> (TempDir, Result<(), CopyError>) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("here")).unwrap();
    fs::create_dir(directory.path().join("outside")).unwrap();
    fs::write(directory.path().join("outside/file"), "safe").unwrap();
    let destination = Destination::find(&directory.path().join("here")).unwrap();
    let outcome = destination.unpack(Cursor::new(archive(members)), false, false);
    (directory, outcome)
}

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;
const DIRECTORY: EntryType = EntryType::Directory;

fn is_untouched(directory: &TempDir) -> bool {
    let outside = directory.path().join("outside");
    fs::read_dir(&outside).unwrap().count() == 1
        && fs::read_to_string(outside.join("file")).unwrap() == "safe"
        && fs::read_dir(directory.path()).unwrap().count() == 2
}

#[test]
fn no_name_and_no_link_leads_out_of_the_destination() {
    let outside = "../outside";
    for members in [
        vec![(FILE, "../file", "", 0o644, "x")],
        vec![(FILE, "a/../../outside/file", "", 0o644, "x")],
        vec![(LINK, "way", outside, 0o777, ""), (FILE, "way/file", "", 0o644, "x")],
        vec![(LINK, "way", outside, 0o777, ""), (DIRECTORY, "way", "", 0o755, "")],
        vec![(LINK, "way", outside, 0o777, ""), (DIRECTORY, "way/new", "", 0o755, "")],
        vec![(LINK, "way", outside, 0o777, ""), (EntryType::Link, "file", "way/file", 0o644, "")],
        vec![(EntryType::Link, "file", "../outside/file", 0o644, "")],
        vec![
            (DIRECTORY, "deep", "", 0o755, ""),
            (LINK, "deep/way", "../../outside", 0o777, ""),
            (LINK, "deep/way/file", "x", 0o777, ""),
        ],
    ] {
        let (directory, outcome) = unpacked(&members);
        assert!(outcome.is_err() && is_untouched(&directory), "{members:?}: {outcome:?}");
    }
}

#[test]
fn a_name_with_a_slash_before_it_lies_below_the_destination() {
    let (directory, outcome) = unpacked(&[(FILE, "/file", "", 0o644, "x")]);
    outcome.unwrap();
    assert!(is_untouched(&directory) && directory.path().join("here/file").exists());
}

#[test]
fn a_link_gives_way_and_what_it_leads_to_stays() {
    let members = [(LINK, "file", "../outside/file", 0o777, ""), (FILE, "file", "", 0o644, "x")];
    let (directory, outcome) = unpacked(&members);
    outcome.unwrap();
    assert!(is_untouched(&directory));
    assert_eq!(fs::read_to_string(directory.path().join("here/file")).unwrap(), "x");
}

#[test]
fn no_rights_and_no_devices_come_with_it() {
    let members = [
        (FILE, "program", "", 0o6755, "x"),
        (DIRECTORY, "directory", "", 0o7777, ""),
        (EntryType::Char, "null", "", 0o666, ""),
        (EntryType::Block, "disk", "", 0o666, ""),
    ];
    let (directory, outcome) = unpacked(&members);
    outcome.unwrap();
    let mode = |name: &str| directory.path().join("here").join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("program"), mode("directory")), (0o755, 0o777));
    assert!(!directory.path().join("here/null").exists() && !directory.path().join("here/disk").exists());
}

#[test]
fn half_an_archive_is_told() {
    let whole = archive(&[(FILE, "file", "", 0o644, &"x".repeat(2000))]);
    for length in [0, 100, 600, 1500] {
        let directory = tempfile::tempdir().unwrap();
        let destination = Destination::find(directory.path()).unwrap();
        let outcome = destination.unpack(whole.get(..length).unwrap(), false, false);
        assert!(outcome.is_err(), "{length} bytes");
    }
}

#[test]
fn a_size_beyond_all_disks_is_refused_at_once() {
    let mut header = Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_entry_type(FILE);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(u64::MAX / 4);
    header.set_cksum();
    let endless = io::Read::chain(header.as_bytes().as_slice(), io::repeat(0));
    let directory = tempfile::tempdir().unwrap();
    let destination = Destination::find(directory.path()).unwrap();
    assert!(destination.unpack(io::BufReader::new(endless), false, false).is_err());
}

#[test]
fn what_was_packed_is_unpacked_as_docker_names_it() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir_all(source.path().join("top/sub")).unwrap();
    fs::write(source.path().join("top/sub/file"), "x").unwrap();
    fs::hard_link(source.path().join("top/sub/file"), source.path().join("top/twin")).unwrap();
    symlink("sub", source.path().join("top/link")).unwrap();
    for (name, to, expected) in [
        ("top", "", "top/sub/file"),
        ("top", "new", "new/sub/file"),
        (".", "", "sub/file"),
        (".", "new", "new/sub/file"),
    ] {
        let mut packed = Vec::new();
        Packer::new(&mut packed, false).pack(&source.path().join("top"), Path::new(name), false).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let destination = Destination::find(&directory.path().join(to)).unwrap();
        destination.unpack(Cursor::new(packed), name == ".", false).unwrap();
        let file = directory.path().join(expected);
        assert_eq!(fs::read_to_string(&file).unwrap(), "x", "{name} to {to:?}");
        let top = file.parent().unwrap().parent().unwrap();
        assert_eq!(top.join("twin").metadata().unwrap().ino(), file.metadata().unwrap().ino());
        assert_eq!(fs::read_link(top.join("link")).unwrap(), Path::new("sub"));
    }
}

#[test]
fn holes_stay_holes_on_both_ways() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"end", (64 << 20) - 3).unwrap();
    let mut packed = Vec::new();
    Packer::new(&mut packed, true).pack(&path, Path::new("sparse"), false).unwrap();
    assert!(packed.len() < 1 << 20, "{}", packed.len());
    let copy = source.path().join("copy");
    Destination::find(&copy).unwrap().unpack(Cursor::new(packed), false, false).unwrap();
    let metadata = copy.metadata().unwrap();
    assert!(metadata.len() == 64 << 20 && metadata.blocks() < 1000, "{metadata:?}");
    assert!(fs::read(&copy).unwrap().ends_with(b"\0end"));
}
