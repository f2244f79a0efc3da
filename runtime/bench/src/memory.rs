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
        vmm_pss_kib: maps.pss_kib - maps.largest_pss_kib,
        guest_pss_kib: maps.largest_pss_kib,
        monitor_pss_kib: Smaps::of(monitor.into())?.pss_kib,
    })
}

/// Sums over `/proc/PID/smaps` (proc_pid_smaps(5)). The guest's memory is by far the largest mapping of a VMM.
struct Smaps {
    pss_kib: u64,
    largest_pss_kib: u64,
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
        let (mut pss_kib, mut size_kib, mut largest) = (0, 0, (0, 0));
        for line in text.lines() {
            if let Some(size) = field(line, "Size:") {
                size_kib = size;
            } else if let Some(pss) = field(line, "Pss:") {
                pss_kib += pss;
                largest = largest.max((size_kib, pss));
            }
        }
        Self { pss_kib, largest_pss_kib: largest.1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_mapping_is_told_apart() {
        let text = "00-10 rw-p\nSize:  4 kB\nPss:  4 kB\n10-20 rw-p\nSize: 524288 kB\nPss: 30000 kB\nSize: 8 kB\nPss: 2 kB\n";
        let maps = Smaps::parse(text);
        assert_eq!((maps.pss_kib, maps.largest_pss_kib), (30_006, 30_000));
    }
}
