use std::{
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    time::Duration,
};

use securectr_vmm::spec::IoLimits;
use tempfile::tempfile;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_SCSI_CMD, VIRTIO_BLK_T_WRITE_ZEROES,
};

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INTERRUPT_ACK,
    VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_SEL,
};

use super::*;
use crate::devices::testing::{Guest, Piece, RawDescriptor};

const REQUESTS: usize = 0;
const SECTORS: u64 = 2048;

/// A disk whose sectors are filled with the low byte of their numbers.
fn file() -> File {
    let mut file = tempfile().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[sector as u8; 512]).unwrap();
    }
    file
}

fn disk(file: &File, read_only: bool) -> Block {
    Block::new(Some(file.try_clone().unwrap()), read_only, 7).unwrap()
}

fn content(mut file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    bytes
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

fn hole(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

/// Does a request with all that it sends in one buffer; its status, and where its answer lies.
fn request(guest: &mut Guest, sent: &[u8], answer_len: u32) -> (u32, u64) {
    let sent = guest.put(sent);
    let answer = guest.room(answer_len + 1);
    guest.set_byte(answer + u64::from(answer_len), 0xff);
    let head = guest.give(REQUESTS, &[sent, Piece::Writable(answer, answer_len + 1)]);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS).map(|(used, _)| used), Some(head));
    (guest.bytes(answer + u64::from(answer_len), 1)[0].into(), answer)
}

#[test]
fn sectors_are_read_into_several_buffers() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, true));
    let header = guest.put(&header(VIRTIO_BLK_T_IN, 3));
    let (first, second, status) = (guest.room(700), guest.room(324), guest.room(1));
    let answer = [Piece::Writable(first, 700), Piece::Writable(second, 324), Piece::Writable(status, 1)];
    guest.give(REQUESTS, &[header, answer[0], answer[1], answer[2]]);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((0, 1025)));
    let read = [guest.bytes(first, 700), guest.bytes(second, 324)].concat();
    assert_eq!(read, [[3; 512], [4; 512]].concat());
    assert_eq!(guest.bytes(status, 1), [0]);
}

#[test]
fn sectors_are_written_from_several_buffers_and_flushed() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, false));
    let head = header(VIRTIO_BLK_T_OUT, 10);
    // However the driver cuts them: the layout has no meaning (section 2.7.4).
    let pieces = [guest.put(&head[..5]), guest.put(&[&head[5..], &[0xaa; 100][..]].concat())];
    let rest = guest.put(&[0xaa; 412]);
    let status = guest.room(1);
    guest.give(REQUESTS, &[pieces[0], pieces[1], rest, Piece::Writable(status, 1)]);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((0, 1)));
    assert_eq!(content(&file, 10 * 512, 1024), [[0xaa; 512], [11; 512]].concat());
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_FLUSH, 0), 0).0, VIRTIO_BLK_S_OK);
}

#[test]
fn a_read_only_disk_refuses_every_change_by_itself() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, true));
    let changes = [
        [header(VIRTIO_BLK_T_OUT, 0), vec![1; 512]].concat(),
        [header(VIRTIO_BLK_T_DISCARD, 0), hole(0, 8, 0)].concat(),
        [header(VIRTIO_BLK_T_WRITE_ZEROES, 0), hole(0, 8, 1)].concat(),
    ];
    for change in changes {
        assert_eq!(request(&mut guest, &change, 0).0, VIRTIO_BLK_S_IOERR);
    }
    assert_eq!(content(&file, 0, 1024), [[0; 512], [1; 512]].concat());
    assert_ne!(guest.offered() & 1 << VIRTIO_BLK_F_RO, 0);
}

#[test]
fn what_lies_beyond_the_disk_is_neither_read_nor_written() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, false));
    for sector in [SECTORS, SECTORS - 1, u64::MAX, u64::MAX - 1, u64::MAX / 512] {
        assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_IN, sector), 1024).0, VIRTIO_BLK_S_IOERR);
        let write = [header(VIRTIO_BLK_T_OUT, sector), vec![1; 1024]].concat();
        assert_eq!(request(&mut guest, &write, 0).0, VIRTIO_BLK_S_IOERR);
        let discard = [header(VIRTIO_BLK_T_DISCARD, 0), hole(sector, 2, 0)].concat();
        assert_eq!(request(&mut guest, &discard, 0).0, VIRTIO_BLK_S_IOERR);
    }
    assert_eq!(file.metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn half_sectors_and_unknown_requests_are_refused() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, false));
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_IN, 0), 511).0, VIRTIO_BLK_S_IOERR);
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_SCSI_CMD, 0), 512).0, VIRTIO_BLK_S_UNSUPP);
    assert_eq!(request(&mut guest, &header(0xdead_beef, 0), 512).0, VIRTIO_BLK_S_UNSUPP);
    assert_eq!(request(&mut guest, &[1, 2, 3], 0).0, VIRTIO_BLK_S_IOERR);
}

