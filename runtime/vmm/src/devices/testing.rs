//! A guest for the tests of devices: its memory, its driver of a transport, and the event loop. It notifies only when it is
//! asked to, as Linux does, so a device that forgets to ask is left waiting.

use std::sync::{Arc, Mutex};

use event_manager::{EventManager, SubscriberOps};
use virtio_bindings::{virtio_mmio::*, virtio_ring::*};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Mmio, News, VirtioDevice};
use crate::memory::LiveMemory;

pub(super) const MEMORY_LEN: usize = 16 * 1024 * 1024;
/// Where tests may put what they like.
pub(super) const DATA: u64 = 0x10_0000;
const RINGS: u64 = 0x1_0000;
const RINGS_LEN: u64 = 0x1_0000;
const DRIVER_AREA: u64 = 0x4000;
const DEVICE_AREA: u64 = 0x8000;

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

pub(super) struct Guest {
    pub(super) memory: GuestMemoryMmap,
    pub(super) transport: Arc<Mutex<Mmio>>,
    pub(super) interrupt: EventFd,
    manager: EventManager<Arc<Mutex<Mmio>>>,
    queues: Vec<Ring>,
    next_data: u64,
}

/// The driver's side of a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Ring {
    size: u16,
    next_descriptor: u16,
    given: u16,
    seen: u16,
}

/// A buffer of a chain, by address and length.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    Readable(u64, u32),
    Writable(u64, u32),
}

/// A descriptor as it lies in guest memory, for chains that no good driver would make.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawDescriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

impl Guest {
    /// A guest that has found the device and done nothing yet.
    pub(super) fn found(device: impl VirtioDevice + 'static) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_LEN)]).unwrap();
        Self::with_memory(device, memory)
    }

    pub(super) fn with_memory(device: impl VirtioDevice + 'static, memory: GuestMemoryMmap) -> Self {
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let news = EventFd::new(EFD_NONBLOCK).unwrap();
        let transport = Mmio::new(
            "device".to_owned(),
            Box::new(device),
            LiveMemory::new(memory.clone()),
            interrupt.try_clone().unwrap(),
            news,
        );
        Self {
            memory,
            transport: Arc::new(Mutex::new(transport.unwrap())),
            interrupt,
            manager: EventManager::new().unwrap(),
            queues: Vec::new(),
            next_data: DATA,
        }
    }

    /// A guest whose driver has agreed to all that is offered and made all queues ready.
    pub(super) fn ready(device: impl VirtioDevice + 'static) -> Self {
        let mut guest = Self::found(device);
        guest.enter_event_loop();
        guest.negotiate(u64::MAX);
        guest.run();
        guest
    }

    pub(super) fn enter_event_loop(&mut self) {
        self.manager.add_subscriber(Arc::clone(&self.transport));
    }

    /// Saves this guest's device, and goes on with the same memory and driver on another one.
    pub(super) fn moved_to(self, device: impl VirtioDevice + 'static) -> Self {
        let state = self.transport.lock().unwrap().save().unwrap();
        let text = serde_json::to_string(&state).unwrap();
        let mut moved = Self::with_memory(device, self.memory.clone());
        moved.transport.lock().unwrap().restore(&serde_json::from_str(&text).unwrap()).unwrap();
        moved.queues = self.queues;
        moved.next_data = self.next_data;
        moved.enter_event_loop();
        moved.run();
        moved
    }

    pub(super) fn read(&self, offset: u32) -> u32 {
        let mut value = [0; 4];
        self.transport.lock().unwrap().read(offset.into(), &mut value);
        u32::from_le_bytes(value)
    }

    pub(super) fn write(&self, offset: u32, value: u32) {
        self.transport.lock().unwrap().write(offset.into(), &value.to_le_bytes());
    }

