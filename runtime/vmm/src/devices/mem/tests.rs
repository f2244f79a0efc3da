use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INTERRUPT_STATUS,
};

use super::*;
use crate::devices::{
    News,
    testing::{Guest, Piece},
};

const REQUESTS: usize = 0;
const START: u64 = 4 << 30;
const CHUNK_MIB: u32 = 128;

/// What the host was asked for.
#[derive(Debug, Default)]
pub(in crate::devices) struct Host {
    open: Vec<usize>,
    discarded: Vec<(usize, std::ops::Range<u64>)>,
    most_open: usize,
    /// It opens no more chunks than this.
    room: Option<usize>,
}

struct Fake(Arc<Mutex<Host>>);

impl Chunks for Fake {
    fn open(&mut self, chunk: usize) -> io::Result<()> {
        let mut host = self.0.lock().unwrap();
        assert!(!host.open.contains(&chunk));
        if host.room.is_some_and(|room| host.open.len() >= room) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        host.open.push(chunk);
        host.most_open = host.most_open.max(host.open.len());
        Ok(())
    }

    fn close(&mut self, chunk: usize) -> io::Result<()> {
        let mut host = self.0.lock().unwrap();
        let place = host.open.iter().position(|&open| open == chunk).unwrap();
        host.open.remove(place);
        Ok(())
    }

    fn discard(&mut self, chunk: usize, range: &std::ops::Range<u64>) -> io::Result<()> {
        let mut host = self.0.lock().unwrap();
        assert!(host.open.contains(&chunk) && range.end <= CHUNK_LEN && !range.is_empty());
        host.discarded.push((chunk, range.clone()));
        Ok(())
    }
}

/// With room for four chunks.
pub(in crate::devices) fn roomy() -> (Mem, Arc<Mutex<Host>>) {
    let host = Arc::<Mutex<Host>>::default();
    (Mem::new(START, 4 * CHUNK_MIB, Box::new(Fake(Arc::clone(&host)))), host)
}

fn ready() -> (Guest, Arc<Mutex<Host>>) {
    let (mem, host) = roomy();
    (Guest::ready(mem), host)
}

/// Asked for so many chunks.
fn asked_for(chunks: u64) -> (Guest, Arc<Mutex<Host>>) {
    let (mut guest, host) = ready();
    resize(&mut guest, chunks * CHUNK_LEN);
    guest.news().unwrap();
    (guest, host)
}

fn resize(guest: &mut Guest, bytes: u64) {
    guest.transport.lock().unwrap().resize(bytes).unwrap();
    assert!(guest.run());
}

fn request(kind: u16, block: u64, count: u16) -> Vec<u8> {
    let words = [u64::from(kind), START + block * BLOCK_LEN, u64::from(count)];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// The answer's type and state.
fn ask_raw(guest: &mut Guest, request: &[u8]) -> (u8, u8) {
    let sent = guest.put(request);
    let room = guest.room(ANSWER_LEN as u32);
    let head = guest.give(REQUESTS, &[sent, Piece::Writable(room, ANSWER_LEN as u32)]);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((head, ANSWER_LEN as u32)));
    let answer = guest.bytes(room, ANSWER_LEN);
    (answer[0], answer[8])
}

fn ask(guest: &mut Guest, kind: u16, block: u64, count: u16) -> (u8, u8) {
    ask_raw(guest, &request(kind, block, count))
}

const DONE: (u8, u8) = (0, 0);
const REFUSED: (u8, u8) = (1, 0);
const BUSY: (u8, u8) = (2, 0);
const WRONG: (u8, u8) = (3, 0);

/// The n-th word of the configuration space.
fn config(guest: &Guest, word: u32) -> u64 {
    let half = |offset| u64::from(guest.read(VIRTIO_MMIO_CONFIG + word * 8 + offset));
    half(0) | half(4) << 32
}

fn plugged_len(guest: &Guest) -> u64 {
    config(guest, 5)
}

fn mib(bytes: u64) -> u64 {
    bytes / MIB
}

#[test]
fn the_driver_learns_where_memory_may_come_and_how_much() {
    let (mut guest, _) = ready();
    let words = [0, 2, 3, 4, 5, 6].map(|word| config(&guest, word));
    assert_eq!(words, [BLOCK_LEN, START, 4 * CHUNK_LEN, 4 * CHUNK_LEN, 0, 0]);
    let before = guest.read(VIRTIO_MMIO_CONFIG_GENERATION);
    resize(&mut guest, CHUNK_LEN);
    assert_eq!(config(&guest, 6), CHUNK_LEN);
    assert_ne!(guest.read(VIRTIO_MMIO_CONFIG_GENERATION), before);
    assert_ne!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG, 0);
    assert_eq!(guest.interrupt.read().unwrap(), 1);
}

