//! What the store promises: fast when it has an image, never a half one, nothing left behind.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use crate::support::*;
use securectr_image::{Error, Limits, Progress, Reference};

/// Old enough that its ctime can be trusted: only time does that.
fn let_settle() {
    std::thread::sleep(Duration::from_millis(2100));
}

fn image_folder(place: &Place) -> PathBuf {
    fs::read_dir(place.path().join("store/v1/images")).unwrap().next().unwrap().unwrap().path()
}

fn content(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes that this thread has read so far (proc(5), `io`).
fn bytes_read() -> u64 {
    let counters = fs::read_to_string("/proc/thread-self/io").unwrap();
    counters.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn the_second_time_nothing_of_the_archive_is_read() {
    let place = Place::new();
    let path = TestImage::of_files(&[("a", &[1; 5_000_000])]).archive_in(place.path(), None);
    let reference: Reference = format!("oci-archive:{}", path.display()).parse().unwrap();
    let_settle();
    let first = place.store().rootfs(&reference, &mut |_| {}).unwrap();
    let before = bytes_read();
    let again = place.store().rootfs(&reference, &mut |step| panic!("{step:?}")).unwrap();
    assert!(bytes_read() - before < 20_000);
    assert_eq!((&again.digest, &again.config), (&first.digest, &first.config));
    assert!(content(&again.rootfs) == content(&first.rootfs));
}

#[test]
fn the_same_image_in_another_archive_is_not_made_again() {
    let place = Place::new();
    let image = TestImage::of_files(&[("a", b"1")]);
    let archive =
        place.rootfs(&format!("oci-archive:{}", image.archive_in(place.path(), None).display())).unwrap();
    let reference = format!("oci:{}", image.layout_in(place.path()).display()).parse().unwrap();
    let layout = place.store().rootfs(&reference, &mut |step| panic!("{step:?}")).unwrap();
    assert_eq!(archive.digest, layout.digest);
    assert_eq!(place.kept(), ["image.json", "rootfs.erofs"]);
}

#[test]
fn an_archive_replaced_in_place_gives_the_new_image_at_once() {
    let place = Place::new();
    let import = |name: &str| {
        let path = TestImage::of_files(&[(name, b"x")]).archive_in(place.path(), None);
        let image = place.rootfs(&format!("oci-archive:{}", path.display())).unwrap();
        paths(&unpack(&image.rootfs, place.path()))
    };
    // Same path, same size, at once one after the other; and once more after its state was kept.
    assert_eq!(import("a"), ["a"]);
    assert_eq!(import("b"), ["b"]);
    let_settle();
    place.rootfs(&format!("oci-archive:{}", place.path().join("image.tar").display())).unwrap();
    assert_eq!(import("c"), ["c"]);
}

#[test]
fn a_damaged_image_in_the_store_is_made_again() {
    let place = Place::new();
    let image = TestImage::of_files(&[("a", &[1; 10_000])]);
    let good = content(&place.import(&image).unwrap().rootfs);
    let folder = image_folder(&place);
    let rootfs = folder.join("rootfs.erofs");
    let damages: [&dyn Fn(); 5] = [
        &|| File::options().write(true).open(&rootfs).unwrap().set_len(4096).unwrap(),
        &|| File::options().write(true).open(&rootfs).unwrap().write_all_at(b"x", 1100).unwrap(),
        &|| fs::remove_file(&rootfs).unwrap(),
        &|| fs::write(folder.join("image.json"), b"{").unwrap(),
        &|| fs::remove_file(folder.join("image.json")).unwrap(),
    ];
    for damage in damages {
        damage();
        assert!(content(&place.import(&image).unwrap().rootfs) == good);
    }
}

#[test]
fn what_a_killed_process_left_is_removed_and_never_used() {
    let place = Place::new();
    let image = TestImage::of_files(&[("a", b"x")]);
    place.import(&image).unwrap();
    let folder = image_folder(&place);
    fs::remove_file(folder.join("image.json")).unwrap();
    fs::rename(folder.join("rootfs.erofs"), folder.join("unfinished")).unwrap();
    place.store();
    assert!(!folder.exists());
    // One that is being made by a living process stays.
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("unfinished"), b"x").unwrap();
    let lock = File::open(&folder).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    place.store();
    assert!(folder.join("unfinished").exists());
    drop(lock);
    place.import(&image).unwrap();
    assert_eq!(place.kept(), ["image.json", "rootfs.erofs"]);
}

#[test]
fn many_at_once_make_one_image_and_all_get_it() {
    let place = Place::new();
    let path = TestImage::of_files(&[("a", &[1; 3_000_000])]).archive_in(place.path(), None);
    let reference: Reference = format!("oci-archive:{}", path.display()).parse().unwrap();
    let made = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut wrote = false;
                let image = place
                    .store()
                    .rootfs(&reference, &mut |step| wrote |= matches!(step, Progress::Writing { .. }));
                assert!(image.unwrap().rootfs.metadata().unwrap().len() > 3_000_000);
                made.fetch_add(usize::from(wrote), std::sync::atomic::Ordering::Relaxed);
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
    assert_eq!(place.kept(), ["image.json", "rootfs.erofs"]);
}

#[test]
fn a_limit_that_is_met_is_named_and_leaves_nothing() {
    let tar = tar_of(&[("zeros", &vec![0; 40 << 20])]);
    let bomb = || {
        TestImage::new(vec![Blob::stored_as(&tar, gzip(&tar), "application/vnd.oci.image.layer.v1.tar+gzip")])
    };
    let several =
        || TestImage::new(vec![Blob::plain(tar_of(&[("a", b"")])), Blob::plain(tar_of(&[("b/c", b"")]))]);
    let default = Limits::default;
    for (image, limits, expected) in [
        (bomb(), Limits { unpacked_bytes: 30 << 20, ..default() }, "more than 31457280 bytes in its layers"),
        (several(), Limits { entries: 2, ..default() }, "more than 2 files, folders and links"),
        (several(), Limits { layers: 1, ..default() }, "more than 1 layers"),
        (several(), Limits { depth: 1, ..default() }, "deeper than 1 folders"),
        (several(), Limits { path_bytes: 2, ..default() }, "longer than 2 bytes"),
        (several(), Limits { json_bytes: 10, ..default() }, "more than 10 bytes in an index"),
        (several(), Limits { archive_members: 3, ..default() }, "more than 3 members"),
    ] {
        let place = Place::new();
        let path = image.archive_in(place.path(), None);
        let reference = format!("oci-archive:{}", path.display()).parse().unwrap();
        let error = place.store().with_limits(limits).rootfs(&reference, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Image { .. }));
        assert!(chain(&error).contains(expected), "{}", chain(&error));
        assert_eq!(place.kept(), Vec::<String>::new());
    }
}

