//! `stats`: what containers use, now or again and again.

use std::{
    io::{self, IsTerminal, Write},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use securectr_sandbox::Stats;
use serde_json::{Value, json};

use super::args::Stats as Asked;
use crate::{
    args::Global,
    container::{Answer, Client, OfRun, Request, Status, find, of_run},
    output,
};

/// From one measurement to the next: less says little of a processor.
const INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its first corner (console_codes(4)).
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn stats(asked: &Asked, global: &Global) -> Result<u8> {
    let mut before = measure(asked, global)?;
    loop {
        sleep(INTERVAL);
        let now = measure(asked, global)?;
        if !asked.no_stream && io::stdout().is_terminal() {
            write!(io::stdout(), "{CLEAR}").context("write to standard output")?;
        }
        let rows: Vec<_> = now.iter().map(|one| one.row(&before)).collect();
        let columns = [
            ("CONTAINER ID", "ID"),
            ("NAME", "Name"),
            ("CPU %", "CPUPerc"),
            ("MEM USAGE / LIMIT", "MemUsage"),
            ("MEM %", "MemPerc"),
            ("BLOCK I/O", "BlockIO"),
            ("PIDS", "PIDs"),
        ];
        output::rows(&asked.format, &columns, &rows)?;
        if asked.no_stream {
            return Ok(0);
        }
        before = now;
    }
}

/// One container at one time.
struct Measured {
    id: String,
    name: String,
    at: Instant,
    stats: Stats,
}

/// Those that are named, or all that run. One that ends meanwhile is passed over.
fn measure(asked: &Asked, global: &Global) -> Result<Vec<Measured>> {
    Ok(wanted(&asked.names, global)?.iter().filter_map(|listed| measured(listed).ok()).collect())
}

/// Those of the named that run; all, where none is named.
pub(super) fn wanted(names: &[String], global: &Global) -> Result<Vec<OfRun>> {
    let mut all = of_run(global)?;
    let named = names.iter().map(|name| {
        let found = find(&all, name)?.with_context(|| format!("No such container: {name}"))?;
        Ok(found.record.id.clone())
    });
    let named: Vec<String> = named.collect::<Result<_>>()?;
    all.retain(|listed| {
        let is_wanted = named.is_empty() || named.contains(&listed.record.id);
        is_wanted && listed.record.status != Status::Stopped
    });
    Ok(all)
}

fn measured(listed: &OfRun) -> Result<Measured> {
    let Answer::Stats(stats) = Client::connect(&listed.located.place()?)?.ask(&Request::Stats)?.0 else {
        anyhow::bail!("the monitor did not say what the container uses");
    };
    let (id, name) = (listed.record.id.clone(), listed.kept.name.clone());
    Ok(Measured { id, name, at: Instant::now(), stats: *stats })
}

impl Measured {
    fn row(&self, before: &[Self]) -> Value {
        let (memory, limit) = (self.stats.memory.usage, self.stats.memory.limit);
        let read: u64 = self.stats.io.iter().map(|io| io.read_bytes).sum();
        let written: u64 = self.stats.io.iter().map(|io| io.written_bytes).sum();
        let has_limit = limit < u64::MAX;
        json!({
            "ID": self.id,
            "Name": self.name,
            "CPUPerc": format!("{:.2}%", self.cpu_percent(before)),
            "MemUsage": format!("{} / {}", size(memory), if has_limit { size(limit) } else { "-".into() }),
            "MemPerc": if has_limit { format!("{:.2}%", percent(memory, limit)) } else { "-".into() },
            "BlockIO": format!("{} / {}", size(read), size(written)),
            "PIDs": self.stats.pids.current,
        })
    }

    /// Of one CPU.
    fn cpu_percent(&self, before: &[Self]) -> f64 {
        let Some(before) = before.iter().find(|other| other.id == self.id) else { return 0.0 };
        let used_us = self.stats.cpu.usage_us.saturating_sub(before.stats.cpu.usage_us);
        let passed_us = self.at.duration_since(before.at).as_micros();
        percent(used_us, u64::try_from(passed_us).unwrap_or(u64::MAX))
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
