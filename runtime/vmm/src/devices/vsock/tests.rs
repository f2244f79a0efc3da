//! A guest's driver of vsock, and clients on the host.

mod ends;
mod flow;
mod hostile;
mod opening;
mod restored;

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use tempfile::TempDir;

use super::{packet::Room, *};
use crate::devices::testing::{Guest, Piece};

const RX: usize = 0;
const TX: usize = 1;
const EVENTS: usize = 2;

const BUFFER_LEN: u32 = 4096;
/// The guest's port in these tests.
const PORT: u32 = 52;
/// The host's port that the guest may ask for.
const DIALLED: u32 = 1024;
const ROOM: Room = Room { buf_alloc: 256 * 1024, fwd_cnt: 0 };

struct Machine {
    guest: Guest,
    directory: TempDir,
    /// Our end of the stream for [`DIALLED`].
    dialled: UnixStream,
    /// Addresses of the buffers that the device has, in the order in which they were given.
    buffers: VecDeque<u64>,
    /// What the guest has received and not looked at.
    received: VecDeque<(Message, Vec<u8>)>,
}

impl Machine {
    /// With no buffers for the device yet.
    fn without_buffers() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (device, dialled) = device(&directory);
        let guest = Guest::ready(device);
        Self { guest, directory, dialled, buffers: VecDeque::new(), received: VecDeque::new() }
    }

    fn new() -> Self {
        let mut machine = Self::without_buffers();
        machine.give_buffers(64);
        machine
    }

    /// A machine and a client that is connected to the guest's port.
    fn connected() -> (Self, UnixStream, Address) {
        let mut machine = Self::new();
        let (client, address) = machine.connect();
        (machine, client, address)
    }

    fn connect(&mut self) -> (UnixStream, Address) {
        let mut client = self.client(&format!("CONNECT {PORT}\n"));
        let request = self.expect(Op::Request);
        self.send(request.address, Op::Response, 0, &[]);
        let line = format!("OK {}\n", request.address.host_port);
        let mut answer = vec![0; line.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, line.as_bytes());
        (client, request.address)
    }

    fn client(&mut self, says: &str) -> UnixStream {
        let mut client = UnixStream::connect(self.directory.path().join("vsock")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.write_all(says.as_bytes()).unwrap();
        self.run();
        client
    }

    /// Gives the device buffers of a packet each.
    fn give_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let address = self.guest.room(BUFFER_LEN + HEADER_LEN as u32);
            self.give_buffer(address);
        }
        self.run();
    }

    fn give_buffer(&mut self, address: u64) {
        self.guest.give(RX, &[Piece::Writable(address, BUFFER_LEN + HEADER_LEN as u32)]);
        self.buffers.push_back(address);
    }

    /// Lets the device run, and looks into what has come. It must come to rest whatever peers do.
    fn run(&mut self) {
        assert!(self.guest.run(), "the device does not come to rest");
        while let Some((_, written)) = self.guest.used(RX) {
            let address = self.buffers.pop_front().unwrap();
            let bytes = self.guest.bytes(address, written as usize);
            self.received.push_back(parse(&bytes));
        }
        while self.guest.used(TX).is_some() {}
    }

    /// Returns as many buffers as were used, as Linux does.
    fn refill(&mut self) {
        let missing = 64_usize.saturating_sub(self.buffers.len());
        self.give_buffers(missing);
    }

    /// The next packet that the guest has received.
    fn receive(&mut self) -> Option<(Message, Vec<u8>)> {
        self.run();
        self.received.pop_front()
    }

    fn expect(&mut self, op: Op) -> Message {
        let (message, _) = self.receive().expect("a packet");
        assert_eq!(message.op, op, "{message:?}");
        message
    }

    /// All data that the guest has received, up to the first packet of another kind.
    fn expect_data(&mut self) -> Vec<u8> {
        self.run();
        let mut data = Vec::new();
        while let Some((message, bytes)) = self.received.front() {
            if message.op != Op::Data {
                break;
            }
            data.extend(bytes);
            self.received.pop_front();
        }
        data
    }

    fn expect_nothing(&mut self) {
        let packet = self.receive();
        assert!(packet.is_none(), "{packet:?}");
    }

    fn send(&mut self, address: Address, op: Op, flags: u32, data: &[u8]) {
        self.send_with(Message { address, op, flags, len: data.len() as u32, room: ROOM }, data);
    }

    fn send_with(&mut self, message: Message, data: &[u8]) {
        let packet = [&from_guest(message)[..], data].concat();
        let piece = self.guest.put(&packet);
        self.guest.give(TX, &[piece]);
        self.run();
    }

    /// All that a client gets, read slowly.
    fn read_to_end(&mut self, client: &mut UnixStream) -> Vec<u8> {
        let mut got = Vec::new();
        for _ in 0..100 {
            let (bytes, ended) = read_some(client);
            got.extend(bytes);
            if ended {
                return got;
            }
            self.run();
        }
        panic!("no end after {} bytes", got.len());
    }

    fn acknowledge(&mut self, address: Address, room: Room) {
        self.send_with(Message { address, op: Op::CreditUpdate, flags: 0, len: 0, room }, &[]);
    }
}

fn device(directory: &TempDir) -> (Vsock, UnixStream) {
    let path = directory.path().join("vsock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (Vsock::new(Host::new(listener.into(), vec![(DIALLED, theirs.into())]).unwrap()), ours)
}

/// The header of a packet to the host: that to the guest with both sides exchanged.
fn from_guest(message: Message) -> [u8; HEADER_LEN] {
    let mut bytes = message.to_bytes();
    bytes[..16].rotate_left(8);
    bytes[16..24].rotate_left(4);
    bytes
}

/// A packet to the guest.
fn parse(bytes: &[u8]) -> (Message, Vec<u8>) {
    let (header, data) = bytes.split_at(HEADER_LEN);
    let u16 = |at: usize| u16::from_le_bytes(header[at..at + 2].try_into().unwrap());
    let u32 = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let ops =
        [Op::Request, Op::Response, Op::Reset, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest];
    let message = Message {
        address: Address { host_port: u32(16), guest_port: u32(20) },
        op: ops[usize::from(u16(30)) - 1],
        flags: u32(32),
        len: u32(24),
        room: Room { buf_alloc: u32(36), fwd_cnt: u32(40) },
    };
    assert_eq!((header[0], header[8], u16(28)), (2, 3, 1), "from the host, to the guest, a stream");
    assert_eq!(data.len(), message.len as usize);
    (message, data.to_vec())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

/// Writes what the stream takes without waiting.
fn write_some(stream: &mut UnixStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    written
}

/// Reads what the stream has without waiting; and whether it is at its end.
fn read_some(stream: &mut UnixStream) -> (Vec<u8>, bool) {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let ended = match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    };
    stream.set_nonblocking(false).unwrap();
    (bytes, ended)
}