    /// The device's own features and the transport's.
    pub(super) fn offered(&self) -> u64 {
        let half = |half: u32| {
            self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
            u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// From reset to DRIVER_OK, with those of the wanted features that are offered.
    pub(super) fn negotiate(&mut self, wanted: u64) {
        self.agree(self.offered() & wanted);
        self.set_up_queues();
        self.write(VIRTIO_MMIO_STATUS, 15);
        assert_eq!(self.read(VIRTIO_MMIO_STATUS), 15);
    }

    /// From reset to FEATURES_OK.
    pub(super) fn agree(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.write(VIRTIO_MMIO_STATUS, status);
        }
        for half in [0, 1] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.write(VIRTIO_MMIO_STATUS, 11);
    }

    pub(super) fn set_up_queues(&mut self) {
        self.queues.clear();
        for index in 0.. {
            self.write(VIRTIO_MMIO_QUEUE_SEL, index);
            let size = self.read(VIRTIO_MMIO_QUEUE_NUM_MAX);
            if size == 0 {
                break;
            }
            let rings = rings(index as usize);
            self.memory.write_slice(&vec![0; RINGS_LEN as usize], GuestAddress(rings)).unwrap();
            self.write(VIRTIO_MMIO_QUEUE_NUM, size);
            self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, rings as u32);
            self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, (rings + DRIVER_AREA) as u32);
            self.write(VIRTIO_MMIO_QUEUE_USED_LOW, (rings + DEVICE_AREA) as u32);
            self.write(VIRTIO_MMIO_QUEUE_READY, 1);
            self.queues.push(Ring { size: size as u16, ..Ring::default() });
        }
    }

    /// Lets the event loop run until it rests; false when it does not come to rest.
    pub(super) fn run(&mut self) -> bool {
        (0..10_000).any(|_| self.manager.run_with_timeout(0).unwrap() == 0)
    }

    pub(super) fn news(&self) -> Option<News> {
        self.transport.lock().unwrap().take_news()
    }

    /// Reserves so many bytes of memory, for as long as the test does not ask for more than there are.
    pub(super) fn room(&mut self, len: u32) -> u64 {
        if self.next_data + u64::from(len) > MEMORY_LEN as u64 {
            self.next_data = DATA;
        }
        let address = self.next_data;
        self.next_data += u64::from(len.next_multiple_of(64));
        address
    }

    /// Puts bytes somewhere into memory.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Piece {
        let address = self.room(bytes.len() as u32);
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        Piece::Readable(address, bytes.len() as u32)
    }

    /// Writes to each byte of a place.
    pub(super) fn fill(&self, address: u64, len: usize) {
        self.memory.write_slice(&vec![0xa5; len], GuestAddress(address)).unwrap();
    }

    pub(super) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn set_byte(&self, address: u64, value: u8) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    /// Gives the device a chain, and notifies it if it wants that.
    pub(super) fn give(&mut self, queue: usize, pieces: &[Piece]) -> u16 {
        let size = self.queues[queue].size;
        let head = self.queues[queue].next_descriptor;
        for (index, piece) in pieces.iter().enumerate() {
            let at = (head + index as u16) % size;
            let last = index + 1 == pieces.len();
            let (address, len, write) = match *piece {
                Piece::Readable(address, len) => (address, len, 0),
                Piece::Writable(address, len) => (address, len, VRING_DESC_F_WRITE as u16),
            };
            let flags = write | if last { 0 } else { VRING_DESC_F_NEXT as u16 };
            self.set_descriptor(queue, at, RawDescriptor { address, len, flags, next: (at + 1) % size });
        }
        self.queues[queue].next_descriptor = (head + pieces.len() as u16) % size;
        self.publish(queue, head);
        head
    }

    pub(super) fn set_descriptor(&mut self, queue: usize, index: u16, descriptor: RawDescriptor) {
        self.set_descriptor_at(rings(queue) + u64::from(index) * 16, descriptor);
    }

    pub(super) fn set_descriptor_at(&mut self, address: u64, descriptor: RawDescriptor) {
        let RawDescriptor { address: buffer, len, flags, next } = descriptor;
        let mut bytes = buffer.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(address)).unwrap();
    }

    /// Puts a head into the available ring, and notifies the device if it wants that.
    pub(super) fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let driver_area = rings(queue) + DRIVER_AREA;
        let entry = driver_area + 4 + u64::from(ring.given % ring.size) * 2;
        let before = ring.given;
        ring.given = ring.given.wrapping_add(1);
        let (given, size) = (ring.given, ring.size);
        self.set_u16(entry, head);
        self.set_u16(driver_area + 2, given);
        let device_area = rings(queue) + DEVICE_AREA;
        let asked = self.u16(device_area + 4 + u64::from(size) * 8);
        let wanted = if self.offered() & EVENT_IDX != 0 {
            given.wrapping_sub(asked).wrapping_sub(1) < given.wrapping_sub(before)
        } else {
            self.u16(device_area) & VRING_USED_F_NO_NOTIFY as u16 == 0
        };
        if wanted {
            self.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
        }
    }

    /// The index that the driver claims to be at.
    pub(super) fn set_given(&mut self, queue: usize, given: u16) {
        self.set_u16(rings(queue) + DRIVER_AREA + 2, given);
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
    }

    /// The next chain that the device has returned: its head and how much was written into it.
    pub(super) fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let device_area = rings(queue) + DEVICE_AREA;
        let ring = self.queues[queue];
        if self.u16(device_area + 2) == ring.seen {
            return None;
        }
        let entry = device_area + 4 + u64::from(ring.seen % ring.size) * 8;
        let seen = ring.seen.wrapping_add(1);
        self.queues[queue].seen = seen;
        // used_event: an interrupt for the next one.
        self.set_u16(rings(queue) + DRIVER_AREA + 4 + u64::from(ring.size) * 2, seen);
        let head = self.u16(entry);
        let len = self.memory.read_obj(GuestAddress(entry + 4)).unwrap();
        Some((head, len))
    }

    fn u16(&self, address: u64) -> u16 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn set_u16(&self, address: u64, value: u16) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }
}

fn rings(queue: usize) -> u64 {
    RINGS + queue as u64 * RINGS_LEN
}
