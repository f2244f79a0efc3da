//! A device of the tests' own behind the transport.

mod hostile;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use virtio_bindings::virtio_mmio::*;

use super::{state::MmioState, *};
use crate::devices::{
    Progress, VirtioDevice,
    testing::{Guest, MEMORY_LEN, Piece},
    virtqueue::Virtqueue,
};

/// Returns what it is given, and notes what is done to it.
#[derive(Clone, Default)]
struct Echo {
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    activated: AtomicU32,
    reset: AtomicU32,
    chains: AtomicU32,
}

impl VirtioDevice for Echo {
    fn kind(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        1 << 3
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[8, 16]
    }

    fn config(&self) -> &[u8] {
        &[1, 2, 3, 4, 5, 6]
    }

    fn activate(&mut self, _features: u64) -> io::Result<()> {
        self.log.activated.fetch_add(1, Relaxed);
        Ok(())
    }

    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        for queue in queues {
            while let Some(chain) = queue.pop()? {
                self.log.chains.fetch_add(1, Relaxed);
                let mut bytes = vec![0; chain.readable.len()];
                chain.readable.read(&mut bytes);
                let written = chain.writable.write(&bytes);
                queue.push(chain.head, written as u32)?;
            }
        }
        Ok(Progress::Done)
    }

    fn reset(&mut self) {
        self.log.reset.fetch_add(1, Relaxed);
    }

    fn save(&self) -> Result<serde_json::Value, StateError> {
        Ok(serde_json::Value::Null)
    }

    fn restore(&mut self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}

fn found() -> (Guest, Arc<Log>) {
    let echo = Echo::default();
    let log = Arc::clone(&echo.log);
    let mut guest = Guest::found(echo);
    guest.enter_event_loop();
    (guest, log)
}

fn abuse(guest: &Guest) -> Option<String> {
    match guest.news() {
        Some(News::Abuse(text)) => Some(text),
        _ => None,
    }
}

