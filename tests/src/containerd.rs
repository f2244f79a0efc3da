//! A containerd of the tests' own, and `ctr` in three lines.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc::channel},
    thread::{park, sleep, spawn as spawn_thread},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{Finished, Started, checkout, program};

/// How long anything may take here: the machine may itself be emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// What starts a container for containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Runc,
    Securectr,
}

impl Runtime {
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "io.containerd.runc.v2",
            Self::Securectr => "io.containerd.securectr.v2",
        }
    }
}

/// Tries a promise with runc, where it must hold, or it says nothing of us; then with securectr.
pub fn on_each(promise: impl Fn(Runtime) -> Result<()>) -> Result<()> {
    [Runtime::Runc, Runtime::Securectr].into_iter().try_for_each(|runtime| {
        println!("with {runtime:?}");
        promise(runtime).with_context(|| format!("with {runtime:?}"))
    })
}

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_so()? {
        ensure!(began.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Waits for the end of all that the shim starts, and of itself.
pub fn no_process_is_left() -> Result<()> {
    eventually("no process is left", || {
        let ours =
            Command::new("pgrep").args(["-f", "securectr-(vmm|files|wall)|shim-securectr"]).output()?;
        Ok(ours.stdout.is_empty())
    })
}

/// A running containerd, whose state lies on a tmpfs: overlayfs cannot write on every file system.
pub struct Containerd {
    place: TempDir,
    config: PathBuf,
    /// Where it looks for shims first.
    programs: PathBuf,
    process: Child,
}

/// The one that tests share which do not harm it.
pub fn containerd() -> Result<&'static Containerd> {
    static SHARED: OnceLock<Containerd> = OnceLock::new();
    if SHARED.get().is_none() {
        let _ = SHARED.set(Containerd::start()?);
    }
    SHARED.get().context("containerd")
}

impl Containerd {
    /// Starts it, and gives it the busybox image. It dies with this process.
    pub fn start() -> Result<Self> {
        let place = Self::new_place()?;
        let config = place.path().join("config.toml");
        let no_cri = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        fs::write(&config, format!("{no_cri}{}", Self::places(place.path())))?;
        Self::start_by(place, config, Self::programs())
    }

    /// Where the shim of this checkout lies.
    pub fn programs() -> PathBuf {
        program("securectr").with_file_name("")
    }

    /// A directory for what it needs while it runs.
    pub fn new_place() -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("securectr-tests-").tempdir_in("/run")?)
    }

    /// The part of its configuration that says where it keeps things.
    pub fn places(place: &Path) -> String {
        format!(
            "root = \"{0}/root\"\nstate = \"{0}/state\"\n[grpc]\naddress = \"{0}/sock\"\n",
            place.display()
        )
    }

    /// Starts one by a configuration that has the place's [`Containerd::places`].
    pub fn start_by(place: TempDir, config: PathBuf, programs: PathBuf) -> Result<Self> {
        let mut containerd =
            Self { process: spawn(place.path(), &config, &programs)?, place, config, programs };
        containerd.wait_until_it_answers()?;
        let archive = image_archive("busybox");
        let imported = containerd.ctr(["image", "import", "--base-name", IMAGE, path(&archive)?])?;
        ensure!(imported.code == 0, "import {}: {imported:?}", archive.display());
        Ok(containerd)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let log = self.place.path().join("log");
        eventually("containerd answers", || {
            if let Some(status) = self.process.try_wait()? {
                bail!("containerd: {status}: {}", fs::read_to_string(&log)?);
            }
            Ok(self.ctr(["version"])?.code == 0)
        })
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts it again after [`Containerd::kill`], with the state that it had.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = spawn(self.place.path(), &self.config, &self.programs)?;
        self.wait_until_it_answers()
    }

    pub fn command<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.place.path().join("sock")).args(words);
        command
    }

    pub fn ctr<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Result<Finished> {
        Started::spawn(&mut self.command(words))?.finish(b"")
    }

    /// `ctr run` of the busybox image, to be gone when it ends.
    pub fn run(&self, runtime: Runtime, id: &str, words: &[&str]) -> Result<Finished> {
        Started::spawn(&mut self.run_command(runtime, &["--rm"], id, words))?.finish(b"")
    }

    pub fn run_command(&self, runtime: Runtime, options: &[&str], id: &str, words: &[&str]) -> Command {
        let mut command = self.command(["run", "--runtime", runtime.name()]);
        command.args(options).args([&image_name(), id]).args(words);
        command
    }

    /// A container that runs until it is killed.
    pub fn detached(&self, runtime: Runtime, id: &str, words: &[&str]) -> Result<Detached<'_>> {
        // A container's output goes on after ctr has left.
        self.detached_with(runtime, id, &["--null-io"], words)
    }

    /// The same with options that say where its streams lead.
    pub fn detached_with(
        &self,
        runtime: Runtime,
        id: &str,
        options: &[&str],
        words: &[&str],
    ) -> Result<Detached<'_>> {
        let options: Vec<_> = ["-d"].iter().chain(options).copied().collect();
        let started = self.run_command(runtime, &options, id, words).output()?;
        ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Ok(Detached { containerd: self, id: id.to_owned() })
    }

    /// What `ctr task ls` says of a task: RUNNING, STOPPED and so on; none when it is not listed.
    pub fn status(&self, id: &str) -> Result<Option<String>> {
        let listed = self.ctr(["task", "ls"])?.out();
        let mut lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(lines.find(|words| words.first() == Some(&id)).and_then(|words| Some((*words.get(2)?).to_owned())))
    }

    /// Removes an ended task; `ctr` warns of an exit code that is not 0.
    pub fn remove_task(&self, id: &str) -> Result<Finished> {
        self.ctr(["task", "rm", id])
    }

    /// Its directory for what it needs while it runs.
    pub fn place(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.kill();
        // Snapshots may still be mounted below.
        let _ = Command::new("sh")
            .args(["-c", "grep -o \"$0/[^ ]*\" /proc/mounts | sort -r | xargs -r umount -l"])
            .arg(self.place.path())
            .status();
    }
}

