//! The processes of a container, as proc(5) tells of them: a line of JSON for each.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
};

use rustix::{
    param::clock_ticks_per_second,
    process::Pid,
    time::{ClockId, clock_gettime},
};
use serde::Serialize;

use crate::container::failure::{During, Failure};

/// As much of a command line as is told, in bytes.
const MAX_COMMAND_LEN: u64 = 4096;

/// Of a process, in its container's terms.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Told {
    pid: u32,
    /// 0: of a process outside.
    ppid: u32,
    uid: u32,
    /// A terminal's number in `/dev/pts`.
    terminal: Option<u32>,
    /// Since its start.
    age_s: u64,
    /// Used of all CPUs together.
    cpu_ms: u64,
    command: String,
}

pub(super) fn tell(processes: &[Pid], output: &mut impl Write) -> Result<(), Failure> {
    for pid in processes {
        // One that has ended meanwhile is not told.
        let Some(told) = look(pid.as_raw_nonzero().get().unsigned_abs()) else { continue };
        serde_json::to_writer(&mut *output, &told)
            .map_err(io::Error::from)
            .and_then(|()| output.write_all(b"\n"))
            .during(|| "write".into())?;
    }
    Ok(())
}

fn look(pid: u32) -> Option<Told> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let now_ms = uptime_ms();
    let mut told = of_stat(&stat, now_ms)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    (told.pid, told.uid) = (inner_pid(&status)?, field(&status, "Uid:")?.next()?.parse().ok()?);
    let parent: u32 = field(&status, "PPid:")?.next()?.parse().ok()?;
    let parent = fs::read_to_string(format!("/proc/{parent}/status")).ok();
    told.ppid = parent.and_then(|status| inner_pid_of_child(&status)).unwrap_or(0);
    if let Some(command) = command_line(pid) {
        told.command = command;
    }
    Some(told)
}

/// In the innermost of its pid namespaces.
fn inner_pid(status: &str) -> Option<u32> {
    field(status, "NSpid:")?.next_back()?.parse().ok()
}

/// Of one that lives in no namespace below the guest's there is none.
fn inner_pid_of_child(status: &str) -> Option<u32> {
    field(status, "NSpid:")?.nth(1)?;
    inner_pid(status)
}

fn field<'a>(status: &'a str, name: &str) -> Option<std::str::SplitWhitespace<'a>> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::split_whitespace)
}

/// The name stands in parentheses and may hold some: fields are counted from the third.
fn of_stat(stat: &str, now_ms: u64) -> Option<Told> {
    let (name, fields) = stat.rsplit_once(") ")?;
    let (_, name) = name.split_once('(')?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.trim().parse::<u64>().ok();
    let ticks_ms = 1000 / clock_ticks_per_second().clamp(1, 1000);
    let (terminal, cpu) = (number(7)?, number(14)? + number(15)?);
    let age_ms = now_ms.saturating_sub(number(22)? * ticks_ms);
    Some(Told {
        terminal: pseudo_terminal(terminal),
        age_s: age_ms / 1000,
        cpu_ms: cpu * ticks_ms,
        command: format!("[{name}]"),
        ..Told::default()
    })
}

/// Majors 136 to 143 of Documentation/admin-guide/devices.txt; the minor number lies in two parts around the major.
fn pseudo_terminal(device: u64) -> Option<u32> {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    (136..=143).contains(&major).then_some(((major - 136) << 20 | minor) as u32)
}

fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// None of one that has no memory: a zombie.
fn command_line(pid: u32) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/cmdline")).ok()?.take(MAX_COMMAND_LEN).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_process_is_called() {
        let stat = "7 (a) b (c)) S 1 7 7 34818 7 4194560 0 0 0 0 150 50 0 0 20 0 1 0 1000 0 0\n";
        let ticks_ms = 1000 / clock_ticks_per_second();
        let told = of_stat(stat, 1000 * ticks_ms + 5000).unwrap();
        let expected = Told {
            terminal: Some(2),
            age_s: 5,
            cpu_ms: 200 * ticks_ms,
            command: "[a) b (c)]".into(),
            ..Told::default()
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn pids_are_those_of_the_container() {
        let status = "Name:\tx\nPPid:\t1\nUid:\t5\t5\t5\t5\nNSpid:\t90\t3\n";
        assert_eq!((inner_pid(status), inner_pid_of_child("NSpid:\t1\n")), (Some(3), None));
    }
}
