use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::*;
use crate::devices::testing::{Guest, Piece};

const URGENT: usize = 0;
const REQUESTS: usize = 1;

const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const WRITE: u32 = 16;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;

/// The other end of the socket. It does what a test says.
struct Files(OwnedFd);

/// A request as it arrives.
#[derive(Debug, PartialEq)]
struct Arrived {
    opcode: u32,
    unique: u64,
    body: Vec<u8>,
}

fn device() -> (Fs, Files) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    (Fs::new("tag", ours).unwrap(), Files(theirs))
}

fn guest() -> (Guest, Files) {
    let (device, files) = device();
    (Guest::ready(device), files)
}

impl Files {
    /// `None` when nothing has come.
    fn next(&self) -> Option<Arrived> {
        let mut bytes = vec![0; MAX_FUSE_MESSAGE_LEN + 1];
        let (_, len) = recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT).ok()?;
        bytes.truncate(len);
        assert_eq!(bytes[..4], (len as u32).to_le_bytes());
        Some(Arrived {
            opcode: u32::from_le_bytes(bytes[4..8].try_into().unwrap()),
            unique: u64::from_le_bytes(bytes[8..16].try_into().unwrap()),
            body: bytes.split_off(40),
        })
    }

    fn reply(&self, unique: u64, body: &[u8]) {
        self.say(
            &[&(16 + body.len() as u32).to_le_bytes()[..], &[0; 4], &unique.to_le_bytes(), body].concat(),
        );
    }

    fn say(&self, bytes: &[u8]) {
        send(&self.0, bytes, SendFlags::empty()).unwrap();
    }
}

fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = (40 + body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(unique.to_le_bytes());
    bytes.extend([0; 24]);
    bytes.extend(body);
    bytes
}

/// Gives a request with room for an answer of so many bytes; its head, and where the answer will be.
fn ask(guest: &mut Guest, bytes: &[u8], room: u32) -> (u16, u64) {
    let sent = guest.put(bytes);
    let answer = guest.room(room);
    let head = guest.give(REQUESTS, &[sent, Piece::Writable(answer, room)]);
    assert!(guest.run());
    (head, answer)
}

/// The errno of an answer, as FUSE has it.
fn error(guest: &Guest, answer: u64) -> i32 {
    i32::from_le_bytes(guest.bytes(answer + 4, 4).try_into().unwrap())
}

fn unique(guest: &Guest, answer: u64) -> u64 {
    u64::from_le_bytes(guest.bytes(answer + 8, 8).try_into().unwrap())
}

#[test]
fn a_request_goes_out_whole_and_its_reply_comes_back_to_it() {
    let (mut guest, files) = guest();
    // However the driver cuts them.
    let bytes = request(WRITE, 77, &[0xaa; 300]);
    let pieces = [guest.put(&bytes[..13]), guest.put(&bytes[13..50]), guest.put(&bytes[50..])];
    let (first, second) = (guest.room(10), guest.room(100));
    let answer = [Piece::Writable(first, 10), Piece::Writable(second, 100)];
    let head = guest.give(REQUESTS, &[pieces[0], pieces[1], pieces[2], answer[0], answer[1]]);
    assert!(guest.run());
    let arrived = files.next().unwrap();
    assert_eq!((arrived.opcode, arrived.body), (WRITE, vec![0xaa; 300]));
    assert_eq!(guest.used(REQUESTS), None);

    files.reply(arrived.unique, b"the answer");
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((head, 26)));
    let reply = [guest.bytes(first, 10), guest.bytes(second, 16)].concat();
    assert_eq!(reply[..4], 26_u32.to_le_bytes());
    assert_eq!(reply[8..16], 77_u64.to_le_bytes());
    assert_eq!(&reply[16..], b"the answer");
}

#[test]
fn replies_find_their_requests_in_any_order() {
    let (mut guest, files) = guest();
    let asked: Vec<_> = (0..5).map(|n| ask(&mut guest, &request(GETATTR, 100 + n, &[]), 64)).collect();
    let arrived: Vec<_> = (0..5).map(|_| files.next().unwrap()).collect();
    for n in [3, 0, 4, 2, 1] {
        files.reply(arrived[n].unique, &[n as u8]);
        assert!(guest.run());
        assert_eq!(guest.used(REQUESTS), Some((asked[n].0, 17)));
        assert_eq!(guest.bytes(asked[n].1 + 16, 1), [n as u8]);
    }
}

