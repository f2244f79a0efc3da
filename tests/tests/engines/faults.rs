//! What dies, and what is then left: nothing.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{Containerd, Runtime, Started, containerd, eventually, no_process_is_left, on_each};

/// Kills a program of the container's by name.
fn kill_all(program: &str) -> Result<()> {
    let killed = Command::new("pkill").args(["-KILL", "-f", program]).status()?;
    ensure!(killed.success(), "there is no {program}");
    Ok(())
}

/// No process of ours, no state, no mount.
fn nothing_is_left_of(id: &str) -> Result<()> {
    no_process_is_left()?;
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
fn who_is_killed_while_a_container_is_made_leaves_nothing() -> Result<()> {
    for program in ["securectr-vmm", "securectr-files", "containerd-shim-securectr-v2"] {
        for moment_ms in [150, 400, 700, 1000] {
            println!("{program} after {moment_ms} ms");
            let words = ["sleep", "1000"];
            let mut command =
                containerd()?.run_command(Runtime::Securectr, &["-d", "--null-io"], "early", &words);
            let started = Started::spawn(&mut command)?;
            sleep(Duration::from_millis(moment_ms));
            // There may be none yet, or the container may run: whatever it is, it can be removed.
            let _ = kill_all(program);
            started.finish(b"")?;
            containerd()?.ctr(["task", "rm", "-f", "early"])?;
            eventually("the container can be removed", || {
                containerd()?.ctr(["container", "rm", "early"])?;
                Ok(!containerd()?.ctr(["container", "ls", "-q"])?.out().contains("early"))
            })?;
            nothing_is_left_of("early").with_context(|| format!("{program} after {moment_ms} ms"))?;
        }
    }
    Ok(())
}

#[test]
fn a_guest_that_panics_ends_its_container_and_says_so() -> Result<()> {
    let panic = ["sh", "-c", "sleep 1; echo 2 >/proc/sys/vm/panic_on_oom; tail /dev/zero"];
    let options = ["-d", "--null-io", "--privileged", "--memory-limit", "67108864"];
    let mut command = containerd()?.run_command(Runtime::Securectr, &options, "panics", &panic);
    ensure!(command.status()?.success());
    eventually("it has ended", || Ok(containerd()?.status("panics")?.as_deref() == Some("STOPPED")))?;
    let removed = containerd()?.remove_task("panics")?;
    assert!(removed.err().contains("exit with non-zero exit code 137"), "{removed:?}");
    let log = fs::read_to_string(containerd()?.place().join("log"))?;
    assert!(log.contains("the guest kernel panicked: "), "the cause is in containerd's log");
    assert_eq!(containerd()?.ctr(["container", "rm", "panics"])?.code, 0);
    nothing_is_left_of("panics")
}

#[test]
fn a_guest_that_hangs_can_be_asked_about_killed_and_removed() -> Result<()> {
    let container = containerd()?.detached(Runtime::Securectr, "hangs", &["sleep", "1000"])?;
    container.wait_until("RUNNING")?;
    ensure!(Command::new("pkill").args(["-STOP", "-x", "securectr-vmm"]).status()?.success());
    let began = Instant::now();
    assert_eq!(containerd()?.status("hangs")?.as_deref(), Some("RUNNING"));
    ensure!(began.elapsed() < Duration::from_secs(5), "the state took {:?}", began.elapsed());
    assert_eq!(container.signal("KILL")?.code, 0);
    container.wait_until("STOPPED")?;
    container.remove_task()?;
    drop(container);
    nothing_is_left_of("hangs")
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
