//! What the program cannot do, whatever a host has made of it.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
};

use crate::{
    debian::Storage,
    image::{Image, files},
    program::{Place, Running, fetch, plain, start},
};

/// It has asked, and waits for an answer.
fn waiting(place: &Place) -> (Running, TcpStream) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut request = place.request("registry.example.com/app:1", &[plain(&address)]);
    request.patience.stall_ms = 60_000;
    let running = start(&request);
    let (asked, _) = silent.accept().unwrap();
    (running, asked)
}

#[test]
fn the_program_ends_with_its_parent() {
    let place = Place::new();
    let (mut running, _asked) = waiting(&place);
    running.leave();
    let outcome = running.outcome();
    assert_eq!((outcome.status.code(), outcome.events.len()), (Some(1), 0), "{outcome:?}");
}

/// Landlock is in the kernels of Debian 12 and 13.
#[test]
fn beyond_the_destination_nothing_is_written() {
    let storage = Storage::new();
    let registry = storage.open();
    registry.push("app", "1", &Image::oci(&[b"layer"]));
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("partial")).unwrap();
    fs::create_dir(outside.path().join("sha256")).unwrap();
    symlink(outside.path(), place.directory.path().join("image/blobs")).unwrap();
    let outcome = fetch(&place.request("registry.example.com/app:1", &[plain(&registry.address)]));
    assert!(outcome.cause().contains("Permission denied"), "{outcome:?}");
    assert!(files(outside.path()).is_empty());
}

#[test]
fn before_a_host_has_answered_the_jail_is_shut() {
    let place = Place::new();
    let (running, _asked) = waiting(&place);
    let process = format!("/proc/{}", running.id());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap().to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    // CAP_DAC_OVERRIDE, where it had that.
    for set in ["CapPrm:", "CapEff:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap() & !2, 0, "{set} {}", field(set));
    }
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    for (name, most) in
        [("Max data size", "134217728"), ("Max core file size", "0"), ("Max open files", "256")]
    {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(line.split_ascii_whitespace().next(), Some(most), "{name}");
    }
    running.kill();
}