/// A container in the background, removed with all that is left of it when this is dropped.
pub struct Detached<'a> {
    containerd: &'a Containerd,
    id: String,
}

impl Detached<'_> {
    /// Runs a command in it.
    pub fn exec(&self, words: &[&str]) -> Result<Finished> {
        let mut all = vec!["task", "exec", "--exec-id", "e1", self.id.as_str()];
        all.extend(words);
        self.containerd.ctr(all)
    }

    pub fn signal(&self, name: &str) -> Result<Finished> {
        self.containerd.ctr(["task", "kill", "-s", name, &self.id])
    }

    pub fn wait_until(&self, status: &str) -> Result<()> {
        eventually(&format!("{} is {status}", self.id), || {
            Ok(self.containerd.status(&self.id)?.as_deref() == Some(status))
        })
    }

    pub fn remove_task(&self) -> Result<Finished> {
        self.containerd.remove_task(&self.id)
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let _ = self.containerd.ctr(["task", "rm", "-f", &self.id]);
        let _ = self.containerd.ctr(["container", "rm", &self.id]);
    }
}

const IMAGE: &str = "busybox";

/// The archive of a demo image.
pub(crate) fn image_archive(name: &str) -> PathBuf {
    checkout().join("target/images").join(name).with_extension("tar")
}

fn image_name() -> String {
    format!("{IMAGE}:latest")
}

fn spawn(place: &Path, config: &Path, programs: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(place.join("log"))?;
    let path = std::env::var("PATH")?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "containerd", "--config"])
        .arg(config)
        .env("PATH", format!("{}:{path}", programs.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    spawn_daemon(command)
}

/// Starts what asks for a signal at its parent's death: that is the thread's (prctl(2)), so one does it that lives as long as this
/// process.
pub fn spawn_daemon(mut command: Command) -> Result<Child> {
    let what = format!("start {command:?}");
    let (started, is_started) = channel();
    spawn_thread(move || {
        let _ = started.send(command.spawn());
        loop {
            park();
        }
    });
    is_started.recv()?.context(what)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
