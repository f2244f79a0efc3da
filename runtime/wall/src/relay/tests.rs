use std::{net::IpAddr, thread};

use securectr_wall::{Host, Network, WallSpec};

use super::*;

/// Lets everything to 192.0.2.1 through.
fn judge() -> Judge {
    let network = |address: &str, length| Network { address: address.parse().unwrap(), length };
    let spec = WallSpec {
        allowed: vec![securectr_wall::Allowed { host: Host::Network(network("192.0.2.1", 32)), ports: None }],
        published: Vec::new(),
        resolver: None,
        guest: ([10, 0, 0, 2].into(), "fd00::2".parse().unwrap()),
        link: (network("10.0.0.0", 24), network("fd00::", 64)),
    };
    Judge::new(spec, Instant::now())
}

fn frame(to: [u8; 4], len: usize, byte: u8) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [2; 6]).ipv4([10, 0, 0, 2], to, 64).udp(1, 2);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![byte; len]).unwrap();
    frame
}

fn behind_length(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

fn received(socket: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    socket.read_exact(&mut frame).unwrap();
    frame
}

struct Running {
    guest: UnixStream,
    world: UnixStream,
    parent: UnixStream,
    relay: thread::JoinHandle<bool>,
}

/// Says at its end whether it was one without an error.
fn running() -> Running {
    let [(guest, ours), (world, theirs), (parent, told)] = [(); 3].map(|()| UnixStream::pair().unwrap());
    for socket in [&ours, &theirs, &told] {
        socket.set_nonblocking(true).unwrap();
    }
    let relay = thread::spawn(move || relay(ours, theirs, &told, &mut judge()).is_ok());
    Running { guest, world, parent, relay }
}

#[test]
fn frames_pass_whole_and_in_order_and_denials_are_told() {
    let Running { mut guest, mut world, mut parent, relay } = running();
    let sent: Vec<_> = (1..=100).map(|byte| frame([192, 0, 2, 1], usize::from(byte) * 500, byte)).collect();
    let stream: Vec<u8> = sent
        .iter()
        .flat_map(|frame| behind_length(frame))
        .chain(behind_length(&frame([192, 0, 2, 9], 9, 0)))
        .collect();
    let writer = thread::spawn(move || {
        for piece in stream.chunks(70_001) {
            guest.write_all(piece).unwrap();
        }
        guest
    });
    for expected in &sent {
        assert_eq!(&received(&mut world), expected);
    }
    let guest = writer.join().unwrap();
    let mut line = vec![0; 256];
    let len = parent.read(&mut line).unwrap();
    let denial: Denial = serde_json::from_slice(&line[..len]).unwrap();
    assert_eq!((denial.address, denial.port), (Some(IpAddr::from([192, 0, 2, 9])), Some(2)));
    drop(guest);
    assert!(relay.join().unwrap());
}

#[test]
fn it_ends_with_each_of_those_that_it_stands_between() {
    type End = fn(Running) -> (thread::JoinHandle<bool>, Vec<UnixStream>);
    let ends: [End; 3] = [
        |running| (running.relay, vec![running.world, running.parent]),
        |running| (running.relay, vec![running.guest, running.parent]),
        |running| (running.relay, vec![running.guest, running.world]),
    ];
    for end in ends {
        let (relay, _others) = end(running());
        assert!(relay.join().unwrap());
    }
}

#[test]
fn a_length_that_lies_is_the_end() {
    for length in [0, 13, 65_550, u32::MAX] {
        let Running { mut guest, world: _world, parent: _parent, relay } = running();
        guest.write_all(&length.to_be_bytes()).unwrap();
        assert!(!relay.join().unwrap(), "{length}");
    }
}
