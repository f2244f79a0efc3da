//! What no kernel asks. The server lives on, and nothing outside its share changes.

use std::{fs, process::Command};

use rustix::io::Errno;

use crate::client::{Client, ROOT, longs, message, string, u64_at, words};

const INVAL: i32 = Errno::INVAL.raw_os_error();

#[test]
#[ignore = "needs root"]
fn a_name_that_leads_elsewhere_is_refused_by_every_request_that_has_one() {
    let mut client = Client::start();
    fs::write(client.host_path("f"), "").unwrap();
    let share = client.share();
    let file = client.look_up(share, "f").unwrap();
    let long = "x".repeat(300);
    for name in ["", ".", "..", "/", "a/b", "../beside", "/etc/passwd", "f/..", &long] {
        let named = string(name);
        let before = |words_before: &[u32]| [words(words_before), named.clone()].concat();
        let requests = [
            (1, named.clone()),
            (6, [named.clone(), string("target")].concat()),
            (8, before(&[0o100_644, 0, 0, 0])),
            (9, before(&[0o755, 0])),
            (10, named.clone()),
            (11, named.clone()),
            (12, [longs(&[share]), string("f"), named.clone()].concat()),
            (12, [longs(&[share]), named.clone(), string("g")].concat()),
            (45, [longs(&[share]), words(&[0, 0]), named.clone(), string("g")].concat()),
            (13, [longs(&[file]), named.clone()].concat()),
            (35, before(&[2, 0o100_644, 0, 0])),
        ];
        for (opcode, body) in requests {
            let refused = client.ask(opcode, share, &body).unwrap_err();
            assert!(name.len() > 255 || refused == INVAL, "{opcode} {name:?}: {refused}");
        }
    }
    assert_eq!(fs::read_dir(client.host_path("")).unwrap().count(), 1);
    assert!(client.is_well());
}

#[test]
#[ignore = "needs root"]
fn nodes_and_handles_that_were_never_given_are_refused() {
    let mut client = Client::start();
    let share = client.share();
    let handle = u64_at(&client.ask(27, share, &words(&[0, 0])).unwrap(), 0);
    for node in [0, 999, u64::MAX] {
        for opcode in (1..60).filter(|opcode| ![2, 26, 36, 38, 42].contains(opcode)) {
            for body in [vec![], vec![0; 200], [longs(&[handle]), vec![0; 100]].concat(), vec![0xff; 300]] {
                assert!(client.ask(opcode, node, &body).is_err(), "{opcode} of {node}");
            }
        }
    }
    // An open directory is that of its own inode.
    let read = [longs(&[handle, 0]), words(&[4096, 0]), longs(&[0]), words(&[0, 0])].concat();
    assert!(client.ask(28, share, &read).is_ok());
    assert_eq!(client.ask(28, ROOT, &read), Err(Errno::BADF.raw_os_error()));
    assert!(client.is_well());
}

#[test]
#[ignore = "needs root"]
fn the_directory_of_the_shares_cannot_be_changed() {
    let mut client = Client::start();
    let share = client.share();
    let refused = Err(Errno::ROFS.raw_os_error());
    let rename = [longs(&[ROOT]), string("share"), string("other")].concat();
    let requests = [
        (9, ROOT, [words(&[0o755, 0]), string("new")].concat()),
        (35, ROOT, [words(&[2, 0o100_644, 0, 0]), string("new")].concat()),
        (51, ROOT, [words(&[2, 0o100_644, 0, 0]), string("/")].concat()),
        (11, ROOT, string("share")),
        (12, ROOT, rename.clone()),
        (12, share, rename),
        (4, ROOT, vec![1; 88]),
        (21, ROOT, [words(&[1, 0]), string("user.x"), b"x".to_vec()].concat()),
    ];
    for (opcode, node, body) in requests {
        assert_eq!(client.ask(opcode, node, &body), refused, "{opcode}");
    }
    assert!(client.is_well());
}

#[test]
#[ignore = "needs root"]
fn a_message_that_is_no_request_ends_nothing() {
    let mut client = Client::start();
    let request = message(1, 77, ROOT, &string("share"));
    // Shorter than a header: there is nobody to answer.
    for len in 1..40 {
        client.send(&request[..len]);
    }
    for claimed in [0, 39, 40, request.len() as u32 - 1, request.len() as u32 + 1, u32::MAX] {
        let mut lying = request.clone();
        lying[..4].copy_from_slice(&claimed.to_le_bytes());
        client.send(&lying);
        assert_eq!(client.receive(), (77, Err(INVAL)), "{claimed}");
    }
    // Longer than any.
    client.send(&message(16, 78, ROOT, &vec![0; 150 * 1024]));
    assert_eq!(client.receive(), (78, Err(INVAL)));
    for opcode in [0, 7, 19, 31, 34, 37, 39, 52, 999, 4096, u32::MAX] {
        assert_eq!(client.ask(opcode, ROOT, &[0; 64]), Err(Errno::NOSYS.raw_os_error()), "{opcode}");
    }
    assert_eq!(client.ask(26, 0, &words(&[6, 0, 0, 0])), Err(Errno::PROTO.raw_os_error()));
    assert_eq!(client.ask(26, 0, &words(&[7, 38])), Err(INVAL));
    assert!(client.is_well());
}