#[test]
fn the_window_begins_as_the_specification_says() {
    let (guest, _) = found();
    assert_eq!(guest.read(VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(guest.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(guest.read(VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(guest.read(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(guest.read(VIRTIO_MMIO_SHM_BASE_HIGH), u32::MAX);
    assert_eq!(guest.offered(), 1 << 3 | 1 << 28 | 1 << 29 | 1 << 32);
}

#[test]
fn configuration_space_is_read_at_any_width_and_ends_in_zeroes() {
    let (guest, _) = found();
    let read = |offset: u64, len: usize| {
        let mut bytes = vec![0xff; len];
        guest.transport.lock().unwrap().read(offset, &mut bytes);
        bytes
    };
    assert_eq!(read(0x101, 1), [2]);
    assert_eq!(read(0x102, 2), [3, 4]);
    assert_eq!(read(0x103, 4), [4, 5, 6, 0]);
    assert_eq!(read(0x100, 8), [1, 2, 3, 4, 5, 6, 0, 0]);
    assert_eq!(read(0xffe, 8), [0; 8]);
    assert_eq!(read(0x106, 3), [0; 3]);
}

#[test]
fn registers_are_32_bits_wide_and_nothing_else() {
    let (guest, _) = found();
    for len in [0, 1, 2, 3, 5, 8] {
        let mut bytes = vec![0xff; len];
        let mut transport = guest.transport.lock().unwrap();
        transport.read(VIRTIO_MMIO_MAGIC_VALUE.into(), &mut bytes);
        assert_eq!(bytes, vec![0; len]);
        transport.write(VIRTIO_MMIO_STATUS.into(), &vec![1; len]);
        assert_eq!(transport.negotiation.status(), 0);
    }
    assert_eq!(guest.read(VIRTIO_MMIO_MAGIC_VALUE + 1), 0);
    assert_eq!(guest.read(0x0f0), 0);
}

#[test]
fn a_device_begins_with_its_driver_and_answers() {
    let (mut guest, log) = found();
    guest.negotiate(u64::MAX);
    assert_eq!(log.activated.load(Relaxed), 0, "not on the vCPU's thread");
    guest.run();
    assert_eq!(log.activated.load(Relaxed), 1);
    for index in 0..40 {
        let sent = guest.put(&[index; 100]);
        let answer = guest.room(100);
        guest.give(1, &[sent, Piece::Writable(answer, 60), Piece::Writable(answer + 60, 40)]);
        assert!(guest.run());
        assert_eq!(guest.used(1).map(|(_, len)| len), Some(100));
        assert_eq!(guest.bytes(answer, 100), [index; 100]);
        assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
        guest.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
        assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
        assert_eq!(guest.interrupt.read().unwrap(), 1);
    }
}

#[test]
fn an_interrupt_that_the_driver_has_not_asked_for_is_not_sent() {
    let (mut guest, _) = found();
    guest.negotiate(u64::MAX);
    guest.run();
    let sent = guest.put(&[1]);
    guest.give(0, &[sent]);
    assert!(guest.run());
    assert_eq!(guest.interrupt.read().unwrap(), 1);
    // The driver has not looked yet, so used_event still is behind.
    guest.give(0, &[sent]);
    assert!(guest.run());
    assert!(guest.interrupt.read().is_err());
    assert!(guest.used(0).is_some() && guest.used(0).is_some());
}

#[test]
fn a_driver_without_event_indices_is_served_too() {
    let (mut guest, log) = found();
    guest.negotiate(1 << 32);
    guest.run();
    for _ in 0..20 {
        let sent = guest.put(&[1]);
        guest.give(0, &[sent]);
        guest.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        assert!(guest.run());
        assert!(guest.used(0).is_some());
        assert_eq!(guest.interrupt.read().unwrap(), 1);
    }
    assert_eq!(log.chains.load(Relaxed), 20);
}

#[test]
fn queues_are_left_alone_before_the_driver_is_ready_and_after_a_reset() {
    let (mut guest, log) = found();
    guest.agree(1 << 32 | 1 << 29);
    guest.set_up_queues();
    let sent = guest.put(&[1]);
    guest.give(0, &[sent]);
    guest.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.run();
    assert_eq!(log.chains.load(Relaxed), 0);
    guest.write(VIRTIO_MMIO_STATUS, 15);
    guest.run();
    assert_eq!(log.chains.load(Relaxed), 1, "what was given before is found");
    guest.give(0, &[sent]);
    guest.write(VIRTIO_MMIO_STATUS, 0);
    guest.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.run();
    assert_eq!((log.chains.load(Relaxed), log.reset.load(Relaxed) > 0), (1, true));
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 0);
    guest.negotiate(u64::MAX);
    guest.run();
    guest.give(0, &[sent]);
    guest.run();
    assert_eq!((log.chains.load(Relaxed), log.activated.load(Relaxed)), (2, 2));
}

#[test]
fn a_queue_that_cannot_be_is_refused_when_it_is_made_ready() {
    let beyond = MEMORY_LEN as u32;
    let wrong = [
        (VIRTIO_MMIO_QUEUE_NUM, 0),
        (VIRTIO_MMIO_QUEUE_NUM, 3),
        (VIRTIO_MMIO_QUEUE_NUM, 16),
        (VIRTIO_MMIO_QUEUE_NUM, 0x1_0008),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, 8),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, beyond - 16),
        (VIRTIO_MMIO_QUEUE_DESC_HIGH, u32::MAX),
        (VIRTIO_MMIO_QUEUE_AVAIL_LOW, 1),
        (VIRTIO_MMIO_QUEUE_AVAIL_LOW, beyond - 2),
        (VIRTIO_MMIO_QUEUE_USED_LOW, 2),
        (VIRTIO_MMIO_QUEUE_USED_LOW, 0xffff_fffc),
        (VIRTIO_MMIO_QUEUE_USED_HIGH, 1),
    ];
    for (register, value) in wrong {
        let (mut guest, log) = found();
        guest.agree(1 << 32);
        guest.write(VIRTIO_MMIO_QUEUE_SEL, 0);
        guest.write(VIRTIO_MMIO_QUEUE_NUM, 8);
        guest.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
        guest.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000);
        guest.write(VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
        guest.write(register, value);
        guest.write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 0, "{register:#x} = {value:#x}");
        assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 11 | 0x40);
        assert!(abuse(&guest).unwrap().starts_with("device: a queue was made ready"));
        guest.write(VIRTIO_MMIO_STATUS, 15);
        guest.run();
        assert_eq!(log.activated.load(Relaxed), 0);
    }
}

#[test]
fn a_queue_that_does_not_exist_has_no_size_and_no_registers() {
    let (mut guest, _) = found();
    guest.agree(1 << 32);
    for queue in [2, 3, u32::MAX] {
        guest.write(VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
        guest.write(VIRTIO_MMIO_QUEUE_NUM, 8);
        guest.write(VIRTIO_MMIO_QUEUE_READY, 1);
        guest.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
        assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 0);
    }
    assert_eq!(guest.news(), None);
}

#[test]
fn a_restored_transport_goes_on_where_it_was() {
    let (mut guest, _) = found();
    guest.negotiate(u64::MAX);
    guest.run();
    let sent = guest.put(&[9; 10]);
    for _ in 0..5 {
        guest.give(0, &[sent]);
    }
    guest.run();
    // Given but not seen by the device before it is saved.
    let answer = guest.room(10);
    guest.give(0, &[sent, Piece::Writable(answer, 10)]);
    let mut guest = guest.moved_to(Echo::default());
    assert_eq!(guest.bytes(answer, 10), [9; 10]);
    assert_eq!((0..9).filter_map(|_| guest.used(0)).count(), 6);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 15);
    guest.give(0, &[sent]);
    guest.run();
    assert!(guest.used(0).is_some());
    assert!(guest.interrupt.read().unwrap() > 0);
}

#[test]
fn a_transport_saved_in_the_middle_of_negotiation_goes_on() {
    let (mut guest, _) = found();
    guest.agree(1 << 32 | 1 << 29);
    guest.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    guest.write(VIRTIO_MMIO_QUEUE_NUM, 4);
    let mut guest = guest.moved_to(Echo::default());
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 11);
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 16, "queue 1 is still selected");
    guest.set_up_queues();
    guest.write(VIRTIO_MMIO_STATUS, 15);
    guest.run();
    let sent = guest.put(&[1]);
    guest.give(0, &[sent]);
    guest.run();
    assert!(guest.used(0).is_some());
}

#[test]
fn saved_state_that_no_driver_could_have_made_is_refused() {
    let (mut guest, _) = found();
    guest.negotiate(u64::MAX);
    guest.run();
    let good = serde_json::to_value(guest.transport.lock().unwrap().save().unwrap()).unwrap();
    let wrong = [
        ("/format", 2.into()),
        ("/kind", 41.into()),
        ("/negotiation/status", 4.into()),
        ("/negotiation/accepted", (1_u64 << 40).into()),
        ("/negotiation/accepted", 0.into()),
        ("/queues", serde_json::json!([])),
        ("/queues/0/size", 0.into()),
        ("/queues/0/size", 16.into()),
        ("/queues/1/descriptors", u64::MAX.into()),
        ("/queues/1/device_area", (MEMORY_LEN as u64).into()),
        ("/queues/0/driver_area", 1.into()),
    ];
    for (field, value) in wrong {
        let mut state = good.clone();
        *state.pointer_mut(field).unwrap() = value;
        let state: MmioState = serde_json::from_value(state).unwrap();
        let other = Guest::with_memory(Echo::default(), guest.memory.clone());
        assert!(other.transport.lock().unwrap().restore(&state).is_err(), "{field}");
    }
}
