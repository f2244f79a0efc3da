//! A guest that does with rings and registers what no driver would.

use std::fs::File;

use proptest::prelude::*;

use super::*;
use crate::devices::{
    block::Block,
    mem::tests::roomy,
    net::tests::fed,
    rng::Rng,
    testing::{DATA, RawDescriptor},
};

/// What a broken chain is, by its first descriptors.
#[test]
fn broken_chains_stop_the_device_and_are_told() {
    let (next, write, indirect) = (1, 2, 4);
    let descriptor = |address, len, flags, next| RawDescriptor { address, len, flags, next };
    let wrong: [(&str, Vec<RawDescriptor>); 9] = [
        ("a loop", vec![descriptor(0x1000, 8, next, 0)]),
        ("a next one beyond the table", vec![descriptor(0x1000, 8, next, 8)]),
        ("beyond memory", vec![descriptor(MEMORY_LEN as u64, 1, 0, 0)]),
        ("across the end of memory", vec![descriptor(MEMORY_LEN as u64 - 4, 8, 0, 0)]),
        ("around the address space", vec![descriptor(u64::MAX - 4, 8, write, 0)]),
        ("readable after writable", vec![descriptor(0, 8, next | write, 1), descriptor(0, 8, 0, 0)]),
        ("an indirect table of odd length", vec![descriptor(0x1000, 24, indirect, 0)]),
        ("an empty indirect table", vec![descriptor(0x1000, 0, indirect, 0)]),
        ("an indirect table beyond memory", vec![descriptor(MEMORY_LEN as u64, 16, indirect, 0)]),
    ];
    for (name, descriptors) in wrong {
        let (mut guest, _) = found();
        guest.negotiate(u64::MAX);
        guest.run();
        for (index, &descriptor) in descriptors.iter().enumerate() {
            guest.set_descriptor(0, index as u16, descriptor);
        }
        guest.publish(0, 0);
        assert!(guest.run(), "{name}");
        assert!(abuse(&guest).is_some(), "{name}");
        assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 15 | 0x40, "{name}");
        assert_eq!(guest.used(0), None, "{name}");
    }
}

#[test]
fn an_indirect_table_within_another_is_refused() {
    let (mut guest, _) = found();
    guest.negotiate(u64::MAX);
    let table = guest.room(16);
    guest.set_descriptor_at(table, RawDescriptor { address: table, len: 16, flags: 4, next: 0 });
    guest.set_descriptor(0, 0, RawDescriptor { address: table, len: 16, flags: 4, next: 0 });
    guest.publish(0, 0);
    assert!(guest.run());
    assert!(abuse(&guest).is_some());
}

#[test]
fn an_indirect_chain_longer_than_the_queue_is_refused() {
    let (mut guest, _) = found();
    guest.negotiate(u64::MAX);
    let table = guest.room(16 * 4096);
    for index in 0..4096_u16 {
        let entry = RawDescriptor { address: 0, len: 0, flags: 1, next: index + 1 };
        guest.set_descriptor_at(table + u64::from(index) * 16, entry);
    }
    guest.set_descriptor(0, 0, RawDescriptor { address: table, len: 16 * 4096, flags: 4, next: 0 });
    guest.publish(0, 0);
    assert!(guest.run());
    assert!(abuse(&guest).is_some());
}

#[test]
fn a_head_beyond_the_queue_is_refused() {
    for head in [8, 9, u16::MAX] {
        let (mut guest, _) = found();
        guest.negotiate(u64::MAX);
        guest.publish(0, head);
        assert!(guest.run());
        assert!(abuse(&guest).is_some());
    }
}

#[test]
fn a_ring_that_runs_ahead_of_its_queue_is_refused() {
    for given in [9, 0x8000, u16::MAX] {
        let (mut guest, log) = found();
        guest.negotiate(u64::MAX);
        guest.run();
        guest.set_given(0, given);
        assert!(guest.run());
        assert!(abuse(&guest).unwrap().contains("ran ahead"));
        assert_eq!(log.chains.load(Relaxed), 0);
    }
}

#[test]
fn a_guest_that_breaks_the_rules_again_and_again_fills_nothing() {
    let (mut guest, _) = found();
    for _ in 0..100 {
        guest.negotiate(u64::MAX);
        guest.run();
        guest.set_given(0, 100);
        guest.run();
    }
    assert!((0..100).filter_map(|_| guest.news()).count() <= MAX_NEWS);
}

#[test]
fn a_stopped_device_works_again_after_a_reset() {
    let (mut guest, log) = found();
    guest.negotiate(u64::MAX);
    guest.run();
    guest.set_given(0, 100);
    guest.run();
    guest.negotiate(u64::MAX);
    guest.run();
    let sent = guest.put(&[1]);
    guest.give(0, &[sent]);
    guest.run();
    assert!(guest.used(0).is_some());
    assert_eq!((log.chains.load(Relaxed), log.activated.load(Relaxed)), (1, 2));
}