#[test]
fn a_discarded_range_costs_the_host_nothing_and_reads_as_zeroes() {
    let file = file();
    let before = file.metadata().unwrap().blocks();
    let mut guest = Guest::ready(disk(&file, false));
    let discard = [header(VIRTIO_BLK_T_DISCARD, 0), hole(8, 1024, 0), hole(1032, 8, 0)].concat();
    assert_eq!(request(&mut guest, &discard, 0).0, VIRTIO_BLK_S_OK);
    assert_eq!(before - file.metadata().unwrap().blocks(), 1032);
    assert_eq!(content(&file, 8 * 512, 512), [0; 512]);
    assert_eq!(content(&file, 7 * 512, 512), [7; 512]);
    let zeroes = [header(VIRTIO_BLK_T_WRITE_ZEROES, 0), hole(3, 2, 1)].concat();
    assert_eq!(request(&mut guest, &zeroes, 0).0, VIRTIO_BLK_S_OK);
    assert_eq!(content(&file, 2 * 512, 2048), [[2; 512], [0; 512], [0; 512], [5; 512]].concat());
}

#[test]
fn discards_with_unknown_flags_or_too_many_ranges_are_refused() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, false));
    let with = |ranges: Vec<u8>| [header(VIRTIO_BLK_T_DISCARD, 0), ranges].concat();
    assert_eq!(request(&mut guest, &with(hole(0, 8, 1)), 0).0, VIRTIO_BLK_S_UNSUPP);
    assert_eq!(request(&mut guest, &with(hole(0, 8, 0).repeat(17)), 0).0, VIRTIO_BLK_S_IOERR);
    assert_eq!(request(&mut guest, &with(vec![0; 15]), 0).0, VIRTIO_BLK_S_IOERR);
    assert_eq!(request(&mut guest, &with(vec![]), 0).0, VIRTIO_BLK_S_IOERR);
}

#[test]
fn a_disk_says_who_it_is() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, true));
    let (status, answer) = request(&mut guest, &header(VIRTIO_BLK_T_GET_ID, 0), 20);
    assert_eq!(status, VIRTIO_BLK_S_OK);
    assert_eq!(guest.bytes(answer, 7), *b"disk-7\0");
    let mut capacity = [0; 8];
    guest.transport.lock().unwrap().read(0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
}

#[test]
fn a_request_without_room_for_a_status_stops_the_device_and_is_told() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, true));
    let header = guest.put(&header(VIRTIO_BLK_T_IN, 0));
    guest.give(REQUESTS, &[header]);
    assert!(guest.run());
    assert!(matches!(guest.news(), Some(News::Abuse(text)) if text.contains("no room")));
    assert_ne!(guest.read(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS) & 0x40, 0, "NEEDS_RESET");
}

#[test]
fn a_file_cut_short_is_an_error_of_the_disk() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, true));
    file.set_len(512).unwrap();
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_IN, 0), 512).0, VIRTIO_BLK_S_OK);
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_IN, 0), 1024).0, VIRTIO_BLK_S_IOERR);
}

#[test]
fn a_full_host_is_told_once() {
    let mut disk = disk(&file(), false);
    assert_eq!(disk.take_news(), None);
    for _ in 0..2 {
        assert_eq!(disk.status_of(Err(Failure::Io(ErrorKind::StorageFull.into()))), (VIRTIO_BLK_S_IOERR, 0));
    }
    assert!(matches!(disk.take_news(), Some(News::DiskFull(_))));
    assert_eq!(disk.status_of(Err(Failure::Io(ErrorKind::QuotaExceeded.into()))), (VIRTIO_BLK_S_IOERR, 0));
    assert_eq!(disk.take_news(), None);
}

