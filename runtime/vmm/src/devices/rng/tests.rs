use super::*;
use crate::devices::testing::{Guest, Piece};

const REQUESTS: usize = 0;

#[test]
fn a_request_is_filled_with_random_bytes() {
    let mut guest = Guest::ready(Rng);
    let (first, second) = (guest.room(32), guest.room(32));
    guest.give(REQUESTS, &[Piece::Writable(first, 32), Piece::Writable(second, 32)]);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((0, 64)));
    assert_ne!(guest.bytes(first, 32), [0; 32]);
    assert_ne!(guest.bytes(first, 32), guest.bytes(second, 32));
    assert_eq!(guest.interrupt.read().unwrap(), 1);
}

#[test]
fn a_request_of_any_size_costs_no_more_than_64_kib() {
    let mut guest = Guest::ready(Rng);
    let room = guest.room(1024 * 1024);
    guest.give(REQUESTS, &[Piece::Writable(room, 1024 * 1024)]);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((0, 64 * 1024)));
    assert_eq!(guest.bytes(room + 64 * 1024, 4096), [0; 4096]);
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let mut guest = Guest::ready(Rng);
    let room = guest.room(16);
    for _ in 0..16 {
        guest.give(REQUESTS, &[Piece::Writable(room, 16)]);
    }
    assert!(guest.run());
    assert_eq!((0..16).filter_map(|_| guest.used(REQUESTS)).map(|(_, len)| len).sum::<u32>(), 256);
}

#[test]
fn a_request_without_room_stops_the_device_and_is_told() {
    let mut guest = Guest::ready(Rng);
    let nothing = guest.put(&[1, 2, 3]);
    guest.give(REQUESTS, &[nothing]);
    assert!(guest.run());
    assert!(matches!(guest.news(), Some(crate::devices::News::Abuse(_))));
    assert_eq!(guest.used(REQUESTS), None);
}

#[test]
fn a_restored_device_goes_on() {
    let mut guest = Guest::ready(Rng).moved_to(Rng);
    let room = guest.room(16);
    guest.give(REQUESTS, &[Piece::Writable(room, 16)]);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((0, 16)));
}
