//! Docker, which drives the OCI command line through containerd's shim for runc, and wires networks by a hook.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{
    Containerd, Finished, LoopDevice, Runtime, Started, Terminal, eventually, fetch, load_bridge_modules,
    on_each, only_layer, program, spawn_daemon,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running dockerd with the images of busybox and nginx.
struct Docker {
    place: TempDir,
    _process: Child,
}

fn shared() -> Result<&'static Docker> {
    static SHARED: OnceLock<Docker> = OnceLock::new();
    if SHARED.get().is_none() {
        let _ = SHARED.set(Docker::start()?);
    }
    SHARED.get().context("dockerd")
}

pub(crate) fn docker(words: &[&str]) -> Result<Finished> {
    Started::spawn(&mut shared()?.command(words))?.finish(b"")
}

/// Where it keeps images and containers.
pub(crate) fn storage() -> Result<PathBuf> {
    Ok(shared()?.place.path().join("data"))
}

/// By `docker run`; the words are those of the image and its command.
fn run(runtime: Runtime, options: &[&str], words: &[&str]) -> Result<Finished> {
    let name = match runtime {
        Runtime::Runc => "runc",
        Runtime::Securectr => "securectr",
    };
    docker(&[&["run", "--runtime", name], options, words].concat())
}

impl Docker {
    fn start() -> Result<Self> {
        load_bridge_modules()?;
        let place = tempfile::Builder::new().prefix("securectr-tests-").tempdir_in("/run")?;
        let docker = Self { _process: dockerd(place.path())?, place };
        eventually("dockerd answers", || Ok(docker.call(&["version"])?.code == 0))?;
        docker.import("busybox", "sh")?;
        docker.import("nginx", "nginx")?;
        Ok(docker)
    }

    /// The root file system of a demo image: this version reads no OCI archive.
    fn import(&self, name: &str, program: &str) -> Result<()> {
        let layer = self.place.path().join("layer.tar");
        fs::write(&layer, only_layer(name)?)?;
        let program = format!("CMD [\"{program}\"]");
        let imported = self.call(&["import", "--change", &program, &layer.to_string_lossy(), name])?;
        ensure!(imported.code == 0, "{imported:?}");
        Ok(fs::remove_file(layer)?)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}/sock", self.place.path().display())).args(words);
        command
    }

    fn call(&self, words: &[&str]) -> Result<Finished> {
        Started::spawn(&mut self.command(words))?.finish(b"")
    }
}

/// A containerd runtime by its type, for a Docker that knows such (from 23 on), or else an OCI command line.
fn securectr() -> Result<Value> {
    let said = String::from_utf8(Command::new("dockerd").arg("--version").output()?.stdout)?;
    let major =
        said.split_whitespace().nth(2).and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    Ok(match major.with_context(|| format!("a version in {said:?}"))? {
        ..23 => json!({"path": program("securectr")}),
        23.. => json!({"runtimeType": Runtime::Securectr.name()}),
    })
}

/// It dies with this process.
fn dockerd(place: &Path) -> Result<Child> {
    let config = place.join("daemon.json");
    fs::write(&config, json!({"runtimes": {"securectr": securectr()?}}).to_string())?;
    let path = format!("{}:{}", Containerd::programs().display(), std::env::var("PATH")?);
    let log = File::create(place.join("log"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "dockerd", "--storage-driver", "overlay2", "--data-root"]);
    command.arg(place.join("data")).arg("--exec-root").arg(place.join("exec"));
    command
        .arg("--pidfile")
        .arg(place.join("pid"))
        .arg("--host")
        .arg(format!("unix://{}/sock", place.display()));
    command.arg("--config-file").arg(config).env("PATH", path);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    spawn_daemon(command)
}

