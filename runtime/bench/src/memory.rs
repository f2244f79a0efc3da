//! What a running container costs beside its own memory: the proportional set size of the runtime's processes.

use std::{fs, io::Read, process::Stdio};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::start::Runtimes;

/// In KiB, while a container sleeps.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    /// The VMM without its guest's memory.
    pub vmm_pss_kib: u64,
    /// What of the guest's memory is backed.
    pub guest_pss_kib: u64,
    /// What of that is not shared with others of its template.
    pub guest_own_kib: u64,
    /// The process that watches over the container.
    pub monitor_pss_kib: u64,
}

pub(crate) fn measure(runtimes: &Runtimes) -> Result<Memory> {
    let mut command = runtimes.securectr(&["-i", "--name", "bench-memory"]);
    command.args(["sh", "-c", "echo x; cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("start a container")?;
    child
        .stdout
        .as_mut()
        .context("standard output")?
        .read_exact(&mut [0])
        .context("wait for the container")?;
    let measured = measure_running(child.id());
    drop(child.stdin.take());
    child.wait()?;
    measured
}

fn measure_running(monitor: u32) -> Result<Memory> {
    let state = fs::read("/run/securectr/bench-memory/state.json").context("read the sandbox's state")?;
    let state: serde_json::Value = serde_json::from_slice(&state)?;
    let vmm = state.get("vmm_pid").and_then(serde_json::Value::as_u64).context("the VMM's pid")?;
    let maps = Smaps::of(vmm)?;
    Ok(Memory {
        vmm_pss_kib: maps.pss_kib - maps.guest_pss_kib,
        guest_pss_kib: maps.guest_pss_kib,
        guest_own_kib: maps.guest_own_kib,
        monitor_pss_kib: Smaps::of(monitor.into())?.pss_kib,
    })
}

/// Sums over `/proc/PID/smaps` (proc_pid_smaps(5)), in KiB. Of a VMM, the guest's memory is what is kept out of core dumps.
#[derive(Debug, Default, PartialEq)]
struct Smaps {
    pss_kib: u64,
    guest_pss_kib: u64,
    /// What the guest has written, of which nobody else has anything.
    guest_own_kib: u64,
}

/// A mapping, line by line.
#[derive(Default)]
struct Mapping {
    pss_kib: u64,
    written_kib: u64,
}

impl Smaps {
    fn of(pid: u64) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let field = |line: &str, name: &str| -> Option<u64> {
            line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse().ok()
        };
        let (mut all, mut mapping) = (Self::default(), Mapping::default());
        for line in text.lines() {
            if let Some(pss) = field(line, "Pss:") {
                mapping.pss_kib = pss;
            } else if let Some(written) = field(line, "Private_Dirty:") {
                mapping.written_kib = written;
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                // The last line of a mapping.
                all.pss_kib += mapping.pss_kib;
                if flags.split_whitespace().any(|flag| flag == "dd") {
                    all.guest_pss_kib += mapping.pss_kib;
                    all.guest_own_kib += mapping.written_kib;
                }
                mapping = Mapping::default();
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_told_apart_and_what_of_it_is_its_own() {
        let text = "00-10 rw-p\nPss:  4 kB\nPrivate_Dirty: 4 kB\nVmFlags: rd wr\n\
            10-20 rw-p\nPss: 30000 kB\nPrivate_Dirty: 9000 kB\nVmFlags: rd wr dd \n\
            20-30 rw-p\nPss: 2 kB\nPrivate_Dirty: 1 kB\nVmFlags: rd dd nr\n";
        let expected = Smaps { pss_kib: 30_006, guest_pss_kib: 30_002, guest_own_kib: 9_001 };
        assert_eq!(Smaps::parse(text), expected);
    }
}
