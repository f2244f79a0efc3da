use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::tree::{Content, Origin};

/// An archive that GNU tar makes of everything in `directory`.
fn gnu_tar(directory: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--create", "--file=-", "--sort=name", "--numeric-owner", "--blocking-factor=1"])
        .args(options)
        .arg("--directory")
        .arg(directory)
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn read_within(archive: &[u8], bytes: u64, segments: u64) -> Result<Vec<(Member, Option<Content>)>, Error> {
    let mut budget = Budget::new("bytes in its layers", bytes);
    let mut reader = Reader::new(Stream(archive), &mut budget, segments);
    let mut members = Vec::new();
    while let Some(member) = reader.next()? {
        let content = match member.kind {
            Kind::Regular => Some(scan(&mut reader, &member, Origin(0))?),
            _ => None,
        };
        members.push((member, content));
    }
    reader.finish()?;
    Ok(members)
}

fn read(archive: &[u8]) -> Result<Vec<(Member, Option<Content>)>, Error> {
    read_within(archive, u64::MAX, 1_000_000)
}

fn header(path: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn bytes_at(archive: &[u8], content: &Content, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for piece in &content.pieces {
        for offset in 0..piece.bytes {
            if let Some(byte) =
                (piece.at + offset).checked_sub(at).and_then(|index| bytes.get_mut(index as usize))
            {
                *byte = archive[(piece.offset + offset) as usize];
            }
        }
    }
    bytes
}

#[test]
fn a_sparse_file_costs_its_data_only_in_each_format_that_gnu_tar_writes() {
    const SIZE: u64 = 10 << 30;
    let directory = tempfile::tempdir().unwrap();
    let file = File::create(directory.path().join("disk")).unwrap();
    file.set_len(SIZE).unwrap();
    // More segments than a header holds, none of them where a unit begins.
    let places: Vec<u64> = (0..40).map(|n| n * (SIZE / 40) + 5000).chain([SIZE - 3]).collect();
    for at in &places {
        file.write_all_at(b"abc", *at).unwrap();
    }
    fs::write(directory.path().join("next"), "the next member").unwrap();
    for options in [
        &["--sparse", "--format=gnu"][..],
        &["--sparse", "--format=oldgnu"],
        &["--sparse", "--format=posix", "--sparse-version=0.0"],
        &["--sparse", "--format=posix", "--sparse-version=0.1"],
        &["--sparse", "--format=posix", "--sparse-version=1.0"],
    ] {
        let archive = gnu_tar(directory.path(), options);
        let members = read(&archive).unwrap();
        let names: Vec<_> =
            members.iter().map(|(member, _)| String::from_utf8_lossy(&member.path).into_owned()).collect();
        assert_eq!(names, ["./", "./disk", "./next"], "{options:?}");
        let content = members[1].1.as_ref().unwrap();
        assert_eq!(content.size, SIZE, "{options:?}");
        assert!(content.pieces.iter().map(|piece| piece.bytes).sum::<u64>() < 1 << 20, "{options:?}");
        for at in &places {
            assert_eq!(bytes_at(&archive, content, *at, 3), b"abc", "{options:?} at {at}");
        }
        let next = members[2].1.as_ref().unwrap();
        assert_eq!(bytes_at(&archive, next, 0, 15), b"the next member", "{options:?}");
    }
}

#[test]
fn zeros_that_are_stored_become_holes_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut data = vec![0; 3 << 20];
    data[1_500_000] = 1;
    data[(3 << 20) - 1] = 2;
    fs::write(directory.path().join("f"), &data).unwrap();
    let archive = gnu_tar(directory.path(), &[]);
    let members = read(&archive).unwrap();
    let content = members[1].1.as_ref().unwrap();
    let pieces: Vec<_> = content.pieces.iter().map(|piece| (piece.at, piece.bytes)).collect();
    assert_eq!(pieces, [(1_500_000 / 4096 * 4096, 4096), ((3 << 20) - 4096, 4096)]);
    assert_eq!(bytes_at(&archive, content, 0, data.len()), data);
}

#[test]
fn long_names_and_large_numbers_are_read_in_each_format() {
    let directory = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    fs::create_dir(directory.path().join("d".repeat(200))).unwrap();
    fs::write(directory.path().join(&long), "x").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), directory.path().join("link")).unwrap();
    fs::hard_link(directory.path().join(&long), directory.path().join("z")).unwrap();
    for format in ["gnu", "posix"] {
        let options =
            [&format!("--format={format}"), "--owner=:3000000", "--group=:4000000", "--mtime=@12345.25"];
        let members = read(&gnu_tar(directory.path(), &options)).unwrap();
        let found = |path: &str| {
            members.iter().find(|(member, _)| member.path == path.as_bytes()).map(|(member, _)| member)
        };
        let file = found(&format!("./{long}")).unwrap();
        assert_eq!((file.attributes.uid, file.attributes.gid), (3_000_000, 4_000_000));
        assert_eq!(file.attributes.mtime_seconds, 12345);
        assert_eq!(file.attributes.mtime_nanoseconds, if format == "gnu" { 0 } else { 250_000_000 });
        assert_eq!(found("./link").unwrap().target, "t".repeat(300).as_bytes());
        assert_eq!(found("./z").unwrap().target, format!("./{long}").as_bytes());
    }
}

#[test]
fn an_archive_that_ends_in_the_middle_is_refused_wherever_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("f"), "x".repeat(2000)).unwrap();
    let archive = gnu_tar(directory.path(), &["--format=posix"]);
    let data_end = archive.len() - 1024;
    for end in (1..data_end).filter(|end| end % 512 != 0 || archive[*end - 1] == b'x') {
        assert!(matches!(read(&archive[..end]), Err(Error::Truncated)), "{end}");
    }
    // The closing blocks may be missing, as Go's reader allows.
    assert_eq!(read(&archive[..data_end]).unwrap().len(), 2);
}

