use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;

fn root() -> (TempDir, Root) {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "outside").unwrap();
    fs::create_dir_all(outside.path().join("root/etc")).unwrap();
    let directory = fs::File::open(outside.path().join("root")).unwrap();
    (outside, Root::new(directory.into()))
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let (outside, root) = root();
    let inside = outside.path().join("root");
    symlink("../../secret", inside.join("relative")).unwrap();
    symlink(outside.path().join("secret"), inside.join("absolute")).unwrap();
    for path in ["/relative", "/absolute", "/../secret", "/etc/../../secret"] {
        assert_eq!(root.find(Path::new(path)).unwrap_err().kind(), io::ErrorKind::NotFound, "{path}");
    }
    symlink("/", inside.join("all")).unwrap();
    assert!(root.find(Path::new("/all/etc")).is_ok(), "an absolute link stays in the root");
}

#[test]
fn nothing_is_made_through_a_link_to_the_outside() {
    let (outside, root) = root();
    symlink(outside.path(), outside.path().join("root/link")).unwrap();
    assert!(root.find_or_make(Path::new("/link/new"), Kind::Directory).is_err());
    assert!(!outside.path().join("new").exists());
}

#[test]
fn missing_directories_are_made() {
    let (outside, root) = root();
    root.find_or_make(Path::new("/a/b/c"), Kind::Directory).unwrap();
    root.find_or_make(Path::new("/etc/x/file"), Kind::File).unwrap();
    assert!(outside.path().join("root/a/b/c").is_dir());
    assert!(outside.path().join("root/etc/x/file").is_file());
}

#[test]
fn nothing_is_made_at_a_path_with_parents_in_it() {
    let (_outside, root) = root();
    let refusal = root.find_or_make(Path::new("/missing/../other"), Kind::Directory).unwrap_err();
    assert_eq!(refusal.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn magic_links_are_not_followed() {
    let slash = Root::new(fs::File::open("/").unwrap().into());
    assert!(slash.find(Path::new("/proc/self/root/etc")).is_err());
}

#[test]
fn a_wrong_link_is_replaced_and_a_right_one_stays() {
    let (outside, root) = root();
    let place = outside.path().join("root/ptmx");
    symlink("/wrong", &place).unwrap();
    relink(&root, "ptmx", "pts/ptmx").unwrap();
    relink(&root, "ptmx", "pts/ptmx").unwrap();
    assert_eq!(fs::read_link(place).unwrap(), Path::new("pts/ptmx"));
}
