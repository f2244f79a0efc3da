//! `securectr-registry`: started by `securectr`, it locks itself in and fetches an image from the hosts that the request names.
//! What they answer is hostile: it is parsed here, where there is little memory and hardly a file.
//!
//! One thread does all; a second one waits for the parent's end, and those of the runtime resolve names and wait for disks.

mod blobs;
mod error;
mod fetch;
mod host;
mod jail;
mod layout;
mod name;
mod parent;
mod partial;
mod platform;
mod resolve;

use std::{error::Error, panic, process, process::ExitCode};

use securectr_registry::{Event, Request};

use crate::parent::Parent;

/// For names that are resolved, and for disks.
const MAX_WAITING_THREADS: usize = 8;

/// 0: the destination is complete. 1: it is not, and the parent knows why, or has gone.
fn main() -> ExitCode {
    let parent = Parent;
    match run(&parent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            parent.send(&Event::Failed { cause: error::in_one_line(&*error) });
            ExitCode::FAILURE
        }
    }
}

/// The order is the security model: no host is spoken to before the jail is shut.
fn run(parent: &Parent) -> Result<(), Box<dyn Error>> {
    tell_of_panics();
    let request: Request = parent.request()?;
    jail::enter(&request)?;
    parent.end_with_it()?;
    // ring, since it needs no more than a C compiler to build.
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().map_err(|_| "a provider of cryptography is there already")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(MAX_WAITING_THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(fetch::image(&request, parent))?;
    parent.send(&Event::Done);
    Ok(())
}

/// A panic ends the process; the parent hears of it as of any other failure.
fn tell_of_panics() {
    panic::set_hook(Box::new(|panic| {
        Parent.send(&Event::Failed { cause: error::clean(&panic.to_string()) });
        process::abort();
    }));
}
