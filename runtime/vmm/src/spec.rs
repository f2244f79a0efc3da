//! The machine that the parent asks for: plain data, with descriptors by their number in the VMM's process.

use serde::{Deserialize, Serialize};

/// The number of the descriptor on which the VMM finds its control socket.
pub const CONTROL_FD: Fd = Fd(3);

/// A descriptor that the parent has laid into the VMM's table, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd(pub i32);

/// Everything that a VMM needs. It opens nothing itself: by the time the guest runs, it has no file system to open from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmSpec {
    /// `/dev/kvm`, open for reading and writing.
    pub kvm: Fd,
    pub start: Start,
    pub memory_mib: u32,
    /// What [`ResizeMemory`](crate::control::Request::ResizeMemory) may add at most: a multiple of [`HOTPLUG_CHUNK_MIB`]. It costs
    /// nothing as long as it is not added.
    pub hotplug_mib: u32,
    /// All that the guest may ever bring online.
    pub vcpu_count: u8,
    /// How many of them, from the first on, run before [`AllowVcpus`](crate::control::Request::AllowVcpus) says more. The guest
    /// finds the others, and whoever brings one online waits for it.
    pub allowed_vcpu_count: u8,
    /// Where the serial port's output goes; written without waiting, what does not fit is dropped.
    pub console: Fd,
    pub disks: Vec<DiskSpec>,
    pub nets: Vec<NetSpec>,
    pub filesystems: Vec<FsSpec>,
    pub vsock: VsockSpec,
}

/// How a machine comes to its first instruction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A kernel boots.
    Boot {
        /// An uncompressed ELF `vmlinux`.
        kernel: Fd,
        /// A cpio archive.
        initramfs: Fd,
        /// The kernel's command line, without what the VMM adds for its devices.
        command_line: String,
    },
    /// It goes on where one with as much memory, and the same vCPUs and devices, was saved. Disks that were empty may have files now.
    Restore {
        /// What [`Save`](crate::control::Request::Save) wrote. What the guest writes to its memory does not come there.
        saved: Fd,
        expected: Expected,
    },
}

impl Start {
    pub fn fds(&self) -> Vec<Fd> {
        match self {
            Self::Boot { kernel, initramfs, .. } => vec![*kernel, *initramfs],
            Self::Restore { saved, .. } => vec![*saved],
        }
    }
}

/// Which pages a guest touches soon, as far as others have shown that went on from the same file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Nobody has shown it yet, so this guest is to: its pages are mapped each by itself, so that the VMM can
    /// [tell](crate::control::Request::TellTouched) which it has touched.
    Unknown,
    /// They are there when the guest begins. It is a guess: what is beyond the file counts for nothing.
    Pages(Vec<PageRun>),
}

/// Pages of [`PAGE_LEN`] bytes: the first one's number in the file, how many, and whether they will be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun(pub u32, pub u32, pub bool);

/// More do not fit a line.
pub const MOST_PAGE_RUNS: usize = 3000;

/// In bytes.
pub const PAGE_LEN: u64 = 4096;

/// In what the host gives memory to a running guest and takes it back, in MiB: Linux's memory blocks in a guest of less than 64 GiB.
pub const HOTPLUG_CHUNK_MIB: u32 = 128;

/// A virtio-blk device; the first in the list is `vda` in the guest. Its serial number is `disk-` and its index: `disk-0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// A regular file or a block device whose size is a multiple of 512. Without, the disk is empty: its size is 0 until
    /// [`Request::AttachDisk`](crate::control::Request::AttachDisk).
    pub file: Option<Fd>,
    /// What the guest is told. A file that cannot be written is not written, whatever it was told.
    pub read_only: bool,
    pub limits: Option<IoLimits>,
}

/// What all disks that have the same of them may do together in a second: requests wait for their turn. Nothing is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IoLimits {
    /// Major and minor number of the host's device on which they lie.
    pub device: (u32, u32),
    /// In bytes.
    pub read_bps: Option<u64>,
    pub write_bps: Option<u64>,
    /// In requests.
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

/// A virtio-net device. The guest tells it by its MAC address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetSpec {
    /// Without, the device waits for [`Request::AttachNet`](crate::control::Request::AttachNet).
    pub wire: Option<Wire>,
    /// Of one interface, not of a group.
    pub mac: [u8; 6],
    /// In bytes, at least 68: what a frame carries behind its Ethernet header.
    pub mtu: u16,
}

/// The other end of a network device's wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wire {
    /// A tap, opened without waiting: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, TUNSETVNETHDRSZ of 12. Which offloads it has, the VMM
    /// says.
    Tap(Fd),
    /// A connected Unix stream socket to passt(1): each frame stands behind its length, which is of 32 bits, big endian. There are
    /// no offloads. What the other end would take for itself, its loopback say, is not sent.
    Stream(Fd),
}

impl Wire {
    pub fn fd(self) -> Fd {
        match self {
            Self::Tap(fd) | Self::Stream(fd) => fd,
        }
    }
}

/// A virtio-fs device, whose requests are relayed to a file server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FsSpec {
    /// By which the guest mounts it: 1 to 36 bytes.
    pub tag: String,
    /// A connected Unix socket of type SOCK_SEQPACKET. Each datagram is one FUSE message, of at most
    /// [`MAX_FUSE_MESSAGE_LEN`] bytes.
    pub server: Fd,
}

/// What a FUSE message carries at most, in bytes: 128 KiB of data, and its headers.
pub const MAX_FUSE_MESSAGE_LEN: usize = 128 * 1024 + 4096;

/// The virtio-vsock device. The guest has CID 3, the host is CID 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VsockSpec {
    /// A listening Unix stream socket for connections into the guest. A client writes `CONNECT <guest port>\n`; the answer is
    /// `OK <host port>\n`, with the port by which the guest sees this connection, then the stream begins. A refused or failed
    /// connection is closed without an answer.
    pub listener: Fd,
    /// Host ports that the guest may connect to, each once.
    pub dial_out: Vec<DialOut>,
}

/// A connected Unix stream socket that becomes the guest's first connection to a host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialOut {
    pub port: u32,
    pub stream: Fd,
}
