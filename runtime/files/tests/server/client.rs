//! The server's parent and its client in one.

mod sys;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode, mkdirat},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use securectr_files::{Event, FilesSpec, MAX_MESSAGE_LEN, Owners, Request};
use serde::Serialize;
use tempfile::TempDir;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const ROOT: u64 = 1;
/// The name of the only share.
pub(crate) const SHARE: &str = "share";

const HEADER_LEN: usize = 40;
const REPLY_HEADER_LEN: usize = 16;

pub(crate) struct Client {
    launcher: Child,
    control: BufReader<UnixStream>,
    requests: OwnedFd,
    last: u64,
    directory: TempDir,
}

/// What a server answers: the body, or an errno.
pub(crate) type Answer = Result<Vec<u8>, i32>;

impl Client {
    /// A server that serves a directory as `share`, in a session that has begun.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with requests of the parent before the share is there.
    pub(crate) fn start_with(before: &[Request]) -> Self {
        let (control, theirs) = UnixStream::pair().unwrap();
        let (requests, served) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        set_socket_timeout(&requests, Timeout::Recv, Some(PATIENCE)).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        // The sockets come as standard streams and go where the server expects them.
        let launcher = Command::new("sh")
            .arg("-c")
            .arg("exec unshare --pid --fork --kill-child \"$0\" 3<&0 4<&1 0</dev/null 1>/dev/null")
            .arg(env!("CARGO_BIN_EXE_securectr-files"))
            .stdin(OwnedFd::from(theirs))
            .stdout(served)
            .spawn()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(SHARE)).unwrap();
        fs::write(directory.path().join("beside"), "secret").unwrap();
        let mut client = Self { launcher, control: BufReader::new(control), requests, last: 0, directory };
        client.tell(&FilesSpec { owners: Owners::Real });
        assert_eq!(client.hear(), Event::Ready);
        for request in before {
            client.order(request);
        }
        client.mount_share();
        client.begin_session().unwrap();
        client
    }

    /// Asks something as the parent.
    pub(crate) fn order(&mut self, request: &Request) {
        self.tell(request);
        assert_eq!(self.hear(), Event::Done);
    }

    fn tell(&mut self, document: &impl Serialize) {
        let line = serde_json::to_string(document).unwrap() + "\n";
        self.control.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Event {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn pid(&self) -> u32 {
        let launcher = self.launcher.id();
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    /// As the sandbox does it.
    fn mount_share(&self) {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, self.host_path(""), flags).unwrap();
        let namespace = File::open(format!("/proc/{}/ns/mnt", self.pid())).unwrap();
        let mount = move || {
            sys::enter_mounts(&namespace).unwrap();
            mkdirat(CWD, "/share", Mode::empty()).unwrap();
            move_mount(&tree, "", CWD, "/share", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
        };
        thread::spawn(mount).join().unwrap();
    }

    pub(crate) fn begin_session(&mut self) -> Answer {
        // The version, read-ahead, all flags.
        self.ask(26, 0, &words(&[7, 38, 128 * 1024, u32::MAX]))
    }

    /// A path of the share on the host.
    pub(crate) fn host_path(&self, name: &str) -> PathBuf {
        self.directory.path().join(SHARE).join(name)
    }

    pub(crate) fn beside(&self) -> String {
        fs::read_to_string(self.directory.path().join("beside")).unwrap()
    }

    /// As the guest's root.
    pub(crate) fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        self.last += 1;
        let unique = self.last;
        self.send(&message(opcode, unique, node, body));
        let (answered, answer) = self.receive();
        assert_eq!(answered, unique, "opcode {opcode}");
        answer
    }

    /// What is not answered.
    pub(crate) fn say(&mut self, opcode: u32, node: u64, body: &[u8]) {
        self.send(&message(opcode, 0, node, body));
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        assert_eq!(send(&self.requests, bytes, SendFlags::NOSIGNAL), Ok(bytes.len()));
    }

    pub(crate) fn receive(&self) -> (u64, Answer) {
        let mut reply = vec![0; MAX_MESSAGE_LEN];
        let (_, len) = recv(&self.requests, reply.as_mut_slice(), RecvFlags::TRUNC).unwrap();
        reply.truncate(len);
        assert!(len >= REPLY_HEADER_LEN, "the server has gone");
        assert_eq!(u32_at(&reply, 0) as usize, len);
        let unique = u64_at(&reply, 8);
        match u32_at(&reply, 4) as i32 {
            0 => (unique, Ok(reply.split_off(REPLY_HEADER_LEN))),
            error => (unique, Err(-error)),
        }
    }

    /// Node of a name.
    pub(crate) fn look_up(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        self.ask(1, parent, &string(name)).map(|entry| u64_at(&entry, 0))
    }

    pub(crate) fn share(&mut self) -> u64 {
        self.look_up(ROOT, SHARE).unwrap()
    }

    /// Whether it still answers.
    pub(crate) fn is_well(&mut self) -> bool {
        self.begin_session().is_ok() && self.look_up(ROOT, SHARE).is_ok() && self.beside() == "secret"
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It takes the server with it.
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

pub(crate) fn message(opcode: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = words(&[(HEADER_LEN + body.len()) as u32, opcode]);
    bytes.extend_from_slice(&longs(&[unique, node]));
    bytes.extend_from_slice(&words(&[0; 4]));
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
