//! virtio-fs, relayed (VirtIO 1.2, section 5.11): each request of the guest's driver becomes a datagram to the file server, each
//! of the server's a reply. Without DAX and without a notification queue.
//!
//! Of FUSE only the headers are known here. A request gets a number of our own for its way, so that a guest that gives one
//! number to two requests confuses nobody but itself.

mod message;
mod server;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{OwnedFd, RawFd},
};

use securectr_vmm::spec::MAX_FUSE_MESSAGE_LEN;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;

use self::{
    message::{REPLY_HEADER_LEN, Reply, Request},
    server::{Sent, Server},
};
use super::{
    News, Progress, StateError, VirtioDevice,
    virtqueue::{Chain, Places, Violation, Virtqueue},
};

pub(super) const SYSCALLS: &[libc::c_long] = &[
    // Whether there are replies, and room for requests.
    libc::SYS_epoll_wait,
    // Requests from and replies to guest memory; a reply's header says where it goes.
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
];

const FORMAT: u32 = 1;
/// Urgent requests (forgetting), and all others.
const QUEUE_SIZES: &[u16] = &[64, 128];
const TAG_LEN: usize = 36;
const CONFIG_LEN: usize = TAG_LEN + 4;
const REQUEST_QUEUES: u32 = 1;

/// A server that does not answer holds so many requests; the others wait in their queues.
const MAX_IN_FLIGHT: usize = 256;
const MAX_REQUESTS_A_CALL: usize = 64;
const MAX_REPLIES_A_CALL: usize = 64;

#[derive(Debug, Error)]
pub(crate) enum FsError {
    #[error("the tag is not 1 to {TAG_LEN} bytes long")]
    Tag,
    #[error("the server's descriptor is not a connected Unix socket of type SOCK_SEQPACKET")]
    NotASocket,
    #[error("watch the server's socket")]
    Epoll(#[source] io::Error),
}

pub(super) struct Fs {
    server: Server,
    config: [u8; CONFIG_LEN],
    /// By our own numbers.
    in_flight: BTreeMap<u64, InFlight>,
    next_unique: u64,
    /// The guest has begun a session, of which the server knows more than we could save.
    in_session: bool,
    trouble: Trouble,
}

/// A request that the server has.
enum InFlight {
    Waiting(Waiting),
    /// The guest has reset the device meanwhile: the reply is dropped.
    Abandoned,
}

struct Waiting {
    queue: usize,
    head: u16,
    /// By the guest's own number.
    unique: u64,
    answer: Places,
}

/// The server has failed us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Untold(&'static str),
    Told,
}

const GONE: &str = "the file server has gone";
const SENSELESS: &str = "the file server has answered what nobody asked";

#[derive(Debug, Serialize, Deserialize)]
struct FsState {
    format: u32,
    tag: Vec<u8>,
}

impl Fs {
    pub(super) fn new(tag: &str, server: OwnedFd) -> Result<Self, FsError> {
        if !(1..=TAG_LEN).contains(&tag.len()) {
            return Err(FsError::Tag);
        }
        // `struct virtio_fs_config` (section 5.11.4)
        let mut config = [0; CONFIG_LEN];
        let (name, queues) = config.split_at_mut(TAG_LEN);
        queues.copy_from_slice(&REQUEST_QUEUES.to_le_bytes());
        for (byte, value) in name.iter_mut().zip(tag.bytes()) {
            *byte = value;
        }
        Ok(Self {
            server: Server::new(server)?,
            config,
            in_flight: BTreeMap::new(),
            next_unique: 1,
            in_session: false,
            trouble: Trouble::None,
        })
    }

    fn tag(&self) -> &[u8] {
        self.config.get(..TAG_LEN).unwrap_or_default()
    }

    /// Brings replies to the guest.
    fn receive(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        for _ in 0..MAX_REPLIES_A_CALL {
            let Some(reply) = self.server.next() else { return Ok(Progress::Done) };
            match self.in_flight.remove(&reply.unique()) {
                Some(InFlight::Waiting(waiting)) => self.deliver(&waiting, queues)?,
                Some(InFlight::Abandoned) => self.server.skip(),
                None => {
                    self.server.skip();
                    self.say(SENSELESS);
                }
            }
        }
        Ok(Progress::More)
    }