fn descriptor() -> impl Strategy<Value = RawDescriptor> {
    let end = MEMORY_LEN as u64;
    let address = prop_oneof![
        6 => DATA..end,
        2 => 0x1_0000..0x2_0000_u64,
        1 => end - 600..end + 16,
        1 => any::<u64>(),
    ];
    let len = prop_oneof![4 => 0..600_u32, 2 => Just(16), 1 => Just(512), 1 => any::<u32>()];
    let flags = prop_oneof![9 => 0..8_u16, 1 => any::<u16>()];
    let next = prop_oneof![9 => 0..16_u16, 1 => any::<u16>()];
    (address, len, flags, next).prop_map(|(address, len, flags, next)| RawDescriptor {
        address,
        len,
        flags,
        next,
    })
}

#[derive(Clone, Debug)]
enum Act {
    Descriptor(u16, RawDescriptor),
    Indirect(u64, RawDescriptor),
    Publish(u16),
    Given(u16),
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Negotiate,
    Poke(u64, u8),
    /// The parent's doing: a file is laid in, or taken out.
    Lay(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..16_u16, descriptor()).prop_map(|(index, descriptor)| Act::Descriptor(index, descriptor)),
        2 => (DATA..DATA + 4096, descriptor()).prop_map(|(address, descriptor)| Act::Indirect(address, descriptor)),
        8 => prop_oneof![9 => 0..16_u16, 1 => any::<u16>()].prop_map(Act::Publish),
        1 => any::<u16>().prop_map(Act::Given),
        2 => (0..0x200_u64, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, bytes)| Act::Write(at, bytes)),
        1 => (0..0x1000_u64, 0..9_usize).prop_map(|(at, len)| Act::Read(at, len)),
        2 => Just(Act::Negotiate),
        2 => (0x1_0000..0x4_0000_u64, any::<u8>()).prop_map(|(at, value)| Act::Poke(at, value)),
        1 => any::<bool>().prop_map(Act::Lay),
    ]
}

/// The device comes to rest after each act, and still answers its registers.
fn endures(device: impl VirtioDevice + 'static, acts: &[Act]) {
    let mut guest = Guest::ready(device);
    for act in acts {
        match act {
            Act::Descriptor(index, descriptor) => guest.set_descriptor(0, *index, *descriptor),
            Act::Indirect(address, descriptor) => guest.set_descriptor_at(*address, *descriptor),
            Act::Publish(head) => guest.publish(0, *head),
            Act::Given(index) => guest.set_given(0, *index),
            Act::Write(offset, bytes) => guest.transport.lock().unwrap().write(*offset, bytes),
            Act::Read(offset, len) => guest.transport.lock().unwrap().read(*offset, &mut vec![0; *len]),
            Act::Negotiate => guest.negotiate(u64::MAX),
            Act::Poke(address, value) => guest.set_byte(*address, *value),
            // Most devices take nothing, and one that has a file takes no other.
            Act::Lay(true) => drop(guest.transport.lock().unwrap().attach(megabyte().into())),
            Act::Lay(false) => drop(guest.transport.lock().unwrap().detach()),
        }
        assert!(guest.run(), "no rest after {act:?}");
        while guest.news().is_some() {}
        assert_eq!(guest.read(VIRTIO_MMIO_MAGIC_VALUE), MAGIC);
    }
}

fn megabyte() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1024 * 1024).unwrap();
    file
}

fn disk(read_only: bool) -> Block {
    Block::new(Some(megabyte()), read_only, 0).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_device_endures_any_guest(acts in prop::collection::vec(act(), 1..80), which in 0..7) {
        match which {
            0 => endures(Echo::default(), &acts),
            1 => endures(Rng, &acts),
            2 => endures(disk(false), &acts),
            3 => {
                let (net, _wire) = fed();
                endures(net, &acts);
            }
            4 => endures(Block::new(None, false, 0).unwrap(), &acts),
            5 => endures(roomy().0, &acts),
            _ => endures(disk(true), &acts),
        }
    }

    /// Whatever is restored goes on or is refused, and is as robust as what it was saved from.
    #[test]
    fn any_saved_state_is_refused_or_endured(
        numbers in prop::collection::vec(prop_oneof![0..20_u64, 0x1_0000..0x4_0000_u64, any::<u64>()], 16),
        fields in prop::collection::vec(0..16_usize, 1..4),
    ) {
        let mut guest = Guest::ready(Echo::default());
        let sent = guest.put(&[1]);
        guest.give(0, &[sent]);
        let mut state = serde_json::to_value(guest.transport.lock().unwrap().save().unwrap()).unwrap();
        for field in fields {
            let paths = [
                "/negotiation/status", "/negotiation/accepted", "/negotiation/offered_half", "/interrupt_status",
                "/selected_queue", "/queues/0/size", "/queues/0/descriptors", "/queues/0/driver_area",
                "/queues/0/device_area", "/queues/0/next_available", "/queues/0/next_used", "/queues/1/size",
                "/queues/1/descriptors", "/queues/1/next_available", "/kind", "/format",
            ];
            *state.pointer_mut(paths[field]).unwrap() = numbers[field].into();
        }
        if let Ok(state) = serde_json::from_value::<MmioState>(state) {
            let mut other = Guest::with_memory(Echo::default(), guest.memory.clone());
            let restored = other.transport.lock().unwrap().restore(&state);
            if restored.is_ok() {
                other.enter_event_loop();
                prop_assert!(other.run());
                other.negotiate(u64::MAX);
                prop_assert!(other.run());
            }
        }
    }
}