#[test]
fn an_indirect_table_is_a_chain_like_any_other() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, true));
    let Piece::Readable(sent, _) = guest.put(&header(VIRTIO_BLK_T_IN, 5)) else { unreachable!() };
    let (answer, table) = (guest.room(513), guest.room(32));
    guest.set_descriptor_at(table, RawDescriptor { address: sent, len: 16, flags: 1, next: 1 });
    guest.set_descriptor_at(table + 16, RawDescriptor { address: answer, len: 513, flags: 2, next: 0 });
    guest.set_descriptor(REQUESTS, 9, RawDescriptor { address: table, len: 32, flags: 4, next: 0 });
    guest.publish(REQUESTS, 9);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((9, 513)));
    assert_eq!(guest.bytes(answer, 512), [5; 512]);
}

#[test]
fn files_that_are_no_disks_are_refused() {
    let file = tempfile().unwrap();
    file.set_len(513).unwrap();
    assert!(matches!(Block::new(Some(file), true, 0), Err(DiskError::Length(513))));
    let device = File::open("/dev/null").unwrap();
    assert!(matches!(Block::new(Some(device), true, 0), Err(DiskError::Length(0))));
    let socket = OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0);
    assert!(matches!(Block::new(Some(socket.into()), true, 0), Err(DiskError::Measure(_))));
}

fn sectors(guest: &Guest) -> u64 {
    let mut capacity = [0; 8];
    guest.transport.lock().unwrap().read(0x100, &mut capacity);
    u64::from_le_bytes(capacity)
}

/// Whether the driver was told since it was asked last that the configuration space has changed.
fn was_told(guest: &mut Guest) -> bool {
    let told = guest.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG != 0;
    guest.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
    told
}

fn lay_in(guest: &Guest, file: &File) -> Result<(), AttachError> {
    guest.transport.lock().unwrap().attach(file.try_clone().unwrap().into())
}

fn take_out(guest: &Guest) {
    guest.transport.lock().unwrap().detach().unwrap();
}

#[test]
fn a_disk_without_a_file_is_empty_and_says_who_it_is() {
    let mut guest = Guest::ready(Block::new(None, false, 3).unwrap());
    guest.write(VIRTIO_MMIO_QUEUE_SEL, 0);
    assert_eq!((sectors(&guest), guest.read(VIRTIO_MMIO_QUEUE_NUM_MAX)), (0, 32));
    let (status, answer) = request(&mut guest, &header(VIRTIO_BLK_T_GET_ID, 0), 20);
    assert_eq!((status, guest.bytes(answer, 7)), (VIRTIO_BLK_S_OK, b"disk-3\0".to_vec()));
    let write = [header(VIRTIO_BLK_T_OUT, 0), vec![1; 512]].concat();
    let nothing = [header(VIRTIO_BLK_T_OUT, 0), vec![]].concat();
    let discard = [header(VIRTIO_BLK_T_DISCARD, 0), hole(0, 0, 0)].concat();
    let flush = header(VIRTIO_BLK_T_FLUSH, 0);
    for sent in [write, discard, flush] {
        assert_eq!(request(&mut guest, &sent, 0).0, VIRTIO_BLK_S_IOERR);
    }
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_IN, 0), 512).0, VIRTIO_BLK_S_IOERR);
    assert_eq!(request(&mut guest, &nothing, 0).0, VIRTIO_BLK_S_OK, "nothing of nothing");
}

#[test]
fn a_file_that_is_laid_in_is_told_and_used_and_taken_out_again() {
    let (file, other) = (file(), tempfile().unwrap());
    other.set_len(512).unwrap();
    let mut guest = Guest::ready(Block::new(None, false, 0).unwrap());
    let mut generations = vec![guest.read(VIRTIO_MMIO_CONFIG_GENERATION)];
    for (file, len) in [(&file, SECTORS), (&other, 1), (&file, SECTORS)] {
        lay_in(&guest, file).unwrap();
        assert!(was_told(&mut guest) && !was_told(&mut guest));
        assert_eq!(sectors(&guest), len);
        generations.push(guest.read(VIRTIO_MMIO_CONFIG_GENERATION));
        let write = [header(VIRTIO_BLK_T_OUT, len - 1), vec![0xdd; 512]].concat();
        assert_eq!(request(&mut guest, &write, 0).0, VIRTIO_BLK_S_OK);
        assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_OUT, len), 0).0, VIRTIO_BLK_S_OK, "of nothing");
        assert_eq!(content(file, (len - 1) * 512, 512), [0xdd; 512]);
        take_out(&guest);
        assert!(was_told(&mut guest));
        assert_eq!(sectors(&guest), 0);
        generations.push(guest.read(VIRTIO_MMIO_CONFIG_GENERATION));
        assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_IN, 0), 512).0, VIRTIO_BLK_S_IOERR);
    }
    generations.dedup();
    assert_eq!(generations.len(), 7, "each change has its generation");
    take_out(&guest);
    assert!(!was_told(&mut guest), "an empty disk stays as it is");
}

