//! An OCI bundle of busybox, and a runtime's command line, as engines call it.

use std::{
    fs,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{fs::symlink, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Finished, Runtime, Started, eventually, program};

/// The container of every bundle.
const ID: &str = "c1";

/// A bundle, and a runtime that keeps its records beside it.
pub struct Bundle {
    place: TempDir,
    program: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// An id is one container's on the whole host, so there is one bundle at a time.
static TURN: Mutex<()> = Mutex::new(());

impl Bundle {
    /// From the runtime's own example, with these arguments, no terminal, and a root that can be written.
    pub fn new(runtime: Runtime, args: &[&str]) -> Result<Self> {
        let place = tempfile::Builder::new().prefix("securectr-tests-").tempdir_in("/run")?;
        install_busybox(&place.path().join("rootfs/bin"))?;
        let program = match runtime {
            Runtime::Runc => PathBuf::from("runc"),
            Runtime::Securectr => program("securectr"),
        };
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = Self { place, program, _turn: turn };
        let made = bundle.command(&["spec"]).current_dir(bundle.place.path()).status()?;
        ensure!(made.success(), "make an example");
        bundle.set("process.args", json!(args))?;
        bundle.set("process.terminal", json!(false))?;
        bundle.set("root.readonly", json!(false))?;
        Ok(bundle)
    }

    /// Changes config.json.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut spec: Value = serde_json::from_str(&self.read("config.json")?)?;
        change(&mut spec);
        Ok(fs::write(self.path("config.json"), serde_json::to_vec(&spec)?)?)
    }

    /// Sets a property of config.json, which is named as in `process.user.uid`. What is missing on the way is made.
    pub fn set(&self, property: &str, value: Value) -> Result<()> {
        let mut spec: Value = serde_json::from_str(&self.read("config.json")?)?;
        let mut at = &mut spec;
        for name in property.split('.') {
            if at.is_null() {
                *at = json!({});
            }
            at = at.as_object_mut().context(property.to_owned())?.entry(name).or_insert(Value::Null);
        }
        *at = value;
        Ok(fs::write(self.path("config.json"), serde_json::to_vec(&spec)?)?)
    }

    /// In the bundle.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.path(name)).with_context(|| format!("read {name}"))
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.path("records")).args(words);
        command
    }

    pub fn call(&self, words: &[&str]) -> Result<Finished> {
        Started::spawn(&mut self.command(words))?.finish(b"")
    }

    /// The same, which has to succeed.
    pub fn succeed(&self, words: &[&str]) -> Result<()> {
        let finished = self.call(words)?;
        ensure!(finished.code == 0, "{words:?}: {finished:?}");
        Ok(())
    }

    /// The same, which has to fail.
    pub fn fail(&self, words: &[&str]) -> Result<Finished> {
        let finished = self.call(words)?;
        ensure!(finished.code != 0, "{words:?} succeeded: {finished:?}");
        Ok(finished)
    }

    /// It holds the streams that it was created with: they go to files.
    pub fn create(&self, options: &[&str]) -> Result<()> {
        ensure!(self.try_create(options)?, "create: {}", self.read("err")?);
        Ok(())
    }

    /// Whether that succeeds.
    pub fn try_create(&self, options: &[&str]) -> Result<bool> {
        let created = self
            .command(&["create", "--bundle"])
            .arg(self.place.path())
            .arg("--pid-file")
            .arg(self.path("pid"))
            .args(options)
            .arg(ID)
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.path("out"))?)
            .stderr(fs::File::create(self.path("err"))?)
            .status()?;
        Ok(created.success())
    }

    /// Creates it with a terminal, which is the engine's, that is ours.
    pub fn create_with_terminal(&self) -> Result<fs::File> {
        self.set("process.terminal", json!(true))?;
        let socket = self.path("console.sock");
        let engine = UnixListener::bind(&socket)?;
        self.create(&["--console-socket", &socket.to_string_lossy()])?;
        Ok(fs::File::from(receive(&engine)?))
    }

    /// Its whole life. Answers with what it wrote to standard output.
    pub fn run(&self) -> Result<String> {
        self.create(&[])?;
        self.succeed(&["start", ID])?;
        self.wait_until("stopped")?;
        eventually("its last output", || Ok(!self.pid_is_alive()?))?;
        self.succeed(&["delete", ID])?;
        self.read("out")
    }

    /// A member of the container's state.
    pub fn state(&self, member: &str) -> Result<Value> {
        let state = self.whole_state()?;
        state.get(member).cloned().with_context(|| format!("{member} in {state}"))
    }

    pub fn whole_state(&self) -> Result<Value> {
        let state = self.call(&["state", ID])?;
        ensure!(state.code == 0, "{state:?}");
        Ok(serde_json::from_slice(&state.stdout)?)
    }

    pub fn wait_until(&self, status: &str) -> Result<()> {
        eventually(status, || Ok(self.state("status")? == status))
    }

    /// One that nobody waited for is not.
    pub fn pid_is_alive(&self) -> Result<bool> {
        let Ok(stat) = fs::read_to_string(Path::new("/proc").join(self.read("pid")?).join("stat")) else {
            return Ok(false);
        };
        // The state stands behind the name, which is in parentheses (proc(5)).
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        Ok(!matches!(state, Some('Z' | 'X')))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", ID]);
    }
}

/// With all its names.
fn install_busybox(bin: &Path) -> Result<()> {
    fs::create_dir_all(bin)?;
    fs::copy("/bin/busybox", bin.join("busybox"))?;
    let listed = Command::new("/bin/busybox").arg("--list").output()?;
    for name in String::from_utf8(listed.stdout)?.lines().filter(|&name| name != "busybox") {
        symlink("busybox", bin.join(name))?;
    }
    Ok(())
}

fn receive(engine: &UnixListener) -> Result<OwnedFd> {
    let (connection, _) = engine.accept()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&connection, &mut [IoSliceMut::new(&mut [0; 64])], &mut ancillary, RecvFlags::empty())?;
    let received = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.context("no terminal came")
}