#[test]
fn memory_comes_by_chunks_and_goes_with_the_last_block() {
    let (mut guest, host) = asked_for(2);
    assert_eq!(ask(&mut guest, PLUG, 0, 1), DONE);
    assert_eq!(host.lock().unwrap().open, [0]);
    assert_eq!(ask(&mut guest, PLUG, 1, 127), DONE);
    assert_eq!((host.lock().unwrap().open.clone(), mib(plugged_len(&guest))), (vec![0, 1], 256));
    assert_eq!(ask(&mut guest, UNPLUG, 60, 68), DONE);
    assert_eq!(host.lock().unwrap().open, [0]);
    assert_eq!(host.lock().unwrap().discarded, [(0, 60 * BLOCK_LEN..CHUNK_LEN)]);
    assert_eq!(ask(&mut guest, UNPLUG, 0, 60), DONE);
    assert!(host.lock().unwrap().open.is_empty());
    assert_eq!(plugged_len(&guest), 0);
}

#[test]
fn all_can_be_unplugged_at_once() {
    let (mut guest, host) = asked_for(3);
    for block in [0, 70, 130] {
        assert_eq!(ask(&mut guest, PLUG, block, 3), DONE);
    }
    assert_eq!(ask(&mut guest, UNPLUG_ALL, 0, 0), DONE);
    assert!(host.lock().unwrap().open.is_empty());
    assert_eq!(plugged_len(&guest), 0);
}

#[test]
fn the_driver_may_ask_what_is_plugged() {
    let (mut guest, _) = asked_for(1);
    ask(&mut guest, PLUG, 8, 8);
    let states = [(8, 8), (0, 8), (0, 9), (8, 9)].map(|(block, count)| ask(&mut guest, STATE, block, count));
    assert_eq!(states, [(0, 0), (0, 1), (0, 2), (0, 2)]);
}

#[test]
fn the_parent_is_answered_soon_and_when_the_driver_has_done_it() {
    let (mut guest, _) = ready();
    assert_eq!(guest.news(), None);
    resize(&mut guest, CHUNK_LEN);
    assert_eq!(guest.news(), Some(News::Memory { plugged: 0, requested: CHUNK_LEN }));
    ask(&mut guest, PLUG, 0, 32);
    assert_eq!(guest.news(), None);
    ask(&mut guest, PLUG, 32, 32);
    assert_eq!(guest.news(), Some(News::Memory { plugged: CHUNK_LEN, requested: CHUNK_LEN }));
    // Again and again, without being asked.
    ask(&mut guest, UNPLUG, 0, 1);
    ask(&mut guest, PLUG, 0, 1);
    assert_eq!(guest.news(), None);
    resize(&mut guest, CHUNK_LEN);
    assert_eq!(guest.news(), Some(News::Memory { plugged: CHUNK_LEN, requested: CHUNK_LEN }));
    assert_eq!(guest.news(), None);
}

#[test]
fn the_parent_cannot_ask_for_more_than_there_is_room_for() {
    let (guest, _) = ready();
    for bytes in [4 * CHUNK_LEN + BLOCK_LEN, BLOCK_LEN - 1, u64::MAX] {
        let refused = guest.transport.lock().unwrap().resize(bytes);
        assert!(matches!(refused, Err(ResizeError::Size { .. })), "{bytes}");
    }
}

#[test]
fn no_driver_plugs_more_than_it_is_asked_to() {
    let (mut guest, host) = ready();
    assert_eq!(ask(&mut guest, PLUG, 0, 1), REFUSED);
    resize(&mut guest, CHUNK_LEN);
    assert_eq!(ask(&mut guest, PLUG, 0, 65), REFUSED);
    assert_eq!(ask(&mut guest, PLUG, 0, 64), DONE);
    assert_eq!(ask(&mut guest, PLUG, 64, 1), REFUSED);
    assert_eq!(host.lock().unwrap().open, [0]);
}

/// In an open chunk it could touch what it has not plugged.
#[test]
fn no_driver_opens_more_chunks_than_it_is_asked_to_fill() {
    let (mut guest, host) = asked_for(2);
    assert_eq!(ask(&mut guest, PLUG, 0, 1), DONE);
    assert_eq!(ask(&mut guest, PLUG, 64, 1), DONE);
    assert_eq!(ask(&mut guest, PLUG, 128, 1), REFUSED);
    assert_eq!(ask(&mut guest, PLUG, 127, 2), REFUSED);
    assert_eq!(ask(&mut guest, PLUG, 100, 20), DONE);
    assert_eq!(host.lock().unwrap().open, [0, 1]);
}

#[test]
fn a_driver_that_keeps_what_it_should_give_back_gets_nothing_more() {
    let (mut guest, host) = asked_for(2);
    ask(&mut guest, PLUG, 0, 128);
    guest.news().unwrap();
    resize(&mut guest, 0);
    assert_eq!(guest.news(), Some(News::Memory { plugged: 2 * CHUNK_LEN, requested: 0 }));
    assert_eq!(ask(&mut guest, UNPLUG, 0, 64), DONE);
    assert_eq!(ask(&mut guest, PLUG, 0, 1), REFUSED);
    assert_eq!(host.lock().unwrap().open, [1]);
}

