//! Work of the agent's own in a container, by a copy of it: it has streams and an end as a process has, but the container neither sees
//! it nor makes it stand still.

mod archive;
mod changes;
mod layer;
mod processes;
mod receive;
mod send;

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    process::Pid,
    stdio::{stdin, stdout},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

pub(super) use layer::Disks;
pub(crate) use receive::Parcel;

use super::failure::{During, Failure};

/// Exit code of one who could not do it, which is told in a line of stderr.
const FAILED: i32 = 1;

#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Tells the container's processes.
    Processes,
    Send {
        path: String,
        follows: bool,
    },
    Receive {
        path: String,
        parcel: Parcel,
    },
    /// Tells what the container has changed of its root.
    Changes,
    /// The same as a layer of an image.
    Layer,
}

/// A job with what is known of the container.
pub(super) struct Work<'a> {
    pub job: &'a Job,
    /// A pidfd of the container's init.
    pub init: OwnedFd,
    /// All of the container's.
    pub processes: Vec<Pid>,
    /// None when it does not write to a disk over an image.
    pub disks: Option<Disks>,
}

impl Work<'_> {
    /// Of a copy every path is one of the container's from here on.
    pub(super) fn enter(&self) -> Result<(), Failure> {
        if !matches!(self.job, Job::Send { .. } | Job::Receive { .. }) {
            return Ok(());
        }
        move_into_thread_name_spaces(self.init.as_fd(), ThreadNameSpaceType::MOUNT)
            .during(|| "enter the container's files".into())
    }

    /// What it returns is an exit code.
    pub(super) fn run(&self) -> i32 {
        match self.work() {
            Ok(()) => 0,
            Err(failure) => complain(&failure),
        }
    }

    fn work(&self) -> Result<(), Failure> {
        let output = stdout().try_clone_to_owned().during(|| "take the output".into())?;
        let mut output = BufWriter::new(File::from(output));
        match self.job {
            Job::Processes => processes::tell(&self.processes, &mut output)?,
            Job::Changes => {
                if let Some(disks) = &self.disks {
                    changes::tell(disks, &mut output)?;
                }
            }
            Job::Layer => match &self.disks {
                Some(disks) => changes::pack(disks, &mut output)?,
                None => {
                    let none = Err(io::Error::from(io::ErrorKind::Unsupported));
                    return none.during(|| "find what a container without a layer has changed".into());
                }
            },
            Job::Send { path, follows } => {
                send::send(path, *follows, &mut output)?;
            }
            Job::Receive { path, parcel } => {
                let input = stdin().try_clone_to_owned().during(|| "take the input".into())?;
                receive::receive(path, *parcel, BufReader::new(File::from(input)))?;
            }
        }
        output.flush().during(|| "write".into())
    }
}

fn complain(failure: &Failure) -> i32 {
    // When nobody listens any more there is nobody to tell.
    let _ = writeln!(io::stderr(), "{}", failure.line());
    FAILED
}
