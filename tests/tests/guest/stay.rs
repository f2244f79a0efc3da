//! Containers that stay behind: started, looked at, stopped and started again, and gone when they are removed.

use std::{fs, process::Command};

use anyhow::Result;
use securectr_tests::{Started, Terminal, User, eventually, no_process_is_left};

/// One that runs until it is stopped.
fn waiting(user: &User, name: &str) -> Result<String> {
    user.succeed(&[
        "run",
        "-d",
        "--name",
        name,
        "box",
        "sh",
        "-c",
        "trap 'exit 7' TERM; while :; do sleep 0.1; done",
    ])
}

fn status(user: &User, name: &str) -> Result<String> {
    user.inspect(".State.Status", name)
}

fn containers_directory_is_empty(user: &User) -> Result<bool> {
    Ok(fs::read_dir(user.home().join("store/containers"))?.next().is_none())
}

#[test]
fn a_container_is_left_behind_and_found_by_name_and_id() -> Result<()> {
    let user = User::with_box()?;
    let id = waiting(&user, "web")?;
    assert_eq!(id.lines().count(), 1, "{id}");
    let listed =
        user.succeed(&["ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.State}}"])?;
    assert_eq!(listed, format!("{id} web box running"));
    for name in ["web", &id, &id[..6]] {
        assert_eq!(user.inspect(".Id", name)?, id);
    }
    assert_eq!(user.succeed(&["exec", "web", "echo", "inside"])?, "inside");
    assert_eq!(user.succeed(&["rm", "-f", "web"])?, "web");
    assert_eq!(user.succeed(&["ps", "-a", "-q"])?, "");
    assert!(containers_directory_is_empty(&user)?);
    no_process_is_left()
}

#[test]
fn what_it_writes_is_kept_in_order_and_can_be_followed() -> Result<()> {
    let user = User::with_box()?;
    let script = "echo one; echo two >&2; sleep 1; printf three; exit 3";
    user.succeed(&["run", "-d", "--name", "talks", "box", "sh", "-c", script])?;
    let followed = user.call(&["logs", "-f", "talks"])?;
    assert_eq!((followed.code, followed.out(), followed.err()), (0, "one\nthree".into(), "two\n".into()));
    assert_eq!(user.succeed(&["wait", "talks"])?, "3");
    assert_eq!(user.succeed(&["logs", "--tail", "1", "talks"])?, "three");
    let stamped = user.succeed(&["logs", "-t", "talks"])?;
    let time = stamped.split(' ').next().unwrap_or_default().to_owned();
    assert!(time.ends_with('Z'), "{stamped}");
    assert_eq!(user.succeed(&["logs", "--since", "10m", "--until", &time, "talks"])?, "");
    assert_eq!(user.succeed(&["logs", "--since", &time, "--tail", "1", "talks"])?, "three");
    Ok(())
}

