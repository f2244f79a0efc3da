//! `containerd-shim-securectr-v2`: containerd's runtime class. containerd calls `start`, which leaves one server behind for each pod,
//! talks to it by ttrpc, and calls `delete` when a server has died.
//!
//! On `containerd-shim-protos` and `ttrpc` rather than on the crate `containerd-shim`, which stands in the way: it serves the task
//! service of containerd 2 only, and its publisher lets events overtake each other while containerd restarts.

mod args;
mod bundle;
mod cgroup;
mod cri;
mod delete;
mod events;
mod info;
mod mounts;
mod pod;
mod sandbox_service;
mod serve;
mod service;
mod start;
mod stats;
mod status;
mod stdio;
mod task;

use std::{error::Error, process::ExitCode};

use args::{Action, Args};

fn main() -> ExitCode {
    let done = args::parse(std::env::args_os().skip(1)).map_err(Into::into).and_then(|args| act(&args));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows it as the cause.
            eprintln!("{}", line(&*error));
            ExitCode::FAILURE
        }
    }
}

fn act(args: &Args) -> Result<(), Box<dyn Error>> {
    match args.action {
        Action::Version => info::version(),
        Action::Info => info::describe()?,
        Action::Start => start::start(args)?,
        Action::Delete => delete::delete(args)?,
        Action::Serve => serve::serve(args)?,
    }
    Ok(())
}

/// An error with all its causes, in one line.
fn line(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
