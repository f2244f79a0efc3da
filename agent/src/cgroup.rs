//! Control groups (v2): one for each container, below one of our own.

mod devices;
mod events;
mod processes;
mod sys;

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use crate::plan::{Current, DEFAULT_DEVICES, DeviceKind, DeviceRule, Limits};
use events::EventFile;

/// Where the guest has its cgroups.
pub(crate) const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The group that holds the containers'.
const PARENT: &str = "containers";

const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// How long killed processes may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// How long processes may take to stand still: the kernel waits for those that are in the middle of a system call.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum CgroupError {
    #[error("{operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("write {value:?} to {path}")]
    Write { path: PathBuf, value: String, source: io::Error },
    #[error("limit the devices of {path}")]
    Devices { path: PathBuf, source: io::Error },
    #[error("the processes of {0} do not end")]
    Busy(PathBuf),
    #[error("the processes of {0} do not freeze")]
    NotFrozen(PathBuf),
}

/// Makes the group that holds the containers' and gives it all controllers that there are.
pub(crate) fn prepare() -> Result<(), CgroupError> {
    let root = Path::new(MOUNT_POINT);
    let parent = root.join(PARENT);
    enable_controllers(root)?;
    make(&parent)?;
    enable_controllers(&parent)
}

fn enable_controllers(group: &Path) -> Result<(), CgroupError> {
    let available = read(&group.join("cgroup.controllers"))?;
    let wanted: Vec<_> = available
        .split_whitespace()
        .filter(|name| CONTROLLERS.contains(name))
        .map(|name| format!("+{name}"))
        .collect();
    write(&group.join("cgroup.subtree_control"), &wanted.join(" "))
}

fn make(group: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(CgroupError::File { operation: "make", path: group.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

fn read(file: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(file).map_err(|source| CgroupError::File {
        operation: "read",
        path: file.to_owned(),
        source,
    })
}

fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(file, value).map_err(|source| {
        let value = value.to_owned();
        CgroupError::Write { path: file.to_owned(), value, source }
    })
}

/// A container's group.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
}

impl Cgroup {
    /// `id` is one path name.
    pub(crate) fn create(id: &str, limits: &Limits) -> Result<Self, CgroupError> {
        let path = Path::new(MOUNT_POINT).join(PARENT).join(id);
        let file_error = |operation, path: &Path, source| {
            let path = path.to_owned();
            CgroupError::File { operation, path, source }
        };
        fs::create_dir(&path).map_err(|source| file_error("make", &path, source))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, &path, flags, Mode::empty())
            .map_err(|error| file_error("open", &path, error.into()))?;
        let group = Self { path, directory };
        group.limit(limits).inspect_err(|_| group.remove_empty())?;
        Ok(group)
    }

    /// Writes the limits in their order.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        limits.files.iter().try_for_each(|(file, value)| write(&self.path.join(file), value))
    }

    /// From here on the group's processes open no devices but those they may. Not before a container's root is mounted: that
    /// opens the disks. A spec that says nothing of devices limits none; the kernel's first BPF program takes 2 MB of the guest.
    pub(crate) fn limit_devices(&self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        if rules.is_empty() {
            return Ok(());
        }
        let rules: Vec<_> = rules.iter().copied().chain(always_allowed()).collect();
        sys::attach_device_filter(&devices::program(&rules), self.directory.as_fd())
            .map_err(|source| CgroupError::Devices { path: self.path.clone(), source })
    }

    fn remove_empty(&self) {
        // What is left of a group that could not be made is empty; should the kernel refuse, nothing runs in it.
        let _ = fs::remove_dir(&self.path);
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A file of the group.
    pub(crate) fn read(&self, file: &str) -> Result<String, CgroupError> {
        read(&self.path.join(file))
    }

    /// A file of the group, as empty when the kernel does not have it.
    pub(crate) fn read_if_there(&self, file: &str) -> String {
        self.read(file).unwrap_or_default()
    }

    /// What an update of the limits may leave unsaid.
    pub(crate) fn current(&self) -> Current {
        Current::read(
            &self.read_if_there("memory.max"),
            &self.read_if_there("memory.current"),
            &self.read_if_there("cpu.max"),
        )
    }

    /// How many processes of the group the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        value(&self.read_if_there("memory.events"), "oom_kill").unwrap_or(0)
    }

    /// Waits until more were killed than were seen.
    pub(crate) async fn more_oom_kills(&self, seen: u64) -> Result<u64, CgroupError> {
        let more = |text: &str| value(text, "oom_kill").filter(|&count| count > seen);
        self.events("memory.events")?.until(more).await.map_err(|source| self.watch_error(source))
    }

    /// Stops all processes where they are. When they cannot be stopped, they all go on.
    pub(crate) async fn freeze(&self) -> Result<(), CgroupError> {
        let events = self.events("cgroup.events")?;
        write(&self.path.join("cgroup.freeze"), "1")?;
        let frozen = events.until(|text| value(text, "frozen").filter(|&frozen| frozen == 1));
        let frozen = match timeout(FREEZE_LIMIT, frozen).await {
            Ok(frozen) => frozen.map(drop).map_err(|source| self.watch_error(source)),
            Err(_) => Err(CgroupError::NotFrozen(self.path.clone())),
        };
        if frozen.is_err() {
            self.thaw()?;
        }
        frozen
    }

    pub(crate) fn thaw(&self) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.freeze"), "0")
    }

    /// Whether its processes are to stand still.
    pub(crate) fn is_frozen(&self) -> bool {
        self.read_if_there("cgroup.freeze").trim() == "1"
    }

    fn events(&self, file: &str) -> Result<EventFile, CgroupError> {
        let path = self.path.join(file);
        EventFile::open(&path).map_err(|source| CgroupError::File { operation: "watch", path, source })
    }

    fn watch_error(&self, source: io::Error) -> CgroupError {
        CgroupError::File { operation: "watch", path: self.path.clone(), source }
    }

    /// Kills what is left, and removes the group.
    pub(crate) async fn remove(&self) -> Result<(), CgroupError> {
        let began = Instant::now();
        self.kill_all()?;
        let mut pause = Duration::from_micros(200);
        loop {
            match fs::remove_dir(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                Err(source) => {
                    return Err(CgroupError::File { operation: "remove", path: self.path.clone(), source });
                }
            }
            if began.elapsed() > GONE_LIMIT {
                return Err(CgroupError::Busy(self.path.clone()));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// A number in a file of lines "key number".
pub(crate) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(found, _)| *found == key)?.1.parse().ok())
}

/// What no list of a spec takes away, as in runc: the default devices, terminals, and to make any node (which opens none).
fn always_allowed() -> impl Iterator<Item = DeviceRule> {
    let rule = |kind, major, minor, access| DeviceRule { allow: true, kind, major, minor, access };
    let character = Some(DeviceKind::Character);
    let default = DEFAULT_DEVICES
        .map(|(_, major, minor)| rule(character, Some(major), Some(minor), devices::ALL_ACCESS));
    let terminals = [(5, Some(2)), (136, None)]
        .map(|(major, minor)| rule(character, Some(major), minor, devices::ALL_ACCESS));
    default.into_iter().chain(terminals).chain([rule(None, None, None, devices::MAKE)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_their_whole_name() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(value(events, "oom_kill"), Some(2));
        assert_eq!(value(events, "oom"), Some(3));
        assert_eq!(value(events, "kill"), None);
        assert_eq!(value("oom_kill", "oom_kill"), None);
    }
}
