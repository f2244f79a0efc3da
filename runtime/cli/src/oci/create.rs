//! `create`: leaves a monitor behind, and waits until it has made the container.

use std::{fs, path::Path, process::Child};

use anyhow::{Context, Result};

use super::args::Create;
use crate::{
    args::Global,
    container::{Records, again, spawn_and_hear},
};

pub(super) fn create(create: &Create, records: &Records, global: &Global) -> Result<u8> {
    let bundle = create.bundle.canonicalize();
    let bundle = bundle.with_context(|| format!("find the bundle {}", create.bundle.display()))?;
    let place = records.create(&create.id)?;
    let mut monitor = again(records, global)?;
    monitor.arg("monitor").current_dir(bundle);
    if let Some(socket) = &create.console_socket {
        let socket = std::path::absolute(socket).context("find the console socket")?;
        monitor.arg("--console-socket").arg(socket);
    }
    let made = spawn_and_hear(&mut monitor, |command| command.arg(create.id.as_str()))
        .and_then(|child| write_pid(create.pid_file.as_deref(), child.id()).inspect_err(|_| kill(child)));
    made.inspect_err(|_| drop(place.remove()))?;
    Ok(0)
}

pub(super) fn write_pid(path: Option<&Path>, pid: u32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, pid.to_string()).with_context(|| format!("write {}", path.display()))
}

fn kill(mut child: Child) {
    let _ = child.kill();
}
