//! `securectr-vmm`: started by the sandbox's process with everything that it needs as descriptors, it locks itself in, builds the
//! machine and runs the guest to its end.

mod arch;
mod bus;
mod descriptors;
mod devices;
mod event_loop;
mod jail;
mod legacy;
mod machine;
mod memory;
mod parent;
mod seccomp;
mod vcpu;

use std::{error::Error, mem::ManuallyDrop, panic, process, process::ExitCode, sync::Mutex};

use securectr_vmm::control::Event;

use crate::{
    descriptors::Descriptors, event_loop::EventLoop, machine::Machine, memory::PageMap, parent::Parent,
};

/// 0: the guest has ended, and the parent knows how. 1: the VMM has failed, and the parent knows why.
fn main() -> ExitCode {
    let mut parent = match descriptors::control() {
        Ok(socket) => Parent::new(socket),
        Err(error) => {
            eprintln!("securectr-vmm: {error}: it is started by securectr, not by hand");
            return ExitCode::FAILURE;
        }
    };
    match run(&mut parent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If the parent has gone, there is nobody left to tell.
            let _ = parent.send(&Event::Failed(chain(&*error)));
            ExitCode::FAILURE
        }
    }
}

/// The order is the security model: nothing of the guest is touched before the jail is shut, and no guest instruction runs
/// before the filters are in place.
fn run(parent: &mut Parent) -> Result<(), Box<dyn Error>> {
    tell_of_panics(parent.try_clone()?);
    let spec = parent.spec()?;
    let mut descriptors = Descriptors::named_by(&spec)?;
    let pages = PageMap::open();
    jail::enter(&descriptors.untaken_and(pages.fd()), machine::longest_saved(&spec))?;
    let machine = Machine::build(&spec, &mut descriptors, pages)?;
    // The process's end takes the machine apart, vCPUs first: faster than by hand, and while they may still run.
    let mut event_loop = ManuallyDrop::new(EventLoop::new(machine, parent)?);
    seccomp::main_filter()?.install()?;
    Ok(event_loop.run(parent)?)
}

/// A panic in any thread ends the process; the parent hears of it as of any other failure.
fn tell_of_panics(parent: Parent) {
    let parent = Mutex::new(parent);
    panic::set_hook(Box::new(move |panic| {
        if let Ok(mut parent) = parent.lock() {
            let _ = parent.send(&Event::Failed(panic.to_string()));
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
