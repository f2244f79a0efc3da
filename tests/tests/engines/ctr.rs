//! containerd's own client.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use securectr_tests::{Runtime, Started, Terminal, containerd, eventually, on_each};

#[test]
fn a_container_speaks_and_ends_as_it_does_with_runc() -> Result<()> {
    on_each(|runtime| {
        let ran = containerd()?.run(runtime, "speaks", &["sh", "-c", "echo out; echo err >&2; exit 7"])?;
        assert_eq!((ran.code, ran.out().as_str(), ran.err().as_str()), (7, "out\n", "err\n"), "{ran:?}");
        Ok(())
    })
}

#[test]
fn a_container_has_a_kernel_of_its_own() -> Result<()> {
    let ran = containerd()?.run(Runtime::Securectr, "kernel", &["uname", "-r"])?;
    assert!(ran.out().trim().ends_with("-securectr"), "{ran:?}");
    Ok(())
}

#[test]
fn input_reaches_the_container_to_its_end() -> Result<()> {
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sum = Started::spawn(&mut Command::new("sha256sum"))?.finish(&bytes)?.out();
    on_each(|runtime| {
        let mut command = containerd()?.run_command(runtime, &["--rm"], "input", &["sha256sum"]);
        let ran = Started::spawn(&mut command)?.finish(&bytes)?;
        assert_eq!((ran.code, ran.out()), (0, sum.clone()), "{ran:?}");
        Ok(())
    })
}

#[test]
fn a_terminal_is_one() -> Result<()> {
    on_each(|runtime| {
        let words = ["sh", "-c", "tty; read line; echo got $line; exit 4"];
        let command = containerd()?.run_command(runtime, &["--rm", "-t"], "terminal", &words);
        let mut terminal = Terminal::spawn(&command, 100, 30)?;
        terminal.expect("/dev/pts/0")?;
        terminal.type_keys("words\n")?;
        terminal.expect("got words")?;
        assert_eq!(terminal.finish()?, 4);
        Ok(())
    })
}

#[test]
fn a_program_that_is_not_there_is_named() -> Result<()> {
    on_each(|runtime| {
        let ran = containerd()?.run(runtime, "nosuch", &["nosuch"])?;
        let words = r#"exec: \"nosuch\": executable file not found in $PATH"#;
        let text = ran.err();
        assert!(
            ran.code == 1 && (text.contains(words) || text.contains(&words.replace('\\', ""))),
            "{ran:?}"
        );
        assert_eq!(containerd()?.status("nosuch")?, None);
        Ok(())
    })
}

#[test]
fn a_running_container_takes_more_processes() -> Result<()> {
    on_each(|runtime| {
        let container = containerd()?.detached(runtime, "execs", &["sleep", "1000"])?;
        let ran = container.exec(&["sh", "-c", "cat /proc/1/comm; exit 5"])?;
        assert_eq!((ran.code, ran.out().as_str()), (5, "sleep\n"), "{ran:?}");
        let again = container.exec(&["true"])?;
        assert_eq!(again.code, 0, "{again:?}");
        Ok(())
    })
}

#[test]
fn a_signal_ends_a_container_and_its_code_tells_which() -> Result<()> {
    on_each(|runtime| {
        let words = ["sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.1; done"];
        let container = containerd()?.detached(runtime, "signals", &words)?;
        container.wait_until("RUNNING")?;
        // The shell may not have set its trap yet, and PID 1 ignores what it has no trap for.
        eventually("the trap ends it", || {
            container.signal("SIGUSR1")?;
            Ok(containerd()?.status("signals")?.as_deref() == Some("STOPPED"))
        })?;
        let late = container.signal("SIGKILL")?;
        assert!(late.code == 1 && late.err().contains("process already finished: not found"), "{late:?}");
        let removed = container.remove_task()?;
        assert!(removed.err().contains("exit with non-zero exit code 9"), "{removed:?}");
        Ok(())
    })
}

#[test]
fn a_container_that_runs_is_not_removed() -> Result<()> {
    on_each(|runtime| {
        let container = containerd()?.detached(runtime, "runs", &["sleep", "1000"])?;
        let removed = container.remove_task()?;
        assert!(
            removed.code == 1 && removed.err().contains("must be stopped before deletion"),
            "{removed:?}"
        );
        assert_eq!(containerd()?.status("runs")?.as_deref(), Some("RUNNING"));
        Ok(())
    })
}

#[test]
fn events_come_in_the_order_in_which_things_happen() -> Result<()> {
    on_each(|runtime| {
        let log = containerd()?.place().join(format!("events-{runtime:?}"));
        let said = || Ok::<_, anyhow::Error>(fs::read_to_string(&log)?);
        let mut listener = containerd()?.command(["events"]).stdout(File::create(&log)?).spawn()?;
        // One of another kind shows that it listens.
        eventually("ctr listens", || {
            containerd()?.ctr(["image", "tag", "--force", "busybox:latest", "busybox:listening"])?;
            Ok(said()?.contains("/images/"))
        })?;
        containerd()?.run(runtime, "events", &["true"])?;
        eventually("the last event", || Ok(said()?.contains("/containers/delete")))?;
        listener.kill()?;
        listener.wait()?;
        let said = said()?;
        let topics: Vec<_> = said.split_whitespace().filter(|word| word.starts_with("/tasks/")).collect();
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
        Ok(())
    })
}

