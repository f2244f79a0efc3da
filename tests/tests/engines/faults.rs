//! What dies, and what is then left: nothing.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{Containerd, Runtime, containerd, eventually, on_each};

/// Kills a program of the container's by name.
fn kill_all(program: &str) -> Result<()> {
    let killed = Command::new("pkill").args(["-KILL", "-f", program]).status()?;
    ensure!(killed.success(), "there is no {program}");
    Ok(())
}

/// No process of ours, no state, no mount.
fn nothing_is_left_of(id: &str) -> Result<()> {
    eventually("no process is left", || {
        let ours = Command::new("pgrep").args(["-f", "securectr-(vmm|files)|shim-securectr"]).output()?;
        Ok(ours.stdout.is_empty())
    })?;
    let state = Path::new("/run/securectr");
    if state.exists() {
        // A killed server's is swept by the next.
        let left: Vec<_> = fs::read_dir(state)?.collect();
        ensure!(left.len() <= 1, "{left:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&format!("/{id}/rootfs ")), "{mounts}");
    Ok(())
}

#[test]
fn a_machine_that_is_killed_is_a_container_that_was_killed() -> Result<()> {
    for program in ["securectr-vmm", "securectr-files"] {
        let container = containerd()?.detached(Runtime::Securectr, "killed", &["sleep", "1000"])?;
        container.wait_until("RUNNING")?;
        kill_all(program)?;
        container.wait_until("STOPPED")?;
        let removed = container.remove_task()?;
        assert!(removed.err().contains("exit with non-zero exit code 137"), "{program}: {removed:?}");
        drop(container);
        nothing_is_left_of("killed")?;
    }
    Ok(())
}

#[test]
fn a_killed_server_takes_its_machine_along() -> Result<()> {
    let container = containerd()?.detached(Runtime::Securectr, "server", &["sleep", "1000"])?;
    container.wait_until("RUNNING")?;
    kill_all("containerd-shim-securectr-v2")?;
    eventually("containerd forgets it", || {
        Ok(containerd()?.status("server")?.is_none_or(|s| s != "RUNNING"))
    })?;
    drop(container);
    nothing_is_left_of("server")
}

#[test]
fn who_kills_the_pid_of_a_container_kills_the_container() -> Result<()> {
    on_each(|runtime| {
        let container = containerd()?.detached(runtime, "by-pid", &["sleep", "1000"])?;
        container.wait_until("RUNNING")?;
        let listed = containerd()?.ctr(["task", "ps", "by-pid"])?.out();
        let pid = listed.split_whitespace().find(|word| word.parse::<u32>().is_ok()).context("a pid")?;
        ensure!(Command::new("kill").args(["-KILL", pid]).status()?.success(), "kill {pid}");
        container.wait_until("STOPPED")
    })
}

#[test]
fn a_container_outlives_containerd_and_its_end_is_not_lost() -> Result<()> {
    on_each(|runtime| {
        let mut containerd = Containerd::start()?;
        let started =
            containerd.run_command(runtime, &["-d", "--null-io"], "stays", &["sleep", "1000"]).status()?;
        let short = ["sh", "-c", "sleep 6; exit 3"];
        let short = containerd.run_command(runtime, &["-d", "--null-io"], "short", &short).status()?;
        ensure!(started.success() && short.success(), "start");
        containerd.kill()?;
        sleep(Duration::from_secs(8));
        containerd.start_again()?;
        assert_eq!(containerd.status("stays")?.as_deref(), Some("RUNNING"));
        assert_eq!(containerd.status("short")?.as_deref(), Some("STOPPED"));
        let short = containerd.remove_task("short")?;
        assert!(short.err().contains("exit with non-zero exit code 3"), "{short:?}");
        let killed = containerd.ctr(["task", "rm", "-f", "stays"])?;
        assert!(killed.err().contains("exit with non-zero exit code 137"), "{killed:?}");
        Ok(())
    })
}

#[test]
fn a_reader_that_stalls_does_not_keep_a_container_from_ending() -> Result<()> {
    on_each(|runtime| {
        let pipe = containerd()?.place().join(format!("stalled-{runtime:?}"));
        ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "mkfifo");
        // Open for reading, and never read.
        let reader = File::options().read(true).write(true).open(&pipe)?;
        let mut command = containerd()?.run_command(runtime, &["-d"], "flood", &["yes"]);
        let started = command.stdout(reader.try_clone()?).stderr(reader.try_clone()?).spawn()?;
        eventually("it runs", || Ok(containerd()?.status("flood")?.as_deref() == Some("RUNNING")))?;
        sleep(Duration::from_secs(2));
        let killed = containerd()?.ctr(["task", "kill", "-s", "SIGKILL", "flood"])?;
        assert_eq!(killed.code, 0, "{killed:?}");
        eventually("it ends", || Ok(containerd()?.status("flood")?.as_deref() == Some("STOPPED")))?;
        drop(started);
        containerd()?.ctr(["task", "rm", "-f", "flood"])?;
        let removed = containerd()?.ctr(["container", "rm", "flood"])?;
        assert_eq!(removed.code, 0, "{removed:?}");
        Ok(())
    })
}

#[test]
fn five_containers_start_at_once() -> Result<()> {
    on_each(|runtime| {
        let started = (0..5)
            .map(|n| {
                containerd()?
                    .run_command(runtime, &["--rm"], &format!("at-once-{n}"), &["true"])
                    .spawn()
                    .context("ctr")
            })
            .collect::<Result<Vec<_>>>()?;
        for mut each in started {
            assert!(each.wait()?.success());
        }
        Ok(())
    })
}
