//! The control socket: one JSON document a line. The parent's first line is the [`VmSpec`](crate::spec::VmSpec), the rest are
//! [`Request`]s; the VMM answers with [`Event`]s. When the parent closes its end, the VMM ends.

use serde::{Deserialize, Serialize};

use crate::spec::{IoLimits, PageRun};

/// No line on the control socket is longer, in bytes.
pub const MAX_LINE_LEN: usize = 64 * 1024;

/// What a parent may ask of a running VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Stops all vCPUs; answered by [`Event::Paused`].
    Pause,
    /// Lets the vCPUs run on; answered by [`Event::Resumed`].
    Resume,
    /// Stops all vCPUs, and writes the machine to the empty file whose descriptor comes with the line: at its beginning the memory,
    /// with holes for most of what is all zeroes, and behind it the rest. Answered by [`Event::Saved`], or by [`Event::NotSaved`] when
    /// the machine is in no state to be saved. It stays as it is until [`Request::Resume`].
    Save,
    /// Asks for the pages of what it goes on from that the guest has touched so far; answered by [`Event::Touched`].
    TellTouched,
    /// Gives the n-th network interface of the spec, which has none, its tap: the descriptor that comes with the line
    /// (SCM_RIGHTS of unix(7)). Answered by [`Event::NetAttached`].
    AttachNet(u8),
    /// Lays the file or block device whose descriptor comes with the line into the n-th disk of the spec, which is empty. Answered
    /// by [`Event::DiskAttached`].
    AttachDisk { disk: u8, limits: Option<IoLimits> },
    /// Takes it out again: the n-th disk is empty, and the descriptor closed, when [`Event::DiskDetached`] answers. A disk that is
    /// empty already stays so. What the guest has asked for by then is done or fails, what it asks for later fails.
    DetachDisk(u8),
    /// Frees the n-th disk of its limits, for what is still to be written to it; answered by [`Event::DiskUnlimited`].
    UnlimitDisk(u8),
    /// Asks the guest to have so many MiB beside those that it was booted with: an even number, [`VmSpec::hotplug_mib`] at
    /// most. Answered by [`Event::Memory`] soon, and by another one when the guest has done as it was asked, unless the first
    /// says that already; that may be never.
    ///
    /// [`VmSpec::hotplug_mib`]: crate::spec::VmSpec::hotplug_mib
    ResizeMemory(u32),
    /// Lets so many vCPUs run, from the first on; those that may do so already go on whatever the number. Answered by
    /// [`Event::VcpusAllowed`].
    AllowVcpus(u8),
}

/// What a VMM tells its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The jail is shut and the vCPUs run.
    Running,
    Paused,
    Resumed,
    Saved,
    /// The text is its chain of causes.
    NotSaved(String),
    /// At most [`MOST_PAGE_RUNS`](crate::spec::MOST_PAGE_RUNS); none, where there are more or the host does not tell.
    Touched(Vec<PageRun>),
    NetAttached,
    DiskAttached(u8),
    DiskDetached(u8),
    DiskUnlimited(u8),
    /// How many may run now.
    VcpusAllowed(u8),
    /// What the guest has beside the memory that it was booted with, and what was asked for last.
    Memory {
        plugged_mib: u32,
        requested_mib: u32,
    },
    /// The host has no room for what the guest writes to a disk: which disk. The guest sees an I/O error and goes on.
    DiskFull(String),
    /// The guest has ended; the last event.
    Ended(End),
    /// The VMM could not go on; the text is its chain of causes. The last event.
    Failed(String),
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The guest asked for a reset, by port 0x64: a clean end, or a panic with `reboot=k panic=-1`.
    Reset,
    /// The guest's CPU gave up.
    TripleFault,
    /// KVM could not run the guest: its own words and numbers.
    KvmError(String),
    /// The guest drove a device against the specification: which device, and what it did.
    DeviceAbuse(String),
}