#[test]
fn bytes_that_are_no_header_are_refused_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("f"), "x").unwrap();
    let mut archive = gnu_tar(directory.path(), &["--format=ustar"]);
    archive[512 + 3] ^= 1;
    assert!(matches!(read(&archive), Err(Error::NotAHeader(512))));
    assert!(matches!(read(&[b'x'; 1024]), Err(Error::NotAHeader(0))));
}

#[test]
fn only_regular_files_have_data_whatever_a_header_says() {
    let mut link = header("link", EntryType::Symlink, 512);
    link.set_link_name("target").unwrap();
    link.set_cksum();
    // Another reader could take the second header for the link's data, and see another image.
    let archive = [link.as_bytes().as_slice(), header("f", EntryType::Regular, 0).as_bytes()].concat();
    let members = read(&archive).unwrap();
    assert_eq!(members.len(), 2);
    assert_eq!(members[1].0.path, b"f");
    assert_eq!(members[1].0.attributes.mode, 0o4755);
}

#[test]
fn a_type_that_no_image_has_is_refused_by_name() {
    let error = read(header("odd", EntryType::new(b'M'), 0).as_bytes()).unwrap_err().to_string();
    assert!(error.contains("odd") && error.contains('M'), "{error}");
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let mut bad = header("f", EntryType::Regular, 0);
    bad.set_uid(u64::from(u32::MAX));
    bad.set_cksum();
    assert!(read(bad.as_bytes()).unwrap_err().to_string().contains("user id"));
    let mut bad = header("f", EntryType::Regular, u64::MAX);
    bad.set_cksum();
    assert!(read(bad.as_bytes()).is_err());
}

#[test]
fn limits_hold_before_the_cost_arises() {
    let archive = [header("f", EntryType::Regular, 1 << 40).as_bytes().as_slice(), b"x"].concat();
    assert!(matches!(read_within(&archive, 1 << 30, 10), Err(Error::Exceeded(_))));
    // Zeros after the archive's end count as well.
    let archive = [header("f", EntryType::Regular, 0).as_bytes().as_slice(), &vec![0; 100_000]].concat();
    assert!(matches!(read_within(&archive, 50_000, 10), Err(Error::Exceeded(_))));
    let archive = header("f", EntryType::XHeader, MAX_EXTENSION_BYTES + 1);
    assert!(matches!(read(archive.as_bytes()), Err(Error::ExtensionTooLong(_))));
}

/// PAX 1.0 with that map, and `stored` bytes of data in all.
fn sparse_pax(real_size: &str, map: &str, stored: u64) -> Vec<u8> {
    let mut records = String::new();
    for (key, value) in
        [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", real_size)]
    {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length).unwrap();
        records.push_str(&format!("{length} {key}={value}\n"));
    }
    let mut archive = header("x", EntryType::XHeader, records.len() as u64).as_bytes().to_vec();
    archive.extend(records.as_bytes());
    archive.resize(1024, 0);
    archive.extend(header("f", EntryType::Regular, stored).as_bytes());
    archive.extend(map.as_bytes());
    archive.resize(1536 + stored as usize, b'd');
    archive
}

#[test]
fn a_map_of_data_that_lies_is_refused() {
    let good = sparse_pax("1000000", &format!("1\n5\n10\n{}", "\0".repeat(505)), 522);
    assert_eq!(read(&[good, vec![0; 502]].concat()).unwrap()[0].1.as_ref().unwrap().size, 1_000_000);
    for (real_size, map) in [
        ("10", "1\n5\n10\n"),             // beyond the file's end
        ("1000000", "2\n50\n5\n10\n5\n"), // descending
        ("1000000", "2\n5\n5\n9\n5\n"),   // overlapping
        ("1000000", "1\n5\n9\n"),         // data that no segment has
        ("1000000", "1\n5\n11\n"),        // a segment without data
        ("1000000", "1\n18446744073709551615\n10\n"),
        ("1000000", "1\nx\n10\n"),
        ("1000000", "99999999999\n"),
        ("99999999999999999", "1\n5\n10\n"), // larger than any file
    ] {
        let archive = sparse_pax(real_size, &format!("{map:\0<512}"), 522);
        assert!(read(&[archive, vec![0; 502]].concat()).is_err(), "{real_size} {map}");
    }
    let many = format!("{:\0<512}", format!("11\n{}", "0\n0\n".repeat(11)));
    let archive = [sparse_pax("1000000", &many, 512), vec![0; 512]].concat();
    assert!(matches!(read_within(&archive, u64::MAX, 10), Err(Error::Exceeded(_))));
}

#[test]
fn a_file_is_passed_over_without_reading_it() {
    let archive =
        [header("f", EntryType::Regular, 1 << 20).as_bytes().as_slice(), &vec![1; 1 << 20]].concat();
    let archive = [archive, header("g", EntryType::Regular, 0).as_bytes().to_vec()].concat();
    let mut budget = Budget::new("bytes", u64::MAX);
    let mut reader = Reader::new(io::BufReader::new(Cursor::new(archive)), &mut budget, 1);
    assert_eq!(reader.next().unwrap().unwrap().path, b"f");
    let next = reader.next().unwrap().unwrap();
    assert_eq!((next.path.as_slice(), next.data_offset), (b"g".as_slice(), (1 << 20) + 1024));
    assert!(reader.next().unwrap().is_none());
}