#[test]
fn a_log_is_bounded_and_read_and_followed_across_its_files() -> Result<()> {
    let user = User::with_box()?;
    let script = "seq 1 1000; until [ -e /end ]; do sleep 0.1; done; seq 1001 1500";
    let options = ["--log-opt", "max-size=16k", "--log-opt", "max-file=3"];
    user.succeed(
        &[&["run", "-d", "--name", "much"], options.as_slice(), &["box", "sh", "-c", script]].concat(),
    )?;
    eventually("all is written", || Ok(user.succeed(&["logs", "--tail", "1", "much"])? == "1000"))?;
    let numbers = |words: &[&str]| -> Result<Vec<u32>> {
        Ok(user.succeed(words)?.lines().map(str::parse).collect::<Result<_, _>>()?)
    };
    let kept = numbers(&["logs", "much"])?;
    assert!(
        kept.len() > 300 && kept.len() < 1000 && kept.windows(2).all(|two| two[0] + 1 == two[1]),
        "{kept:?}"
    );
    assert_eq!(numbers(&["logs", "--tail", "250", "much"])?, (751..=1000).collect::<Vec<_>>());
    let follow = Started::spawn(&mut user.command(&["logs", "-f", "--tail", "1", "much"]))?;
    user.succeed(&["exec", "much", "touch", "/end"])?;
    let followed: Vec<u32> = follow.finish(b"")?.out().lines().map(str::parse).collect::<Result<_, _>>()?;
    assert_eq!(followed.last(), Some(&1500));
    assert!(followed.windows(2).all(|two| two[0] < two[1]), "{followed:?}");
    let directory = user.home().join("store/containers").join(user.inspect(".Id", "much")?);
    let mut bytes = Vec::new();
    for entry in fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()? {
        if entry.file_name().to_string_lossy().starts_with("log.jsonl") {
            bytes.push(entry.metadata()?.len());
        }
    }
    assert!(bytes.len() == 3 && bytes.iter().all(|&bytes| bytes <= 16 << 10), "{bytes:?}");
    user.succeed(&["run", "-d", "--name", "silent", "--log-driver", "none", "box", "echo", "unheard"])?;
    let refused = user.call(&["logs", "silent"])?;
    assert!(refused.code == 1 && refused.err().contains("--log-driver none"), "{refused:?}");
    Ok(())
}

#[test]
fn it_is_stopped_by_its_signal_and_starts_again_with_what_it_wrote() -> Result<()> {
    let user = User::with_box()?;
    waiting(&user, "web")?;
    user.succeed(&["exec", "web", "sh", "-c", "echo stays >/file"])?;
    assert_eq!(user.succeed(&["stop", "web"])?, "web");
    assert_eq!(
        (status(&user, "web")?, user.inspect(".State.ExitCode", "web")?),
        ("exited".into(), "7".into())
    );
    assert_eq!(user.succeed(&["ps", "-q"])?, "");
    let refused = user.call(&["exec", "web", "true"])?;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(user.succeed(&["start", "web"])?, "web");
    assert_eq!(user.succeed(&["exec", "web", "cat", "/file"])?, "stays");
    assert_eq!(user.succeed(&["restart", "web"])?, "web");
    assert_eq!(
        (status(&user, "web")?, user.succeed(&["exec", "web", "cat", "/file"])?),
        ("running".into(), "stays".into())
    );
    Ok(())
}

#[test]
fn one_that_does_not_hear_its_signal_is_killed_in_time() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-d", "--name", "deaf", "box", "sleep", "1000"])?;
    user.succeed(&["stop", "-t", "1", "deaf"])?;
    assert_eq!(user.inspect(".State.ExitCode", "deaf")?, "137");
    user.succeed(&["start", "deaf"])?;
    user.succeed(&["kill", "deaf"])?;
    assert_eq!(user.succeed(&["wait", "deaf"])?, "137");
    user.succeed(&["start", "deaf"])?;
    user.succeed(&["pause", "deaf"])?;
    assert_eq!(status(&user, "deaf")?, "paused");
    user.succeed(&["stop", "-t", "1", "deaf"])?;
    assert_eq!(status(&user, "deaf")?, "exited");
    Ok(())
}

#[test]
fn a_policy_starts_it_again_until_somebody_stops_it() -> Result<()> {
    let user = User::with_box()?;
    let count = "echo run >>/runs; wc -l </runs; exit 1";
    let start = ["run", "-d", "--name", "thrice", "--restart", "on-failure:2", "box", "sh", "-c", count];
    user.succeed(&start)?;
    assert_eq!(user.succeed(&["wait", "thrice"])?, "1");
    assert_eq!(user.succeed(&["logs", "thrice"])?, "1\n2\n3");
    assert_eq!(user.inspect(".RestartCount", "thrice")?, "2");
    user.succeed(&["run", "-d", "--name", "always", "--restart", "always", "box", "sleep", "1000"])?;
    let pid = user.inspect(".State.Pid", "always")?;
    user.succeed(&["stop", "-t", "0", "always"])?;
    eventually("its monitor has gone", || Ok(!fs::exists(format!("/proc/{pid}"))?))?;
    assert_eq!(status(&user, "always")?, "exited");
    Ok(())
}

