//! `securectr-files`: started by the sandbox's process beside a VMM, it locks itself in and answers the FUSE requests that the VMM
//! relays from its guest.
//!
//! Locks: one a directory that is read, the table of inodes, the table of handles. The first may be held while another is taken,
//! the tables' never.

mod connection;
mod control;
mod descriptors;
mod fuse;
mod handles;
mod identity;
mod inodes;
mod jail;
mod seccomp;
mod server;

use std::{error::Error, panic, process, process::ExitCode, sync::Arc, sync::Mutex, thread};

use securectr_files::{Event, Request};

use crate::{connection::Connection, control::Control, server::Server};

/// Requests that may wait for a disk at the same time.
const WORKERS: usize = 4;

/// 0: the client or the parent has gone. 1: the server has failed, and the parent knows why.
fn main() -> ExitCode {
    let mut control = match descriptors::control() {
        Ok(socket) => Control::new(socket),
        Err(error) => {
            eprintln!("securectr-files: {error}: it is started by securectr, not by hand");
            return ExitCode::FAILURE;
        }
    };
    match run(&mut control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If the parent has gone, there is nobody left to tell.
            let _ = control.send(&Event::Failed(chain(&*error)));
            ExitCode::FAILURE
        }
    }
}

/// The order is the security model: nothing of the guest is read before the jail is shut and the filters are in place.
fn run(control: &mut Control) -> Result<(), Box<dyn Error>> {
    tell_of_panics(control.try_clone()?);
    let spec = control.spec()?;
    jail::enter(spec)?;
    let connection = Arc::new(Connection::new(descriptors::requests()?)?);
    let server = Arc::new(Server::new(spec.owners)?);
    let filter = seccomp::filter()?;
    for number in 0..WORKERS {
        let (connection, server, filter) = (Arc::clone(&connection), Arc::clone(&server), filter.clone());
        thread::Builder::new().name(format!("worker {number}")).spawn(move || {
            let ended = filter.install().map_err(Into::into).and_then(|()| connection.serve(&server));
            // Without its client there is nothing to do.
            process::exit(i32::from(tell(ended).is_err()))
        })?;
    }
    filter.install()?;
    control.send(&Event::Ready)?;
    while let Some(request) = control.request()? {
        match request {
            Request::Exclusive(share) => server.trust(&share),
            Request::Release(share) => server.release(&share),
        }
        control.send(&Event::Done)?;
    }
    Ok(())
}

/// The worker's error goes to standard error, which the parent keeps.
fn tell(ended: Result<(), Box<dyn Error>>) -> Result<(), ()> {
    ended.map_err(|error| eprintln!("securectr-files: {}", chain(&*error)))
}

/// A panic in any thread ends the process; the parent hears of it as of any other failure.
fn tell_of_panics(control: Control) {
    let control = Mutex::new(control);
    panic::set_hook(Box::new(move |panic| {
        if let Ok(mut control) = control.lock() {
            let _ = control.send(&Event::Failed(panic.to_string()));
        }
        process::abort();
    }));
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