#[test]
fn a_directory_is_packed_as_it_is_each_time() {
    let place = Place::new();
    let source = place.path().join("source");
    fs::create_dir_all(source.join("etc")).unwrap();
    fs::write(source.join("etc/passwd"), "me:x:7:8::/me:/bin/sh\n").unwrap();
    // No layer: these are names like any other.
    fs::write(source.join(".wh.etc"), "plain").unwrap();
    fs::write(source.join("etc/.wh..wh..opq"), "plain").unwrap();
    symlink("/etc/shadow", source.join("link")).unwrap();
    fs::hard_link(source.join("etc/passwd"), source.join("second")).unwrap();
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(b"data", 1 << 29).unwrap();
    let store = place.store();
    let image = store.pack_directory(&source, &mut |_| {}).unwrap();
    assert!(image.rootfs.metadata().unwrap().len() < 2 << 20);
    assert!(image.rootfs.write_at(b"x", 0).is_err());
    assert_eq!(image.resolve_user("me", &[]).unwrap().uid, 7);
    let root = unpack(&image.rootfs, place.path());
    assert_eq!(
        paths(&root),
        [".wh.etc", "etc", "etc/.wh..wh..opq", "etc/passwd", "link", "second", "sparse"]
    );
    assert_eq!(fs::read_link(root.join("link")).unwrap(), PathBuf::from("/etc/shadow"));
    fs::write(source.join("new"), "x").unwrap();
    let image = store.pack_directory(&source, &mut |_| {}).unwrap();
    assert!(paths(&unpack(&image.rootfs, place.path())).contains(&"new".into()));
    assert_eq!(place.kept(), Vec::<String>::new());
    let error = chain(&store.pack_directory(&place.path().join("none"), &mut |_| {}).unwrap_err());
    assert!(error.contains("none: No such file"), "{error}");
}
