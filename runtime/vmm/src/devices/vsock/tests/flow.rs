//! Data, and who may send how much of it.

use super::{outlet::BUF_ALLOC, *};

#[test]
fn much_data_goes_to_the_guest_in_order() {
    let (mut machine, mut client, _) = Machine::connected();
    let sent = pattern(150_000);
    assert_eq!(write_some(&mut client, &sent), sent.len());
    let mut got = Vec::new();
    for _ in 0..3 {
        got.extend(machine.expect_data());
        machine.refill();
    }
    assert!(got == sent);
    machine.expect_nothing();
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let mut machine = Machine::new();
    let mut client = machine.client("CONNECT 52\n");
    let address = machine.expect(Op::Request).address;
    let room = |fwd_cnt| Room { buf_alloc: 1000, fwd_cnt };
    machine.send_with(Message { address, op: Op::Response, flags: 0, len: 0, room: room(0) }, &[]);
    let sent = pattern(2500);
    client.write_all(&sent).unwrap();
    assert_eq!(machine.expect_data(), sent[..1000]);
    machine.expect(Op::CreditRequest);
    machine.expect_nothing();
    machine.acknowledge(address, room(600));
    assert_eq!(machine.expect_data(), sent[1000..1600]);
    machine.expect(Op::CreditRequest);
    machine.expect_nothing();
    machine.acknowledge(address, room(1600));
    assert_eq!(machine.expect_data(), sent[1600..]);
    machine.expect_nothing();
}

#[test]
fn a_guest_that_lies_about_its_room_gets_nothing() {
    let (mut machine, mut client, address) = Machine::connected();
    client.write_all(b"x").unwrap();
    machine.expect_data();
    // It has passed on more than it was ever sent.
    machine.acknowledge(address, Room { buf_alloc: 1000, fwd_cnt: 5 });
    client.write_all(b"x").unwrap();
    machine.expect(Op::CreditRequest);
    machine.expect_nothing();
}

#[test]
fn nothing_is_lost_while_the_guest_has_no_buffers() {
    let mut machine = Machine::without_buffers();
    let mut client = machine.client("CONNECT 52\n");
    machine.expect_nothing();
    machine.give_buffers(1);
    let address = machine.expect(Op::Request).address;
    machine.send(address, Op::Response, 0, &[]);
    client.write_all(&pattern(10_000)).unwrap();
    machine.expect_nothing();
    let mut got = Vec::new();
    for _ in 0..3 {
        machine.give_buffers(1);
        got.extend(machine.expect_data());
    }
    assert!(got == pattern(10_000));
}

#[test]
fn one_that_sends_much_does_not_keep_others_waiting() {
    let (mut machine, mut loud, _) = Machine::connected();
    let (mut quiet, address) = machine.connect();
    machine.give_buffers(60);
    while machine.guest.used(RX).is_some() {}
    write_some(&mut loud, &pattern(200_000));
    quiet.write_all(b"quiet").unwrap();
    machine.run();
    let position = machine.received.iter().position(|(message, _)| message.address == address);
    assert!(position.unwrap() <= 17, "after at most one turn of the other: {position:?}");
}

#[test]
fn data_goes_to_the_client_in_order_however_it_is_cut() {
    let (mut machine, mut client, address) = Machine::connected();
    let sent = pattern(5000);
    let packet =
        [&from_guest(Message { address, op: Op::Data, flags: 0, len: 5000, room: ROOM })[..], &sent].concat();
    let cuts = [0, 10, 44, 45, 1000, 1001, 5044];
    let pieces: Vec<_> = cuts.windows(2).map(|cut| machine.guest.put(&packet[cut[0]..cut[1]])).collect();
    machine.guest.give(TX, &pieces);
    machine.run();
    assert!(read_some(&mut client).0 == sent);
}

#[test]
fn what_a_client_does_not_read_is_kept_and_the_guest_waits() {
    let (mut machine, mut client, address) = Machine::connected();
    let packet = pattern(32 * 1024);
    let mut sent = 0_u32;
    let mut forwarded = 0;
    // A well-behaved guest stops by itself: it knows what it may have under way.
    while sent - forwarded + packet.len() as u32 <= BUF_ALLOC {
        machine.send(address, Op::Data, 0, &packet);
        sent += packet.len() as u32;
        while let Some((message, _)) = machine.receive() {
            assert_eq!(message.op, Op::CreditUpdate);
            forwarded = message.room.fwd_cnt;
        }
    }
    assert!(sent > BUF_ALLOC, "the socket took some, the device kept the rest");
    let mut got = Vec::new();
    while got.len() < sent as usize {
        let (bytes, ended) = read_some(&mut client);
        assert!(!ended && !bytes.is_empty());
        got.extend(bytes);
        machine.run();
    }
    assert!(got.chunks(packet.len()).all(|chunk| chunk == packet));
    machine.refill();
    let last = machine.received.back().unwrap().0;
    assert_eq!(last.op, Op::CreditUpdate);
    assert!(sent - last.room.fwd_cnt <= BUF_ALLOC / 2, "the guest may send again");
}

#[test]
fn a_guest_that_asks_is_told_how_much_room_there_is() {
    let (mut machine, _client, address) = Machine::connected();
    machine.send(address, Op::Data, 0, &[1; 100]);
    machine.expect_nothing();
    machine.send(address, Op::CreditRequest, 0, &[]);
    let update = machine.expect(Op::CreditUpdate);
    assert_eq!(update.room, Room { buf_alloc: BUF_ALLOC, fwd_cnt: 100 });
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_cut_off() {
    let (mut machine, mut client, address) = Machine::connected();
    let packet = pattern(64 * 1024);
    let mut sent = 0;
    while !machine.received.iter().any(|(message, _)| message.op == Op::Reset) {
        assert!(sent < 20);
        machine.send(address, Op::Data, 0, &packet);
        sent += 1;
    }
    let got = machine.read_to_end(&mut client);
    assert!(got.len() % packet.len() == 0 && got.len() / packet.len() == sent - 1, "all that it might send");
}
