//! Docker, which drives the OCI command line through containerd's shim for runc, and wires networks by a hook.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread::{park, spawn},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{Finished, Runtime, Started, eventually, on_each, program};
use tempfile::TempDir;

/// What Docker's bridge needs of a kernel that loads modules on demand only where it is told to.
const MODULES: [&str; 11] = [
    "overlay",
    "bridge",
    "veth",
    "br_netfilter",
    "iptable_nat",
    "iptable_filter",
    "ip6table_nat",
    "xt_MASQUERADE",
    "xt_conntrack",
    "xt_addrtype",
    "nf_nat",
];

/// A running dockerd with an image of busybox.
struct Docker {
    place: TempDir,
    _process: Child,
}

fn docker(words: &[&str]) -> Result<Finished> {
    static SHARED: OnceLock<Docker> = OnceLock::new();
    if SHARED.get().is_none() {
        let _ = SHARED.set(Docker::start()?);
    }
    SHARED.get().context("dockerd")?.call(words)
}

/// `docker run` of the image.
fn run(runtime: Runtime, options: &[&str], words: &[&str]) -> Result<Finished> {
    let name = match runtime {
        Runtime::Runc => "runc",
        Runtime::Securectr => "securectr",
    };
    docker(&[&["run", "--runtime", name], options, &["busybox"], words].concat())
}

impl Docker {
    fn start() -> Result<Self> {
        let loaded = Command::new("modprobe").arg("--all").args(MODULES).status()?;
        ensure!(loaded.success(), "modprobe");
        let place = tempfile::Builder::new().prefix("securectr-tests-").tempdir_in("/run")?;
        let docker = Self { _process: dockerd(place.path())?, place };
        eventually("dockerd answers", || Ok(docker.call(&["version"])?.code == 0))?;
        docker.import()?;
        Ok(docker)
    }

    /// This version reads no OCI archive.
    fn import(&self) -> Result<()> {
        let root = self.place.path().join("image");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        for name in ["sh", "cat", "echo", "sleep", "ip", "httpd", "mkdir", "tail"] {
            symlink("busybox", root.join("bin").join(name))?;
        }
        let archive = self.place.path().join("image.tar");
        let packed = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".").status()?;
        ensure!(packed.success(), "tar");
        let imported = self.call(&["import", &archive.to_string_lossy(), "busybox"])?;
        ensure!(imported.code == 0, "{imported:?}");
        Ok(())
    }

    fn call(&self, words: &[&str]) -> Result<Finished> {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}/sock", self.place.path().display())).args(words);
        Started::spawn(&mut command)?.finish(b"")
    }
}

/// It dies with this process, not with the thread that asked for it first.
fn dockerd(place: &Path) -> Result<Child> {
    let log = File::create(place.join("log"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "dockerd", "--storage-driver", "overlay2", "--data-root"]);
    command.arg(place.join("data")).arg("--exec-root").arg(place.join("exec"));
    command
        .arg("--pidfile")
        .arg(place.join("pid"))
        .arg("--host")
        .arg(format!("unix://{}/sock", place.display()));
    command.arg("--add-runtime").arg(format!("securectr={}", program("securectr").display()));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let (started, is_started) = std::sync::mpsc::channel();
    spawn(move || {
        let _ = started.send(command.spawn());
        loop {
            park();
        }
    });
    is_started.recv_timeout(Duration::from_secs(60))?.context("start dockerd")
}

#[test]
fn docker_runs_a_container_to_its_exit_code() -> Result<()> {
    on_each(|runtime| {
        let ran = run(runtime, &["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"])?;
        assert_eq!((ran.code, ran.out().as_str(), ran.err().as_str()), (7, "out\n", "err\n"), "{ran:?}");
        let missing = run(runtime, &["--rm"], &["nosuch"])?;
        assert_eq!(missing.code, 127, "{missing:?}");
        Ok(())
    })
}

#[test]
fn docker_publishes_a_port_adds_a_process_and_stops() -> Result<()> {
    on_each(|runtime| {
        let script = "mkdir /www; echo a page >/www/index.html; echo serving; exec httpd -f -p 80 -h /www";
        let started = run(runtime, &["-d", "--name", "web", "-p", "8081:80"], &["sh", "-c", script])?;
        assert_eq!(started.code, 0, "{started:?}");
        eventually("the page is served", || {
            let fetched =
                Command::new("wget").args(["-q", "-T", "5", "-O", "-", "http://127.0.0.1:8081/"]).output()?;
            Ok(fetched.stdout == b"a page\n")
        })?;
        let used = docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"])?;
        assert!(used.code == 0 && !used.out().starts_with("0B"), "{used:?}");
        let exec = docker(&["exec", "web", "sh", "-c", "cat /proc/1/comm; exit 5"])?;
        assert_eq!((exec.code, exec.out().as_str()), (5, "httpd\n"), "{exec:?}");
        assert_eq!(docker(&["logs", "web"])?.out(), "serving\n");
        let stopped = docker(&["stop", "-t", "1", "web"])?;
        assert_eq!(stopped.code, 0, "{stopped:?}");
        let status = docker(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "web"])?;
        assert_eq!(status.out(), "exited 137\n", "{status:?}");
        assert_eq!(docker(&["rm", "web"])?.code, 0);
        Ok(())
    })
}
