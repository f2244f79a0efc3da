//! Containers on disk, for those who look from outside: a directory each. A record names the container's monitor: when that process has
//! ended, so has the container.

use std::{
    collections::HashMap,
    env,
    fs::{self, DirBuilder, File},
    io,
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Hook;
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};
use securectr_sandbox::{HookState, HostCgroup, SandboxId, StateRoot};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::{incarnation::Incarnation, kept::Kept};

/// As the runtime spec names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// How long those who wait for the end, and a slow reader of the last output, may hold it up, each.
pub(crate) const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// How long a killed monitor may take to be gone.
pub(crate) const GONE_LIMIT: Duration = Duration::from_secs(10);

/// The version of the runtime spec that is spoken.
pub(crate) const OCI_VERSION: &str = "1.2.0";

/// What is written about a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    #[serde(flatten)]
    pub monitor: Incarnation,
    pub status: Status,
    /// RFC 3339.
    pub created: String,
    pub annotations: HashMap<String, String>,
    /// The host's, which the monitor and its machine are in.
    pub cgroup: Option<HostCgroup>,
    /// The host's hooks for afterwards: what has become of config.json by then does not count.
    #[serde(default)]
    pub poststop: Vec<Hook>,
    /// Of a container that `run -d` has made.
    #[serde(default)]
    pub kept: Option<Kept>,
}

impl Record {
    /// Kills its monitor, whose machine dies with it, and waits for the end.
    pub(crate) fn end(&self) -> Result<()> {
        self.monitor.kill().context("kill the container's monitor")?;
        if !self.monitor.ends_within(GONE_LIMIT).context("wait for the container's end")? {
            bail!("the monitor {} of the container does not end", self.monitor.pid);
        }
        Ok(())
    }
}

/// The directory that holds all.
#[derive(Clone)]
pub(crate) struct Records(PathBuf);

impl Records {
    pub(crate) fn open(asked: Option<&Path>) -> Result<Self> {
        let path = match asked {
            Some(path) => path.to_owned(),
            None if geteuid().is_root() => PathBuf::from("/run/securectr-containers"),
            None => env::var_os("XDG_RUNTIME_DIR")
                .map(|runtime| PathBuf::from(runtime).join("securectr-containers"))
                .context("find a place for records: XDG_RUNTIME_DIR is not set; use --root DIR")?,
        };
        Ok(Self(path))
    }

    /// Those of containers that `run -d` has made, in the store.
    pub(crate) fn kept(store: &Path) -> Self {
        Self(store.join("containers"))
    }

    /// Those of containers in somebody's foreground: beside their machine's state, which goes with it.
    pub(crate) fn in_foreground(state: &StateRoot) -> Self {
        Self(state.path().to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory of a new container.
    pub(crate) fn create(&self, id: &SandboxId) -> Result<Place> {
        let failed = || format!("make a record of the container {id}");
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).with_context(failed)?;
        let path = self.0.join(id.as_str());
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("container with given ID already exists: {id}")
            }
            made => made.with_context(failed)?,
        }
        Ok(Place(path))
    }

    /// runc's words when there is none: clients match on them.
    pub(crate) fn find(&self, id: &SandboxId) -> Result<Place> {
        let path = self.0.join(id.as_str());
        if !path.is_dir() {
            bail!("container does not exist: {id}");
        }
        Ok(Place(path))
    }

    /// Held while a name is given.
    pub(crate) fn lock(&self) -> Result<File> {
        let locked = || {
            let file = File::open(&self.0)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok::<_, io::Error>(file)
        };
        locked().with_context(|| format!("lock {}", self.0.display()))
    }

    pub(crate) fn all(&self) -> Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {}", self.0.display()))?,
        };
        let places = entries.flatten().map(|entry| Place(entry.path()));
        let mut records: Vec<_> = places.filter_map(|place| place.read().ok()).collect();
        records.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(records)
    }
}