#[test]
fn a_policy_can_be_changed_while_it_runs_and_when_it_has_ended() -> Result<()> {
    let user = User::with_box()?;
    let script = "echo run; until [ -e /end ]; do sleep 0.1; done; exit 1";
    user.succeed(&["run", "-d", "--name", "once", "box", "sh", "-c", script])?;
    assert_eq!(user.succeed(&["update", "--restart", "on-failure:1", "once"])?, "once");
    user.succeed(&["exec", "once", "touch", "/end"])?;
    assert_eq!(user.succeed(&["wait", "once"])?, "1", "{:?}", user.call(&["why", "once"]));
    assert_eq!(user.inspect(".RestartCount", "once")?, "1");
    user.succeed(&["update", "--restart", "no", "once"])?;
    user.succeed(&["start", "once"])?;
    assert_eq!(user.succeed(&["wait", "once"])?, "1", "{:?}", user.call(&["why", "once"]));
    assert_eq!(user.succeed(&["logs", "once"])?, "run\nrun\nrun");
    user.succeed(&["run", "-d", "--rm", "--name", "passing", "box", "sleep", "1000"])?;
    let refused = user.call(&["update", "--restart", "always", "passing"])?;
    assert!(refused.code == 1 && refused.err().contains("removes itself"), "{refused:?}");
    Ok(())
}

#[test]
fn with_rm_nothing_of_it_stays() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-d", "--rm", "--name", "short", "box", "sleep", "1"])?;
    eventually("it has removed itself", || containers_directory_is_empty(&user))?;
    no_process_is_left()
}

#[test]
fn a_start_that_fails_is_told_and_leaves_nothing() -> Result<()> {
    let user = User::with_box()?;
    let refused = user.call(&["run", "-d", "box", "/no/such/program"])?;
    assert_eq!(refused.code, 127, "{refused:?}");
    assert!(refused.err().contains("/no/such/program"), "{refused:?}");
    assert!(containers_directory_is_empty(&user)?);
    let first = waiting(&user, "taken")?;
    let second = user.call(&["run", "-d", "--name", "taken", "box", "true"])?;
    assert!(second.code == 125 && second.err().contains(&first), "{second:?}");
    assert_eq!(user.succeed(&["ps", "-a", "-q"])?.lines().count(), 1);
    no_process_after(&user, "taken")
}

fn no_process_after(user: &User, name: &str) -> Result<()> {
    user.succeed(&["rm", "-f", name])?;
    no_process_is_left()
}

#[test]
fn a_killed_monitor_is_a_container_that_has_ended() -> Result<()> {
    let user = User::with_box()?;
    waiting(&user, "web")?;
    let pid = user.inspect(".State.Pid", "web")?;
    assert!(Command::new("kill").args(["-9", &pid]).status()?.success());
    eventually("it has ended", || Ok(status(&user, "web")? == "exited"))?;
    assert_eq!(user.inspect(".State.ExitCode", "web")?, "137");
    assert_eq!(user.inspect(".State.Error", "web")?, "its monitor was killed");
    user.succeed(&["start", "web"])?;
    assert_eq!(status(&user, "web")?, "running");
    no_process_after(&user, "web")
}

#[test]
fn a_killed_machine_is_told_as_the_cause_of_the_end() -> Result<()> {
    let user = User::with_box()?;
    waiting(&user, "web")?;
    assert!(Command::new("pkill").args(["-9", "securectr-vmm"]).status()?.success());
    assert_eq!(user.succeed(&["wait", "web"])?, "137");
    assert!(!user.inspect(".State.Error", "web")?.is_empty());
    Ok(())
}

