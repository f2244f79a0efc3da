//! The kernel's own word on what was written: images are mounted, and every file is looked at.
//!
//! These need root, loop devices and a kernel with EROFS, so that they run when asked for:
//! `cargo test -p securectr-image --test image -- --ignored`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::EntryType;

use crate::support::*;

struct Mounted {
    point: PathBuf,
    _directory: tempfile::TempDir,
}

impl Mounted {
    fn new(mut rootfs: &File) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (image, point) = (directory.path().join("image"), directory.path().join("mnt"));
        std::io::copy(&mut rootfs, &mut File::create(&image).unwrap()).unwrap();
        fs::create_dir(&point).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "erofs", "-o", "loop,ro"])
            .args([&image, &point])
            .output()
            .unwrap();
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Self { point, _directory: directory }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Before the folder goes, which belongs to a field.
        let _ = Command::new("umount").arg(&self.point).status();
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut buffer).unwrap_or(0);
    let names: Vec<Vec<u8>> = buffer[..length].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let value = |name: Vec<u8>| {
        let length = rustix::fs::lgetxattr(path, &name, &mut buffer).unwrap();
        (name, buffer[..length].to_vec())
    };
    names.into_iter().filter(|name| !name.is_empty()).map(value).collect()
}

/// All that lstat(2) and its relatives tell, but for what belongs to the file system rather than the file.
fn describe(path: &Path) -> String {
    let stat = path.symlink_metadata().unwrap();
    let size = if stat.is_dir() { 0 } else { stat.len() };
    let target = path.read_link().unwrap_or_default();
    format!(
        "mode {:o} owner {}:{} size {size} links {} device {:x} time {}.{:09} target {target:?} {:?}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        if stat.is_dir() { 0 } else { stat.nlink() },
        stat.rdev(),
        stat.mtime(),
        stat.mtime_nsec(),
        xattrs(path)
    )
}

/// With PAX records before it.
fn with_records(records: &[(&str, &[u8])], entry: Vec<u8>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().copied()).unwrap();
    let mut archive = builder.get_ref().clone();
    archive.extend(entry);
    archive
}

