//! `events`: what a container uses, in runc's form, which engines read.

use std::{
    io::{self, Write},
    thread::sleep,
};

use anyhow::{Context, Result, bail};
use securectr_sandbox::{SandboxId, Stats};
use serde_json::{Value, json};

use super::args::Events;
use crate::container::{Answer, Client, Located, Request, Status};

const NS_PER_US: u64 = 1000;

pub(super) fn events(events: &Events, located: &Located) -> Result<u8> {
    let place = located.place()?;
    loop {
        if place.read()?.status == Status::Stopped {
            bail!("container not running");
        }
        let Answer::Stats(stats) = Client::connect(&place)?.ask(&Request::Stats)?.0 else {
            bail!("the monitor did not say what the container uses");
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", event(&located.id, &stats)).context("write to standard output")?;
        if events.stats {
            return Ok(0);
        }
        sleep(events.interval);
    }
}

fn event(id: &SandboxId, stats: &Stats) -> Value {
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    let entry =
        |op: &str, major, minor, value| json!({"op": op, "major": major, "minor": minor, "value": value});
    let bytes = stats.io.iter().flat_map(|io| {
        [
            entry("Read", io.major, io.minor, io.read_bytes),
            entry("Write", io.major, io.minor, io.written_bytes),
        ]
    });
    json!({
        "type": "stats",
        "id": id,
        "data": {
            "cpu": {
                "usage": {
                    "total": cpu.usage_us * NS_PER_US,
                    "kernel": cpu.system_us * NS_PER_US,
                    "user": cpu.user_us * NS_PER_US,
                },
                "throttling": {
                    "periods": cpu.periods,
                    "throttledPeriods": cpu.throttled_periods,
                    "throttledTime": cpu.throttled_us * NS_PER_US,
                },
            },
            "memory": {
                "cache": memory.stat.get("file"),
                "usage": {"limit": memory.limit, "usage": memory.usage, "max": memory.peak, "failcnt": memory.max_events},
                "swap": {"limit": memory.swap_limit, "usage": memory.swap_usage, "failcnt": 0},
                "kernel": {"failcnt": 0},
                "kernelTCP": {"failcnt": 0},
                "raw": memory.stat,
            },
            "pids": {"current": stats.pids.current, "limit": if stats.pids.limit == u64::MAX { 0 } else { stats.pids.limit }},
            "blkio": {"ioServiceBytesRecursive": bytes.collect::<Vec<_>>()},
            "hugetlb": {},
            "intel_rdt": {},
            "network_interfaces": null,
        },
    })
}
