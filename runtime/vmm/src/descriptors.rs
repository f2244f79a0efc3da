//! The descriptors that the parent has laid into this process's table, turned from numbers into owned descriptors.

mod sys;

use std::os::fd::OwnedFd;

use securectr_vmm::spec::{CONTROL_FD, Fd, VmSpec, Wire};
use thiserror::Error;

/// Every descriptor that the spec names. Each number is in it once, so nothing can come to own a descriptor twice.
#[derive(Debug)]
pub(crate) struct Descriptors {
    untaken: Vec<Fd>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum DescriptorError {
    #[error("descriptor {} is named twice in the spec, or has a fixed meaning", .0.0)]
    NamedTwice(Fd),
    #[error("descriptor {} is not named in the spec, or already in use", .0.0)]
    Unknown(Fd),
    #[error("descriptor {} is not open", .0.0)]
    NotOpen(Fd),
}

impl Descriptors {
    pub(crate) fn named_by(spec: &VmSpec) -> Result<Self, DescriptorError> {
        let mut untaken: Vec<Fd> = vec![spec.kvm, spec.console];
        untaken.extend(spec.start.fds());
        untaken.extend(spec.disks.iter().filter_map(|disk| disk.file));
        untaken.extend(spec.nets.iter().filter_map(|net| net.wire.map(Wire::fd)));
        untaken.extend(spec.filesystems.iter().map(|filesystem| filesystem.server));
        untaken.push(spec.vsock.listener);
        untaken.extend(spec.vsock.dial_out.iter().map(|dial_out| dial_out.stream));
        untaken.sort_unstable_by_key(|fd| fd.0);
        let mut last = CONTROL_FD;
        for &fd in &untaken {
            if fd.0 <= last.0 {
                return Err(DescriptorError::NamedTwice(fd));
            }
            last = fd;
        }
        Ok(Self { untaken })
    }

    /// What is named and not yet taken, and one that this process has opened itself, in ascending order.
    pub(crate) fn untaken_and(&self, own: Option<Fd>) -> Vec<Fd> {
        let mut all: Vec<Fd> = self.untaken.iter().copied().chain(own).collect();
        all.sort_unstable_by_key(|fd| fd.0);
        all
    }

    pub(crate) fn take(&mut self, fd: Fd) -> Result<OwnedFd, DescriptorError> {
        let index = self.untaken.iter().position(|&named| named == fd).ok_or(DescriptorError::Unknown(fd))?;
        self.untaken.remove(index);
        sys::own(fd).ok_or(DescriptorError::NotOpen(fd))
    }
}

/// The control socket, whose number is fixed. Asked for once, by `main`.
pub(crate) fn control() -> Result<OwnedFd, DescriptorError> {
    sys::own(CONTROL_FD).ok_or(DescriptorError::NotOpen(CONTROL_FD))
}

#[cfg(test)]
mod tests {
    use securectr_vmm::spec::{DialOut, DiskSpec, FsSpec, Start, VsockSpec};

    use super::*;

    fn spec(disk: i32) -> VmSpec {
        VmSpec {
            kvm: Fd(4),
            start: Start::Boot { kernel: Fd(5), initramfs: Fd(6), command_line: String::new() },
            memory_mib: 64,
            hotplug_mib: 0,
            vcpu_count: 1,
            allowed_vcpu_count: 1,
            console: Fd(7),
            disks: vec![DiskSpec { file: Some(Fd(disk)), read_only: true, limits: None }],
            nets: Vec::new(),
            filesystems: vec![FsSpec { tag: "t".to_owned(), server: Fd(11) }],
            vsock: VsockSpec { listener: Fd(1_000_000), dial_out: vec![DialOut { port: 1, stream: Fd(9) }] },
        }
    }

    #[test]
    fn a_descriptor_named_twice_is_refused() {
        assert_eq!(Descriptors::named_by(&spec(5)).unwrap_err(), DescriptorError::NamedTwice(Fd(5)));
    }

    #[test]
    fn the_standard_streams_and_the_control_socket_cannot_be_named() {
        for fixed in [-1, 0, 1, 2, 3] {
            assert_eq!(
                Descriptors::named_by(&spec(fixed)).unwrap_err(),
                DescriptorError::NamedTwice(Fd(fixed))
            );
        }
    }

    #[test]
    fn only_what_is_named_and_open_can_be_taken() {
        let mut descriptors = Descriptors::named_by(&spec(8)).unwrap();
        assert_eq!(descriptors.take(Fd(10)).unwrap_err(), DescriptorError::Unknown(Fd(10)));
        assert_eq!(descriptors.take(Fd(1_000_000)).unwrap_err(), DescriptorError::NotOpen(Fd(1_000_000)));
        assert_eq!(descriptors.take(Fd(1_000_000)).unwrap_err(), DescriptorError::Unknown(Fd(1_000_000)));
    }
}