#[test]
#[ignore = "needs root and the kernel's EROFS"]
fn owners_modes_times_devices_and_attributes_are_what_the_layer_says() {
    let capability = b"\x01\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    // posix_acl(5) as Linux has it: version 2; owner rwx, user 1000 r-x, group r-x, mask rwx, others ---.
    let acl = [&2_u32.to_le_bytes()[..]]
        .into_iter()
        .map(<[u8]>::to_vec)
        .chain(
            [(1_u16, 7_u16, u32::MAX), (2, 5, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]
                .map(|(tag, bits, id)| {
                    [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
                }),
        )
        .collect::<Vec<_>>()
        .concat();
    let large = vec![b'v'; 3900];
    let records: [(&str, &[u8]); 9] = [
        ("uid", b"3000000000"),
        ("gid", b"70000"),
        ("mtime", b"-1.5"),
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.large", &large),
        ("SCHILY.xattr.system.posix_acl_access", &acl),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.other", b"y"),
    ];
    let mut suid = tar::Header::from_byte_slice(&tar_entry("suid", EntryType::Regular, "")).clone();
    suid.set_mode(0o6755);
    suid.set_cksum();
    let long = "t".repeat(4095);
    let tar = [
        with_records(&records, tar_entry("all", EntryType::Regular, "")),
        with_records(&[("SCHILY.xattr.user.d", b"1")], tar_entry("folder", EntryType::Directory, "")),
        with_records(&[("linkpath", long.as_bytes())], tar_entry("long", EntryType::Symlink, "")),
        with_records(
            &[("SCHILY.xattr.security.x", b"1")],
            tar_entry("short", EntryType::Symlink, "/etc/shadow"),
        ),
        tar_entry("null", EntryType::Char, ""),
        tar_entry("block", EntryType::Block, ""),
        tar_entry("fifo", EntryType::Fifo, ""),
        suid.as_bytes().to_vec(),
        tar_entry("second", EntryType::Link, "suid"),
    ]
    .concat();
    let mounted = Mounted::new(&Place::new().import(&TestImage::new(vec![Blob::plain(tar)])).unwrap().rootfs);
    let at = |name: &str| mounted.point.join(name);

    let stat = fs::metadata(at("all")).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec()),
        (3_000_000_000, 70_000, -2, 500_000_000)
    );
    let found = xattrs(&at("all"));
    let names: Vec<_> = found.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(names, ["security.capability", "system.posix_acl_access", "user.large"]);
    assert_eq!(found[&b"security.capability"[..]], capability);
    assert_eq!(found[&b"user.large"[..]], large);
    assert_eq!(found[&b"system.posix_acl_access"[..]], acl);
    assert_eq!(xattrs(&at("folder")).len(), 1);
    assert_eq!(fs::read_link(at("long")).unwrap().as_os_str().len(), 4095);
    assert_eq!(fs::read_link(at("short")).unwrap(), Path::new("/etc/shadow"));
    assert_eq!(fs::metadata(at("suid")).unwrap().mode(), 0o106_755);
    assert_eq!(fs::metadata(at("suid")).unwrap().ino(), fs::metadata(at("second")).unwrap().ino());
    assert_eq!(fs::metadata(at("suid")).unwrap().nlink(), 2);
    let null = fs::symlink_metadata(at("null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    assert!(fs::symlink_metadata(at("block")).unwrap().file_type().is_block_device());
    assert!(fs::symlink_metadata(at("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(&mounted.point).unwrap().nlink(), 3);
}

#[test]
#[ignore = "needs root and the kernel's EROFS"]
fn a_sparse_file_of_10_gb_reads_as_it_should_and_takes_no_space() {
    const SIZE: u64 = 10 << 30;
    let place = Place::new();
    let source = place.path().join("disk");
    let file = File::create(&source).unwrap();
    file.set_len(SIZE).unwrap();
    let places: Vec<u64> = (0..100).map(|n| n * (SIZE / 100) + 12_345).chain([SIZE - 3]).collect();
    places.iter().for_each(|at| file.write_all_at(&at.to_le_bytes()[..3], *at).unwrap());
    let tar =
        Command::new("tar").args(["-cSf", "-", "-C"]).arg(place.path()).arg("disk").output().unwrap().stdout;
    let image = place.import(&TestImage::new(vec![Blob::plain(tar)])).unwrap();
    // A chunk for each place, of 1 MiB at this size.
    assert!(image.rootfs.metadata().unwrap().len() < 110 << 20);
    let mounted = Mounted::new(&image.rootfs);
    let file = File::open(mounted.point.join("disk")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    for at in places {
        let mut around = [1; 13];
        let length = file.read_at(&mut around, at - 5).unwrap();
        let expected = [&[0; 5][..], &at.to_le_bytes()[..3], &[0; 5]].concat();
        assert_eq!(around[..length], expected[..length]);
    }
    let mut hole = vec![1; 1 << 20];
    file.read_exact_at(&mut hole, SIZE / 200 * 3).unwrap();
    assert!(hole.iter().all(|byte| *byte == 0));
}

#[test]
#[ignore = "needs root and the kernel's EROFS"]
fn a_real_system_comes_back_as_gnu_tar_took_it() {
    let place = Place::new();
    let roots = ["etc", "usr/sbin"];
    let tar = Command::new("tar")
        .args([
            "--create",
            "--file=-",
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--one-file-system",
            "-C",
            "/",
        ])
        .args(roots)
        .output()
        .unwrap();
    let image = place.import(&TestImage::new(vec![Blob::plain(tar.stdout)])).unwrap();
    let mounted = Mounted::new(&image.rootfs);
    let mut compared = 0;
    for root in roots {
        for path in paths(&Path::new("/").join(root)) {
            let (theirs, ours) =
                (Path::new("/").join(root).join(&path), mounted.point.join(root).join(&path));
            let (mut expected, mut found) = (describe(&theirs), describe(&ours));
            if theirs.symlink_metadata().unwrap().nlink() > 1 {
                // Some of its names may lie elsewhere.
                let without_links = |text: String| text.split(" links ").next().unwrap().to_owned();
                (expected, found) = (without_links(expected), without_links(found));
            }
            assert_eq!(found, expected, "{}", ours.display());
            if theirs.symlink_metadata().unwrap().is_file() {
                assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{}", ours.display());
            }
            compared += 1;
        }
    }
    assert!(compared > 500);
    // And nothing else is there.
    let listed: usize = roots.map(|root| paths(&mounted.point.join(root)).len()).iter().sum();
    assert_eq!(listed, compared);
}

#[test]
#[ignore = "needs root and the kernel's EROFS"]
fn a_directory_with_devices_is_packed_with_its_owners() {
    let place = Place::new();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(1234), Some(5678)).unwrap();
    let dev = rustix::fs::makedev(1, 3);
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o620));
    rustix::fs::mknodat(rustix::fs::CWD, source.join("null"), kind, mode, dev).unwrap();
    // A mount below it stays out.
    fs::create_dir(source.join("proc")).unwrap();
    assert!(
        Command::new("mount")
            .args(["-t", "proc", "proc"])
            .arg(source.join("proc"))
            .status()
            .unwrap()
            .success()
    );
    let packed = place.store().pack_directory(&source, &mut |_| {});
    assert!(Command::new("umount").arg(source.join("proc")).status().unwrap().success());
    let mounted = Mounted::new(&packed.unwrap().rootfs);
    for name in ["file", "null"] {
        assert_eq!(describe(&mounted.point.join(name)), describe(&source.join(name)));
    }
    assert_eq!(fs::read_dir(mounted.point.join("proc")).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root for a small file system"]
fn a_full_disk_is_one_clear_error_and_leaves_nothing() {
    let place = Place::new();
    let noise: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let tar = tar_of(&[("noise", &noise)]);
    let gzip = Blob::stored_as(&tar, gzip(&tar), "application/vnd.oci.image.layer.v1.tar+gzip");
    for layer in [Blob::plain(tar), gzip] {
        let archive = TestImage::new(vec![layer]).archive_in(place.path(), None);
        let small = place.path().join("store");
        fs::create_dir_all(&small).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&small).status();
        assert!(mount.unwrap().success());
        let result = place.rootfs(&format!("oci-archive:{}", archive.display()));
        let kept = place.kept();
        assert!(Command::new("umount").arg(&small).status().unwrap().success());
        let error = result.unwrap_err();
        assert!(matches!(error, securectr_image::Error::Store { .. }));
        let expected = format!(
            "cannot use the image store {}/v1: No space left on device (os error 28)",
            small.display()
        );
        assert_eq!(chain(&error), expected);
        assert_eq!(kept, Vec::<String>::new());
    }
}
