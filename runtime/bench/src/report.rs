//! The result: a table for people, JSON for programs, both with what is needed to judge it.

use std::{fmt, process::Command};

use anyhow::Result;
use serde::Serialize;

use crate::{memory::Memory, start::Starts, statistics::Summary};

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    runs: usize,
    starts: Starts,
    memory: Memory,
    /// Medians of securectr over those of runc.
    ratio_to_first_byte: Option<f64>,
    ratio_to_exit: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    cpu: String,
    cpus: usize,
    runc: String,
}

impl Report {
    pub(crate) fn new(runs: usize, starts: Starts, memory: Memory) -> Result<Self> {
        let ratio = |of: &std::collections::BTreeMap<&'static str, Summary>| {
            let median = |name| of.get(name).map(|summary| summary.median_us as f64);
            median("securectr").zip(median("runc")).map(|(ours, theirs)| ours / theirs)
        };
        Ok(Self {
            machine: Machine::look()?,
            runs,
            ratio_to_first_byte: ratio(&starts.to_first_byte),
            ratio_to_exit: ratio(&starts.to_exit),
            starts,
            memory,
        })
    }
}

impl Machine {
    fn look() -> Result<Self> {
        let first_line = |program: &str, arg: &str| -> Result<String> {
            let output = Command::new(program).arg(arg).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
        };
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        Ok(Self {
            kernel: first_line("uname", "-r")?,
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cpus: std::thread::available_parallelism()?.into(),
            runc: first_line("runc", "--version")?,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{} ({} CPUs), Linux {}, {}; {} runs, interleaved",
            machine.cpu, machine.cpus, machine.kernel, machine.runc, self.runs
        )?;
        writeln!(
            f,
            "\n{:<24} {:>10} {:>10} {:>10} {:>10} {:>8}",
            "ms", "median", "p90", "least", "most", "failed"
        )?;
        for (what, all) in [("to first byte", &self.starts.to_first_byte), ("to exit", &self.starts.to_exit)]
        {
            for (runtime, summary) in all {
                let failed = self.starts.failures.get(runtime).copied().unwrap_or(0);
                let [median, p90, least, most] =
                    [summary.median_us, summary.p90_us, summary.least_us, summary.most_us].map(milliseconds);
                let name = format!("{runtime} {what}");
                writeln!(f, "{name:<24} {median:>10.1} {p90:>10.1} {least:>10.1} {most:>10.1} {failed:>8}")?;
            }
        }
        if let (Some(first_byte), Some(exit)) = (self.ratio_to_first_byte, self.ratio_to_exit) {
            writeln!(f, "\nsecurectr over runc: {first_byte:.2} to first byte, {exit:.2} to exit")?;
        }
        writeln!(f, "\nsecurectr's phases, ms after main began")?;
        let mut phases: Vec<_> = self.starts.phases_us.iter().collect();
        phases.sort_by_key(|(_, stamp)| **stamp);
        for (phase, stamp) in phases {
            writeln!(f, "  {:<22} {:>10.1}", phase.trim_end_matches("_us"), milliseconds(*stamp))?;
        }
        let Memory { vmm_pss_kib, guest_pss_kib, guest_own_kib, monitor_pss_kib } = self.memory;
        writeln!(
            f,
            "\nmemory of an idle container, KiB (PSS): VMM {vmm_pss_kib}, guest {guest_pss_kib} (written: {guest_own_kib}), monitor {monitor_pss_kib}"
        )
    }
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1000.0
}
