//! What is pushed comes out: all that registries and images differ in.

use std::{fs, process::Command};

use securectr_registry::{Event, Platform};
use serde_json::{Value, json};

use crate::{
    answers::{Answer, Body, Server},
    debian::Storage,
    image::{
        DOCKER_INDEX, Image, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, files, index, noise, sha256,
    },
    program::{Place, fetch, plain, start, start_in},
    wire::{Break, Wire},
};

/// tcpmux: nobody serves that any more.
const CLOSED: &str = "127.0.0.1:1";

/// The destination is a layout of exactly this image.
fn assert_is_there(place: &Place, name: &str, image: &Image) {
    let found = files(&place.directory.path().join("image"));
    let entry: Value = serde_json::from_slice(&found["index.json"]).unwrap();
    let entry = &entry["manifests"][0];
    assert_eq!(entry["digest"], image.digest());
    assert_eq!(entry["size"], image.manifest.len());
    assert_eq!(entry["mediaType"], image.media_type);
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], name);
    let mut expected: Vec<_> = image.blobs.keys().cloned().chain([image.digest()]).collect();
    expected.sort_unstable();
    let blobs = found.iter().filter_map(|(path, bytes)| Some((path.strip_prefix("blobs/sha256/")?, bytes)));
    let blobs: Vec<_> = blobs.map(|(hex, bytes)| (format!("sha256:{hex}"), sha256(bytes))).collect();
    assert!(blobs.iter().all(|(name, digest)| name == digest));
    assert_eq!(blobs.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), expected);
    assert_eq!(found.len(), expected.len() + 2, "{:?}", found.keys());
    assert!(found["oci-layout"].starts_with(b"{\"imageLayoutVersion\""));
}

#[test]
fn oci_and_docker_images_come_by_tag_and_by_digest() {
    let (storage, layers) = (Storage::new(), [noise(1, 300_000), noise(2, 10), Vec::new()]);
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let registry = storage.open();
    for image in [Image::oci(&layers), Image::docker(&layers)] {
        registry.push("team/app", "1.0", &image);
        for suffix in [":1.0".into(), format!("@{}", image.digest()), format!(":gone@{}", image.digest())] {
            let place = Place::new();
            let name = format!("registry.example.com/team/app{suffix}");
            let outcome = fetch(&place.request(&name, &[plain(&registry.address)]));
            assert!(outcome.is_done(), "{outcome:?}");
            assert_eq!(outcome.fetched(), image.blobs.keys().collect::<Vec<_>>());
            assert_is_there(&place, &name, &image);
        }
    }
}

#[test]
fn of_an_index_the_wanted_platform_is_taken() {
    let (storage, types) = (Storage::new(), [OCI_MANIFEST, OCI_CONFIG, OCI_LAYER]);
    let registry = storage.open();
    let (ours, arm) = (Image::new(&[b"1"], types, "amd64"), Image::new(&[b"2"], types, "arm64"));
    for (tag, kind) in [("oci", OCI_INDEX), ("docker", DOCKER_INDEX)] {
        let all = index(kind, &[arm.entry("linux/arm64/v8"), ours.entry("linux/amd64")]);
        registry.push_untagged("app", &ours);
        registry.push_untagged("app", &arm);
        registry.push_index("app", tag, &all, kind);
        for (architecture, image) in [("amd64", &ours), ("arm64", &arm)] {
            let place = Place::new();
            let name = format!("registry.example.com/app:{tag}");
            let mut request = place.request(&name, &[plain(&registry.address)]);
            request.platform = Platform { architecture: architecture.into(), ..request.platform };
            let outcome = fetch(&request);
            assert!(outcome.is_done(), "{outcome:?}");
            assert_is_there(&place, &name, image);
            let Event::Resolved { manifest, index, .. } = &outcome.events[0] else { panic!("{outcome:?}") };
            assert_eq!((manifest, index), (&image.digest(), &Some(sha256(&all))));
        }
    }
    let place = Place::new();
    let mut request = place.request("registry.example.com/app:oci", &[plain(&registry.address)]);
    request.platform.architecture = "riscv64".into();
    let outcome = fetch(&request);
    let cause = outcome.cause();
    assert!(cause.contains("not there for linux/riscv64, only for linux/arm64/v8, linux/amd64"), "{cause}");
}

