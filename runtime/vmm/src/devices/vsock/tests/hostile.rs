//! A guest that sends what no driver would.

use proptest::prelude::*;

use super::*;
use crate::devices::News;

/// A packet with one field of its header changed.
fn with(message: Message, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = from_guest(message).to_vec();
    packet[offset..offset + bytes.len()].copy_from_slice(bytes);
    packet
}

fn data(address: Address, len: u32) -> Message {
    Message { address, op: Op::Data, flags: 0, len, room: ROOM }
}

#[test]
fn senseless_packets_end_the_connection_that_they_name() {
    let changes: [(usize, &[u8]); 5] =
        [(30, &[0, 0]), (30, &[8, 0]), (28, &[2, 0]), (24, &[1, 0, 1, 0]), (24, &[5, 0, 0, 0])];
    for (offset, bytes) in changes {
        let (mut machine, mut client, address) = Machine::connected();
        let packet = with(data(address, 0), offset, bytes);
        let piece = machine.guest.put(&packet);
        machine.guest.give(TX, &[piece]);
        machine.run();
        assert_eq!(machine.expect(Op::Reset).address, address, "{offset}");
        assert!(read_some(&mut client).1);
    }
}

#[test]
fn packets_that_do_not_fit_the_state_end_the_connection() {
    let cases = [(Op::Request, 0), (Op::Response, 0)];
    for (op, flags) in cases {
        let (mut machine, _client, address) = Machine::connected();
        machine.send(address, op, flags, &[]);
        machine.expect(Op::Reset);
    }
    let mut machine = Machine::new();
    let _client = machine.client("CONNECT 52\n");
    let address = machine.expect(Op::Request).address;
    machine.send(address, Op::Data, 0, b"too early");
    machine.expect(Op::Reset);
}

#[test]
fn data_after_the_end_ends_the_connection() {
    let (mut machine, _client, address) = Machine::connected();
    machine.send(address, Op::Shutdown, packet::SHUTDOWN_SEND, &[]);
    machine.expect_nothing();
    machine.send(address, Op::Data, 0, b"more");
    machine.expect(Op::Reset);
}

#[test]
fn packets_from_or_for_others_are_dropped() {
    let (mut machine, mut client, address) = Machine::connected();
    for (offset, cid) in [(0, 2_u64), (0, 4), (8, 3), (8, u64::MAX), (8, 1)] {
        let mut packet = with(data(address, 1), offset, &cid.to_le_bytes());
        packet.push(b'x');
        let piece = machine.guest.put(&packet);
        machine.guest.give(TX, &[piece]);
        machine.run();
    }
    machine.expect_nothing();
    assert_eq!(read_some(&mut client), (vec![], false));
}

#[test]
fn what_is_no_packet_stops_the_device_and_is_told() {
    let mut machine = Machine::new();
    let piece = machine.guest.put(&[0; HEADER_LEN - 1]);
    machine.guest.give(TX, &[piece]);
    assert!(machine.guest.run());
    assert!(matches!(machine.guest.news(), Some(News::Abuse(text)) if text.contains("header")));
    // What happens on the host is no reason to wake up any more.
    machine.client("CONNECT 52\n");
}

#[test]
fn a_buffer_without_room_for_data_stops_the_device() {
    for len in [1, HEADER_LEN as u32 - 1, HEADER_LEN as u32] {
        let mut machine = Machine::without_buffers();
        machine.send(Address { host_port: DIALLED, guest_port: PORT }, Op::Request, 0, &[]);
        machine.dialled.write_all(b"data").unwrap();
        let address = machine.guest.room(len);
        for _ in 0..2 {
            machine.guest.give(RX, &[Piece::Writable(address, len)]);
        }
        assert!(machine.guest.run());
        assert!(matches!(machine.guest.news(), Some(News::Abuse(_))), "{len}");
    }
}

