//! How connections end: nothing that was sent before an end is lost by it.

use std::net::Shutdown;

use super::{
    packet::{SHUTDOWN_RECEIVE, SHUTDOWN_SEND},
    *,
};

const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

#[test]
fn a_client_may_end_its_half_and_still_listen() {
    let (mut machine, mut client, address) = Machine::connected();
    client.write_all(b"the last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(machine.expect_data(), b"the last");
    assert_eq!(machine.expect(Op::Shutdown).flags, SHUTDOWN_SEND);
    machine.expect_nothing();
    machine.send(address, Op::Data, 0, b"and the answer");
    assert_eq!(read_some(&mut client), (b"and the answer".to_vec(), false));
    machine.send(address, Op::Shutdown, BOTH, &[]);
    assert_eq!(machine.expect(Op::Reset).address, address);
    assert_eq!(read_some(&mut client), (vec![], true));
}

#[test]
fn the_guest_may_end_its_half_and_still_listen() {
    let (mut machine, mut client, address) = Machine::connected();
    machine.send(address, Op::Data, 0, b"the last");
    machine.send(address, Op::Shutdown, SHUTDOWN_SEND, &[]);
    assert_eq!(read_some(&mut client), (b"the last".to_vec(), true));
    client.write_all(b"and the answer").unwrap();
    assert_eq!(machine.expect_data(), b"and the answer");
    drop(client);
    assert_eq!(machine.expect(Op::Shutdown).flags, BOTH);
    machine.send(address, Op::Reset, 0, &[]);
    machine.expect_nothing();
}

#[test]
fn a_client_that_closes_is_heard_to_its_end() {
    let (mut machine, mut client, address) = Machine::connected();
    client.write_all(&pattern(100_000)).unwrap();
    drop(client);
    let data = machine.expect_data();
    assert!(data == pattern(100_000));
    assert_eq!(machine.expect(Op::Shutdown).flags, BOTH);
    // The guest has not heard of it yet: what it sends is lost, and no reason to be cut off.
    machine.send(address, Op::Data, 0, b"to nobody");
    machine.expect_nothing();
    machine.send(address, Op::Shutdown, BOTH, &[]);
    machine.expect(Op::Reset);
}

#[test]
fn a_client_that_closes_with_something_unread_is_an_end_too() {
    let (mut machine, mut client, address) = Machine::connected();
    machine.send(address, Op::Data, 0, b"unread");
    client.write_all(b"the last").unwrap();
    drop(client);
    assert_eq!(machine.expect_data(), b"the last");
    assert_eq!(machine.expect(Op::Shutdown).flags, BOTH);
}

#[test]
fn a_client_that_only_stops_reading_is_told_of() {
    let (mut machine, client, address) = Machine::connected();
    client.shutdown(Shutdown::Read).unwrap();
    machine.send(address, Op::Data, 0, b"to nobody");
    assert_eq!(machine.expect(Op::Shutdown).flags, SHUTDOWN_RECEIVE);
}

#[test]
fn a_guest_that_wants_no_more_stops_its_client() {
    let (mut machine, mut client, address) = Machine::connected();
    machine.send(address, Op::Shutdown, SHUTDOWN_RECEIVE, &[]);
    assert_eq!(client.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    machine.send(address, Op::Data, 0, b"still talking");
    assert_eq!(read_some(&mut client), (b"still talking".to_vec(), false));
}

#[test]
fn two_halves_that_the_guest_ends_are_the_end() {
    let (mut machine, mut client, address) = Machine::connected();
    machine.send(address, Op::Shutdown, SHUTDOWN_RECEIVE, &[]);
    machine.expect_nothing();
    machine.send(address, Op::Shutdown, SHUTDOWN_SEND, &[]);
    machine.expect(Op::Reset);
    assert_eq!(read_some(&mut client), (vec![], true));
}

/// However the guest ends it, a slow client gets all that the guest had sent, and then an end and no error, although it
/// had itself sent something that nobody read.
#[test]
fn a_slow_client_gets_everything_after_the_guest_has_gone() {
    for (op, flags) in [(Op::Shutdown, BOTH), (Op::Reset, 0)] {
        let (mut machine, mut client, address) = Machine::connected();
        let packet = pattern(50_000);
        let mut sent = 0;
        // More than the socket takes by itself.
        for _ in 0..6 {
            machine.send(address, Op::Data, 0, &packet);
            sent += packet.len();
        }
        machine.received.clear();
        client.write_all(b"never read").unwrap();
        machine.send(address, op, flags, &[]);
        let got = machine.read_to_end(&mut client);
        assert_eq!(got.len(), sent);
        assert!(got.chunks(packet.len()).all(|chunk| chunk == packet));
    }
}

#[test]
fn the_same_address_can_be_used_again_while_the_old_stream_drains() {
    let mut machine = Machine::new();
    let (mut client, address) = machine.connect();
    for _ in 0..6 {
        machine.send(address, Op::Data, 0, &pattern(50_000));
    }
    machine.send(address, Op::Reset, 0, &[]);
    machine.received.clear();
    machine.send(address, Op::Data, 0, b"late");
    assert_eq!(machine.expect(Op::Reset).address, address, "the guest's side is over");
    let (bytes, ended) = read_some(&mut client);
    assert!(!bytes.is_empty() && !ended);
}

#[test]
fn a_reset_of_the_device_closes_all_and_keeps_the_listener() {
    let (mut machine, mut client, _) = Machine::connected();
    let mut greeting = machine.client("");
    machine.guest.negotiate(u64::MAX);
    machine.buffers.clear();
    machine.give_buffers(64);
    assert_eq!((read_some(&mut client), read_some(&mut greeting)), ((vec![], true), (vec![], true)));
    machine.connect();
}
