//! System calls that take guest memory: data goes between it and a file or socket without a copy of ours.
//!
//! Guest memory changes under our hands, so it never becomes a Rust slice: only the kernel reads and writes it here.

use std::{
    fs::File,
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    ptr,
};

use vm_memory::{VolatileSlice, volatile_memory::PtrGuardMut};

/// More slices than this in one call are refused by the kernel (UIO_MAXIOV); callers go on with the rest.
const MAX_SLICES: usize = 1024;

/// Pieces of guest memory as the kernel wants them described. The guards keep the pieces mapped.
struct IoVectors {
    vectors: Vec<libc::iovec>,
    _guards: Vec<PtrGuardMut>,
}

impl IoVectors {
    fn of(slices: &[VolatileSlice<'_>]) -> Self {
        Self::behind(None, slices)
    }

    /// With memory of our own before the guest's.
    fn behind(own: Option<libc::iovec>, slices: &[VolatileSlice<'_>]) -> Self {
        let guards: Vec<PtrGuardMut> =
            slices.iter().take(MAX_SLICES - 1).map(VolatileSlice::ptr_guard_mut).collect();
        let of_guest =
            guards.iter().map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() });
        let vectors = own.into_iter().chain(of_guest).collect();
        Self { vectors, _guards: guards }
    }

    fn count(&self) -> libc::c_int {
        // At most MAX_SLICES.
        self.vectors.len() as libc::c_int
    }

    fn message(&mut self) -> libc::msghdr {
        libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: self.vectors.as_mut_ptr(),
            msg_iovlen: self.vectors.len(),
            // No room for control messages: descriptors that a peer sends are closed by the kernel.
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        }
    }
}

/// preadv(2): reads from `offset` of the file on; returns the bytes read, 0 at the file's end.
pub(super) fn read_at(file: &File, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    let vectors = IoVectors::of(slices);
    retry(|| {
        // SAFETY: the vectors point into guest memory, which `slices` borrow for the time of the call.
        unsafe { libc::preadv(file.as_raw_fd(), vectors.vectors.as_ptr(), vectors.count(), offset) }
    })
}

/// pwritev(2): writes from `offset` of the file on; returns the bytes written.
pub(super) fn write_at(file: &File, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    let vectors = IoVectors::of(slices);
    retry(|| {
        // SAFETY: the vectors point into guest memory, which `slices` borrow for the time of the call.
        unsafe { libc::pwritev(file.as_raw_fd(), vectors.vectors.as_ptr(), vectors.count(), offset) }
    })
}

/// writev(2): bytes of our own, then what lies in guest memory.
pub(super) fn write_behind(file: &File, header: &[u8], slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let own = libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() };
    let vectors = IoVectors::behind(Some(own), slices);
    retry(|| {
        // SAFETY: the vectors point into `header`, which writev(2) only reads, and into guest memory; both are borrowed for the
        // time of the call.
        unsafe { libc::writev(file.as_raw_fd(), vectors.vectors.as_ptr(), vectors.count()) }
    })
}

/// IFF_* of a tap; ENOTTY for what is none.
pub(super) fn tap_flags(tap: &File) -> io::Result<libc::c_int> {
    // SAFETY: `ifreq` is plain numbers, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // SAFETY: TUNGETIFF writes an `ifreq`, which lives across the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF, ptr::from_mut(&mut request)) })?;
    // SAFETY: TUNGETIFF has set this field of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & 0xffff)
}

/// The length of the header before each frame of a tap, in bytes.
pub(super) fn tap_header_len(tap: &File) -> io::Result<usize> {
    let mut len: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes an integer, which lives across the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETVNETHDRSZ, ptr::from_mut(&mut len)) })?;
    Ok(usize::try_from(len).unwrap_or(0))
}

/// Which offloads may be in the frames that a tap gives: TUN_F_* of linux/if_tun.h.
pub(super) fn set_tap_offloads(tap: &File, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes an integer in place of a pointer.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

/// recvmsg(2) without waiting; 0 when the peer sends no more.
pub(super) fn receive(socket: &UnixStream, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut vectors = IoVectors::of(slices);
    let mut message = vectors.message();
    retry(|| {
        // SAFETY: the message's vectors point into guest memory, which `slices` borrow for the time of the call.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) }
    })
}

/// sendmsg(2) without waiting and without SIGPIPE; returns the bytes that the socket took.
pub(super) fn send(socket: &UnixStream, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut vectors = IoVectors::of(slices);
    let message = vectors.message();
    retry(|| {
        // SAFETY: the message's vectors point into guest memory, which `slices` borrow for the time of the call.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
    })
}

/// Sends one datagram without waiting and without SIGPIPE: bytes of our own, then what lies in guest memory.
pub(super) fn send_datagram(
    socket: &UnixStream,
    header: &[u8],
    slices: &[VolatileSlice<'_>],
) -> io::Result<usize> {
    let own = libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() };
    let mut vectors = IoVectors::behind(Some(own), slices);
    let message = vectors.message();
    retry(|| {
        // SAFETY: the vectors point into `header`, which sendmsg(2) only reads, and into guest memory; both are borrowed for
        // the time of the call.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
    })
}

/// Receives one datagram without waiting: its beginning into memory of our own, the rest into guest memory. Returns the
/// datagram's whole length, also when there was no room for all of it; 0 when the peer has gone.
pub(super) fn receive_datagram(
    socket: &UnixStream,
    header: &mut [u8],
    slices: &[VolatileSlice<'_>],
) -> io::Result<usize> {
    let own = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() };
    let mut vectors = IoVectors::behind(Some(own), slices);
    let mut message = vectors.message();
    retry(|| {
        // SAFETY: the vectors point into `header` and into guest memory; both are borrowed for the time of the call.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT | libc::MSG_TRUNC) }
    })
}

/// As [`send`], from memory of our own.
pub(super) fn send_bytes(socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: pointer and length are those of a slice that is borrowed for the time of the call.
        unsafe {
            libc::send(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        }
    })
}

/// recv(2) into memory of our own without waiting. With `peek` the bytes stay in the socket.
pub(super) fn receive_bytes(socket: &UnixStream, bytes: &mut [u8], peek: bool) -> io::Result<usize> {
    let flags = if peek { libc::MSG_DONTWAIT | libc::MSG_PEEK } else { libc::MSG_DONTWAIT };
    retry(|| {
        // SAFETY: pointer and length are those of a slice that is borrowed for the time of the call.
        unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) }
    })
}

/// getrandom(2); fewer bytes than asked for are possible.
pub(super) fn random(slice: &VolatileSlice<'_>) -> io::Result<usize> {
    let guard = slice.ptr_guard_mut();
    retry(|| {
        // SAFETY: pointer and length are those of guest memory that `slice` borrows for the time of the call.
        unsafe { libc::getrandom(guard.as_ptr().cast(), guard.len(), 0) }
    })
}

/// Whether a descriptor is a Unix socket of this type (`SOCK_STREAM` or another), listening or connected.
pub(super) fn is_unix_socket(fd: BorrowedFd<'_>, kind: libc::c_int, listening: bool) -> bool {
    let option = |name| {
        let mut value: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: value and length are ours, and the length says how much room the value has.
        let failed = unsafe {
            libc::getsockopt(
                fd.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                ptr::from_mut(&mut value).cast(),
                &mut length,
            )
        };
        (failed == 0).then_some(value)
    };
    option(libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && option(libc::SO_TYPE) == Some(kind)
        && option(libc::SO_ACCEPTCONN) == Some(libc::c_int::from(listening))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Calls again as long as a signal interrupts: vCPUs are stopped by signals, and one may reach any thread.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
