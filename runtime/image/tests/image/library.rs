//! What the store promises of images by name: found under each of their names, there once, gone with the last name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use crate::support::*;
use securectr_image::{Addition, Listed, Name, Platform, Reference, Store};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn add(store: &Store, reference: &str, name: Option<&str>) -> Vec<Listed> {
    let name = name.map(|name| name.parse().unwrap());
    let reference: Reference = reference.parse().unwrap();
    let platform = Platform::of_this_machine();
    let addition = Addition { reference: &reference, platform: &platform, name: name.as_ref() };
    store.add(&addition, &mut |_| {}).unwrap()
}

fn add_named(place: &Place, image: &TestImage, name: &str) -> Listed {
    let archive = image.archive_in(place.path(), None);
    add(&place.store(), &format!("oci-archive:{}", archive.display()), Some(name)).remove(0)
}

fn names(store: &Store) -> Vec<String> {
    let mut names: Vec<_> = store
        .list()
        .unwrap()
        .iter()
        .map(|one| one.name.as_ref().map_or_else(|| "none".to_owned(), Name::to_string))
        .collect();
    names.sort();
    names
}

/// All files of a store with content, but for its bookkeeping.
fn files(place: &Place) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut directories = vec![place.path().join("store/v1")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if fs::metadata(&path).unwrap().len() > 0 {
                found.insert(path.strip_prefix(place.path()).unwrap().display().to_string());
            }
        }
    }
    found.retain(|path| !path.ends_with("/index.json") && !path.ends_with("/oci-layout"));
    found
}

fn one_file() -> TestImage {
    TestImage::of_files(&[("a", b"1")])
}

#[test]
fn an_image_is_found_by_name_id_and_digest() {
    let place = Place::new();
    let added = add_named(&place, &one_file(), "team/app:1");
    let store = place.store();
    let by_digest = format!("docker.io/team/app@{}", added.manifest);
    for wanted in [
        "team/app:1",
        "docker.io/team/app:1",
        by_digest.as_str(),
        &added.id.to_string(),
        &added.id.hex()[..12],
    ] {
        assert_eq!(store.find(wanted).unwrap().as_ref(), Some(&added), "{wanted}");
    }
    let elsewhere = format!("other@{}", added.manifest);
    for wanted in ["team/app", "app:1", elsewhere.as_str(), &added.id.hex()[..3], "UPPER", ""] {
        assert_eq!(store.find(wanted).unwrap(), None, "{wanted}");
    }
    let image = store.open_image(&added, &mut |_| {}).unwrap();
    assert_eq!(image.digest.as_ref(), Some(&added.id));
    assert_eq!(paths(&unpack(&image.rootfs, place.path())), ["a"]);
}

#[test]
fn each_kind_of_archive_brings_its_names() {
    let place = Place::new();
    let image = one_file();
    let docker = image.docker_archive_in(place.path(), &["busybox:1.36", "busybox:latest"]);
    add(&place.store(), &format!("docker-archive:{}", docker.display()), None);
    assert_eq!(names(&place.store()), ["docker.io/library/busybox:1.36", "docker.io/library/busybox:latest"]);
    let index = image.index(&[image.named("example.com/a:1"), image.named("latest")]);
    let archive = image.archive_in(place.path(), Some(index));
    let added = add(&place.store(), &format!("oci-archive:{}", archive.display()), None);
    assert_eq!(added.iter().filter(|one| one.name.is_none()).count(), 1, "a tag alone is no name");
    assert!(names(&place.store()).contains(&"example.com/a:1".to_owned()));
}

#[test]
fn a_name_that_becomes_anothers_leaves_its_image_without() {
    let place = Place::new();
    let first = add_named(&place, &one_file(), "app");
    let second = add_named(&place, &TestImage::of_files(&[("b", b"2")]), "app");
    let store = place.store();
    assert_eq!(store.find("app").unwrap(), Some(second.clone()));
    assert_eq!(names(&store), ["docker.io/library/app:latest", "none"]);
    store.tag(&first, &name("old")).unwrap();
    assert_eq!(names(&store), ["docker.io/library/app:latest", "docker.io/library/old:latest"]);
    store.tag(&second, &name("old")).unwrap();
    let removed = store.prune(|_| false, |_| false).unwrap();
    assert_eq!(removed.deleted, [first.id]);
    assert!(removed.freed_bytes > 0);
}