#[test]
fn what_is_not_there_yet_is_said_to_be() -> Result<()> {
    let container = containerd()?.detached(Runtime::Securectr, "checkpoint", &["sleep", "1000"])?;
    let checkpointed = containerd()?.ctr(["task", "checkpoint", "checkpoint"])?;
    assert!(checkpointed.code == 1 && checkpointed.err().contains("not implemented"), "{checkpointed:?}");
    drop(container);
    Ok(())
}

#[test]
fn a_container_writes_its_own_layer_only() -> Result<()> {
    on_each(|runtime| {
        let wrote = containerd()?.run(
            runtime,
            "writes",
            &["sh", "-c", "echo x >/root/f && mkdir /d && rm -r /home && ls /d"],
        )?;
        assert_eq!((wrote.code, wrote.err().as_str()), (0, ""), "{wrote:?}");
        let looked =
            containerd()?.run(runtime, "looks", &["sh", "-c", "test ! -e /root/f && ls -d /home"])?;
        assert_eq!((looked.code, looked.out().as_str()), (0, "/home\n"), "{looked:?}");
        Ok(())
    })
}

#[test]
fn a_bind_mount_is_the_hosts_directory() -> Result<()> {
    on_each(|runtime| {
        let shared = tempfile::tempdir()?;
        fs::write(shared.path().join("in"), "from the host\n")?;
        let mount = format!("type=bind,src={},dst=/shared,options=rbind:rw", shared.path().display());
        let words = ["sh", "-c", "cat /shared/in; echo back >/shared/out"];
        let mut command = containerd()?.run_command(runtime, &["--rm", "--mount", &mount], "mounts", &words);
        let ran = Started::spawn(&mut command)?.finish(b"")?;
        assert_eq!((ran.code, ran.out().as_str()), (0, "from the host\n"), "{ran:?}");
        assert_eq!(fs::read_to_string(shared.path().join("out")).context("out")?, "back\n");
        Ok(())
    })
}

#[test]
fn a_paused_container_is_shown_as_such_and_takes_no_process() -> Result<()> {
    on_each(|runtime| {
        let container = containerd()?.detached(runtime, "pauses", &["sleep", "1000"])?;
        assert_eq!(containerd()?.ctr(["task", "pause", "pauses"])?.code, 0);
        assert_eq!(containerd()?.status("pauses")?.as_deref(), Some("PAUSED"));
        let refused = container.exec(&["true"])?;
        assert!(refused.code != 0 && refused.err().contains("cannot exec in a paused state"), "{refused:?}");
        assert_eq!(containerd()?.ctr(["task", "resume", "pauses"])?.code, 0);
        assert_eq!(containerd()?.status("pauses")?.as_deref(), Some("RUNNING"));
        Ok(())
    })
}

#[test]
fn a_killed_container_does_not_stay_paused() -> Result<()> {
    on_each(|runtime| {
        let container = containerd()?.detached(runtime, "frozen", &["sleep", "1000"])?;
        containerd()?.ctr(["task", "pause", "frozen"])?;
        assert_eq!(container.signal("SIGKILL")?.code, 0);
        container.wait_until("STOPPED")
    })
}

#[test]
fn what_a_container_uses_can_be_asked() -> Result<()> {
    on_each(|runtime| {
        let _container = containerd()?.detached(runtime, "uses", &["sleep", "1000"])?;
        let metrics = containerd()?.ctr(["task", "metrics", "uses"])?;
        assert!(metrics.code == 0 && metrics.out().contains("memory.usage"), "{metrics:?}");
        let listed = containerd()?.ctr(["task", "ps", "uses"])?;
        assert!(listed.code == 0 && listed.out().lines().count() == 2, "{listed:?}");
        Ok(())
    })
}

#[test]
fn the_hosts_network_is_refused() -> Result<()> {
    let mut command =
        containerd()?.run_command(Runtime::Securectr, &["--rm", "--net-host"], "net-host", &["true"]);
    let refused = Started::spawn(&mut command)?.finish(b"")?;
    assert!(
        refused.code == 1 && refused.err().contains("the host's network cannot be had in a guest"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn what_a_container_costs_is_counted_in_the_cgroup_that_the_engine_names() -> Result<()> {
    on_each(|runtime| {
        let cgroup = Path::new("/sys/fs/cgroup/default/counted");
        let container = containerd()?.detached(runtime, "counted", &["sleep", "1000"])?;
        let used: u64 = fs::read_to_string(cgroup.join("memory.current"))?.trim().parse()?;
        let least = if runtime == Runtime::Securectr { 2 << 20 } else { 1 };
        assert!(used >= least, "{used} bytes");
        container.signal("KILL")?;
        container.wait_until("STOPPED")?;
        container.remove_task()?;
        eventually("the cgroup is gone", || Ok(!cgroup.exists()))
    })
}

#[test]
fn a_capability_that_there_is_not_does_no_harm() -> Result<()> {
    on_each(|runtime| {
        let mut command =
            containerd()?.run_command(runtime, &["--rm", "--cap-add", "CAP_FLY"], "flies", &["echo", "up"]);
        let ran = Started::spawn(&mut command)?.finish(b"")?;
        assert_eq!((ran.code, ran.out().as_str()), (0, "up\n"), "{ran:?}");
        Ok(())
    })
}
