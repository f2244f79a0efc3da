//! How connections begin.

use std::collections::BTreeSet;

use super::*;

#[test]
fn a_client_is_connected_when_the_guest_accepts() {
    let mut machine = Machine::new();
    let mut client = machine.client("CONNECT 52\n");
    let request = machine.expect(Op::Request);
    assert_eq!(request.address.guest_port, 52);
    assert!(request.room.buf_alloc > 0);
    assert_eq!(read_some(&mut client), (vec![], false), "no answer before the guest has answered");
    machine.send(request.address, Op::Response, 0, &[]);
    let line = format!("OK {}\n", request.address.host_port);
    assert_eq!(read_some(&mut client), (line.into_bytes(), false));
    machine.expect_nothing();
}

#[test]
fn what_a_client_says_early_is_for_the_guest_once_it_has_accepted() {
    let mut machine = Machine::new();
    let _client = machine.client("CONNECT 52\nhello");
    let request = machine.expect(Op::Request);
    machine.expect_nothing();
    machine.send(request.address, Op::Response, 0, &[]);
    assert_eq!(machine.expect_data(), b"hello");
}

#[test]
fn a_line_may_come_in_pieces() {
    let mut machine = Machine::new();
    let mut client = machine.client("CONN");
    for piece in ["ECT ", "5", "2", "\n"] {
        machine.expect_nothing();
        client.write_all(piece.as_bytes()).unwrap();
    }
    assert_eq!(machine.expect(Op::Request).address.guest_port, 52);
}

#[test]
fn a_refused_client_is_closed_without_an_answer() {
    let mut machine = Machine::new();
    let mut client = machine.client("CONNECT 52\n");
    let request = machine.expect(Op::Request);
    machine.send(request.address, Op::Reset, 0, &[]);
    assert_eq!(read_some(&mut client), (vec![], true));
}

#[test]
fn lines_that_make_no_sense_close_the_client() {
    let mut machine = Machine::new();
    let too_long = "x".repeat(64);
    let lines = [
        "\n",
        "CONNECT\n",
        "CONNECT \n",
        "CONNECT x\n",
        "CONNECT +5\n",
        "CONNECT -5\n",
        "CONNECT 5 \n",
        "connect 5\n",
        "CONNECT 4294967295\n",
        "CONNECT 4294967296\n",
        "CONNECT 5\r\n",
        "OK 5\n",
        &too_long,
    ];
    for line in lines {
        let mut client = machine.client(line);
        let mut bytes = Vec::new();
        // What the client has written and we have not read makes its end an error.
        let _ = client.read_to_end(&mut bytes);
        assert!(bytes.is_empty(), "{line:?}");
    }
    machine.expect_nothing();
}

#[test]
fn a_client_that_leaves_before_the_guest_answers_is_reset_there() {
    let mut machine = Machine::new();
    let client = machine.client("CONNECT 52\n");
    let request = machine.expect(Op::Request);
    drop(client);
    assert_eq!(machine.expect(Op::Reset).address, request.address);
    machine.send(request.address, Op::Response, 0, &[]);
    machine.expect(Op::Reset);
}

#[test]
fn clients_that_say_nothing_make_room_for_others() {
    let mut machine = Machine::new();
    let mut silent: Vec<_> = (0..100).map(|_| machine.client("")).collect();
    machine.connect();
    let closed = silent.iter_mut().filter_map(|client| read_some(client).1.then_some(())).count();
    assert_eq!(closed, 100 - 31, "32 may be silent, and the newest client came in after them");
}

#[test]
fn every_client_has_an_address_of_its_own() {
    let mut machine = Machine::new();
    let connected: Vec<_> = (0..20).map(|_| machine.connect()).collect();
    let addresses: BTreeSet<_> = connected.iter().map(|&(_, address)| address).collect();
    assert_eq!(addresses.len(), 20);
}

#[test]
fn the_guest_reaches_a_port_once_and_others_never() {
    let mut machine = Machine::new();
    let address = Address { host_port: DIALLED, guest_port: PORT };
    machine.send(address, Op::Request, 0, &[]);
    assert_eq!(machine.expect(Op::Response).address, address);
    machine.send(address, Op::Data, 0, b"hello");
    assert_eq!(read_some(&mut machine.dialled).0, b"hello");
    machine.dialled.write_all(b"and hello").unwrap();
    assert_eq!(machine.expect_data(), b"and hello");
    for (host_port, guest_port) in [(DIALLED, PORT + 1), (DIALLED + 1, PORT), (0, 0), (u32::MAX, PORT)] {
        machine.send(Address { host_port, guest_port }, Op::Request, 0, &[]);
        assert_eq!(machine.expect(Op::Reset).address, Address { host_port, guest_port });
    }
}

#[test]
fn a_stream_that_waits_for_the_guest_keeps_what_was_written_early() {
    let mut machine = Machine::new();
    machine.dialled.write_all(b"early").unwrap();
    machine.expect_nothing();
    machine.send(Address { host_port: DIALLED, guest_port: PORT }, Op::Request, 0, &[]);
    machine.expect(Op::Response);
    assert_eq!(machine.expect_data(), b"early");
}

#[test]
fn there_is_an_end_to_the_number_of_connections() {
    let mut machine = Machine::new();
    let mut kept = Vec::new();
    for _ in 0..peers::MAX_PEERS {
        machine.refill();
        kept.push(machine.connect());
    }
    let mut refused = machine.client("CONNECT 52\n");
    let _ = refused.read_to_end(&mut Vec::new());
    machine.expect_nothing();
    machine.send(Address { host_port: DIALLED, guest_port: PORT }, Op::Request, 0, &[]);
    machine.expect(Op::Reset);
    let (client, address) = kept.pop().unwrap();
    machine.send(address, Op::Reset, 0, &[]);
    drop(client);
    machine.connect();
}

#[test]
fn only_unix_streams_are_taken() {
    let (stream, other) = UnixStream::pair().unwrap();
    assert!(matches!(Host::new(stream.into(), vec![]), Err(VsockError::NotAListener)));
    let directory = tempfile::tempdir().unwrap();
    let listener = || UnixListener::bind(directory.path().join("vsock")).unwrap();
    let file = tempfile::tempfile().unwrap();
    assert!(matches!(Host::new(listener().into(), vec![(7, file.into())]), Err(VsockError::NotAStream(7))));
    drop(other);
}