#[test]
fn what_is_missing_is_told_apart() {
    let storage = Storage::new();
    let registry = storage.open();
    registry.push("app", "1", &Image::oci(&[b"layer"]));
    let wrong_digest = format!("registry.example.com/app@{}", sha256(b"another"));
    for (name, address, cause) in [
        ("registry.example.com/app:2", &registry.address, "it has the image, but no tag '2'"),
        ("registry.example.com/none:1", &registry.address, "it has no such image"),
        (&wrong_digest, &registry.address, "it has not what was asked for"),
        ("registry.example.com/app:1", &CLOSED.to_owned(), "Connection refused"),
        ("registry.example.com/app", &registry.address, "is not whole"),
    ] {
        let place = Place::new();
        let outcome = fetch(&place.request(name, &[plain(address)]));
        assert!(outcome.cause().contains(cause), "{name}: {outcome:?}");
    }
}

#[test]
fn layers_that_are_present_stay_where_they_are() {
    let (storage, base, own) = (Storage::new(), noise(1, 5000), noise(2, 5000));
    let registry = storage.open();
    let image = Image::docker(&[&base, &own, &base]);
    registry.push("app", "1", &image);
    let place = Place::new();
    let hex = |digest: &str| digest.replace("sha256:", "");
    fs::write(place.directory.path().join("present").join(hex(&image.layers[0])), &base).unwrap();
    // Of another size: something is wrong with it.
    fs::write(place.directory.path().join("present").join(hex(&image.layers[1])), "damaged").unwrap();
    let outcome = fetch(&place.request("registry.example.com/app:1", &[plain(&registry.address)]));
    assert!(outcome.is_done(), "{outcome:?}");
    let Event::Resolved { blobs, .. } = &outcome.events[0] else { panic!("{outcome:?}") };
    let told: Vec<_> = blobs.iter().map(|blob| (blob.bytes, blob.is_present)).collect();
    assert_eq!(told[1..], [(5000, true), (5000, false)]);
    let mut there = image.clone();
    there.blobs.remove(&image.layers[0]);
    assert_is_there(&place, "registry.example.com/app:1", &there);
}