#[test]
fn requests_that_make_no_sense_change_nothing() {
    let (mut guest, host) = asked_for(4);
    ask(&mut guest, PLUG, 10, 10);
    for (kind, block, count) in [
        (PLUG, 15, 1),
        (PLUG, 5, 10),
        (PLUG, 0, 0),
        (PLUG, 256, 1),
        (PLUG, 255, 2),
        (UNPLUG, 9, 2),
        (UNPLUG, 19, 2),
        (UNPLUG, 0, 1),
        (UNPLUG, 10, 0),
        (UNPLUG, 0, u16::MAX),
        (STATE, 255, 2),
        (STATE, 0, 0),
        (4, 10, 1),
        (u16::MAX, 10, 1),
    ] {
        assert_eq!(ask(&mut guest, kind, block, count), WRONG, "{kind} {block} {count}");
    }
    for address in
        [0, START - BLOCK_LEN, START + 1, START + BLOCK_LEN / 2, u64::MAX, u64::MAX - BLOCK_LEN + 1]
    {
        let words = [0, address, 1].iter().flat_map(|word: &u64| word.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(ask_raw(&mut guest, &words), WRONG, "{address:#x}");
    }
    assert_eq!((host.lock().unwrap().open.clone(), mib(plugged_len(&guest))), (vec![0], 20));
}

#[test]
fn a_host_without_memory_is_busy_and_nothing_is_half_done() {
    let (mut guest, host) = asked_for(4);
    host.lock().unwrap().room = Some(2);
    assert_eq!(ask(&mut guest, PLUG, 0, 192), BUSY);
    assert!(host.lock().unwrap().open.is_empty());
    assert_eq!(ask(&mut guest, PLUG, 0, 128), DONE);
}

#[test]
fn drivers_that_break_the_rules_are_stopped_and_told_of() {
    let short = |guest: &mut Guest| {
        let sent = guest.put(&[0; REQUEST_LEN - 1]);
        let room = guest.room(ANSWER_LEN as u32);
        guest.give(REQUESTS, &[sent, Piece::Writable(room, ANSWER_LEN as u32)]);
    };
    let without_room = |guest: &mut Guest| {
        let sent = guest.put(&request(PLUG, 0, 1));
        let room = guest.room(ANSWER_LEN as u32);
        guest.give(REQUESTS, &[sent, Piece::Writable(room, ANSWER_LEN as u32 - 1)]);
    };
    for act in [&short as &dyn Fn(&mut Guest), &without_room] {
        let (mut guest, host) = asked_for(1);
        act(&mut guest);
        assert!(guest.run());
        assert!(matches!(guest.news(), Some(News::Abuse(_))));
        assert!(host.lock().unwrap().open.is_empty());
    }
}

#[test]
fn what_is_plugged_outlives_a_reset_of_the_device() {
    let (mut guest, _) = asked_for(1);
    ask(&mut guest, PLUG, 0, 4);
    guest.negotiate(u64::MAX);
    assert!(guest.run());
    assert_eq!(mib(plugged_len(&guest)), 8);
    assert_eq!(ask(&mut guest, STATE, 0, 4), (0, 0));
}

#[test]
fn a_machine_is_saved_without_plugged_memory_only() {
    let (guest, _) = ready();
    let mut guest = guest.moved_to(roomy().0);
    resize(&mut guest, CHUNK_LEN);
    assert_eq!(ask(&mut guest, PLUG, 0, 1), DONE);
    assert!(matches!(guest.transport.lock().unwrap().save(), Err(StateError::Busy(_))));
    assert_eq!(ask(&mut guest, UNPLUG, 0, 1), DONE);
    let state = guest.transport.lock().unwrap().save().unwrap();
    let other = Mem::new(START + CHUNK_LEN, 4 * CHUNK_MIB, Box::new(Fake(Arc::default())));
    let other = Guest::with_memory(other, guest.memory.clone());
    let refused = other.transport.lock().unwrap().restore(&state);
    assert!(matches!(refused, Err(StateError::Differs(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a driver asks for, in any order.
    #[test]
    fn the_host_never_backs_more_than_was_asked_for(
        acts in prop::collection::vec((0..6_u16, 0..260_u64, 0..140_u16), 1..60),
    ) {
        let (mut guest, host) = ready();
        let mut most = 0;
        for (kind, block, count) in acts {
            if kind == 5 {
                let bytes = (block % 5) * CHUNK_LEN;
                most = most.max(bytes);
                resize(&mut guest, bytes);
                while guest.news().is_some() {}
            } else {
                let before = plugged_len(&guest);
                let (answer, _) = ask(&mut guest, kind, block, count);
                prop_assert!(answer == 0 || plugged_len(&guest) == before);
            }
            let open = host.lock().unwrap().open.len() as u64 * CHUNK_LEN;
            prop_assert!(open <= most && plugged_len(&guest) <= open);
            prop_assert_eq!(open == 0, plugged_len(&guest) == 0);
        }
    }
}