#[test]
fn an_image_goes_with_its_last_name_and_what_others_need_stays() {
    let place = Place::new();
    let shared = Blob::plain(tar_of(&[("a", b"1")]));
    let kept = add_named(&place, &TestImage::new(vec![shared.clone()]), "kept");
    let store = place.store();
    let before = files(&place);
    let going = TestImage::new(vec![shared, Blob::plain(tar_of(&[("b", b"2")]))]);
    let going = add_named(&place, &going, "going");
    store.tag(&going, &name("going:too")).unwrap();
    store.open_image(&going, &mut |_| {}).unwrap();
    let removed = store.remove(&going, Some(&name("going"))).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![name("going")], vec![]));
    let removed = store.remove(&going, Some(&name("going:too"))).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![name("going:too")], vec![going.id]));
    assert_eq!(files(&place), before);
    store.open_image(&kept, &mut |_| {}).unwrap();
}

#[test]
fn by_its_id_an_image_goes_with_all_its_names() {
    let place = Place::new();
    let image = add_named(&place, &one_file(), "a");
    let store = place.store();
    store.tag(&image, &name("b")).unwrap();
    let removed = store.remove(&image, None).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (2, vec![image.id]));
    assert_eq!(files(&place), BTreeSet::new());
}

#[test]
fn what_is_saved_is_the_same_image_elsewhere() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let image = add_named(&place, &one_file(), "example.com/app:1");
    let archive = elsewhere.path().join("saved.tar");
    place.store().save(std::slice::from_ref(&image), File::create(&archive).unwrap(), &mut |_| {}).unwrap();
    for form in ["oci-archive", "docker-archive"] {
        let reference = format!("{form}:{}", archive.display());
        assert_eq!(elsewhere.rootfs(&reference).unwrap().digest.as_ref(), Some(&image.id), "{form}");
    }
    let loaded = add(&elsewhere.store(), &format!("oci-archive:{}", archive.display()), None);
    let [loaded] = loaded.as_slice() else { panic!("{loaded:?}") };
    assert_eq!((&loaded.name, &loaded.manifest), (&image.name, &image.manifest));
    let again = elsewhere.path().join("again.tar");
    elsewhere.store().save(std::slice::from_ref(loaded), File::create(&again).unwrap(), &mut |_| {}).unwrap();
    assert!(fs::read(again).unwrap() == fs::read(archive).unwrap());
}

#[test]
fn a_blob_that_is_not_its_digests_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let mut image = one_file();
    let layer = image.files.iter_mut().find(|(_, content)| content.len() > 1000).unwrap();
    layer.1[600] ^= 1;
    let archive = image.archive_in(place.path(), None);
    let reference: Reference = format!("oci-archive:{}", archive.display()).parse().unwrap();
    let platform = Platform::of_this_machine();
    let addition = Addition { reference: &reference, platform: &platform, name: None };
    let refused = place.store().add(&addition, &mut |_| {}).unwrap_err();
    assert!(chain(&refused).contains("has another digest"), "{}", chain(&refused));
    assert_eq!(names(&place.store()), Vec::<String>::new());
    place.store().prune(|_| false, |_| false).unwrap();
    assert_eq!(files(&place), BTreeSet::new());
}

#[test]
fn what_a_killed_process_left_goes_with_the_next_removal() {
    let place = Place::new();
    let image = add_named(&place, &one_file(), "a");
    let blobs = place.path().join("store/v1/blobs/sha256");
    fs::write(blobs.join("unfinished-x"), b"half").unwrap();
    fs::write(blobs.join("0".repeat(64)), b"of no image").unwrap();
    place.store().remove(&image, None).unwrap();
    assert_eq!(files(&place), BTreeSet::new());
}

#[test]
fn many_may_add_and_remove_at_once() {
    let place = Place::new();
    let image = one_file();
    let archive = image.archive_in(place.path(), None);
    let reference = format!("oci-archive:{}", archive.display());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (reference, store) = (&reference, place.store());
            scope.spawn(move || {
                for _ in 0..5 {
                    let name = format!("app:{number}");
                    let added = add(&store, reference, Some(&name)).remove(0);
                    store.open_image(&added, &mut |_| {}).unwrap();
                    if number % 2 == 0 {
                        store.remove(&added, added.name.as_ref()).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(names(&place.store()).len(), 4);
    let left = place.store().find("app:1").unwrap().unwrap();
    place.store().remove(&left, None).unwrap();
    assert_eq!(files(&place), BTreeSet::new());
}

#[test]
fn a_store_is_a_layout_for_others() {
    let place = Place::new();
    let image = add_named(&place, &one_file(), "example.com/app:1");
    let layout: &Path = &place.path().join("store/v1");
    let elsewhere = Place::new();
    let opened = elsewhere.rootfs(&format!("oci:{}:example.com/app:1", layout.display())).unwrap();
    assert_eq!(opened.digest, Some(image.id));
}
