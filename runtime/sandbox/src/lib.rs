//! The one place that knows what a sandbox and a container are.
//!
//! A sandbox is a microVM with an agent in it; containers are made in it over the agent's RPCs. The way of a start is
//! [`plan`] (pure), [`Sandbox::boot`] (every privileged step, each undone on failure), then create, start and wait.
//!
//! There are no locks here, but for which disks and interfaces are in use, and around a machine's memory while it grows: one task of
//! the process owns the VMM's control socket, the rest talk to it by channels. The agent, and the VMM once it runs, are hostile:
//! their replies are bounded in size and in time.

mod addition;
mod agent;
mod anchor;
mod boot;
mod checkpoint;
mod config;
mod console;
mod control;
mod devices;
mod disk;
mod end;
mod equipment;
mod features;
mod files;
mod given;
mod guest_spec;
mod hooks;
mod host_cgroup;
mod id;
mod installation;
mod io_limits;
mod launch;
mod memory;
mod network;
mod plan;
mod pod;
mod pressure;
mod process;
mod program;
mod room;
mod sandbox;
mod sealed;
mod shares;
mod silence;
mod sparse;
mod state;
mod stdio;
mod sys;
mod template;
mod undo;
mod validity;
mod vcpus;
mod vmm;

pub use addition::{Addition, Job, Parcel};
pub use agent::AgentError;
pub use anchor::Anchor;
pub use boot::{BootError, Disks, Host, Step};
pub use checkpoint::{NotSaved, Saved};
pub use config::{Config, ConfigError};
pub use control::{CpuStats, IoStats, MemoryStats, PidsStats, Stats};
pub use devices::{BlockDevice, DeviceError, DeviceSource, MAX_BLOCK_DEVICES};
pub use disk::{DEFAULT_DISK_BYTES, DiskError, LEAST_DISK_BYTES, copy_disk, lasting_disk, writable_disk};
pub use end::End;
pub use features::features;
pub use files::{FilesEnd, FilesError};
pub use given::GivenFile;
pub use guest_spec::{NetworkSource, network_source};
pub use hooks::{HookError, HookState, run_all, run_before_create, run_in_turn};
pub use host_cgroup::{HostCgroup, HostCgroupError};
pub use id::{IdError, SandboxId};
pub use installation::{Installation, InstallationError};
pub use io_limits::IoLimits;
pub use launch::LaunchFailure;
pub use memory::MemoryError;
pub use network::{
    Allowed, Denial, NatPlan, NetworkError, NetworkPlan, PasstError, Protocol, Published, WallError, resolver,
};
pub use plan::{
    Bundle, ContainerPlan, MachinePlan, Plan, PlanError, RootSource, Settings, Writable, container, plan,
};
pub use pod::{PodPlan, Scope};
pub use process::{Exit, KillError, Phase, Process, StartError};
pub use program::find_program;
pub use sandbox::{ExitStatus, OomKilled, ProcessName, Reach, Sandbox, SandboxError};
pub use sealed::{Broken, Sealed, open_own};
/// An option of a bind mount in a spec, ours: if its source is empty, it gets what the root has at its destination.
pub use securectr_protocol::COPY_UP;
/// An annotation of a spec, ours: "true" for a container whose first process is an init that needs nothing of its image.
pub use securectr_protocol::INIT;
pub use shares::{PRIVATE_COPY, Share, ShareError};
pub use state::{StateError, StateRoot, default_store};
pub use stdio::{Streams, StreamsWanted};
pub use template::{Built, Kind, Listed, NetKind, Refusal, TemplateError, Templates, processor};
