//! What PID 1 does first and last.

mod sys;

use std::{error::Error, fs, io, panic, path::Path};

use rustix::{
    mount::{MountFlags, mount, mount_bind, mount_move},
    process::{DumpableBehavior, Resource, Rlimit, chdir, chroot, set_dumpable_behavior, setrlimit},
    system::{RebootCommand, reboot},
};
use thiserror::Error;

use crate::{
    cgroup::{self, CgroupError},
    container,
};

/// As many descriptors as docker gives to its containers, which have this limit from here.
const OPEN_FILES: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum InitError {
    #[error("make the root one that can be left")]
    Root(#[source] io::Error),
    #[error("mount {place}")]
    Mount { place: &'static str, source: io::Error },
    #[error("make {0}")]
    Stage(&'static str, #[source] io::Error),
    #[error("prepare cgroups")]
    Cgroup(#[from] CgroupError),
    #[error("set the agent's own limits")]
    Limits(#[source] io::Error),
    #[error("set up the loopback interface")]
    Loopback(#[source] io::Error),
}

/// Turns a kernel with nothing but this program into a guest for containers.
pub(crate) fn guest() -> Result<(), InitError> {
    make_root_movable().map_err(InitError::Root)?;
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let mounts = [
        ("/proc", "proc", quiet),
        ("/sys", "sysfs", quiet),
        ("/dev", "devtmpfs", MountFlags::NOSUID | MountFlags::NOEXEC),
        ("/run", "tmpfs", quiet),
        (cgroup::MOUNT_POINT, "cgroup2", quiet),
    ];
    for (place, kind, flags) in mounts {
        mount(kind, place, kind, flags, None)
            .map_err(|error| InitError::Mount { place, source: error.into() })?;
    }
    limit_self().map_err(InitError::Limits)?;
    sys::bring_up_loopback().map_err(InitError::Loopback)?;
    stages()
}

/// What containers are made in and from.
pub fn stages() -> Result<(), InitError> {
    for place in container::STAGES {
        fs::create_dir_all(place).map_err(|source| InitError::Stage(place, source))?;
    }
    Ok(cgroup::prepare()?)
}

/// The initramfs cannot be left by pivot_root(2). A bind mount of it, moved above it, can.
fn make_root_movable() -> io::Result<()> {
    let place = Path::new("/run");
    mount_bind("/", place)?;
    chdir(place)?;
    mount_move(".", "/")?;
    chroot(".")?;
    Ok(chdir("/")?)
}

/// Containers share the kernel with this process: they may not look into it, nor is it to run out of descriptors.
fn limit_self() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let limit = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Sends a panic's words to the console; PID 1's end is then the kernel's panic.
pub(crate) fn report_panics() {
    panic::set_hook(Box::new(|panic| last_words(&panic.to_string())));
}

/// Writes a line to the console, which the host shows. The log's device writes at once, also when the kernel is told to be quiet,
/// where a terminal may still hold the line when the machine is reset.
pub(crate) fn last_words(words: &str) {
    let line = words.replace('\n', " ");
    // The level is the one of emergencies.
    if fs::write("/dev/kmsg", format!("<0>securectr-agent: {line}\n")).is_err() {
        eprintln!("securectr-agent: {line}");
    }
}

/// An error with all its causes, in one line.
pub(crate) fn line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        line.push_str(": ");
        line.push_str(&source.to_string());
        cause = source.source();
    }
    line
}

/// Ends the machine.
pub(crate) fn reset() -> ! {
    // It fails only for those who are not root.
    let _ = reboot(RebootCommand::Restart);
    std::process::exit(1)
}
