use std::io::{Read, Write};

use securectr_vmm::spec::{Fd, Wire};

use super::{
    super::{Net, NetError},
    *,
};
use crate::devices::testing::{Guest, Piece};

const FOR_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const MTU: u16 = 1500;

fn net(mtu: u16) -> (Net, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    (Net::new(Some((Wire::Stream(Fd(9)), theirs.into())), MAC, mtu).unwrap(), ours)
}

fn ready() -> (Guest, UnixStream) {
    let (net, passt) = net(MTU);
    (Guest::ready(net), passt)
}

/// Of some protocol that is nobody's business.
fn frame(len: usize, byte: u8) -> Vec<u8> {
    let mut frame = vec![byte; len];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

fn behind_length(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

fn transmit(guest: &mut Guest, frame: &[u8]) {
    let sent = guest.put(&[&[0; HEADER_LEN], frame].concat());
    guest.give(FROM_GUEST, &[sent]);
    assert!(guest.run());
}

fn give_room(guest: &mut Guest) -> u64 {
    let room = guest.room(2000);
    guest.give(FOR_GUEST, &[Piece::Writable(room, 2000)]);
    room
}

fn received(passt: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    passt.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    passt.read_exact(&mut frame).unwrap();
    frame
}

fn nothing_comes(passt: &UnixStream) -> bool {
    passt.set_nonblocking(true).unwrap();
    let nothing =
        matches!((&mut &*passt).read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    passt.set_nonblocking(false).unwrap();
    nothing
}

#[test]
fn a_frame_goes_out_behind_its_length() {
    let (mut guest, mut passt) = ready();
    for (len, byte) in [(14, 1), (100, 2), (1514, 3)] {
        transmit(&mut guest, &frame(len, byte));
        assert_eq!(received(&mut passt), frame(len, byte));
    }
}

#[test]
fn what_is_no_frame_or_longer_than_the_mtu_is_lost() {
    let (mut guest, passt) = ready();
    for len in [14 + usize::from(MTU) + 1, 65_000] {
        transmit(&mut guest, &frame(len, 1));
    }
    transmit(&mut guest, &[1; 13]);
    assert!(nothing_comes(&passt));
}

#[test]
fn frames_come_in_however_they_are_cut() {
    let (mut guest, mut passt) = ready();
    let rooms = [(); 3].map(|()| give_room(&mut guest));
    let bytes: Vec<u8> = [(60, 1), (1514, 2), (14, 3)]
        .iter()
        .flat_map(|&(len, byte)| behind_length(&frame(len, byte)))
        .collect();
    for piece in [&bytes[..1], &bytes[1..3], &bytes[3..64], &bytes[64..70], &bytes[70..]] {
        passt.write_all(piece).unwrap();
        assert!(guest.run());
    }
    let used: Vec<_> = (0..3).map(|_| guest.used(FOR_GUEST).unwrap().1).collect();
    assert_eq!(used, [72, 1526, 26]);
    assert_eq!(guest.bytes(rooms[1] + 12, 1514), frame(1514, 2));
}

#[test]
fn a_frame_waits_for_buffers_and_all_come_in_their_order() {
    let (mut guest, mut passt) = ready();
    for byte in 1..=60 {
        passt.write_all(&behind_length(&frame(1000, byte))).unwrap();
    }
    assert!(guest.run());
    for byte in 1..=60 {
        let room = give_room(&mut guest);
        guest.run();
        assert_eq!(
            (guest.used(FOR_GUEST).map(|(_, len)| len), guest.bytes(room + 12, 1)),
            (Some(1012), vec![byte])
        );
    }
}

#[test]
fn frames_wait_for_a_passt_that_does_not_read() {
    let (net, mut passt) = net(65_520);
    let mut guest = Guest::ready(net);
    let count = 100;
    let sent = guest.put(&[&[0; HEADER_LEN], frame(65_534, 0).as_slice()].concat());
    for _ in 0..count {
        guest.give(FROM_GUEST, &[sent]);
    }
    assert!(guest.run());
    let taken = (0..count).filter_map(|_| guest.used(FROM_GUEST)).count();
    assert!((1..count).contains(&taken), "{taken}");
    let reader = std::thread::spawn(move || (0..count).all(|_| received(&mut passt) == frame(65_534, 0)));
    let mut rest = count - taken;
    while rest > 0 {
        guest.run();
        rest -= (0..rest).filter_map(|_| guest.used(FROM_GUEST)).count();
    }
    while !reader.is_finished() {
        guest.run();
    }
    assert!(reader.join().unwrap(), "each has come whole");
}

#[test]
fn a_length_that_lies_ends_the_link_and_not_the_guest() {
    for length in [0, 13, 65_551, u32::MAX] {
        let (mut guest, mut passt) = ready();
        give_room(&mut guest);
        passt.write_all(&length.to_be_bytes()).unwrap();
        // What follows is not looked at.
        let _ = passt.write_all(&behind_length(&frame(60, 1)));
        assert!(guest.run());
        transmit(&mut guest, &frame(60, 1));
        assert_eq!((guest.used(FOR_GUEST), guest.news()), (None, None), "{length}");
        assert!(matches!(passt.read(&mut [0; 64]), Ok(0) | Err(_)), "the other end hears of it");
    }
}

#[test]
fn a_passt_that_goes_ends_no_guest() {
    let (mut guest, mut passt) = ready();
    give_room(&mut guest);
    // In the middle of a frame.
    passt.write_all(&behind_length(&frame(60, 1))[..30]).unwrap();
    drop(passt);
    assert!(guest.run());
    for _ in 0..3 {
        transmit(&mut guest, &frame(60, 1));
    }
    assert_eq!((guest.used(FOR_GUEST), guest.news()), (None, None));
}

fn ipv4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[26..30].copy_from_slice(&source);
    frame[30..34].copy_from_slice(&destination);
    frame
}

fn ipv6(source: &str, destination: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[22..38].copy_from_slice(&octets(source));
    frame[38..54].copy_from_slice(&octets(destination));
    frame
}

#[test]
fn the_hosts_loopback_is_out_of_reach_however_it_is_written() {
    let own = [10, 0, 0, 2];
    let refused = [
        ipv4(own, [127, 0, 0, 1]),
        ipv4(own, [127, 255, 0, 53]),
        // connect(2) takes it for the loopback.
        ipv4(own, [0, 0, 0, 0]),
        ipv4([127, 0, 0, 1], [10, 0, 0, 1]),
        ipv6("fd00::2", "::1"),
        ipv6("fd00::2", "::"),
        ipv6("fd00::2", "::ffff:127.0.0.1"),
        ipv6("fd00::2", "::127.0.0.1"),
        ipv6("::1", "fd00::1"),
        // Too short for their addresses.
        ipv4(own, own)[..33].to_vec(),
        ipv6("fd00::2", "fd00::1")[..53].to_vec(),
    ];
    for frame in &refused {
        assert!(is_of_the_other_end(frame), "{frame:?}");
    }
    let sent = [
        ipv4(own, [192, 0, 2, 1]),
        ipv4([0; 4], [255; 4]),
        ipv6("fd00::2", "2001:db8::1"),
        ipv6("::", "ff02::1"),
        frame(60, 0),
    ];
    for frame in &sent {
        assert!(!is_of_the_other_end(frame), "{frame:?}");
    }
    let (mut guest, mut passt) = ready();
    transmit(&mut guest, &refused[0]);
    transmit(&mut guest, &sent[0]);
    assert_eq!(received(&mut passt), sent[0]);
}

#[test]
fn a_stream_offers_no_offloads() {
    use crate::devices::VirtioDevice;
    let (net, _passt) = net(MTU);
    assert_eq!(net.features(), super::super::PLAIN);
    let (listening, _) = UnixStream::pair().unwrap();
    drop(listening);
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    assert!(matches!(Stream::new(file, MTU), Err(NetError::NotAStream)));
}
