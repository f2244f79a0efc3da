//! What is at the other end of a network device's wire.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    os::fd::{AsRawFd, RawFd},
};

use super::{
    NetError,
    header::{HEADER_LEN, Header},
};
use crate::devices::{sys, virtqueue::Buffers};

/// The other end. Nothing here waits.
pub(super) trait Backend: Send {
    /// Readable when there is a frame, or room for one again.
    fn fd(&self) -> RawFd;

    /// Whether there is room for a frame. Where there is none, the driver's frames wait.
    fn has_room(&mut self) -> bool;

    /// From now on, frames come with these offloads at most: TUN_F_* of linux/if_tun.h.
    fn set_offloads(&mut self, offloads: libc::c_uint) -> io::Result<()>;

    /// Sends one frame, or loses it.
    fn send(&mut self, header: &Header, frame: &Buffers<'_>) -> io::Result<()>;

    /// Takes one frame with its header, whose number of buffers is not set; `None` when there is none now. An error is the
    /// other end's last word. Returns the length.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>>;
}

/// A tap: the kernel reads and writes our headers as they are.
pub(super) struct Tap(File);

impl Tap {
    /// The tap was opened without waiting and configured by the parent, with headers of [`HEADER_LEN`] bytes.
    pub(super) fn new(tap: File) -> Result<Self, NetError> {
        let flags = sys::tap_flags(&tap).map_err(NetError::Query)?;
        let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let has_headers = sys::tap_header_len(&tap).map_err(NetError::Query)? == HEADER_LEN;
        if flags & wanted == wanted && has_headers { Ok(Self(tap)) } else { Err(NetError::NotATap) }
    }
}

impl Backend for Tap {
    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// What a full one does not take is lost.
    fn has_room(&mut self) -> bool {
        true
    }

    /// A tap that is gone already is found out by the next read.
    fn set_offloads(&mut self, offloads: libc::c_uint) -> io::Result<()> {
        match sys::set_tap_offloads(&self.0, offloads) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Ok(()),
            set => set,
        }
    }

    fn send(&mut self, header: &Header, frame: &Buffers<'_>) -> io::Result<()> {
        sys::write_behind(&self.0, header.bytes(), frame.slices()).map(drop)
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            return match self.0.read(frame) {
                Ok(len) => Ok(Some(len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}