#[test]
fn two_requests_by_one_number_are_two() {
    let (mut guest, files) = guest();
    let asked = [1, 2].map(|n| ask(&mut guest, &request(GETATTR, 7, &[n]), 64));
    let arrived = [files.next().unwrap(), files.next().unwrap()];
    assert_ne!(arrived[0].unique, arrived[1].unique);
    files.reply(arrived[1].unique, b"second");
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((asked[1].0, 22)));
    assert_eq!(unique(&guest, asked[1].1), 7);
}

#[test]
fn forgetting_is_done_when_it_is_said() {
    let (mut guest, files) = guest();
    let forget = guest.put(&request(FORGET, 1, &[0; 8]));
    let head = guest.give(URGENT, &[forget]);
    assert!(guest.run());
    assert_eq!(guest.used(URGENT), Some((head, 0)));
    assert_eq!(files.next().unwrap().opcode, FORGET);
}

#[test]
fn an_interrupt_names_the_request_as_the_server_knows_it() {
    let (mut guest, files) = guest();
    ask(&mut guest, &request(GETATTR, 50, &[]), 64);
    let known = files.next().unwrap().unique;
    let interrupt = guest.put(&request(INTERRUPT, 51, &50_u64.to_le_bytes()));
    let head = guest.give(URGENT, &[interrupt]);
    assert!(guest.run());
    assert_eq!(guest.used(URGENT), Some((head, 0)));
    assert_eq!(files.next().unwrap().body, known.to_le_bytes());
    let stray = guest.put(&request(INTERRUPT, 52, &999_u64.to_le_bytes()));
    guest.give(URGENT, &[stray]);
    assert!(guest.run());
    assert_eq!((guest.used(URGENT).map(|used| used.1), files.next()), (Some(0), None));
}

#[test]
fn a_reply_that_is_too_long_or_lies_fails_the_request_alone() {
    let (mut guest, files) = guest();
    let (head, answer) = ask(&mut guest, &request(GETATTR, 5, &[]), 32);
    files.reply(files.next().unwrap().unique, &[1; 17]);
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((head, 16)));
    assert_eq!((error(&guest, answer), unique(&guest, answer)), (-libc::EIO, 5));

    let (_, answer) = ask(&mut guest, &request(GETATTR, 6, &[]), 32);
    let own = files.next().unwrap().unique;
    files.say(&[&99_u32.to_le_bytes()[..], &[0; 4], &own.to_le_bytes()].concat());
    assert!(guest.run());
    assert_eq!((error(&guest, answer), unique(&guest, answer)), (-libc::EIO, 6));
    assert_eq!(guest.news(), None);
}

#[test]
fn a_server_that_answers_what_nobody_asked_is_told_of() {
    for bytes in [&b"short"[..], &[0xff; 16]] {
        let (mut guest, files) = guest();
        files.say(bytes);
        assert!(guest.run());
        assert_eq!(guest.news(), Some(News::Failure(format!("device: {SENSELESS}"))));
    }
}

#[test]
fn without_its_server_every_request_fails_at_once() {
    let (mut guest, files) = guest();
    let (_, before) = ask(&mut guest, &request(GETATTR, 1, &[]), 32);
    drop(files);
    assert!(guest.run());
    let (_, after) = ask(&mut guest, &request(GETATTR, 2, &[]), 32);
    let forget = guest.put(&request(FORGET, 3, &[0; 8]));
    guest.give(URGENT, &[forget]);
    assert!(guest.run());
    assert_eq!([error(&guest, before), error(&guest, after)], [-libc::EIO; 2]);
    assert_eq!(guest.used(URGENT).map(|used| used.1), Some(0));
    assert_eq!(guest.news(), Some(News::Failure(format!("device: {GONE}"))));
    assert_eq!(guest.news(), None);
}