#[test]
#[ignore = "needs root"]
fn lengths_and_offsets_beyond_all_bounds_are_refused() {
    let mut client = Client::start();
    fs::write(client.host_path("f"), "x").unwrap();
    let share = client.share();
    let file = client.look_up(share, "f").unwrap();
    let handle = u64_at(&client.ask(14, file, &words(&[2, 0])).unwrap(), 0);
    let most = u64::MAX;
    let data = |offset, len, rest: &[u8]| {
        [longs(&[handle, offset]), words(&[len, 0]), longs(&[0]), words(&[0, 0]), rest.to_vec()].concat()
    };
    assert_eq!(client.ask(15, file, &data(0, 128 * 1024 + 1, &[])), Err(INVAL));
    assert_eq!(client.ask(15, file, &data(0, u32::MAX, &[])), Err(INVAL));
    assert_eq!(client.ask(16, file, &data(0, u32::MAX, b"short")), Err(INVAL));
    for opcode in [15, 16] {
        assert!(client.ask(opcode, file, &data(most, 1, b"x")).is_err());
    }
    assert!(client.ask(43, file, &[longs(&[handle, most, most]), words(&[0, 0])].concat()).is_err());
    assert!(client.ask(46, file, &[longs(&[handle, most]), words(&[3, 0])].concat()).is_err());
    assert!(client.ask(47, file, &longs(&[handle, most, file, handle, most, most, 0])).is_err());
    assert_eq!(client.ask(21, file, &[words(&[u32::MAX, 0]), string("user.x")].concat()), Err(INVAL));
    let directory = u64_at(&client.ask(27, share, &words(&[0, 0])).unwrap(), 0);
    for (offset, len) in [(most, 4096), (0, u32::MAX), (0, 0)] {
        let read = [longs(&[directory, offset]), words(&[len, 0]), longs(&[0]), words(&[0, 0])].concat();
        let _ = client.ask(44, share, &read);
    }
    assert_eq!(fs::read(client.host_path("f")).unwrap(), b"x");
    assert!(client.is_well());
}

#[test]
#[ignore = "needs root"]
fn forgetting_more_than_was_ever_known_is_no_more_than_forgetting() {
    let mut client = Client::start();
    let share = client.share();
    client.say(2, share, &longs(&[u64::MAX]));
    client.say(2, ROOT, &longs(&[u64::MAX]));
    client.say(2, 4711, &longs(&[1]));
    client.say(2, share, &[]);
    // More than there are in it, and more than ever fits.
    client.say(42, 0, &[words(&[u32::MAX, 0]), longs(&[share, u64::MAX, ROOT, u64::MAX])].concat());
    client.say(42, 0, &[]);
    client.say(36, 0, &longs(&[u64::MAX]));
    // They go to whichever worker is free: each number of a share is given once, so a new one tells that the old is forgotten.
    let again = client.share();
    assert!(again >= share);
    assert!(client.ask(3, ROOT, &longs(&[0, 0])).is_ok());
    assert!(client.is_well());
}

#[test]
#[ignore = "needs root"]
fn what_would_wait_for_ever_or_is_no_file_is_not_opened() {
    let mut client = Client::start();
    for (name, kind) in [("pipe", &["p"][..]), ("zero", &["c", "1", "5"])] {
        assert!(Command::new("mknod").arg(client.host_path(name)).args(kind).status().unwrap().success());
        let share = client.share();
        let node = client.look_up(share, name).unwrap();
        assert_eq!(client.ask(14, node, &words(&[0, 0])), Err(Errno::OPNOTSUPP.raw_os_error()));
    }
    let share = client.share();
    for mode in [0o020_600, 0o060_600] {
        let node = [words(&[mode, 0x103, 0, 0]), string("device")].concat();
        assert_eq!(client.ask(8, share, &node), Err(Errno::PERM.raw_os_error()));
    }
    assert!(client.is_well());
}

/// Numbers that the server has given, and others, in places where they make no sense.
#[test]
#[ignore = "needs root"]
fn noise_ends_nothing() {
    let mut client = Client::start();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize % below
    };
    let names = ["a", "b", "c", "share", "..", ".", "a/b", "user.x", "security.capability", ""];
    let mut given = vec![client.share()];
    let mut met = 0;
    for _ in 0..20_000 {
        let opcode = [next(60) as u32, 1, 9, 35, 27, 44, 14, 12][next(8)];
        // No answer, the end of the session, and what could fill a disk.
        if [2, 36, 42, 38, 43].contains(&opcode) {
            continue;
        }
        let mut number = || if next(8) == 0 { next(5) as u64 } else { given[next(given.len())] };
        let node = number();
        let mut body = Vec::new();
        match opcode {
            9 | 14 | 27 | 35 => body = words(&[2, 0o777]),
            _ => {}
        }
        if [12, 15, 16, 28, 44, 46].contains(&opcode) {
            body = longs(&[number()]);
        }
        for _ in 0..next(4) {
            body.extend_from_slice(&longs(&[next(5000) as u64]));
        }
        for _ in 0..next(3) {
            body.extend_from_slice(&string(names[next(names.len())]));
        }
        if let Ok(answer) = client.ask(opcode, node, &body) {
            met += 1;
            if [1, 9, 14, 27, 35].contains(&opcode) {
                given.push(u64_at(&answer, 0));
                given.drain(..given.len().saturating_sub(20));
            }
        }
    }
    // Some of it made sense after all.
    assert!(met > 1000, "{met}");
    assert!(client.is_well());
}
