use super::*;
use crate::devices::{
    News,
    testing::{DATA, Guest, MEMORY_LEN, Piece},
};

const MIB: u64 = 1 << 20;

/// A guest with something in these MiB.
fn guest(used: &[u64]) -> Guest {
    let guest = Guest::ready(Balloon);
    for mib in used {
        guest.fill(mib * MIB, MIB as usize);
    }
    guest
}

fn is_there(guest: &Guest, mib: u64) -> bool {
    guest.bytes(mib * MIB, MIB as usize).iter().all(|&byte| byte != 0)
}

fn is_gone(guest: &Guest, mib: u64) -> bool {
    guest.bytes(mib * MIB, MIB as usize).iter().all(|&byte| byte == 0)
}

#[test]
fn what_is_reported_is_given_back_and_nothing_else() {
    let mut guest = guest(&[2, 3, 4, 5]);
    guest.give(REPORTS, &[Piece::Writable(2 * MIB, MIB as u32), Piece::Writable(4 * MIB, MIB as u32)]);
    assert!(guest.run());
    assert_eq!(guest.used(REPORTS), Some((0, 0)));
    assert!(is_gone(&guest, 2) && is_there(&guest, 3) && is_gone(&guest, 4) && is_there(&guest, 5));
}

#[test]
fn parts_of_pages_stay() {
    let mut guest = guest(&[2, 3]);
    guest.give(REPORTS, &[Piece::Writable(2 * MIB + 1, 2 * MIB as u32 - 2)]);
    assert!(guest.run());
    let first = guest.bytes(2 * MIB, 4096);
    let last = guest.bytes(4 * MIB - 4096, 4096);
    assert!(first.iter().chain(&last).all(|&byte| byte != 0));
    assert!(guest.bytes(2 * MIB + 4096, 2 * MIB as usize - 8192).iter().all(|&byte| byte == 0));
}

#[test]
fn many_reports_are_all_answered() {
    let mut guest = guest(&[]);
    for _ in 0..64 {
        guest.give(REPORTS, &[Piece::Writable(2 * MIB, 4096)]);
    }
    assert!(guest.run());
    assert_eq!((0..64).filter_map(|_| guest.used(REPORTS)).count(), 64);
}

#[test]
fn memory_that_is_not_there_stops_the_device_and_is_told() {
    let mut guest = guest(&[2]);
    guest.give(REPORTS, &[Piece::Writable(MEMORY_LEN as u64 - 4096, 8192)]);
    assert!(guest.run());
    assert!(matches!(guest.news(), Some(News::Abuse(_))));
    assert!(is_there(&guest, 2));
}

#[test]
fn a_balloon_that_nobody_asked_for_changes_nothing() {
    let mut guest = guest(&[2]);
    for queue in [0, 1] {
        let pages = guest.put(&[0, 2, 0, 0]);
        guest.give(queue, &[pages]);
        assert!(guest.run());
        assert_eq!(guest.used(queue), Some((0, 0)));
    }
    assert!(is_there(&guest, 2) && DATA < 2 * MIB);
}

#[test]
fn a_restored_device_goes_on() {
    let mut guest = guest(&[2]).moved_to(Balloon);
    guest.give(REPORTS, &[Piece::Writable(2 * MIB, MIB as u32)]);
    assert!(guest.run());
    assert!(is_gone(&guest, 2));
}