#[test]
fn a_full_socket_holds_requests_back_and_loses_none() {
    // By default there is room for two of these.
    let (mut guest, files) = guest();
    let large = request(WRITE, 1, &vec![7; 128 * 1024]);
    for _ in 0..40 {
        let sent = guest.put(&large);
        let answer = guest.room(64);
        guest.give(REQUESTS, &[sent, Piece::Writable(answer, 64)]);
    }
    assert!(guest.run());
    let mut seen = 0;
    while let Some(arrived) = files.next() {
        assert_eq!(arrived.body.len(), 128 * 1024);
        files.reply(arrived.unique, &[]);
        seen += 1;
        assert!(guest.run());
    }
    assert_eq!(seen, 40);
    assert_eq!((0..40).filter(|_| guest.used(REQUESTS).is_some()).count(), 40);
}

#[test]
fn requests_that_nobody_answers_are_bounded() {
    let (mut guest, files) = guest();
    let sent = guest.put(&request(GETATTR, 1, &[]));
    let answer = guest.room(64);
    // The queue alone bounds them for a good driver: this one takes back what it never got.
    for _ in 0..4 {
        for _ in 0..QUEUE_SIZES[REQUESTS] / 2 {
            guest.give(REQUESTS, &[sent, Piece::Writable(answer, 64)]);
        }
        assert!(guest.run());
    }
    let more = (0..MAX_IN_FLIGHT).filter(|_| files.next().is_some()).count();
    assert_eq!(more, MAX_IN_FLIGHT);
    guest.give(REQUESTS, &[sent, Piece::Writable(answer, 64)]);
    assert!(guest.run());
    assert_eq!(files.next(), None);
}

#[test]
fn what_is_no_request_goes_nowhere() {
    let lying = [&41_u32.to_le_bytes()[..], &request(GETATTR, 9, &[])[4..]].concat();
    let endless = request(WRITE, 9, &vec![0; MAX_FUSE_MESSAGE_LEN]);
    for bytes in [lying, endless] {
        let (mut guest, files) = guest();
        let (_, answer) = ask(&mut guest, &bytes, 64);
        assert_eq!((error(&guest, answer), unique(&guest, answer)), (-libc::EINVAL, 9));
        assert_eq!(files.next(), None);
    }
}

#[test]
fn a_request_without_header_or_room_for_an_answer_is_an_abuse() {
    for (bytes, room) in [(vec![40, 0, 0, 0], 64), (request(GETATTR, 1, &[]), 15)] {
        let (mut guest, files) = guest();
        ask(&mut guest, &bytes, room);
        assert!(matches!(guest.news(), Some(News::Abuse(_))));
        assert_eq!(files.next(), None);
    }
}

#[test]
fn a_reply_to_a_driver_that_has_gone_is_dropped() {
    let (mut guest, files) = guest();
    ask(&mut guest, &request(GETATTR, 1, &[]), 64);
    let old = files.next().unwrap();
    guest.negotiate(u64::MAX);
    assert!(guest.run());
    let (head, answer) = ask(&mut guest, &request(GETATTR, 1, &[]), 64);
    files.reply(old.unique, b"too late");
    files.reply(files.next().unwrap().unique, b"new");
    assert!(guest.run());
    assert_eq!(guest.used(REQUESTS), Some((head, 19)));
    assert_eq!(guest.bytes(answer + 16, 3), b"new");
    assert_eq!((guest.used(REQUESTS), guest.news()), (None, None));
}

#[test]
fn a_machine_is_saved_before_its_file_system_is_mounted_and_not_after() {
    let (guest, _files) = guest();
    let (restored, files) = device();
    let mut guest = guest.moved_to(restored);
    ask(&mut guest, &request(INIT, 1, &[0; 16]), 64);
    let asked = files.next().unwrap();
    assert_eq!(asked.opcode, INIT);
    let refused = || matches!(guest.transport.lock().unwrap().save(), Err(StateError::Busy(_)));
    assert!(refused());
    files.reply(asked.unique, &[]);
    assert!(refused());
}

#[test]
fn another_tag_is_another_device() {
    let (device, _files) = device();
    let state = device.save().unwrap();
    let (ours, _theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut other = Fs::new("other", ours).unwrap();
    assert!(matches!(other.restore(&state), Err(StateError::Differs("tag"))));
}

#[test]
fn a_tag_has_1_to_36_bytes_and_the_socket_is_of_packets() {
    let socket =
        || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap().0;
    for tag in ["", &"t".repeat(37)] {
        assert!(matches!(Fs::new(tag, socket()), Err(FsError::Tag)));
    }
    let (stream, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(Fs::new("t", stream.into()), Err(FsError::NotASocket)));
}