#[test]
fn a_guest_that_takes_no_answers_is_not_listened_to() {
    let mut machine = Machine::without_buffers();
    let unknown = |guest_port| data(Address { host_port: 1, guest_port }, 0);
    let mut unanswered = 0;
    for port in 0..2000 {
        let piece = machine.guest.put(&from_guest(unknown(port)));
        machine.guest.give(TX, &[piece]);
        assert!(machine.guest.run());
        unanswered += 1;
        while machine.guest.used(TX).is_some() {
            unanswered -= 1;
        }
        if unanswered > 100 {
            break;
        }
    }
    assert!(unanswered > 100, "it answers with at most {MAX_RESETS}");
    for _ in 0..10 {
        machine.give_buffers(64);
    }
    assert_eq!(machine.received.len(), MAX_RESETS + unanswered);
}

#[derive(Clone, Debug)]
enum Act {
    Packet { known: bool, op: u16, kind: u16, flags: u32, len: u32, buf_alloc: u32, fwd_cnt: u32 },
    Raw(Vec<u8>),
    ClientWrites(usize),
    ClientReads,
    ClientLeaves,
    Connect,
    Buffers(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let odd = prop_oneof![Just(0_u32), Just(1), Just(u32::MAX), Just(4096), any::<u32>()];
    let len = prop_oneof![6 => 0..70_000_u32, 1 => any::<u32>()];
    let kind = prop_oneof![9 => Just(1_u16), 1 => any::<u16>()];
    let op = prop_oneof![9 => 1..8_u16, 1 => any::<u16>()];
    let packet = (any::<bool>(), op, kind, 0..4_u32, len, odd.clone(), odd);
    prop_oneof![
        8 => packet.prop_map(|(known, op, kind, flags, len, buf_alloc, fwd_cnt)| {
            Act::Packet { known, op, kind, flags, len, buf_alloc, fwd_cnt }
        }),
        1 => prop::collection::vec(any::<u8>(), 44..100).prop_map(Act::Raw),
        2 => (0..100_000_usize).prop_map(Act::ClientWrites),
        2 => Just(Act::ClientReads),
        1 => Just(Act::ClientLeaves),
        3 => Just(Act::Connect),
        3 => (1..20_usize).prop_map(Act::Buffers),
    ]
}

/// Plays an act; what the device answers does not matter here, only that it rests and keeps to what is its own.
fn play(machine: &mut Machine, clients: &mut Vec<(UnixStream, Address)>, act: Act) {
    match act {
        Act::Packet { known, op, kind, flags, len, buf_alloc, fwd_cnt } => {
            let address = clients
                .first()
                .filter(|_| known)
                .map_or(Address { host_port: DIALLED, guest_port: PORT }, |&(_, address)| address);
            let message = Message { address, op: Op::Data, flags, len, room: Room { buf_alloc, fwd_cnt } };
            let mut packet = with(message, 28, &[kind.to_le_bytes(), op.to_le_bytes()].concat());
            packet.resize(HEADER_LEN + len.min(70_000) as usize, 0xaa);
            let piece = machine.guest.put(&packet);
            machine.guest.give(TX, &[piece]);
        }
        Act::Raw(bytes) => {
            let piece = machine.guest.put(&bytes);
            machine.guest.give(TX, &[piece]);
        }
        Act::ClientWrites(len) => {
            if let Some((client, _)) = clients.first_mut() {
                let _ = client.set_nonblocking(true);
                let _ = client.write(&pattern(len));
            }
        }
        Act::ClientReads => {
            if let Some((client, _)) = clients.first_mut() {
                let _ = client.set_nonblocking(true);
                let _ = client.read(&mut [0; 100_000]);
            }
        }
        Act::ClientLeaves => clients.truncate(clients.len().saturating_sub(1)),
        Act::Connect => {
            let client = machine.client(&format!("CONNECT {PORT}\n"));
            let request = machine.received.iter().rev().find(|(message, _)| message.op == Op::Request);
            if let Some(&(Message { address, .. }, _)) = request {
                clients.insert(0, (client, address));
                machine.send(address, Op::Response, 0, &[]);
            }
        }
        Act::Buffers(count) => machine.give_buffers(count.min(100 - machine.buffers.len().min(99))),
    }
    machine.run();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_guest_and_clients_do_the_device_comes_to_rest(acts in prop::collection::vec(act(), 1..60)) {
        let mut machine = Machine::new();
        let mut clients = Vec::new();
        for act in acts {
            play(&mut machine, &mut clients, act);
            // Only what is no packet at all is abuse, and no act is that.
            prop_assert_eq!(machine.guest.news(), None);
        }
    }
}