    fn deliver(&mut self, waiting: &Waiting, queues: &mut [Virtqueue<'_>]) -> Result<(), Violation> {
        let Some(queue) = queues.get_mut(waiting.queue) else { return Ok(()) };
        let answer = queue.buffers_at(&waiting.answer)?;
        let (header, data) = answer.split_at(REPLY_HEADER_LEN).ok_or(Violation::NoAnswer)?;
        let (mut reply, written) = match self.server.take(&data) {
            // Longer than the guest has room for, or not as long as it says: the guest gets nothing of it.
            Ok((reply, len)) if len <= answer.len() && len as u64 == u64::from(reply.len()) => (reply, len),
            Ok(_) | Err(_) => (Reply::failure(0, libc::EIO), REPLY_HEADER_LEN),
        };
        reply.set_unique(waiting.unique);
        header.write(&reply.0);
        // At most MAX_FUSE_MESSAGE_LEN.
        queue.push(waiting.head, written as u32)
    }

    /// Brings requests to the server, as long as it takes them.
    fn transmit(&mut self, index: usize, queue: &mut Virtqueue<'_>) -> Result<Progress, Violation> {
        for _ in 0..MAX_REQUESTS_A_CALL {
            let has_room = self.in_flight.len() < MAX_IN_FLIGHT && self.server.is_writable();
            if !has_room && !self.server.is_gone() {
                // A reply, or the socket's event, brings us back.
                return Ok(Progress::Done);
            }
            let Some(chain) = queue.pop()? else { return Ok(Progress::Done) };
            self.relay(index, queue, chain)?;
        }
        Ok(Progress::More)
    }

    fn relay(&mut self, index: usize, queue: &mut Virtqueue<'_>, chain: Chain<'_>) -> Result<(), Violation> {
        let mut request = Request::read(&chain.readable)?;
        if request.is_answered() && chain.writable.len() < REPLY_HEADER_LEN {
            return Err(Violation::NoAnswer);
        }
        let own_length = u64::from(request.len()) == chain.readable.len() as u64;
        if !own_length || chain.readable.len() > MAX_FUSE_MESSAGE_LEN {
            return fail(queue, &chain, &request, libc::EINVAL);
        }
        if self.server.is_gone() {
            return fail(queue, &chain, &request, libc::EIO);
        }
        let waiting = Waiting {
            queue: index,
            head: chain.head,
            unique: request.unique(),
            answer: chain.places.clone(),
        };
        if request.is_interrupt() {
            match self.own_number(request.target()) {
                Some(own) => request.set_target(own),
                // It has been answered meanwhile.
                None => return queue.push(chain.head, 0),
            }
        }
        let own = self.next_unique;
        request.set_unique(own);
        match self.server.send(&request, &chain.readable.after(request.bytes().len())) {
            Sent::Yes => {}
            Sent::Later => {
                queue.unpop(1);
                return Ok(());
            }
            Sent::Refused => {
                request.set_unique(waiting.unique);
                return fail(queue, &chain, &request, libc::ENOMEM);
            }
        }
        self.next_unique += 1;
        self.in_session |= request.is_init();
        if !request.is_answered() {
            return queue.push(chain.head, 0);
        }
        self.in_flight.insert(own, InFlight::Waiting(waiting));
        Ok(())
    }

    fn own_number(&self, guests: u64) -> Option<u64> {
        let is_it =
            |request: &InFlight| matches!(request, InFlight::Waiting(waiting) if waiting.unique == guests);
        self.in_flight.iter().find_map(|(&own, request)| is_it(request).then_some(own))
    }

    /// Nobody will answer any more.
    fn fail_all(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<(), Violation> {
        for (_, request) in std::mem::take(&mut self.in_flight) {
            let InFlight::Waiting(waiting) = request else { continue };
            if let Some(queue) = queues.get_mut(waiting.queue) {
                let answer = queue.buffers_at(&waiting.answer)?;
                answer.write(&Reply::failure(waiting.unique, libc::EIO).0);
                queue.push(waiting.head, REPLY_HEADER_LEN as u32)?;
            }
        }
        Ok(())
    }

    fn say(&mut self, trouble: &'static str) {
        if self.trouble == Trouble::None {
            self.trouble = Trouble::Untold(trouble);
        }
    }
}

fn fail(
    queue: &mut Virtqueue<'_>,
    chain: &Chain<'_>,
    request: &Request,
    errno: i32,
) -> Result<(), Violation> {
    if !request.is_answered() {
        return queue.push(chain.head, 0);
    }
    chain.writable.write(&Reply::failure(request.unique(), errno).0);
    queue.push(chain.head, REPLY_HEADER_LEN as u32)
}

impl VirtioDevice for Fs {
    fn kind(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.server.poll_fd())
    }

    fn activate(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        self.server.listen();
        let mut progress = self.receive(queues)?;
        for (index, queue) in queues.iter_mut().enumerate() {
            progress = progress.and(self.transmit(index, queue)?);
        }
        if self.server.is_gone() {
            self.fail_all(queues)?;
            self.say(GONE);
        }
        Ok(progress)
    }

    fn reset(&mut self) {
        for request in self.in_flight.values_mut() {
            *request = InFlight::Abandoned;
        }
        self.in_session = false;
    }

    fn take_news(&mut self) -> Option<News> {
        let Trouble::Untold(trouble) = self.trouble else { return None };
        self.trouble = Trouble::Told;
        Some(News::Failure(trouble.to_owned()))
    }

    /// Only before the guest has mounted it: what it then knows of files, the server alone knows, too.
    fn save(&self) -> Result<serde_json::Value, StateError> {
        if self.in_session || !self.in_flight.is_empty() {
            return Err(StateError::Busy("a mounted file system"));
        }
        let state = FsState { format: FORMAT, tag: self.tag().to_vec() };
        serde_json::to_value(state).map_err(StateError::Device)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), StateError> {
        let state = FsState::deserialize(state).map_err(StateError::Device)?;
        StateError::unless_format(state.format, FORMAT)?;
        if state.tag != self.tag() {
            return Err(StateError::Differs("tag"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
