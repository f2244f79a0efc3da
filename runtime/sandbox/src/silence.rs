//! Standard streams of programs that say what there is to say by a socket of their own. Ours they must not have: who reads our standard
//! error to its end would wait for theirs.

use std::{fs::File, io, os::fd::OwnedFd};

pub(crate) fn streams() -> io::Result<[OwnedFd; 3]> {
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    Ok([null.try_clone()?, null.try_clone()?, null])
}
