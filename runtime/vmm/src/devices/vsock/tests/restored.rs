//! A machine that was saved and is restored as another.

use super::*;

impl Machine {
    /// The same guest on a device of its own, as a clone has it.
    fn moved(mut self) -> Self {
        self.run();
        let (device, dialled) = device(&self.directory);
        Self { guest: self.guest.moved_to(device), dialled, ..self }
    }

    fn give_event_buffer(&mut self) -> u64 {
        let address = self.guest.room(4);
        self.guest.give(EVENTS, &[Piece::Writable(address, 4)]);
        self.run();
        address
    }
}

#[test]
fn the_guest_hears_that_its_connections_are_gone_before_any_new_one() {
    let (mut machine, old_client, old) = Machine::connected();
    let buffers: Vec<_> = (0..4).map(|_| machine.give_event_buffer()).collect();
    for &buffer in &buffers {
        machine.guest.set_byte(buffer, 0xff);
    }
    let mut machine = machine.moved();
    drop(old_client);
    assert_eq!(machine.guest.used(EVENTS).map(|(_, len)| len), Some(4));
    assert_eq!(machine.guest.used(EVENTS), None);
    assert_eq!(machine.guest.bytes(buffers[0], 4), [0; 4]);
    let mut client = machine.client("CONNECT 52\n");
    machine.expect_nothing();
    // The guest has acted on it when it gives the buffer back, and the device hears of that.
    machine.give_event_buffer();
    let new = machine.expect(Op::Request).address;
    assert_ne!(new, old, "late packets of the old one must not be taken for the new one's");
    machine.send(old, Op::Data, 0, b"late");
    assert_eq!(machine.expect(Op::Reset).address, old);
    machine.send(new, Op::Response, 0, &[]);
    assert!(!read_some(&mut client).0.is_empty());
    machine.connect();
}

#[test]
fn a_guest_that_has_no_buffer_for_events_yet_hears_of_it_later() {
    let mut machine = Machine::new().moved();
    let _client = machine.client("CONNECT 52\n");
    machine.expect_nothing();
    machine.give_event_buffer();
    assert!(machine.guest.used(EVENTS).is_some());
    machine.expect_nothing();
    machine.give_event_buffer();
    machine.expect(Op::Request);
}

#[test]
fn ports_that_were_free_to_dial_are_so_on_the_new_host() {
    let mut machine = Machine::new().moved();
    machine.send(Address { host_port: DIALLED, guest_port: PORT }, Op::Request, 0, &[]);
    machine.expect(Op::Response);
}

#[test]
fn saved_state_that_cannot_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let good = device(&directory).0.save().unwrap();
    let wrong = [("format", 2), ("guest_cid", 4), ("next_port", 1024), ("next_port", u32::MAX)];
    for (field, value) in wrong {
        let mut state = good.clone();
        state[field] = value.into();
        assert!(device(&directory).0.restore(&state).is_err(), "{field} = {value}");
    }
    assert!(device(&directory).0.restore(&serde_json::Value::Null).is_err());
    device(&directory).0.restore(&good).unwrap();
}