#[test]
fn requests_that_wait_when_the_file_is_taken_out_are_answered_and_do_nothing() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, false));
    let sent = guest.put(&[header(VIRTIO_BLK_T_OUT, 0), vec![0xee; 512]].concat());
    let statuses: Vec<u64> = (0..MAX_REQUESTS_A_CALL + 10).map(|_| guest.room(1)).collect();
    for &status in &statuses {
        guest.set_byte(status, 0xff);
        guest.give(REQUESTS, &[sent, Piece::Writable(status, 1)]);
    }
    take_out(&guest);
    assert!(guest.run());
    for &status in &statuses {
        assert!(guest.used(REQUESTS).is_some());
        assert_eq!(u32::from(guest.bytes(status, 1)[0]), VIRTIO_BLK_S_IOERR);
    }
    assert_eq!(content(&file, 0, 512), [0; 512]);
    // What comes after is another's.
    let other = tempfile().unwrap();
    other.set_len(1024).unwrap();
    lay_in(&guest, &other).unwrap();
    guest.run();
    assert_eq!(content(&other, 0, 512), [0; 512]);
}

#[test]
fn a_disk_takes_one_file_and_only_one_that_can_be_a_disk() {
    let file = file();
    let guest = Guest::ready(disk(&file, false));
    assert!(matches!(lay_in(&guest, &file), Err(AttachError::Disk(DiskError::Full))));
    let mut empty = Guest::ready(Block::new(None, false, 0).unwrap());
    let nothing = tempfile().unwrap();
    assert!(matches!(lay_in(&empty, &nothing), Err(AttachError::Disk(DiskError::Length(0)))));
    assert!(!was_told(&mut empty));
    assert_eq!(sectors(&empty), 0);
}

#[test]
fn a_file_that_cannot_be_written_is_not_written_whatever_the_guest_was_told() {
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(8192).unwrap();
    let mut guest = Guest::ready(Block::new(None, false, 0).unwrap());
    lay_in(&guest, &File::open(named.path()).unwrap()).unwrap();
    let changes = [
        [header(VIRTIO_BLK_T_OUT, 0), vec![1; 512]].concat(),
        [header(VIRTIO_BLK_T_DISCARD, 0), hole(0, 8, 0)].concat(),
        [header(VIRTIO_BLK_T_WRITE_ZEROES, 0), hole(0, 8, 1)].concat(),
    ];
    for change in changes {
        assert_eq!(request(&mut guest, &change, 0).0, VIRTIO_BLK_S_IOERR);
    }
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_IN, 0), 512).0, VIRTIO_BLK_S_OK);
    assert_eq!(content(named.as_file(), 0, 512), [0; 512]);
}

#[test]
fn a_driver_that_is_not_ready_reads_what_is_there() {
    let mut guest = Guest::found(Block::new(None, false, 0).unwrap());
    guest.enter_event_loop();
    lay_in(&guest, &file()).unwrap();
    assert!(!was_told(&mut guest));
    assert_eq!(sectors(&guest), SECTORS);
}

fn throttled(file: &File, limits: IoLimits) -> Block {
    disk(file, false).throttled(Some(Throttles::default().get(limits))).unwrap()
}

/// Gives the disk a read of so many sectors; where its status will be.
fn give_read(guest: &mut Guest, count: u32) -> u64 {
    let sent = guest.put(&header(VIRTIO_BLK_T_IN, 0));
    let answer = guest.room(count * 512 + 1);
    guest.give(REQUESTS, &[sent, Piece::Writable(answer, count * 512 + 1)]);
    answer + u64::from(count * 512)
}

const READS: IoLimits =
    IoLimits { device: (8, 0), read_bps: Some(10_240), write_bps: None, read_iops: None, write_iops: None };

#[test]
fn a_request_beyond_the_limits_waits_and_is_done_without_another_notification() {
    let file = file();
    let mut guest = Guest::ready(throttled(&file, READS));
    let began = Instant::now();
    for _ in 0..4 {
        give_read(&mut guest, 2);
    }
    let mut done = 0;
    while done < 4 {
        assert!(guest.run(), "a disk that waits lets the others have their turn");
        done += std::iter::from_fn(|| guest.used(REQUESTS)).count();
    }
    // The first at once, and each after the 1024 bytes before it.
    assert!(began.elapsed() >= Duration::from_millis(300 - 100), "{:?}", began.elapsed());
}

