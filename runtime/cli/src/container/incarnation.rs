//! A process by more than its pid, which the kernel gives again to another.

use std::{fs, io, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, retry_on_intr},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// One process of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incarnation {
    pub pid: u32,
    /// Field `starttime` of proc_pid_stat(5), in clock ticks since the boot.
    pub started: u64,
}

impl Incarnation {
    /// Fails when no such process lives.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let (_, started) = stat(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, started })
    }

    /// A zombie has ended too.
    fn has_ended(self) -> bool {
        !matches!(stat(self.pid), Some((state, started)) if started == self.started && !matches!(state, 'Z' | 'X'))
    }

    /// Waits for its end, and tells whether it came.
    pub(crate) fn ends_within(self, limit: Duration) -> io::Result<bool> {
        let Some(process) = self.open()? else { return Ok(true) };
        let limit = limit.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(retry_on_intr(|| poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)))? > 0)
    }

    /// Kills it, if it lives.
    pub(crate) fn kill(self) -> io::Result<()> {
        match self.open()?.map(|process| pidfd_send_signal(process, Signal::KILL)) {
            None | Some(Ok(()) | Err(Errno::SRCH)) => Ok(()),
            Some(Err(errno)) => Err(errno.into()),
        }
    }

    /// None when it has ended.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        // Whether it was this one that was opened is asked afterwards: it cannot have become another since.
        Ok((!self.has_ended()).then_some(process))
    }
}

/// State and start of a process.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = Stat::of(pid)?;
    Some((stat.field(3)?.chars().next()?, stat.field(22)?.parse().ok()?))
}

/// What a process and its threads have used of the CPUs.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = Stat::of(pid)?;
    let ticks: u64 = stat.field(14)?.parse::<u64>().ok()?.checked_add(stat.field(15)?.parse().ok()?)?;
    Some(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// The line of proc_pid_stat(5).
struct Stat(String);

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        fs::read_to_string(format!("/proc/{pid}/stat")).ok().map(Self)
    }

    /// By its number in the manual, from the third on: the name before is in parentheses and may hold some.
    fn field(&self, number: usize) -> Option<&str> {
        self.0.rsplit_once(") ")?.1.split(' ').nth(number.checked_sub(3)?)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn cpu_time_grows_with_work() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        while cpu_time(own).unwrap() == before {
            std::hint::black_box((0..100_000).sum::<u64>());
        }
        assert!(cpu_time(own).unwrap() > before && cpu_time(u32::MAX).is_none());
    }

    #[test]
    fn a_process_ends_once_and_is_not_its_successor() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let living = Incarnation::of(child.id()).unwrap();
        let successor = Incarnation { started: living.started + 1, ..living };
        assert!(!living.has_ended() && successor.has_ended());
        assert!(!living.ends_within(Duration::ZERO).unwrap());
        assert!(successor.ends_within(LONG).unwrap());
        child.kill().unwrap();
        assert!(living.ends_within(LONG).unwrap() && living.has_ended(), "it is a zombie");
        child.wait().unwrap();
        assert!(living.ends_within(LONG).unwrap() && living.has_ended(), "it is gone");
    }
}
