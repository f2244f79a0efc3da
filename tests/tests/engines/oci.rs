//! The OCI command line, as engines call it.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use securectr_tests::{Bundle, Started, eventually, on_each};
use serde_json::Value;

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
        let again = bundle.path("").to_string_lossy().into_owned();
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
        let mut terminal = bundle.create_with_terminal()?;
        bundle.call(&["start", "c1"])?;
        read_until(&mut terminal, "/dev/pts/0")?;
        terminal.write_all(b"words\n")?;
        read_until(&mut terminal, "got words")?;
        bundle.wait_until("stopped")
    })
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