#[test]
fn docker_runs_a_container_to_its_exit_code() -> Result<()> {
    on_each(|runtime| {
        let ran = run(runtime, &["--rm"], &["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
        assert_eq!((ran.code, ran.out().as_str(), ran.err().as_str()), (7, "out\n", "err\n"), "{ran:?}");
        let missing = run(runtime, &["--rm"], &["busybox", "nosuch"])?;
        assert_eq!(missing.code, 127, "{missing:?}");
        Ok(())
    })
}

#[test]
fn nginx_serves_under_docker_and_is_looked_into() -> Result<()> {
    on_each(|runtime| {
        let started = run(runtime, &["-d", "--name", "web", "-p", "8080:80"], &["nginx"])?;
        assert_eq!(started.code, 0, "{started:?}");
        let logs = Started::spawn(&mut shared()?.command(&["logs", "-f", "web"]))?;
        eventually("the page is served", || Ok(fetch("http://127.0.0.1:8080/")? == "a page of nginx\n"))?;
        let detached = docker(&["exec", "-dt", "web", "sh", "-c", "sleep 1000"])?;
        assert_eq!(detached.code, 0, "{detached:?}");
        let used = docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"])?;
        assert!(used.code == 0 && !used.out().starts_with("0B"), "{used:?}");
        let exec = docker(&["exec", "web", "sh", "-c", "cat /proc/1/comm; exit 5"])?;
        assert_eq!((exec.code, exec.out().as_str()), (5, "nginx\n"), "{exec:?}");
        let words = ["exec", "-it", "web", "sh", "-c", "echo ready; read line; echo got $line; exit 4"];
        let mut terminal = Terminal::spawn(&shared()?.command(&words), 100, 30)?;
        terminal.expect("ready")?;
        terminal.type_keys("words\n")?;
        terminal.expect("got words")?;
        assert_eq!(terminal.finish()?, 4);
        // The image's server ends by itself when it is asked to.
        let stopped = docker(&["stop", "-t", "20", "web"])?;
        assert_eq!(stopped.code, 0, "{stopped:?}");
        let logged = logs.finish(b"")?;
        assert!(logged.out().contains("GET / HTTP/1.1"), "{logged:?}");
        let status = docker(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "web"])?;
        assert_eq!(status.out(), "exited 0\n", "{status:?}");
        assert_eq!(docker(&["rm", "web"])?.code, 0);
        Ok(())
    })
}

#[test]
fn docker_gives_a_container_a_block_device() -> Result<()> {
    on_each(|runtime| {
        let device = LoopDevice::new(1 << 20)?;
        let path = device.path.display();
        let write = "echo from docker | dd of=/dev/xvda bs=512 conv=notrunc 2>/dev/null";
        let given = format!("--device={path}:/dev/xvda");
        let ran = run(runtime, &["--rm", &given], &["busybox", "sh", "-c", write])?;
        assert_eq!(ran.code, 0, "{ran:?}");
        device.wait_until_free()?;
        assert_eq!(device.medium(0, 12)?, b"from docker\n");
        let given = format!("--device={path}:/dev/xvda:r");
        // Told by the exit code: Docker gives up output that is late by two seconds.
        let write = "(echo x >/dev/xvda) 2>&1 | grep 'Operation not permitted' && head -n 1 /dev/xvda | grep 'from docker'";
        let ran = run(runtime, &["--rm", &given], &["busybox", "sh", "-c", write])?;
        assert_eq!(ran.code, 0, "{ran:?}");
        Ok(())
    })
}

#[test]
fn a_container_of_docker_gets_more_memory_while_it_runs() -> Result<()> {
    on_each(|runtime| {
        let started = run(runtime, &["-d", "--name", "grows", "-m", "64m"], &["busybox", "sleep", "1000"])?;
        assert_eq!(started.code, 0, "{started:?}");
        let updated = docker(&["update", "--memory", "700m", "--memory-swap", "700m", "grows"])?;
        assert_eq!(updated.code, 0, "{updated:?}");
        let total = docker(&["exec", "grows", "sh", "-c", "grep MemTotal /proc/meminfo | tr -dc 0-9"])?;
        assert!(total.out().parse::<u64>()? >= 700 << 10, "{total:?}");
        assert_eq!(docker(&["rm", "-f", "grows"])?.code, 0);
        Ok(())
    })
}
