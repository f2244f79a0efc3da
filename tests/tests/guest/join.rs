//! Containers in somebody's foreground that others find, terminals that are joined to a container that stays, what happened, and what is
//! kept.

use std::{fs, thread, time::Duration};

use anyhow::Result;
use securectr_tests::{Started, Terminal, User, eventually, no_process_is_left};

const WAITING: &str = "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done";

#[test]
fn one_in_the_foreground_is_found_by_others_and_leaves_nothing() -> Result<()> {
    let user = User::with_box()?;
    let web = Started::spawn(&mut user.command(&["run", "--name", "web", "box", "sh", "-c", WAITING]))?;
    eventually("it is listed", || {
        Ok(user.succeed(&["ps", "--format", "{{.Names}} {{.State}}"])? == "web running")
    })?;
    assert_eq!(user.succeed(&["exec", "-e", "A=1", "web", "sh", "-c", "echo $A"])?, "1");
    assert_eq!(user.inspect(".State.Status", "web")?, "running");
    let taken = user.call(&["run", "-d", "--name", "web", "box", "true"])?;
    assert!(taken.code == 125 && taken.err().contains("in use"), "{taken:?}");
    let logs = user.call(&["logs", "web"])?;
    assert!(logs.code == 1 && logs.err().contains("foreground"), "{logs:?}");
    let waiting = Started::spawn(&mut user.command(&["wait", "web"]))?;
    user.succeed(&["stop", "web"])?;
    assert_eq!(waiting.finish(b"")?.out(), "7\n");
    let web = web.finish(b"")?;
    assert_eq!((web.code, web.out().as_str()), (7, "up\n"), "{web:?}");
    assert_eq!(user.succeed(&["ps", "-aq"])?, "");
    no_process_is_left()
}

#[test]
fn a_terminal_joins_a_container_lets_go_of_it_and_comes_back() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-dit", "--name", "shell", "box", "sh"])?;
    let mut first = Terminal::spawn(&user.command(&["attach", "shell"]), 100, 30)?;
    first.type_keys("stty size; a=$((40 + 2))\r")?;
    first.expect("30 100")?;
    first.type_keys("\x10\x11")?;
    assert_eq!(first.finish()?, 0);
    let mut second = Terminal::spawn(&user.command(&["attach", "shell"]), 100, 30)?;
    second.type_keys("echo in $a\r")?;
    second.expect("in 42")?;
    second.type_keys("exit 4\r")?;
    assert_eq!(second.finish()?, 4);
    assert_eq!(user.succeed(&["wait", "shell"])?, "4");
    assert!(user.succeed(&["logs", "shell"])?.contains("in 42"));
    Ok(())
}

#[test]
fn who_attaches_shares_streams_and_passes_signals() -> Result<()> {
    let user = User::with_box()?;
    let script = "trap 'exit 7' TERM; while :; do read -t 1 line && echo $line; done";
    user.succeed(&["run", "-di", "--name", "cat", "box", "sh", "-c", script])?;
    let mut looking = Started::spawn(&mut user.command(&["attach", "--no-stdin", "cat"]))?;
    let mut typing = Started::spawn(&mut user.command(&["attach", "cat"]))?;
    thread::scope(|scope| {
        let seen = scope.spawn(|| looking.wait_for_output("through\n"));
        while !seen.is_finished() {
            typing.write(b"through\n")?;
            thread::sleep(Duration::from_millis(200));
        }
        seen.join().expect("the thread ends")
    })?;
    assert!(user.succeed(&["logs", "cat"])?.starts_with("through"));
    typing.signal("TERM")?;
    assert_eq!((typing.finish(b"")?.code, looking.finish(b"")?.code), (7, 7));
    let refused = user.call(&["attach", "cat"])?;
    assert!(refused.code == 1 && refused.err().contains("stopped"), "{refused:?}");
    Ok(())
}

#[test]
fn a_start_can_be_watched_to_its_exit_code() -> Result<()> {
    let user = User::with_box()?;
    let script = "echo run >>/runs; wc -l </runs; echo err >&2; exit 3";
    user.succeed(&["run", "-d", "--name", "counts", "box", "sh", "-c", script])?;
    user.succeed(&["wait", "counts"])?;
    let again = user.call(&["start", "-a", "counts"])?;
    assert_eq!((again.code, again.out(), again.err()), (3, "2\n".into(), "err\n".into()));
    Ok(())
}

