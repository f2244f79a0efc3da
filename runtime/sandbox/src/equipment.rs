//! What a VMM is given: descriptors in the order of their numbers, and the spec that names them.

use std::{
    fs::{File, OpenOptions},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use securectr_protocol::{RPC_PORT, SHARED_TAG};
use securectr_vmm::spec::{DialOut, DiskSpec, Expected, Fd, FsSpec, NetSpec, Start, VmSpec, VsockSpec};
use tokio::{sync::watch, task::JoinHandle};

use crate::{BootError, Installation, MachinePlan, boot::BootDisk, console, files::FilesEnd};

/// The VMM's descriptors in the order of their numbers, and what they are.
pub(crate) struct Equipment {
    pub fds: Vec<OwnedFd>,
    kvm: Fd,
    console_writer: Fd,
    vsock: VsockSpec,
    pub devices: Devices,
    /// Our end of the control socket.
    pub control: UnixStream,
    pub console: JoinHandle<String>,
    /// Our end of the connection that the agent dials.
    pub rpc: tokio::net::UnixStream,
    /// Tells the end of the file server, for a machine that has one.
    pub files: Option<watch::Receiver<Option<FilesEnd>>>,
}

/// Those that machines may have or not.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub disks: Vec<DiskSpec>,
    pub nets: Vec<NetSpec>,
    pub filesystems: Vec<FsSpec>,
}

/// How a machine comes to its first instruction.
pub(crate) enum Origin {
    /// A kernel boots.
    Kernel { kernel: File, initramfs: File },
    /// It goes on where one was saved.
    Saved { file: File, expected: Expected },
}

impl Origin {
    pub(crate) fn kernel(installation: &Installation) -> Result<Self, BootError> {
        let Installation { kernel, initramfs, .. } = installation;
        Ok(Self::Kernel {
            kernel: open_part("guest kernel", kernel)?,
            initramfs: open_part("guest image", initramfs)?,
        })
    }
}

impl Equipment {
    /// For a machine without disks, network and file systems.
    pub(crate) fn new(listener: UnixListener, echo_console: bool) -> Result<Self, BootError> {
        let (reader, writer) =
            pipe2(OFlag::O_CLOEXEC).map_err(|errno| BootError::Descriptor("console", errno.into()))?;
        let (control, vmm_control) = socket_pair("control socket")?;
        let (rpc, vmm_rpc) = socket_pair("agent connection")?;
        let rpc = rpc.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(rpc));
        let [stdout, stderr] = [clone("console", &writer)?, clone("console", &writer)?];
        let null = File::open("/dev/null").map_err(|error| BootError::Descriptor("standard input", error))?;
        // Standard streams and the control socket have fixed numbers.
        let mut fds = vec![null.into(), stdout, stderr, vmm_control.into()];
        Ok(Self {
            kvm: lay(&mut fds, open_kvm()?),
            console_writer: lay(&mut fds, writer),
            vsock: VsockSpec {
                listener: lay(&mut fds, listener),
                dial_out: vec![DialOut { port: RPC_PORT, stream: lay(&mut fds, vmm_rpc) }],
            },
            devices: Devices::default(),
            fds,
            control,
            console: console::drain(reader, echo_console)
                .map_err(|error| BootError::Descriptor("console", error))?,
            rpc: rpc.map_err(|error| BootError::Descriptor("agent connection", error))?,
            files: None,
        })
    }

    /// Adds a descriptor; answers with its number.
    pub(crate) fn lay(&mut self, fd: impl Into<OwnedFd>) -> Fd {
        lay(&mut self.fds, fd)
    }

    /// `vda`, `vdb` and so on, and behind them empty ones.
    pub(crate) fn add_disks(&mut self, disks: &[BootDisk], empty_count: u8) -> Result<(), BootError> {
        for BootDisk { file, read_only, limits } in disks {
            let file = file.try_clone().map_err(|error| BootError::Descriptor("disks", error))?;
            let file = Some(self.lay(file));
            self.devices.disks.push(DiskSpec { file, read_only: *read_only, limits: *limits });
        }
        let empty = |_| DiskSpec { file: None, read_only: false, limits: None };
        self.devices.disks.extend((0..empty_count).map(empty));
        Ok(())
    }

    pub(crate) fn add_shares(&mut self, server: OwnedFd) {
        let server = self.lay(server);
        self.devices.filesystems.push(FsSpec { tag: SHARED_TAG.to_owned(), server });
    }

    /// The whole machine, whose devices are all there.
    pub(crate) fn spec(&mut self, plan: &MachinePlan, origin: Origin) -> VmSpec {
        let start = match origin {
            Origin::Kernel { kernel, initramfs } => Start::Boot {
                kernel: self.lay(kernel),
                initramfs: self.lay(initramfs),
                command_line: plan.command_line.clone(),
            },
            Origin::Saved { file, expected } => Start::Restore { saved: self.lay(file), expected },
        };
        let Devices { disks, nets, filesystems } = std::mem::take(&mut self.devices);
        VmSpec {
            kvm: self.kvm,
            start,
            memory_mib: plan.memory_mib,
            hotplug_mib: plan.hotplug_mib,
            vcpu_count: plan.most_vcpu_count,
            allowed_vcpu_count: plan.vcpu_count,
            console: self.console_writer,
            disks,
            nets,
            filesystems,
            vsock: self.vsock.clone(),
        }
    }
}

fn lay(fds: &mut Vec<OwnedFd>, fd: impl Into<OwnedFd>) -> Fd {
    let number = fds.len();
    fds.push(fd.into());
    // Fewer descriptors than an i32 can count are laid.
    Fd(number as i32)
}

fn clone(what: &'static str, fd: &OwnedFd) -> Result<OwnedFd, BootError> {
    fd.try_clone().map_err(|error| BootError::Descriptor(what, error))
}

fn socket_pair(what: &'static str) -> Result<(UnixStream, UnixStream), BootError> {
    UnixStream::pair().map_err(|error| BootError::Descriptor(what, error))
}

fn open_part(part: &'static str, path: &Path) -> Result<File, BootError> {
    File::open(path).map_err(|source| BootError::Part { part, path: path.to_owned(), source })
}

fn open_kvm() -> Result<File, BootError> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(BootError::Kvm)
}
