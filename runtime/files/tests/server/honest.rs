//! What a kernel asks.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use rustix::io::Errno;
use securectr_files::Request;

use crate::client::{Client, ROOT, SHARE, longs, string, u32_at, u64_at, words};

const STALE: i32 = Errno::STALE.raw_os_error();
const NOENT: i32 = Errno::NOENT.raw_os_error();

/// Makes a file and opens it for reading and writing: its node and its handle.
fn create(client: &mut Client, parent: u64, name: &str) -> (u64, u64) {
    let body = [words(&[2, 0o100_644, 0, 0]), string(name)].concat();
    let made = client.ask(35, parent, &body).unwrap();
    (u64_at(&made, 0), u64_at(&made, 128))
}

#[test]
#[ignore = "needs root"]
fn a_file_is_made_written_and_read() {
    let mut client = Client::start();
    let share = client.share();
    let (file, handle) = create(&mut client, share, "f");
    let write =
        [longs(&[handle, 3]), words(&[5, 0]), longs(&[0]), words(&[0, 0]), b"hello".to_vec()].concat();
    assert_eq!(u32_at(&client.ask(16, file, &write).unwrap(), 0), 5);
    assert_eq!(fs::read(client.host_path("f")).unwrap(), b"\0\0\0hello");
    let read = [longs(&[handle, 3]), words(&[100, 0]), longs(&[0]), words(&[0, 0])].concat();
    assert_eq!(client.ask(15, file, &read).unwrap(), b"hello");
}

#[test]
#[ignore = "needs root"]
fn a_directory_is_told_with_what_a_lookup_of_each_name_would_tell() {
    let mut client = Client::start();
    for number in 0..100 {
        fs::write(client.host_path(&format!("file {number}")), "").unwrap();
    }
    let share = client.share();
    let handle = u64_at(&client.ask(27, share, &words(&[0, 0])).unwrap(), 0);
    let (mut names, mut offset) = (0, 0);
    loop {
        let read = [longs(&[handle, offset]), words(&[4096, 0]), longs(&[0]), words(&[0, 0])].concat();
        let records = client.ask(44, share, &read).unwrap();
        assert!(records.len() <= 4096);
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (node, name_len) = (u64_at(rest, 0), u32_at(rest, 128 + 16) as usize);
            let name = std::str::from_utf8(&rest[152..152 + name_len]).unwrap().to_owned();
            offset = u64_at(rest, 128 + 8);
            assert_eq!(client.look_up(share, &name).unwrap_or(0), node, "{name}");
            names += 1;
            rest = &rest[(152 + name_len).next_multiple_of(8)..];
        }
        if records.is_empty() {
            break;
        }
    }
    assert_eq!(names, 102);
}

#[test]
#[ignore = "needs root"]
fn a_released_share_is_forgotten_with_all_its_files() {
    let mut client = Client::start();
    let share = client.share();
    let (file, handle) = create(&mut client, share, "f");
    client.order(&Request::Release(SHARE.to_owned()));
    for node in [share, file] {
        assert_eq!(client.ask(3, node, &longs(&[0, 0])), Err(STALE));
    }
    let read = [longs(&[handle, 0]), words(&[100, 0]), longs(&[0]), words(&[0, 0])].concat();
    assert_eq!(client.ask(15, file, &read), Err(Errno::BADF.raw_os_error()));
}

#[test]
#[ignore = "needs root"]
fn only_of_an_exclusive_share_is_anything_remembered() {
    for (before, seconds, open_flags) in
        [(vec![], 1, 0), (vec![Request::Exclusive(SHARE.to_owned())], 24 * 60 * 60, 1 << 1 | 1 << 3)]
    {
        let mut client = Client::start_with(&before);
        let entry = client.ask(1, ROOT, &string(SHARE)).unwrap();
        assert_eq!((u64_at(&entry, 16), u64_at(&entry, 24)), (seconds, seconds));
        let share = u64_at(&entry, 0);
        assert_eq!(u32_at(&client.ask(27, share, &words(&[0, 0])).unwrap(), 8), open_flags);
        let missing = client.ask(1, share, &string("missing"));
        match before.is_empty() {
            true => assert_eq!(missing, Err(NOENT)),
            false => {
                let entry = missing.unwrap();
                assert_eq!((entry.len(), u64_at(&entry, 0), u64_at(&entry, 16)), (128, 0, seconds));
            }
        }
        // What shares there are, only the host says.
        assert_eq!(client.ask(1, ROOT, &string("missing")), Err(NOENT));
    }
}

#[test]
#[ignore = "needs root"]
fn a_link_is_told_and_never_followed() {
    let mut client = Client::start();
    symlink("../beside", client.host_path("up")).unwrap();
    symlink("/etc", client.host_path("etc")).unwrap();
    let share = client.share();
    for (name, target) in [("up", "../beside"), ("etc", "/etc")] {
        let link = client.look_up(share, name).unwrap();
        assert_eq!(client.ask(5, link, &[]).unwrap(), target.as_bytes());
        assert_eq!(client.look_up(link, "passwd"), Err(Errno::NOTDIR.raw_os_error()));
        for opcode in [14, 27] {
            assert_eq!(client.ask(opcode, link, &words(&[2, 0])), Err(Errno::OPNOTSUPP.raw_os_error()));
        }
        // Mode, size: of the link or of nothing.
        for (valid, mode) in [(1 << 0, 0o777), (1 << 3, 0)] {
            let mut change = vec![0; 88];
            change[0] = valid;
            change[68..72].copy_from_slice(&(mode as u32).to_le_bytes());
            assert!(client.ask(4, link, &change).is_err());
        }
    }
    assert_eq!(client.beside(), "secret");
}

#[test]
#[ignore = "needs root"]
fn a_change_of_nothing_takes_set_id_bits_and_leaves_directories_alone() {
    let mut client = Client::start();
    fs::write(client.host_path("program"), "").unwrap();
    fs::create_dir(client.host_path("directory")).unwrap();
    let share = client.share();
    for (name, expected) in [("program", 0o755), ("directory", 0o6755)] {
        fs::set_permissions(client.host_path(name), fs::Permissions::from_mode(0o6755)).unwrap();
        let node = client.look_up(share, name).unwrap();
        let attributes = client.ask(4, node, &[0; 88]).unwrap();
        // `struct fuse_attr_out`: the mode is 60 bytes behind 16.
        assert_eq!(u32_at(&attributes, 16 + 60) & 0o7777, expected, "{name}");
        assert_eq!(fs::metadata(client.host_path(name)).unwrap().permissions().mode() & 0o7777, expected);
    }
}
