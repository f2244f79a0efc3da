//! Taps: tuntap.rst of the kernel has no safe wrapper.

use std::{
    fs::File,
    io, mem,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    ptr,
};

/// `struct virtio_net_hdr_v1`, which stands before each frame, in bytes.
const HEADER_LEN: libc::c_int = 12;

/// Makes a tap in the network namespace of the calling thread, as the VMM wants it. It goes when its last descriptor is closed.
pub(super) fn make_tap(name: &str) -> io::Result<File> {
    let tap = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain numbers, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    // Below 2^15.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an `ifreq`, which lives across the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, ptr::from_mut(&mut request)) })?;
    // SAFETY: TUNSETVNETHDRSZ reads an integer, which lives across the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, ptr::from_ref(&HEADER_LEN)) })?;
    Ok(tap)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
