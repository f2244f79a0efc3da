//! The OCI command line, as engines call it.

use std::{
    fs,
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use securectr_tests::{Finished, Runtime, Started, eventually, on_each, program};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A bundle of busybox, and a runtime that keeps its records beside it.
struct Bundle {
    place: TempDir,
    program: PathBuf,
}

impl Bundle {
    /// From the runtime's own example, with these arguments, no terminal, and a root that can be written.
    fn new(runtime: Runtime, args: &[&str]) -> Result<Self> {
        let place = tempfile::Builder::new().prefix("securectr-tests-").tempdir_in("/run")?;
        let bin = place.path().join("rootfs/bin");
        fs::create_dir_all(&bin)?;
        fs::copy("/bin/busybox", bin.join("busybox"))?;
        for name in ["sh", "cat", "echo", "sleep", "id", "hostname", "tty", "stty", "head"] {
            std::os::unix::fs::symlink("busybox", bin.join(name))?;
        }
        let program = match runtime {
            Runtime::Runc => PathBuf::from("runc"),
            Runtime::Securectr => program("securectr"),
        };
        let bundle = Self { place, program };
        let made = bundle.command(&["spec"]).current_dir(bundle.place.path()).status()?;
        ensure!(made.success(), "make an example");
        bundle.change("/process/args", json!(args))?;
        bundle.change("/process/terminal", json!(false))?;
        bundle.change("/root/readonly", json!(false))?;
        Ok(bundle)
    }

    /// Changes what a JSON pointer (RFC 6901) finds in the spec.
    fn change(&self, pointer: &str, value: Value) -> Result<()> {
        let path = self.place.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&path)?)?;
        *spec.pointer_mut(pointer).context(pointer.to_owned())? = value;
        Ok(fs::write(&path, serde_json::to_vec(&spec)?)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.path("records")).args(words);
        command
    }

    fn call(&self, words: &[&str]) -> Result<Finished> {
        Started::spawn(&mut self.command(words))?.finish(b"")
    }

    /// It holds the streams that it was created with: they go to files.
    fn create(&self, options: &[&str]) -> Result<()> {
        let created = self
            .command(&["create", "--bundle"])
            .arg(self.place.path())
            .arg("--pid-file")
            .arg(self.path("pid"))
            .args(options)
            .arg("c1")
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.path("out"))?)
            .stderr(fs::File::create(self.path("err"))?)
            .status()?;
        ensure!(created.success(), "create: {}", fs::read_to_string(self.path("err"))?);
        Ok(())
    }

    /// A member of the container's state.
    fn state(&self, member: &str) -> Result<Value> {
        let state = self.call(&["state", "c1"])?;
        ensure!(state.code == 0, "{state:?}");
        let state: Value = serde_json::from_slice(&state.stdout)?;
        state.get(member).cloned().with_context(|| format!("{member} in {state}"))
    }

    fn wait_until(&self, status: &str) -> Result<()> {
        eventually(status, || Ok(self.state("status")? == status))
    }

    fn pid_is_alive(&self) -> Result<bool> {
        Ok(Path::new("/proc").join(fs::read_to_string(self.path("pid"))?).exists())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", "c1"]);
    }
}

#[test]
fn a_container_goes_from_created_to_running_to_stopped_to_gone() -> Result<()> {
    on_each(|runtime| {
        let bundle = Bundle::new(runtime, &["sh", "-c", "echo said; exec sleep 1000"])?;
        bundle.create(&[])?;
        assert_eq!(bundle.state("status")?, "created");
        assert_eq!(bundle.state("pid")?.to_string(), fs::read_to_string(bundle.path("pid"))?);
        assert!(bundle.pid_is_alive()? && fs::read_to_string(bundle.path("out"))?.is_empty());
        assert_eq!(bundle.call(&["start", "c1"])?.code, 0);
        assert_eq!(bundle.state("status")?, "running");
        eventually("it speaks", || Ok(fs::read_to_string(bundle.path("out"))? == "said\n"))?;
        assert_eq!(bundle.call(&["kill", "c1", "KILL"])?.code, 0);
        bundle.wait_until("stopped")?;
        assert!(!bundle.pid_is_alive()?);
        assert_eq!(bundle.call(&["delete", "c1"])?.code, 0);
        assert_eq!(bundle.call(&["state", "c1"])?.code, 1);
        Ok(())
    })
}

