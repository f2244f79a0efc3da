//! Podman, which drives the OCI command line through conmon.

use std::{path::Path, process::Command, sync::OnceLock};

use anyhow::{Context, Result, ensure};
use securectr_tests::{
    Finished, LoopDevice, Runtime, Started, eventually, fetch, image, load_bridge_modules, on_each, program,
};
use tempfile::TempDir;

/// Podman's state for all tests here, with the images of busybox and nginx in it.
fn place() -> Result<&'static Path> {
    static PLACE: OnceLock<TempDir> = OnceLock::new();
    if PLACE.get().is_none() {
        let place = tempfile::Builder::new().prefix("securectr-tests-").tempdir_in("/run")?;
        let _ = PLACE.set(place);
        for name in ["busybox", "nginx"] {
            let pulled = podman(Runtime::Runc, &["pull", "--quiet", &image(name)])?;
            ensure!(pulled.code == 0, "{pulled:?}");
            let tagged = podman(Runtime::Runc, &["tag", pulled.out().trim(), name])?;
            ensure!(tagged.code == 0, "{tagged:?}");
        }
    }
    PLACE.get().map(TempDir::path).context("a place")
}

fn command(runtime: Runtime, words: &[&str]) -> Result<Command> {
    let place = place()?;
    let runtime = match runtime {
        Runtime::Runc => "/usr/sbin/runc".into(),
        Runtime::Securectr => program("securectr"),
    };
    let mut command = Command::new("podman");
    command.arg("--root").arg(place.join("root")).arg("--runroot").arg(place.join("run"));
    command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "overlay"]);
    command.arg("--runtime").arg(runtime).args(words);
    Ok(command)
}

fn podman(runtime: Runtime, words: &[&str]) -> Result<Finished> {
    Started::spawn(&mut command(runtime, words)?)?.finish(b"")
}

#[test]
fn podman_runs_a_container_to_its_exit_code() -> Result<()> {
    on_each(|runtime| {
        let words =
            ["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"];
        let ran = podman(runtime, &words)?;
        assert_eq!((ran.code, ran.out().as_str(), ran.err().as_str()), (7, "out\n", "err\n"), "{ran:?}");
        Ok(())
    })
}

#[test]
fn podman_adds_processes_and_kills() -> Result<()> {
    on_each(|runtime| {
        let started =
            podman(runtime, &["run", "-d", "--name", "c1", "--network", "none", "busybox", "sleep", "1000"])?;
        assert_eq!(started.code, 0, "{started:?}");
        let listed = podman(runtime, &["ps", "--filter", "status=running", "--format", "{{.Names}}"])?;
        assert_eq!(listed.out(), "c1\n", "{listed:?}");
        let exec = podman(runtime, &["exec", "c1", "sh", "-c", "cat /proc/1/comm; exit 5"])?;
        assert_eq!((exec.code, exec.out().as_str()), (5, "sleep\n"), "{exec:?}");
        let killed = podman(runtime, &["kill", "c1"])?;
        assert_eq!(killed.code, 0, "{killed:?}");
        eventually("it has ended", || {
            Ok(podman(runtime, &["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "c1"])?
                .out()
                == "exited 137\n")
        })?;
        let removed = podman(runtime, &["rm", "c1"])?;
        assert_eq!(removed.code, 0, "{removed:?}");
        Ok(())
    })
}

#[test]
fn a_container_of_podman_gets_more_memory_while_it_runs() -> Result<()> {
    on_each(|runtime| {
        let options = ["run", "-d", "--name", "grows", "--network", "none", "--memory", "64m"];
        let started = podman(runtime, &[&options[..], &["busybox", "sleep", "1000"]].concat())?;
        assert_eq!(started.code, 0, "{started:?}");
        let updated = podman(runtime, &["update", "--memory", "700m", "--memory-swap", "700m", "grows"])?;
        assert_eq!(updated.code, 0, "{updated:?}");
        let words = ["exec", "grows", "sh", "-c", "grep MemTotal /proc/meminfo | tr -dc 0-9"];
        let total = podman(runtime, &words)?;
        assert!(total.out().parse::<u64>()? >= 700 << 10, "{total:?}");
        assert_eq!(podman(runtime, &["rm", "-f", "-t", "0", "grows"])?.code, 0);
        Ok(())
    })
}

#[test]
fn podman_tells_a_program_that_is_not_there_by_its_code() -> Result<()> {
    on_each(|runtime| {
        let ran = podman(runtime, &["run", "--rm", "--network", "none", "busybox", "nosuch"])?;
        assert_eq!(ran.code, 127, "{ran:?}");
        Ok(())
    })
}

#[test]
fn nginx_serves_under_podman_on_a_published_port() -> Result<()> {
    load_bridge_modules()?;
    on_each(|runtime| {
        let started = podman(runtime, &["run", "-d", "--name", "web", "-p", "8080:80", "nginx"])?;
        assert_eq!(started.code, 0, "{started:?}");
        eventually("the page is served", || Ok(fetch("http://127.0.0.1:8080/")? == "a page of nginx\n"))?;
        let removed = podman(runtime, &["rm", "-f", "-t", "0", "web"])?;
        assert_eq!(removed.code, 0, "{removed:?}");
        Ok(())
    })
}

#[test]
fn podman_gives_a_container_a_block_device() -> Result<()> {
    on_each(|runtime| {
        let device = LoopDevice::new(1 << 20)?;
        let given = format!("--device={}:/dev/xvda", device.path.display());
        let write =
            "echo from podman | dd of=/dev/xvda bs=512 conv=notrunc 2>/dev/null && head -n 1 /dev/xvda";
        let ran =
            podman(runtime, &["run", "--rm", "--network", "none", &given, "busybox", "sh", "-c", write])?;
        assert_eq!((ran.code, ran.out().as_str()), (0, "from podman\n"), "{ran:?}");
        device.wait_until_free()?;
        assert_eq!(device.medium(0, 12)?, b"from podman\n");
        Ok(())
    })
}
