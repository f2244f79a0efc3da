//! `securectr-wall`: started by a sandbox's process between a guest's network device and passt(1), it locks itself in, and lets
//! through what the guest may reach. Frames of the guest and answers of name servers are hostile; they are parsed here.

mod flows;
mod jail;
mod judge;
mod names;
mod relay;
mod sys;

use std::{
    error::Error,
    io::{BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::ExitCode,
    time::Instant,
};

use securectr_jail::CONTROL_FD;
use securectr_wall::{GUEST_FD, MAX_LINE_LEN, WORLD_FD, WallSpec};

use crate::judge::Judge;

/// 0: one of those that it stands between has gone. 1: it has failed.
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("securectr-wall: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The order is the security model: nothing is read before the jail is shut, but the parent's line, and no frame before the filter is
/// in place.
fn run() -> Result<(), Box<dyn Error>> {
    jail::enter()?;
    let [parent, guest, world] =
        [CONTROL_FD, GUEST_FD, WORLD_FD].map(|fd| sys::own(fd).map(|fd: OwnedFd| UnixStream::from(fd)));
    let (parent, guest, world) = (parent?, guest?, world?);
    let spec = read_spec(&parent)?;
    for socket in [&parent, &guest, &world] {
        socket.set_nonblocking(true)?;
    }
    let mut judge = Judge::new(spec, Instant::now());
    jail::filter()?.install()?;
    relay::relay(guest, world, &parent, &mut judge)?;
    Ok(())
}

fn read_spec(parent: &UnixStream) -> Result<WallSpec, Box<dyn Error>> {
    let mut line = Vec::new();
    BufReader::with_capacity(1, parent).take(MAX_LINE_LEN as u64).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}
