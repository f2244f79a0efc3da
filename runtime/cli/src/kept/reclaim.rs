//! `reclaim`: running containers give back the memory that their guests' kernels only keep for later.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{args::Reclaim, stats::wanted};
use crate::{
    args::Global,
    container::{Answer, Client, OfRun, Request},
    output,
    progress::Spinner,
    report::Report,
};

/// Linux reports free memory every two seconds, a sixteenth of it or more at a time. When nothing has come for so long, all has.
const QUIET: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_millis(500);

pub(super) fn reclaim(asked: &Reclaim, global: &Global, report: &Report) -> Result<u8> {
    let mut machines = Vec::new();
    let code = report.each(&wanted(&asked.names, global)?, |listed| {
        machines.push(Machine::ask(listed)?);
        Ok(())
    });
    let spinner = Spinner::new("reclaiming");
    settle(&mut machines);
    drop(spinner);
    let columns = [("NAME", "Name"), ("BEFORE", "Before"), ("AFTER", "After")];
    let rows: Vec<Value> = machines.iter().map(Machine::row).collect();
    output::rows(&asked.format, &columns, &rows)?;
    Ok(code)
}

/// Waits until nothing comes any more.
fn settle(machines: &mut [Machine]) {
    let (began, mut changed) = (Instant::now(), Instant::now());
    while !machines.is_empty() && changed.elapsed() < QUIET && began.elapsed() < LONGEST {
        sleep(BETWEEN);
        for machine in &mut *machines {
            let now = own_bytes(machine.pid).unwrap_or(machine.now_bytes);
            if now < machine.now_bytes {
                changed = Instant::now();
            }
            machine.now_bytes = now;
        }
    }
}

struct Machine {
    name: String,
    pid: i32,
    before_bytes: u64,
    now_bytes: u64,
}

impl Machine {
    fn ask(listed: &OfRun) -> Result<Self> {
        let client = Client::connect(&listed.located.place()?)?;
        let Answer::Machine(pid) = client.ask(&Request::Machine)?.0 else {
            bail!("the monitor of {} did not say which machine is its", listed.kept.name);
        };
        let before_bytes = own_bytes(pid)?;
        client.ask(&Request::Reclaim)?;
        Ok(Self { name: listed.kept.name.clone(), pid, before_bytes, now_bytes: before_bytes })
    }

    fn row(&self) -> Value {
        json!({
            "Name": self.name,
            "Before": output::size(self.before_bytes),
            "After": output::size(self.now_bytes),
            "BeforeBytes": self.before_bytes,
            "AfterBytes": self.now_bytes,
        })
    }
}

/// Memory that nobody else uses, too: `RssAnon` of proc_pid_status(5).
fn own_bytes(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("look at the machine's memory")?;
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).context("understand the machine's memory")?;
    Ok(kib << 10)
}