#[test]
fn what_is_used_up_ends_it_and_is_told() -> Result<()> {
    let user = User::with_box()?;
    let run = |options: &[&str], script: &str| {
        user.call(&[&["run"], options, &["box", "sh", "-c", script]].concat())
    };
    let talked = run(&["--output-limit", "1k"], "while :; do echo 0123456789; done")?;
    assert!(talked.stdout.len() == 1024 && talked.err().contains("1024 bytes of output"), "{}", talked.err());
    let worked = run(&["--cpu-seconds", "2"], "while :; do :; done")?;
    assert!(worked.code == 137 && worked.err().contains("CPU time of 2 s"), "{worked:?}");
    let wrote = run(&["--disk", "64m"], "dd if=/dev/zero of=/big bs=1M count=96 2>&1; ls -l /big | wc -l")?;
    assert!(wrote.out().contains("No space left"), "{wrote:?}");
    user.succeed(&["run", "-d", "--name", "kept", "--output-limit", "100", "box", "sh", "-c", "yes"])?;
    assert_eq!(user.succeed(&["wait", "kept"])?, "137");
    assert_eq!(user.succeed(&["logs", "kept"])?.len(), 99);
    assert!(user.succeed(&["why", "kept"])?.contains("100 bytes of output"));
    no_process_is_left()
}

#[test]
fn what_happens_is_told_in_its_order_and_can_be_looked_up() -> Result<()> {
    let user = User::with_box()?;
    let dies = ["events", "--since", "1m", "--filter", "event=die", "--format", "{{.Action}}"];
    let mut following = Started::spawn(&mut user.command(&dies))?;
    user.succeed(&["run", "-d", "--name", "web", "--label", "tier=front", "box", "sh", "-c", WAITING])?;
    user.succeed(&["pause", "web"])?;
    user.succeed(&["unpause", "web"])?;
    user.succeed(&["rename", "web", "www"])?;
    user.succeed(&["exec", "www", "true"])?;
    user.succeed(&["stop", "www"])?;
    user.succeed(&["rm", "www"])?;
    user.succeed(&["run", "box", "false"]).unwrap_err();
    let told = user.succeed(&["events", "--since", "10m", "--until", "0s", "--format", "{{.Action}}"])?;
    let expected = "create start pause unpause rename kill die destroy start die";
    assert_eq!(told.replace('\n', " "), expected);
    let filtered = [
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "label=tier=front",
        "--filter",
        "event=die",
    ];
    let line = user.succeed(&filtered)?;
    assert!(line.contains("exitCode=7") && line.contains("name=www") && line.lines().count() == 1, "{line}");
    following.wait_for_output("die\ndie\n")
}

#[test]
fn limits_are_changed_while_it_runs_and_for_its_next_start() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-d", "--name", "web", "--memory", "64m", "box", "sh", "-c", WAITING])?;
    let limits =
        || user.succeed(&["exec", "web", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"]);
    assert_eq!(
        user.succeed(&["update", "--memory", "128m", "--memory-swap", "128m", "--cpus", "0.5", "web"])?,
        "web"
    );
    assert_eq!(limits()?, "134217728\n50000 100000");
    user.succeed(&["restart", "web"])?;
    assert_eq!(limits()?, "134217728\n50000 100000");
    user.succeed(&["stop", "web"])?;
    user.succeed(&["update", "--cpus", "0.25", "web"])?;
    user.succeed(&["start", "web"])?;
    assert_eq!(limits()?, "134217728\n25000 100000");
    let nothing = user.call(&["update", "web"])?;
    assert!(nothing.code == 1 && nothing.err().contains("nothing to change"), "{nothing:?}");
    Ok(())
}

#[test]
fn what_is_kept_is_counted_and_tidied_but_not_what_is_in_use() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-d", "--name", "web", "-v", "used:/d", "box", "sh", "-c", WAITING])?;
    user.succeed(&["run", "-d", "--name", "done", "box", "true"])?;
    user.succeed(&["wait", "done"])?;
    user.succeed(&["volume", "create", "free"])?;
    let df = user.succeed(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"])?;
    // Templates are those of all tests.
    let (df, _) = df.split_once("\nTemplates").unwrap_or_default();
    assert_eq!(df, "Images 1 1\nContainers 2 1\nLocal Volumes 2 1\nPrivate Copies 0 0");
    let refused = user.call(&["rmi", "box"])?;
    assert!(refused.code == 1 && refused.err().contains("is used by the container"), "{refused:?}");
    let asked = user.call(&["system", "prune"])?;
    assert!(asked.code == 1 && asked.err().contains("--force"), "{asked:?}");
    user.succeed(&["system", "prune", "-f", "--all", "--volumes"])?;
    assert_eq!(user.succeed(&["ps", "-a", "--format", "{{.Names}}"])?, "web");
    assert_eq!(
        (user.succeed(&["volume", "ls", "-q"])?, user.succeed(&["images", "-q"])?.lines().count()),
        ("used".into(), 1)
    );
    user.succeed(&["restart", "web"])?;
    assert_eq!(user.succeed(&["info", "--format", "{{.ContainersRunning}} {{.Images}}"])?, "1 1");
    user.succeed(&["rm", "-f", "web"])?;
    user.succeed(&["system", "prune", "-f", "--all", "--volumes"])?;
    assert_eq!(user.succeed(&["images", "-q"])?, "");
    assert!(fs::read_dir(user.home().join("store/volumes"))?.next().is_none());
    Ok(())
}
