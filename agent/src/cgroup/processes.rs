//! The processes of a group, and signals to all of them. A container that may write its cgroup can have groups below: they count.

use std::{fs, io, path::PathBuf};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use super::{Cgroup, CgroupError, read, write};

/// A container can make many groups; beyond these, what is in them is not looked for.
const MOST_GROUPS: usize = 1024;

/// Of these one answer has room.
const MOST_PROCESSES: usize = 64 * 1024;

impl Cgroup {
    /// As this process sees their pids.
    pub(crate) fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let mut pids = Vec::new();
        let mut groups = vec![self.path.clone()];
        let mut next = 0;
        while let Some(group) = groups.get(next).cloned() {
            next += 1;
            match read(&group.join("cgroup.procs")) {
                Ok(list) => pids.extend(list.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?))),
                Err(error) if next == 1 => return Err(error),
                // A group that has gone meanwhile, or one of threads, whose processes are those of a group above.
                Err(_) => {}
            }
            let room = MOST_GROUPS.saturating_sub(groups.len());
            groups.extend(groups_below(&group).take(room));
        }
        pids.truncate(MOST_PROCESSES);
        Ok(pids)
    }

    /// Sends a signal to every process of the group.
    pub(crate) fn signal_all(&self, signal: Signal) -> Result<(), CgroupError> {
        if signal == Signal::KILL {
            return self.kill_all();
        }
        for pid in self.processes()? {
            match kill_process(pid, signal) {
                // It has ended meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => {
                    let (path, source) = (self.path.clone(), io::Error::from(error));
                    return Err(CgroupError::File { operation: "signal a process of", path, source });
                }
            }
        }
        Ok(())
    }

    /// Kills all, also what forks meanwhile, and what is frozen.
    pub(crate) fn kill_all(&self) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.kill"), "1")
    }
}

fn groups_below(group: &PathBuf) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}