#[test]
fn what_a_container_is_not_ready_for_is_refused_in_runcs_words() -> Result<()> {
    on_each(|runtime| {
        let bundle = Bundle::new(runtime, &["sleep", "1000"])?;
        let refused = |words: &[&str], reason: &str| -> Result<()> {
            let finished = bundle.call(words)?;
            // In runc's log format, quotes are escaped.
            let says = finished.err().replace('\\', "").contains(reason);
            assert!(finished.code != 0 && says, "{words:?}: {finished:?}");
            Ok(())
        };
        refused(&["state", "c1"], "container does not exist")?;
        bundle.create(&[])?;
        let again = bundle.place.path().to_string_lossy().into_owned();
        refused(&["create", "--bundle", &again, "c1"], "container with given ID already exists")?;
        bundle.call(&["start", "c1"])?;
        refused(&["start", "c1"], "cannot start an already running container")?;
        refused(&["delete", "c1"], "that is not stopped")?;
        refused(&["exec", "c1", "nosuch"], r#"exec: "nosuch": executable file not found in $PATH"#)?;
        bundle.call(&["kill", "c1", "KILL"])?;
        bundle.wait_until("stopped")?;
        refused(&["kill", "c1", "KILL"], "container not running")?;
        refused(&["exec", "c1", "id"], "cannot exec in a stopped container")?;
        Ok(())
    })
}

#[test]
fn a_running_container_takes_more_processes() -> Result<()> {
    on_each(|runtime| {
        let bundle = Bundle::new(runtime, &["sleep", "1000"])?;
        bundle.create(&[])?;
        bundle.call(&["start", "c1"])?;
        let mut exec = bundle.command(&["exec", "c1", "sh", "-c", "cat; cat /proc/1/comm; exit 5"]);
        let ran = Started::spawn(&mut exec)?.finish(b"typed\n")?;
        assert_eq!((ran.code, ran.out().as_str()), (5, "typed\nsleep\n"), "{ran:?}");
        let pid = bundle.path("exec.pid");
        let mut detached = bundle.command(&["exec", "--detach", "--pid-file"]);
        let detached = detached.arg(&pid).args(["c1", "sleep", "1000"]).stdout(Stdio::null()).status()?;
        assert!(detached.success());
        let alive = || Ok(Path::new("/proc").join(fs::read_to_string(&pid)?).exists());
        assert!(alive()?);
        bundle.call(&["kill", "c1", "KILL"])?;
        eventually("it ends with its container", || alive().map(|alive| !alive))
    })
}

#[test]
fn a_paused_container_stands_still() -> Result<()> {
    on_each(|runtime| {
        let bundle = Bundle::new(runtime, &["sh", "-c", "while :; do echo x; sleep 0.1; done"])?;
        bundle.create(&[])?;
        bundle.call(&["start", "c1"])?;
        let paused = bundle.call(&["pause", "c1"])?;
        assert_eq!(paused.code, 0, "{paused:?}");
        assert_eq!(bundle.state("status")?, "paused");
        // What was on its way arrives.
        std::thread::sleep(Duration::from_secs(1));
        let said = fs::metadata(bundle.path("out"))?.len();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(fs::metadata(bundle.path("out"))?.len(), said);
        assert_eq!(bundle.call(&["resume", "c1"])?.code, 0);
        assert_eq!(bundle.state("status")?, "running");
        eventually("it goes on", || Ok(fs::metadata(bundle.path("out"))?.len() > said))
    })
}

#[test]
fn limits_change_while_a_container_runs() -> Result<()> {
    on_each(|runtime| {
        let bundle = Bundle::new(runtime, &["sleep", "1000"])?;
        bundle.create(&[])?;
        bundle.call(&["start", "c1"])?;
        let updated = bundle.call(&["update", "--memory", "100000000", "--pids-limit", "77", "c1"])?;
        assert_eq!(updated.code, 0, "{updated:?}");
        let stats = bundle.call(&["events", "--stats", "c1"])?;
        let stats: Value = serde_json::from_slice(&stats.stdout).context(format!("{stats:?}"))?;
        assert_eq!(stats["data"]["pids"]["limit"], 77, "{stats}");
        let limit = stats["data"]["memory"]["usage"]["limit"].as_u64().context("limit")?;
        // In whole pages.
        assert!((99_990_000..=100_000_000).contains(&limit), "{stats}");
        Ok(())
    })
}

#[test]
fn the_engine_gets_the_terminal() -> Result<()> {
    on_each(|runtime| {
        let bundle = Bundle::new(runtime, &["sh", "-c", "tty; read line; echo got $line"])?;
        bundle.change("/process/terminal", json!(true))?;
        let socket = bundle.path("console.sock");
        let engine = UnixListener::bind(&socket)?;
        bundle.create(&["--console-socket", &socket.to_string_lossy()])?;
        let mut terminal = fs::File::from(receive(&engine)?);
        bundle.call(&["start", "c1"])?;
        read_until(&mut terminal, "/dev/pts/0")?;
        terminal.write_all(b"words\n")?;
        read_until(&mut terminal, "got words")?;
        bundle.wait_until("stopped")
    })
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

fn read_until(terminal: &mut fs::File, text: &str) -> Result<()> {
    let mut seen = String::new();
    let mut chunk = [0; 256];
    while !seen.contains(text) {
        let len = terminal.read(&mut chunk).with_context(|| format!("no {text:?} in {seen:?}"))?;
        seen.push_str(&String::from_utf8_lossy(chunk.get(..len).unwrap_or_default()));
    }
    Ok(())
}
