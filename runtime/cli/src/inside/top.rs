//! `top`: a container's processes, in the columns of `ps -ef`. Pids are those that the container itself knows.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use securectr_sandbox::Job;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    args::Top,
    sys::local_time,
    work::{Work, plain},
};
use crate::{args::Global, container::locate, output};

/// As many as the agent ever tells.
const MOST_PROCESSES: usize = 64 * 1024;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// As the guest says it.
#[derive(Debug, Deserialize)]
struct Told {
    pid: u32,
    ppid: u32,
    uid: u32,
    terminal: Option<u32>,
    age_s: u64,
    cpu_ms: u64,
    command: String,
}

pub(super) fn top(top: &Top, global: &Global) -> Result<u8> {
    if !top.ps_options.is_empty() {
        bail!("options of ps are not understood: {} (use --format)", top.ps_options.join(" "));
    }
    let work = Work::begin(&locate(global, &top.name)?, Job::Processes, false, global)?;
    let mut rows = Vec::new();
    work.lines(|line| {
        let told: Told = serde_json::from_slice(line).context("understand the container's agent")?;
        if rows.len() == MOST_PROCESSES {
            bail!("the container has more than {MOST_PROCESSES} processes");
        }
        rows.push(row(&told, SystemTime::now()));
        Ok(())
    })?;
    work.end()?;
    let columns = [
        ("UID", "UID"),
        ("PID", "PID"),
        ("PPID", "PPID"),
        ("C", "C"),
        ("STIME", "STIME"),
        ("TTY", "TTY"),
        ("TIME", "TIME"),
        ("CMD", "CMD"),
    ];
    output::rows(&top.format, &columns, &rows)?;
    Ok(0)
}

fn row(told: &Told, now: SystemTime) -> Value {
    let cpu_s = told.cpu_ms / 1000;
    json!({
        "UID": told.uid,
        "PID": told.pid,
        "PPID": told.ppid,
        // Of one CPU, over all of its life.
        "C": told.cpu_ms.checked_div(told.age_s.saturating_mul(10)).unwrap_or(0).min(99),
        "STIME": started(Duration::from_secs(told.age_s), now),
        "TTY": told.terminal.map_or_else(|| "?".to_owned(), |number| format!("pts/{number}")),
        "TIME": format!("{:02}:{:02}:{:02}", cpu_s / 3600, cpu_s / 60 % 60, cpu_s % 60),
        "CMD": plain(told.command.as_bytes()),
    })
}

/// Of the last day the hour, before that the day.
fn started(age: Duration, now: SystemTime) -> String {
    let start = local_time(now.checked_sub(age).unwrap_or(now));
    if age < DAY {
        return format!("{:02}:{:02}", start.hour, start.minute);
    }
    format!("{}{:02}", MONTHS.get(start.month).copied().unwrap_or_default(), start.day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_ps_tells_them() {
        let told = |age_s, cpu_ms| Told {
            pid: 7,
            ppid: 1,
            uid: 0,
            terminal: Some(3),
            age_s,
            cpu_ms,
            command: "a\u{1b}b".into(),
        };
        let row = row(&told(100, 50_000), SystemTime::now());
        assert_eq!((&row["C"], &row["TIME"], &row["TTY"]), (&json!(50), &json!("00:00:50"), &json!("pts/3")));
        assert_eq!(row["CMD"], "a b");
        assert_eq!(super::row(&told(0, 5), SystemTime::now())["C"], 0);
        let long_ago = super::row(&told(200_000, 0), SystemTime::now());
        assert_eq!(long_ago["STIME"].as_str().map(str::len), Some(5), "{long_ago}");
        assert!(!long_ago["STIME"].as_str().unwrap().contains(':'));
    }
}
