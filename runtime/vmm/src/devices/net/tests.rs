use std::{
    fs::File,
    os::{fd::AsRawFd, unix::net::UnixDatagram},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_UDP,
};

use securectr_vmm::spec::Fd;

use super::*;
use crate::devices::{
    News,
    testing::{Guest, Piece, RawDescriptor},
    virtqueue::Buffers,
};

const FOR_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// The device's end of a wire whose other end the test holds. A datagram is a frame with its header.
struct Cable(UnixDatagram, Arc<AtomicU32>);

impl Backend for Cable {
    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn has_room(&mut self) -> bool {
        true
    }

    fn set_offloads(&mut self, offloads: libc::c_uint) -> io::Result<()> {
        self.1.store(offloads, Ordering::Relaxed);
        Ok(())
    }

    fn send(&mut self, header: &Header, frame: &Buffers<'_>) -> io::Result<()> {
        let mut bytes = vec![0; frame.len()];
        frame.read(&mut bytes);
        self.0.send(&[&header.bytes()[..], &bytes].concat()).map(drop)
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.recv(frame) {
            // A datagram of no bytes stands for a wire that is cut.
            Ok(0) => Err(io::ErrorKind::NotConnected.into()),
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn wired() -> (Net, UnixDatagram, Arc<AtomicU32>) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let offloads = Arc::new(AtomicU32::new(u32::MAX));
    let wire = Cable(theirs, Arc::clone(&offloads));
    (Net::with_backend(Some(Box::new(wire)), MAC, 1500).unwrap(), ours, offloads)
}

/// One for which frames of several lengths wait; the other end of its wire stays open.
pub(in crate::devices) fn fed() -> (Net, UnixDatagram) {
    let (net, wire, _) = wired();
    for len in [1, 100, 1500, 9000, 50_000] {
        wire.send(&[&ASKS_NOTHING[..], &vec![7; len]].concat()).unwrap();
    }
    (net, wire)
}

fn ready() -> (Guest, UnixDatagram) {
    let (net, wire, _) = wired();
    (Guest::ready(net), wire)
}

/// A header that asks for nothing.
const ASKS_NOTHING: [u8; HEADER_LEN] = [0; HEADER_LEN];

fn header(flags: u32, segmentation: u32) -> [u8; HEADER_LEN] {
    let mut header = ASKS_NOTHING;
    header[0] = flags as u8;
    header[1] = segmentation as u8;
    header
}

fn give_room(guest: &mut Guest, len: u32) -> u64 {
    let room = guest.room(len);
    guest.give(FOR_GUEST, &[Piece::Writable(room, len)]);
    room
}

fn transmit(guest: &mut Guest, header: &[u8], frame: &[u8]) {
    let sent = guest.put(&[header, frame].concat());
    let head = guest.give(FROM_GUEST, &[sent]);
    assert!(guest.run());
    assert_eq!(guest.used(FROM_GUEST), Some((head, 0)));
}

fn received(wire: &UnixDatagram) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 2 * MAX_FRAME_LEN];
    let len = wire.recv(&mut bytes).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

#[test]
fn a_frame_goes_out_as_the_driver_gave_it() {
    let (mut guest, wire) = ready();
    // However the driver cuts it (section 2.7.4).
    let bytes: Vec<u8> = ASKS_NOTHING.into_iter().chain(0..100).collect();
    let pieces = [guest.put(&bytes[..5]), guest.put(&bytes[5..60]), guest.put(&bytes[60..])];
    guest.give(FROM_GUEST, &pieces);
    assert!(guest.run());
    assert_eq!(guest.used(FROM_GUEST), Some((0, 0)));
    assert_eq!(received(&wire), Some(bytes));
}

#[test]
fn a_frame_comes_in_with_the_number_of_its_buffers() {
    let (mut guest, wire) = ready();
    let room = give_room(&mut guest, 2000);
    wire.send(&[&ASKS_NOTHING[..], &[7; 60]].concat()).unwrap();
    assert!(guest.run());
    assert_eq!(guest.used(FOR_GUEST), Some((0, 72)));
    assert_eq!(guest.bytes(room, 72), [&[0; 10][..], &[1, 0], &[7; 60]].concat());
    assert_eq!(guest.interrupt.read().unwrap(), 1);
}

#[test]
fn a_long_frame_goes_over_merged_buffers() {
    let (mut guest, wire) = ready();
    let rooms = [(); 3].map(|()| give_room(&mut guest, 50));
    wire.send(&[&ASKS_NOTHING[..], &[7; 100]].concat()).unwrap();
    assert!(guest.run());
    let used: Vec<_> = (0..3).map(|_| guest.used(FOR_GUEST).unwrap()).collect();
    assert_eq!(used, [(0, 50), (1, 50), (2, 12)]);
    assert_eq!(guest.bytes(rooms[0] + 10, 2), [3, 0]);
    assert_eq!(guest.bytes(rooms[2], 14), [[7; 12].as_slice(), &[0; 2]].concat());
}

#[test]
fn a_frame_waits_for_buffers_and_nothing_spins_meanwhile() {
    let (mut guest, wire) = ready();
    for byte in [1, 2] {
        wire.send(&[&ASKS_NOTHING[..], &[byte; 100]].concat()).unwrap();
    }
    assert!(guest.run());
    give_room(&mut guest, 60);
    assert!(guest.run());
    assert_eq!(guest.used(FOR_GUEST), None);
    let rest = give_room(&mut guest, 60);
    let second = give_room(&mut guest, 200);
    assert!(guest.run());
    assert_eq!([(); 3].map(|()| guest.used(FOR_GUEST)), [Some((0, 60)), Some((1, 52)), Some((2, 112))]);
    assert_eq!((guest.bytes(rest, 1), guest.bytes(second + 20, 1)), (vec![1], vec![2]));
}

#[test]
fn without_merged_buffers_a_frame_that_does_not_fit_is_lost() {
    let (net, wire, _) = wired();
    let mut guest = Guest::found(net);
    guest.enter_event_loop();
    guest.negotiate(!(1 << VIRTIO_NET_F_MRG_RXBUF));
    give_room(&mut guest, 50);
    for len in [100, 20] {
        wire.send(&[&ASKS_NOTHING[..], &vec![7; len]].concat()).unwrap();
    }
    assert!(guest.run());
    assert_eq!(guest.used(FOR_GUEST), Some((0, 32)));
    assert_eq!(guest.used(FOR_GUEST), None);
}

#[test]
fn the_host_hears_only_of_what_was_negotiated() {
    let all = OFFERED;
    let needs = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    let tso = header(needs, VIRTIO_NET_HDR_GSO_TCPV4);
    assert!(Header::from_driver(tso, all).is_some());
    assert!(Header::from_driver(tso, all & !(1 << VIRTIO_NET_F_HOST_TSO4)).is_none());
    assert!(Header::from_driver(tso, all & !(1 << VIRTIO_NET_F_CSUM)).is_none());
    assert!(Header::from_driver(header(0, VIRTIO_NET_HDR_GSO_TCPV4), all).is_none());
    assert!(Header::from_driver(header(needs, VIRTIO_NET_HDR_GSO_UDP), all).is_none());
    assert!(Header::from_driver(header(needs, 0x81), all).is_none());
    let odd = header(needs | VIRTIO_NET_HDR_F_DATA_VALID | 0xf0, VIRTIO_NET_HDR_GSO_NONE);
    assert_eq!(Header::from_driver(odd, all), Header::from_driver(header(needs, 0), all));
}

#[test]
fn the_tap_learns_which_frames_the_driver_takes() {
    let segments = libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    for (wanted, told) in [
        (u64::MAX, libc::TUN_F_CSUM | segments),
        (!(1 << VIRTIO_NET_F_GUEST_TSO6), libc::TUN_F_CSUM | libc::TUN_F_TSO4),
        // Segments without checksums are no possible wish.
        (!(1 << VIRTIO_NET_F_GUEST_CSUM), 0),
    ] {
        let (net, _wire, offloads) = wired();
        let mut guest = Guest::found(net);
        guest.enter_event_loop();
        guest.negotiate(wanted);
        assert!(guest.run());
        assert_eq!(offloads.load(Ordering::Relaxed), told);
    }
}

#[test]
fn a_frame_that_is_too_long_is_lost_and_the_next_is_not() {
    let (mut guest, wire) = ready();
    transmit(&mut guest, &ASKS_NOTHING, &vec![1; MAX_FRAME_LEN]);
    transmit(&mut guest, &ASKS_NOTHING, &vec![2; MAX_FRAME_LEN - HEADER_LEN]);
    assert_eq!(received(&wire).map(|frame| frame.len()), Some(MAX_FRAME_LEN));
    assert_eq!(received(&wire), None);
}

#[test]
fn a_chain_of_gigabytes_costs_nothing() {
    let (mut guest, wire) = ready();
    let piece = guest.put(&vec![1; 1 << 20]);
    guest.give(FROM_GUEST, &[piece; 200]);
    assert!(guest.run());
    assert_eq!(guest.used(FROM_GUEST), Some((0, 0)));
    assert_eq!(received(&wire), None);
}

#[test]
fn drivers_that_break_the_rules_are_stopped_and_told_of() {
    type Act = fn(&mut Guest);
    let short: Act = |guest| {
        let sent = guest.put(&[0; HEADER_LEN - 1]);
        guest.give(FROM_GUEST, &[sent]);
    };
    let looping: Act = |guest| {
        guest.set_descriptor(FROM_GUEST, 3, RawDescriptor { address: 0x1000, len: 16, flags: 1, next: 3 });
        guest.publish(FROM_GUEST, 3);
    };
    let no_room: Act = |guest| {
        let sent = guest.put(&[0; 100]);
        guest.give(FOR_GUEST, &[sent]);
    };
    let acts = [
        (short, "shorter than its header"),
        (looping, "a descriptor chain is broken"),
        (no_room, "no room for its answer"),
    ];
    for (act, words) in acts {
        let (mut guest, wire) = ready();
        wire.send(&[&ASKS_NOTHING[..], &[7; 60]].concat()).unwrap();
        act(&mut guest);
        assert!(guest.run());
        let told = guest.news();
        assert!(matches!(&told, Some(News::Abuse(text)) if text.contains(words)), "{told:?}");
    }
}

#[test]
fn a_busy_network_lets_others_have_their_turn() {
    let (mut guest, wire) = ready();
    for _ in 0..200 {
        give_room(&mut guest, 100);
    }
    for round in 0..20 {
        for byte in 0..10 {
            wire.send(&[&ASKS_NOTHING[..], &[round * 10 + byte; 60]].concat()).unwrap();
        }
        assert!(guest.run());
    }
    assert_eq!((0..200).filter_map(|_| guest.used(FOR_GUEST)).count(), 200);
}

#[test]
fn a_cut_wire_ends_no_guest() {
    let (mut guest, wire) = ready();
    wire.send(&[]).unwrap();
    assert!(guest.run());
    drop(wire);
    transmit(&mut guest, &ASKS_NOTHING, &[1; 60]);
    assert_eq!(guest.news(), None);
}

#[test]
fn a_wire_can_be_plugged_in_later_and_once() {
    let mut net = Net::with_backend(None, MAC, 1500).unwrap();
    let (other, wire, offloads) = wired();
    let mut backends = [other.backend.unwrap(), wired().0.backend.unwrap()].into_iter();
    net.activate(1 << VIRTIO_NET_F_GUEST_CSUM).unwrap();
    assert!(net.poll_fd().is_none());
    net.plug_in(backends.next().unwrap()).unwrap();
    assert_eq!(offloads.load(Ordering::Relaxed), libc::TUN_F_CSUM);
    assert!(net.poll_fd().is_some());
    assert!(matches!(net.plug_in(backends.next().unwrap()), Err(NetError::Plugged)));
    drop(wire);
}

#[test]
fn an_unplugged_device_takes_what_is_sent() {
    let mut guest = Guest::ready(Net::with_backend(None, MAC, 1500).unwrap());
    transmit(&mut guest, &ASKS_NOTHING, &[1; 60]);
}

#[test]
fn what_cannot_be_an_interface_is_refused() {
    let net = |mac, mtu| Net::new(None, mac, mtu).map(drop);
    assert!(matches!(net([0; 6], 1500), Err(NetError::Mac(_))));
    assert!(matches!(net([0xff; 6], 1500), Err(NetError::Mac(_))));
    assert!(matches!(net(MAC, 67), Err(NetError::Mtu(67))));
    let null = File::open("/dev/null").unwrap();
    let tap = Some((Wire::Tap(Fd(9)), null.try_clone().unwrap().into()));
    assert!(matches!(Net::new(tap, MAC, 1500), Err(NetError::Query(_))));
    let stream = Some((Wire::Stream(Fd(9)), null.into()));
    assert!(matches!(Net::new(stream, MAC, 1500), Err(NetError::NotAStream)));
}

#[test]
fn a_restored_interface_goes_on_with_its_driver() {
    let (guest, _old) = ready();
    let (net, wire, offloads) = wired();
    let mut guest = guest.moved_to(net);
    assert_ne!(offloads.load(Ordering::Relaxed), u32::MAX, "the new tap knows the old driver's features");
    transmit(&mut guest, &ASKS_NOTHING, &[1; 60]);
    assert!(received(&wire).is_some());
}

#[test]
fn a_saved_interface_is_not_restored_as_another() {
    let state = wired().0.save().unwrap();
    let mut other = Net::with_backend(None, MAC, 9000).unwrap();
    assert!(matches!(other.restore(&state), Err(StateError::Differs(_))));
    let newer = serde_json::json!({ "format": 2, "mac": MAC, "mtu": 1500 });
    assert!(matches!(wired().0.restore(&newer), Err(StateError::Format { .. })));
}
