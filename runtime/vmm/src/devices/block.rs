//! virtio-blk on a file or a block device (VirtIO 1.2, section 5.2), which may be laid in and taken out while the guest runs.
//!
//! Requests are done one after another in the event loop's thread, a bounded amount in one call. One that has to wait for its turn
//! stays in the queue, and what is behind it, too.

mod config;
mod request;
mod throttle;

use std::{
    fs::File,
    io::{self, ErrorKind, Seek, SeekFrom},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
        VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR,
        VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
};
use vmm_sys_util::{
    fallocate::{FallocateMode, fallocate},
    timerfd::TimerFd,
};

pub(crate) use self::throttle::{SharedThrottle, Throttles};
use self::{
    config::{CONFIG_LEN, config},
    request::{Operation, Range, Refusal, Request},
    throttle::Cost,
};
use super::{
    AttachError, News, Progress, StateError, VirtioDevice, sys,
    virtqueue::{Buffers, Violation, Virtqueue},
};

/// A call a kind of request; discarding and writing zeroes is fallocate(2), on a block device, too. A file that is laid in is
/// measured, and closed when it is taken out. A timer brings back who has to wait.
pub(super) const SYSCALLS: &[libc::c_long] = &[
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

const FORMAT: u32 = 1;
const SECTOR_LEN: u64 = 512;
const QUEUE_SIZES: &[u16] = &[128];
/// Of a disk that is empty at first, and most likely stays so: what a guest's driver keeps for it grows with its queue.
const SMALL_QUEUE_SIZES: &[u16] = &[32];
/// The larger queue's size without the request's header and status.
const MAX_SEGMENTS: u32 = 126;
const MAX_SEGMENT_LEN: u32 = 256 * 1024;
/// What a driver that keeps to the limits can ask for at most.
const MAX_DATA_LEN: usize = MAX_SEGMENTS as usize * MAX_SEGMENT_LEN as usize;
/// A file system may take its time for a hole: 256 MiB.
const MAX_HOLE_SECTORS: u32 = 512 * 1024;
const MAX_HOLES: u32 = 16;
/// Holes of less than a page free nothing.
const HOLE_ALIGNMENT_SECTORS: u32 = 8;
/// A call ends after this much, so that a busy disk does not hold up the machine's other devices.
const MAX_BYTES_A_CALL: usize = 4 * 1024 * 1024;
const MAX_REQUESTS_A_CALL: usize = 32;

#[derive(Debug, Error)]
pub(crate) enum DiskError {
    #[error("measure the file")]
    Measure(#[source] io::Error),
    #[error("its length of {0} bytes is not a multiple of 512, or there is nothing in it")]
    Length(u64),
    #[error("it has a file already")]
    Full,
    #[error("make a timer for its limits")]
    Timer(#[source] io::Error),
}

#[derive(Debug)]
pub(super) struct Block {
    /// None in an empty disk, which has no sectors.
    file: Option<File>,
    read_only: bool,
    sectors: u64,
    queue_sizes: &'static [u16],
    id: [u8; request::ID_LEN],
    config: [u8; CONFIG_LEN],
    disk_full: DiskFull,
    throttle: Option<SharedThrottle>,
    /// Readable when the request that waits may be tried again. Made for the first throttle, and kept: the event loop watches it.
    timer: Option<TimerFd>,
}

/// The host's file system has refused a write for want of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskFull {
    No,
    Untold,
    Told,
}

#[derive(Debug, Serialize, Deserialize)]
struct BlockState {
    format: u32,
    sectors: u64,
    read_only: bool,
}

/// Why a request failed, in the driver's terms.
#[derive(Debug)]
enum Failure {
    Unsupported,
    Io(io::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unsupported => Self::Unsupported,
            Refusal::Invalid => Self::Io(ErrorKind::InvalidInput.into()),
        }
    }
}

impl Block {
    pub(super) fn new(file: Option<File>, read_only: bool, index: usize) -> Result<Self, DiskError> {
        let sectors = file.as_ref().map_or(Ok(0), sectors_of)?;
        let queue_sizes = if file.is_some() { QUEUE_SIZES } else { SMALL_QUEUE_SIZES };
        let mut id = [0; request::ID_LEN];
        for (byte, value) in id.iter_mut().zip(format!("disk-{index}").bytes()) {
            *byte = value;
        }
        let config = config(sectors, queue_sizes);
        Ok(Self {
            file,
            read_only,
            sectors,
            queue_sizes,
            id,
            config,
            disk_full: DiskFull::No,
            throttle: None,
            timer: None,
        })
    }

    pub(super) fn throttled(mut self, throttle: Option<SharedThrottle>) -> Result<Self, DiskError> {
        self.limit(throttle)?;
        Ok(self)
    }

    fn limit(&mut self, throttle: Option<SharedThrottle>) -> Result<(), DiskError> {
        if throttle.is_some() && self.timer.is_none() {
            self.timer = Some(TimerFd::new().map_err(|error| DiskError::Timer(error.into()))?);
        }
        self.throttle = throttle;
        Ok(())
    }

    fn lay_in(&mut self, file: File) -> Result<(), DiskError> {
        if self.file.is_some() {
            return Err(DiskError::Full);
        }
        self.hold(sectors_of(&file)?, Some(file));
        Ok(())
    }

    fn hold(&mut self, sectors: u64, file: Option<File>) {
        self.file = file;
        self.sectors = sectors;
        self.config = config(sectors, self.queue_sizes);
    }

    /// Does a request; the answer's length without its status.
    fn perform(&self, request: &Request<'_>) -> Result<usize, Failure> {
        let file = || self.file.as_ref().ok_or_else(|| io::Error::from(ErrorKind::NotFound));
        let changes = !matches!(request.operation, Operation::Read(_) | Operation::Identify);
        if changes && self.read_only {
            // The guest was told by VIRTIO_BLK_F_RO; the descriptor is the parent's, and may well be writable.
            return Err(Failure::Io(ErrorKind::ReadOnlyFilesystem.into()));
        }
        match &request.operation {
            Operation::Read(offset) => transfer(&request.answer, *offset, |buffers, offset| {
                sys::read_at(file()?, buffers.slices(), offset)
            }),
            Operation::Write(offset) => transfer(&request.data, *offset, |buffers, offset| {
                sys::write_at(file()?, buffers.slices(), offset)
            })
            .map(|_| 0),
            Operation::Flush => file().and_then(File::sync_data).map(|()| 0).map_err(Failure::Io),
            Operation::Identify => Ok(request.answer.write(&self.id)),
            Operation::Discard(ranges) => {
                punch(file().map_err(Failure::Io)?, ranges).or_else(|failure| match failure {
                    // A discard is a hint; what is not discarded is still there.
                    Failure::Unsupported => Ok(0),
                    failure => Err(failure),
                })
            }
            // Refused where it is no matter of a hole: the guest then writes the zeroes itself, a piece at a time. A block device
            // might have them written all at once, and hold up the machine.
            Operation::WriteZeroes(ranges) if ranges.iter().any(|range| !range.may_unmap) => {
                Err(Failure::Unsupported)
            }
            Operation::WriteZeroes(ranges) => punch(file().map_err(Failure::Io)?, ranges),
        }
    }

    /// What becomes of the queue when a request has to wait, and all behind it.
    fn postpone(&mut self, request: &Result<Request<'_>, Refusal>) -> Option<Progress> {
        let cost = request.as_ref().ok()?.cost()?;
        let wait = self.throttle.as_ref()?.locked().admit(cost, Instant::now()).err()?;
        match self.timer.as_mut()?.reset(wait, None) {
            Ok(()) => Some(Progress::Done),
            Err(_) => Some(Progress::More),
        }
    }

    /// The status that the driver gets, and the number of bytes written before it.
    fn status_of(&mut self, outcome: Result<usize, Failure>) -> (u32, usize) {
        match outcome {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
            Err(Failure::Io(error)) => {
                let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
                if full && self.disk_full == DiskFull::No {
                    self.disk_full = DiskFull::Untold;
                }
                (VIRTIO_BLK_S_IOERR, 0)
            }
        }
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SIZE_MAX | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE;
        if self.read_only {
            always | 1 << VIRTIO_BLK_F_RO
        } else {
            always | 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        self.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn poll_fd(&self) -> Option<RawFd> {
        self.timer.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn activate(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        let [requests] = queues else { return Ok(Progress::Done) };
        // One that has come would call for ever; this is refused only for what is no timer.
        if let Some(timer) = &mut self.timer {
            let _ = timer.clear();
        }
        let mut bytes = 0;
        for _ in 0..MAX_REQUESTS_A_CALL {
            let Some(chain) = requests.pop()? else { return Ok(Progress::Done) };
            bytes += chain.readable.len().max(chain.writable.len()).min(MAX_DATA_LEN);
            let (answer, status) = request::answer_and_status(&chain.writable)?;
            let request = Request::parse(&chain.readable, answer, self.sectors);
            if let Some(progress) = self.postpone(&request) {
                requests.unpop(1);
                return Ok(progress);
            }
            let outcome = request.map_err(Failure::from).and_then(|request| self.perform(&request));
            let (code, written) = self.status_of(outcome);
            status.write(&[code as u8]);
            // At most MAX_DATA_LEN and the status. The status is written last, whatever came before it.
            requests.push(chain.head, written as u32 + 1)?;
            if bytes >= MAX_BYTES_A_CALL {
                break;
            }
        }
        Ok(Progress::More)
    }

    fn reset(&mut self) {}

    fn attach(&mut self, file: OwnedFd) -> Result<(), AttachError> {
        self.lay_in(file.into()).map_err(AttachError::Disk)
    }

    /// No request is under way: each is done before the next one is looked at.
    fn detach(&mut self) -> Result<(), AttachError> {
        self.hold(0, None);
        self.throttle = None;
        Ok(())
    }

    fn throttle(&mut self, throttle: Option<SharedThrottle>) -> Result<(), AttachError> {
        self.limit(throttle).map_err(AttachError::Disk)
    }

    fn take_news(&mut self) -> Option<News> {
        if self.disk_full != DiskFull::Untold {
            return None;
        }
        self.disk_full = DiskFull::Told;
        Some(News::DiskFull("the host's file system has no room for what the guest writes".to_owned()))
    }

    fn save(&self) -> Result<serde_json::Value, StateError> {
        let state = BlockState { format: FORMAT, sectors: self.sectors, read_only: self.read_only };
        serde_json::to_value(state).map_err(StateError::Device)
    }

    /// The guest has read capacity and features: the new disk must be like the old one, unless that was empty.
    fn restore(&mut self, state: &serde_json::Value) -> Result<(), StateError> {
        let state = BlockState::deserialize(state).map_err(StateError::Device)?;
        StateError::unless_format(state.format, FORMAT)?;
        if state.sectors != 0 && state.sectors != self.sectors {
            return Err(StateError::Differs("disk size"));
        }
        if state.read_only != self.read_only {
            return Err(StateError::Differs("disk access"));
        }
        Ok(())
    }
}

/// Of a regular file and of a block device alike; nothing else that can be sought has a length.
fn sectors_of(mut file: &File) -> Result<u64, DiskError> {
    let len = file.seek(SeekFrom::End(0)).map_err(DiskError::Measure)?;
    if len == 0 || len % SECTOR_LEN != 0 { Err(DiskError::Length(len)) } else { Ok(len / SECTOR_LEN) }
}

/// What reads as zeroes afterwards, and costs as little as the file system or the device can make it.
fn punch(file: &File, ranges: &[Range]) -> Result<usize, Failure> {
    for range in ranges.iter().filter(|range| range.len > 0) {
        let punched = fallocate(file, FallocateMode::PunchHole, true, range.offset, range.len);
        punched.map_err(|error| match error.errno() {
            // EINVAL: a block device has blocks of more than a sector.
            libc::EOPNOTSUPP | libc::EINVAL => Failure::Unsupported,
            errno => Failure::Io(io::Error::from_raw_os_error(errno)),
        })?;
    }
    Ok(0)
}

/// Goes on until all is done: the kernel may do less than asked, and takes so many slices at a time.
fn transfer(
    buffers: &Buffers<'_>,
    offset: u64,
    some: impl Fn(&Buffers<'_>, u64) -> io::Result<usize>,
) -> Result<usize, Failure> {
    let mut rest = buffers.clone();
    let mut done = 0;
    while rest.len() > 0 {
        let count = some(&rest, offset + done as u64).map_err(Failure::Io)?;
        if count == 0 {
            // Somebody has cut the file shorter than it was.
            return Err(Failure::Io(ErrorKind::UnexpectedEof.into()));
        }
        done += count;
        rest = rest.after(count);
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
