//! The two calls of fs-verity, of which no library that is kept up has a safe form.

use std::{fs::File, os::fd::AsFd};

use rustix::{
    io,
    ioctl::{Opcode, Setter, Updater, ioctl, opcode},
};

const SHA256_LEN: usize = 32;
const HASH_SHA256: u32 = 1;

/// `struct fsverity_enable_arg` of linux/fsverity.h.
#[repr(C)]
#[derive(Default)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    more_reserved: [u64; 11],
}

/// `struct fsverity_digest` of linux/fsverity.h, with room for one.
#[repr(C)]
struct Digest {
    algorithm: u16,
    size: u16,
    digest: [u8; SHA256_LEN],
}

/// The header is what the number of the call counts.
#[repr(C)]
struct DigestHeader {
    algorithm: u16,
    size: u16,
}

const ENABLE: Opcode = opcode::write::<Enable>(b'f', 133);
const MEASURE: Opcode = opcode::read_write::<DigestHeader>(b'f', 134);

/// `FS_IOC_ENABLE_VERITY`
pub(super) fn enable(file: &File) -> io::Result<()> {
    let argument = Enable { version: 1, hash_algorithm: HASH_SHA256, block_size: 4096, ..Enable::default() };
    // SAFETY: the call of this number reads a structure of this kind.
    let call = unsafe { Setter::<ENABLE, Enable>::new(argument) };
    // SAFETY: what the structure points to is nothing: salt and signature have no length.
    unsafe { ioctl(file.as_fd(), call) }
}

/// `FS_IOC_MEASURE_VERITY`
pub(super) fn measure(file: &File) -> io::Result<[u8; SHA256_LEN]> {
    let mut digest = Digest { algorithm: 0, size: SHA256_LEN as u16, digest: [0; SHA256_LEN] };
    // SAFETY: the call of this number reads and writes a structure of this kind.
    let call = unsafe { Updater::<MEASURE, Digest>::new(&mut digest) };
    // SAFETY: behind the structure's header it writes at most as many bytes as the size in it says are there.
    unsafe { ioctl(file.as_fd(), call) }?;
    if digest.algorithm == HASH_SHA256 as u16 { Ok(digest.digest) } else { Err(io::Errno::OPNOTSUPP) }
}