#[test]
fn a_process_in_it_may_have_a_terminal_and_input() -> Result<()> {
    let user = User::with_box()?;
    waiting(&user, "web")?;
    let cat = Started::spawn(&mut user.command(&["exec", "-i", "web", "sh", "-c", "cat; exit 5"]))?;
    let finished = cat.finish(b"through")?;
    assert_eq!((finished.code, finished.out().as_str()), (5, "through"), "{finished:?}");
    let without = user.call(&["exec", "web", "cat"])?;
    assert_eq!((without.code, without.out().as_str()), (0, ""), "{without:?}");
    let mut terminal = Terminal::spawn(&user.command(&["exec", "-it", "web", "sh"]), 100, 30)?;
    terminal.type_keys("tty && stty size && echo in $((40 + 2))\r")?;
    terminal.expect("30 100")?;
    terminal.expect("in 42")?;
    terminal.type_keys("exit 4\r")?;
    assert_eq!(terminal.finish()?, 4);
    Ok(())
}

#[test]
fn names_can_be_changed_and_lists_filtered() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-d", "--name", "one", "--label", "tier=front", "box", "true"])?;
    user.succeed(&["wait", "one"])?;
    waiting(&user, "two")?;
    user.succeed(&["rename", "one", "first"])?;
    let named = |filter: &str| user.succeed(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]);
    for (filter, expected) in [
        ("label=tier=front", "first"),
        ("status=running", "two"),
        ("name=fir", "first"),
        ("status=paused", ""),
    ] {
        assert_eq!(named(filter)?, expected, "{filter}");
    }
    let refused = user.call(&["rename", "first", "two"])?;
    assert!(refused.code == 1 && refused.err().contains("in use"), "{refused:?}");
    Ok(())
}

#[test]
fn what_it_uses_is_shown() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&[
        "run",
        "-d",
        "--name",
        "busy",
        "--memory",
        "64m",
        "box",
        "sh",
        "-c",
        "while :; do :; done",
    ])?;
    let shown = user.succeed(&[
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}",
    ])?;
    let words: Vec<_> = shown.split(' ').collect();
    assert_eq!((words[0], words.last().copied()), ("busy", Some("1")), "{shown}");
    assert!(words[1].trim_end_matches('%').parse::<f64>()? > 10.0, "{shown}");
    assert!(shown.contains("/ 64.00 MiB"), "{shown}");
    Ok(())
}

#[test]
fn the_cause_of_an_end_is_told() -> Result<()> {
    let user = User::with_box()?;
    let run = |name: &str, options: &[&str], script: &str| -> Result<String> {
        let start = [&["run", "-d", "--name", name], options, &["box", "sh", "-c", script]].concat();
        user.succeed(&start)
    };
    run("done", &[], "exit 3")?;
    run("hungry", &["--memory", "32m"], "tail /dev/zero")?;
    run("slow", &["--timeout", "2"], "sleep 1000")?;
    run("asked", &[], "sleep 1000")?;
    assert_eq!(user.succeed(&["why", "asked"])?, "asked is running: it has not ended");
    user.succeed(&["kill", "asked"])?;
    for (name, code, cause) in [
        ("done", "3", "its program ended with exit code 3"),
        ("hungry", "137", "its memory ran out"),
        ("slow", "137", "its time of 2 s was over"),
        ("asked", "137", "it was sent signal 9"),
    ] {
        assert_eq!(user.succeed(&["wait", name])?, code, "{name}");
        let why = user.succeed(&["why", name])?;
        assert!(why.contains(cause), "{why}");
    }
    let foreground = user.call(&["run", "--timeout", "1", "box", "sleep", "1000"])?;
    assert!(
        foreground.code == 137 && foreground.err().contains("its time of 1 s was over"),
        "{foreground:?}"
    );
    Ok(())
}

#[test]
fn shells_and_manuals_know_its_words() -> Result<()> {
    let user = User::new()?;
    assert!(user.succeed(&["completion", "bash"])?.contains("securectr"));
    let pages = user.home().join("man").display().to_string();
    user.succeed(&["man", &pages])?;
    assert!(fs::read_to_string(user.home().join("man/securectr-run.1"))?.contains("stop\\-timeout"));
    assert!(user.succeed(&["version"])?.starts_with("securectr "));
    Ok(())
}