#[test]
fn what_one_host_has_not_the_next_has() {
    let (storage, other) = (Storage::new(), Storage::new());
    let (registry, empty) = (storage.open(), other.open());
    let image = Image::oci(&[b"layer"]);
    registry.push("team/app", "1", &image);
    let place = Place::new();
    let hosts = [plain(CLOSED), plain(&empty.address), plain(&registry.address)];
    let outcome = fetch(&place.request("registry.example.com/team/app:1", &hosts));
    assert!(outcome.is_done(), "{outcome:?}");
    let failed: Vec<_> = outcome
        .events
        .iter()
        .filter_map(|event| match event {
            Event::HostFailed { address, .. } => Some(address),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [CLOSED, &empty.address]);
    assert_is_there(&place, "registry.example.com/team/app:1", &image);
}

#[test]
fn a_killed_call_is_gone_on_with() {
    let storage = Storage::new();
    let registry = storage.open();
    let layer = noise(3, 4 << 20);
    let image = Image::oci(&[&layer]);
    registry.push("app", "1", &image);
    let wire = Wire::to(&registry.address, 1 << 20, 1, Break::Silence);
    let place = Place::new();
    let mut request = place.request("registry.example.com/app:1", &[plain(&wire.address)]);
    request.patience.stall_ms = 30_000;
    let partial =
        place.directory.path().join("image/blobs/partial").join(image.layers[0].replace("sha256:", ""));
    let killed = start(&request);
    while fs::metadata(&partial).map_or(0, |file| file.len()) < 500_000 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    killed.kill();
    let had = fs::metadata(&partial).unwrap().len();
    assert_eq!(wire.ranges(), [] as [String; 0]);
    let outcome = fetch(&request);
    assert!(outcome.is_done(), "{outcome:?}");
    assert_eq!(wire.ranges(), [format!("{had}-")]);
    assert_is_there(&place, &request.image, &image);
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_stopped() {
    for end in [Break::Cut, Break::Silence] {
        let storage = Storage::new();
        let registry = storage.open();
        let image = Image::oci(&[&noise(4, 4 << 20)]);
        registry.push("app", "1", &image);
        let wire = Wire::to(&registry.address, 1 << 20, 3, end);
        let place = Place::new();
        let outcome = fetch(&place.request("registry.example.com/app:1", &[plain(&wire.address)]));
        assert!(outcome.is_done(), "{outcome:?}");
        let offsets: Vec<u64> =
            wire.ranges().iter().map(|range| range.trim_end_matches('-').parse().unwrap()).collect();
        assert!(offsets.len() == 3 && offsets[0] > 500_000 && offsets.is_sorted(), "{offsets:?}");
        assert_is_there(&place, "registry.example.com/app:1", &image);
    }
}

#[test]
fn a_transfer_that_breaks_all_the_time_is_given_up() {
    let storage = Storage::new();
    let registry = storage.open();
    registry.push("app", "1", &Image::oci(&[&noise(5, 4 << 20)]));
    let wire = Wire::to(&registry.address, 100_000, 1000, Break::Cut);
    let place = Place::new();
    let outcome = fetch(&place.request("registry.example.com/app:1", &[plain(&wire.address)]));
    assert!(outcome.cause().contains("broke off 6 times"), "{outcome:?}");
}

#[test]
fn a_proxy_of_the_environment_is_used() {
    let storage = Storage::new();
    let registry = storage.open();
    let image = Image::docker(&[b"layer"]);
    registry.push("app", "1", &image);
    // The registry takes the absolute URL that a proxy is asked for.
    let wire = Wire::to(&registry.address, usize::MAX, 0, Break::Cut);
    let program = || Command::new(env!("CARGO_BIN_EXE_securectr-registry"));
    for (exceptions, is_used) in [("", true), ("example.com", false)] {
        let place = Place::new();
        let mut command = program();
        command.env("http_proxy", format!("http://{}", wire.address)).env("no_proxy", exceptions);
        let request = place.request("registry.example.com/app:1", &[plain("registry.example.com")]);
        let outcome = start_in(command, &request).outcome();
        assert_eq!(outcome.is_done(), is_used, "{outcome:?}");
    }
    assert!(wire.asked().contains("GET http://registry.example.com/v2/app/manifests/1"), "{}", wire.asked());
}

#[test]
fn progress_is_told_but_not_too_often() {
    let image = Image::oci(&[&noise(6, 500_000)]);
    let place = Place::new();
    let own = image.clone();
    let server = Server::start(move |asked| match own.blobs.get(asked.path.rsplit('/').next().unwrap()) {
        Some(blob) => Answer::new(200, Body::Slow(blob.clone())),
        None => Answer::of(&own, &asked.path),
    });
    let outcome = fetch(&place.request("registry.example.com/app:1", &[plain(&server.address)]));
    let told: Vec<_> = outcome
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Progress { digest, done_bytes } if *digest == image.layers[0] => Some(*done_bytes),
            _ => None,
        })
        .collect();
    assert!(told.len() >= 3 && told.len() <= 20, "{told:?}");
    assert!(told.is_sorted() && told.iter().all(|&bytes| bytes > 0 && bytes <= 500_000), "{told:?}");
    assert!(outcome.is_done(), "{outcome:?}");
}

#[test]
fn the_parents_names_for_things_are_these() {
    let place = Place::new();
    let request = place.request("registry.example.com/app:1", &[plain("registry.example.com")]);
    let mut line = serde_json::to_value(&request).unwrap();
    line["hosts"][0]["credentials"] = json!({"basic": {"username": "a", "password": "b"}});
    line.as_object_mut().unwrap().remove("patience");
    let read: securectr_registry::Request = serde_json::from_value(line).unwrap();
    assert_eq!(read.patience.stall_ms, 30_000);
    assert!(!format!("{read:?}").contains("\"b\""), "a password is not shown");
    assert_eq!(serde_json::to_value(Event::Done).unwrap(), json!("done"));
}