/// A container's directory.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Does something with the monitor's socket, by a path that is short: an address has 107 bytes at most (unix(7)), and Docker's
    /// directories are longer.
    pub(crate) fn with_socket<T>(&self, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let directory = File::open(&self.0)?;
        act(Path::new(&format!("/proc/self/fd/{}/control.sock", directory.as_raw_fd())))
    }

    /// As its monitor; where one before has listened, too.
    pub(crate) fn listen(&self) -> Result<UnixListener> {
        let bound = self.with_socket(|path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => UnixListener::bind(path),
        });
        bound.context("listen on the monitor's socket")
    }

    /// What is known of it now: one without a monitor has ended, whatever was written last, and none has ended before its monitor.
    pub(crate) fn read(&self) -> Result<Record> {
        loop {
            let record = self.written()?;
            if !record.has_ended()? {
                let status = if record.status == Status::Stopped { Status::Running } else { record.status };
                return Ok(Record { status, ..record });
            }
            // It may have written its last words since, or somebody may have started the container again.
            let last = self.written()?;
            if last.monitor == record.monitor {
                return Ok(Record { status: Status::Stopped, ..last });
            }
        }
    }

    /// As its monitor has left it.
    fn written(&self) -> Result<Record> {
        let path = self.0.join("record.json");
        let json = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&json).with_context(|| format!("understand {}", path.display()))
    }

    /// Whole or not at all.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let (new, path) = (self.0.join("record.new"), self.0.join("record.json"));
        let written = fs::write(&new, serde_json::to_vec(record)?).and_then(|()| fs::rename(&new, &path));
        written.with_context(|| format!("write {}", path.display()))
    }

    /// Takes away all that is kept of a container without a monitor. Answers with its record, if one was ever written.
    pub(crate) fn remove(&self) -> Result<Option<Record>> {
        let record = self.read().ok();
        fs::remove_dir_all(&self.0).with_context(|| format!("remove {}", self.0.display()))?;
        if let Some(cgroup) = record.as_ref().and_then(|record| record.cgroup.as_ref()) {
            cgroup.remove();
        }
        Ok(record)
    }
}

/// What the host's hooks are told.
pub(crate) fn hook_state(record: &Record, pid: i32) -> HookState {
    HookState {
        oci_version: OCI_VERSION.to_owned(),
        id: record.id.clone(),
        status: record.status.name(),
        pid,
        bundle: record.bundle.clone(),
        annotations: record.annotations.clone(),
    }
}

impl Record {
    /// Whether its monitor is gone; one that has written its last words is on its way.
    fn has_ended(&self) -> Result<bool> {
        let limit = if self.status == Status::Stopped { LAST_WORDS_LIMIT * 2 } else { Duration::ZERO };
        self.monitor.ends_within(limit).context("look for the container's monitor")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::{UnixListener, UnixStream},
        process::Command,
        thread,
    };

    use super::*;

    fn record() -> Record {
        Record {
            id: "web".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            monitor: Incarnation::of(std::process::id()).unwrap(),
            status: Status::Running,
            created: "2026-01-01T00:00:00Z".into(),
            annotations: HashMap::new(),
            cgroup: None,
            poststop: Vec::new(),
            kept: None,
        }
    }

    #[test]
    fn a_container_without_its_monitor_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records(directory.path().join("all"));
        let place = records.create(&"web".parse().unwrap()).unwrap();
        place.write(&record()).unwrap();
        assert_eq!(place.read().unwrap(), record());
        let another = Incarnation { started: record().monitor.started + 1, ..record().monitor };
        place.write(&Record { monitor: another, ..record() }).unwrap();
        assert_eq!(place.read().unwrap().status, Status::Stopped);
    }

    #[test]
    fn the_last_words_of_a_monitor_count() {
        let directory = tempfile::tempdir().unwrap();
        let place = Records(directory.path().to_owned()).create(&"web".parse().unwrap()).unwrap();
        let mut monitor = Command::new("sleep").arg("1000").spawn().unwrap();
        let stopped =
            Record { monitor: Incarnation::of(monitor.id()).unwrap(), status: Status::Stopped, ..record() };
        place.write(&stopped).unwrap();
        let last = Record { rootfs: "/last".into(), ..stopped };
        let (ending, written) = (place.clone(), last.clone());
        let end = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            ending.write(&written).unwrap();
            monitor.kill().and_then(|()| monitor.wait()).unwrap();
        });
        assert_eq!(place.read().unwrap(), last);
        end.join().unwrap();
    }

    #[test]
    fn a_socket_may_lie_deep() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records(directory.path().join("x".repeat(120)));
        let place = records.create(&"web".parse().unwrap()).unwrap();
        let _listener = place.with_socket(|path| UnixListener::bind(path)).unwrap();
        assert!(place.with_socket(|path| UnixStream::connect(path)).is_ok());
    }

    #[test]
    fn a_name_is_given_once() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records(directory.path().to_owned());
        let id = "web".parse().unwrap();
        assert!(records.find(&id).is_err());
        records.create(&id).unwrap();
        assert!(records.create(&id).unwrap_err().to_string().contains("exists"));
    }
}