#[test]
fn a_disk_that_waits_can_be_reset_and_freed_and_emptied() {
    let file = file();
    let slow = IoLimits { read_bps: Some(1), ..READS };
    let mut guest = Guest::ready(throttled(&file, slow));
    for _ in 0..2 {
        give_read(&mut guest, 1);
        guest.run();
    }
    assert!(guest.used(REQUESTS).is_some() && guest.used(REQUESTS).is_none());
    guest.negotiate(u64::MAX);
    give_read(&mut guest, 1);
    guest.run();
    assert!(guest.used(REQUESTS).is_none(), "a reset pays nothing");
    guest.transport.lock().unwrap().throttle(None).unwrap();
    guest.run();
    assert!(guest.used(REQUESTS).is_some());
    let again = Throttles::default().get(slow);
    guest.transport.lock().unwrap().throttle(Some(again)).unwrap();
    for _ in 0..2 {
        give_read(&mut guest, 1);
    }
    guest.run();
    assert!(guest.used(REQUESTS).is_some() && guest.used(REQUESTS).is_none());
    take_out(&guest);
    guest.run();
    assert!(guest.used(REQUESTS).is_some(), "it fails, and does not wait");
}

#[test]
fn a_write_does_not_count_against_the_limit_of_reads() {
    let file = file();
    let mut guest = Guest::ready(throttled(&file, IoLimits { read_bps: Some(1), ..READS }));
    give_read(&mut guest, 1);
    guest.run();
    assert!(guest.used(REQUESTS).is_some());
    let write = [header(VIRTIO_BLK_T_OUT, 0), vec![1; 512]].concat();
    assert_eq!(request(&mut guest, &write, 0).0, VIRTIO_BLK_S_OK);
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_FLUSH, 0), 0).0, VIRTIO_BLK_S_OK);
}

#[test]
fn zeroes_that_have_to_be_written_are_left_to_the_guest() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, false));
    let zeroes = [header(VIRTIO_BLK_T_WRITE_ZEROES, 0), hole(8, 8, 0)].concat();
    assert_eq!(request(&mut guest, &zeroes, 0).0, VIRTIO_BLK_S_UNSUPP);
    assert_eq!(content(&file, 8 * 512, 512), [8; 512]);
}

#[test]
fn a_restored_disk_goes_on_with_the_same_data() {
    let file = file();
    let mut guest = Guest::ready(disk(&file, false));
    let write = [header(VIRTIO_BLK_T_OUT, 1), vec![0xcc; 512]].concat();
    assert_eq!(request(&mut guest, &write, 0).0, VIRTIO_BLK_S_OK);
    let mut guest = guest.moved_to(disk(&file, false));
    let (status, answer) = request(&mut guest, &header(VIRTIO_BLK_T_IN, 1), 512);
    assert_eq!(status, VIRTIO_BLK_S_OK);
    assert_eq!(guest.bytes(answer, 512), [0xcc; 512]);
}

#[test]
fn a_saved_disk_is_not_restored_as_another() {
    let file = file();
    let state = disk(&file, false).save().unwrap();
    assert!(matches!(disk(&file, true).restore(&state), Err(StateError::Differs("disk access"))));
    file.set_len(512).unwrap();
    assert!(matches!(disk(&file, false).restore(&state), Err(StateError::Differs("disk size"))));
    let newer = serde_json::json!({ "format": 2, "sectors": 1, "read_only": false });
    assert!(matches!(disk(&file, false).restore(&newer), Err(StateError::Format { .. })));
}

#[test]
fn a_disk_that_was_saved_empty_has_a_file_afterwards_and_the_driver_hears_of_it() {
    let file = file();
    let guest = Guest::ready(Block::new(None, false, 0).unwrap());
    let generation = guest.read(VIRTIO_MMIO_CONFIG_GENERATION);
    let mut guest = guest.moved_to(disk(&file, false));
    assert_ne!(guest.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert!(was_told(&mut guest) && sectors(&guest) == SECTORS);
    assert_eq!(request(&mut guest, &header(VIRTIO_BLK_T_IN, 1), 512).0, VIRTIO_BLK_S_OK);
    let guest = guest.moved_to(disk(&file, false));
    assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG, 0, "nothing has changed");
}
