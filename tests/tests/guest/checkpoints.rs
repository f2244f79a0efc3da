//! A container that is saved goes on from there, as often as somebody wants, and notices nothing but the time.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::{FileExt, PermissionsExt},
    path::PathBuf,
    thread::sleep,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{Started, User, World, eventually, no_process_is_left};

/// Counts in its memory, and says and writes how far it is.
const COUNT: &str =
    "while [ ! -e /end ]; do i=$((i+1)); echo $i; echo $i >>/counted; sleep 0.1; done; exit 3";

fn counting(user: &User) -> Result<()> {
    user.succeed(&["run", "-d", "--name", "counter", "box", "sh", "-c", COUNT])?;
    goes_on(user, "counter")
}

fn goes_on(user: &User, name: &str) -> Result<()> {
    let before = counted(user, name)?.len();
    eventually("it counts", || Ok(counted(user, name)?.len() > before + 2))
}

fn counted(user: &User, name: &str) -> Result<Vec<u32>> {
    user.succeed(&["logs", name])?.lines().map(|line| Ok(line.parse()?)).collect()
}

/// A container with the checkpoint `warm`, which runs on.
fn saved(user: &User) -> Result<PathBuf> {
    counting(user)?;
    assert_eq!(user.succeed(&["checkpoint", "create", "--leave-running", "counter", "warm"])?, "warm");
    Ok(user.home().join("store/checkpoints/warm"))
}

#[test]
fn a_container_goes_on_where_it_was_saved() -> Result<()> {
    let user = User::with_box()?;
    counting(&user)?;
    user.succeed(&["checkpoint", "create", "counter", "warm"])?;
    assert_eq!(user.inspect(".State.Status", "counter")?, "exited");
    let why = user.succeed(&["why", "counter"])?;
    assert!(why.contains("it was saved as the checkpoint warm"), "{why}");
    let before = counted(&user, "counter")?;
    user.succeed(&["rm", "counter"])?;
    let id = user.succeed(&["restore", "warm"])?;
    assert_eq!(user.inspect(".Id", "counter")?, id);
    goes_on(&user, "counter")?;
    let after = counted(&user, "counter")?;
    let written = user.succeed(&["exec", "counter", "cat", "/counted"])?;
    let all: Vec<u32> = written.lines().map(str::parse).collect::<Result<_, _>>()?;
    assert_eq!(all, (1..).take(all.len()).collect::<Vec<_>>());
    let first = after.first().context("a number")?;
    // What was said and not yet taken by the host is said again.
    assert!(before.iter().chain(&[0]).any(|number| number + 1 == *first), "{before:?} {after:?}");
    user.succeed(&["exec", "counter", "touch", "/end"])?;
    assert_eq!(user.succeed(&["wait", "counter"])?, "3");
    Ok(())
}

#[test]
fn a_container_that_runs_on_notices_nothing() -> Result<()> {
    let user = User::with_box()?;
    saved(&user)?;
    goes_on(&user, "counter")?;
    let all = counted(&user, "counter")?;
    assert_eq!(all, (1..).take(all.len()).collect::<Vec<_>>());
    user.succeed(&["restore", "--name", "other", "warm"])?;
    goes_on(&user, "other")?;
    user.succeed(&["exec", "other", "touch", "/end"])?;
    assert_eq!(user.succeed(&["wait", "other"])?, "3");
    goes_on(&user, "counter")
}

#[test]
fn forks_share_the_past_and_nothing_else() -> Result<()> {
    let user = User::with_box()?;
    let script = "past=$RANDOM; while :; do echo $past $(cat /proc/sys/kernel/random/uuid); sleep 0.1; done";
    user.succeed(&["run", "-d", "--name", "web", "box", "sh", "-c", script])?;
    eventually("it runs", || Ok(user.succeed(&["logs", "web"])?.lines().count() > 2))?;
    let ids = user.succeed(&["fork", "-n", "3", "web"])?;
    assert_eq!(ids.lines().collect::<BTreeSet<_>>().len(), 3);
    let names = ["web", "web-1", "web-2", "web-3"];
    let (mut pasts, mut drawn, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
    for name in names {
        eventually("it goes on", || Ok(user.succeed(&["logs", name])?.lines().count() > 2))?;
        for line in user.succeed(&["logs", name])?.lines() {
            let (past, uuid) = line.split_once(' ').context("two words")?;
            pasts.insert(past.to_owned());
            drawn.insert(uuid.to_owned());
            count += 1;
        }
    }
    assert_eq!((pasts.len(), drawn.len()), (1, count), "{pasts:?}");
    user.succeed(&["exec", "web-1", "touch", "/mine"])?;
    for name in ["web", "web-2"] {
        assert_eq!(user.call(&["exec", name, "test", "-e", "/mine"])?.code, 1, "{name}");
    }
    assert_eq!(fs::read_dir(user.home().join("store/checkpoints"))?.count(), 0);
    Ok(())
}

#[test]
fn the_clock_is_right_after_a_while() -> Result<()> {
    let user = User::with_box()?;
    saved(&user)?;
    sleep(Duration::from_secs(5));
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    user.succeed(&["restore", "--name", "later", "warm"])?;
    let now: u64 = user.succeed(&["exec", "later", "date", "+%s"])?.parse()?;
    assert!(
        before <= now && now <= SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        "{before} {now}"
    );
    Ok(())
}

#[test]
fn input_comes_from_who_attaches_to_the_one_that_goes_on() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-di", "--name", "echo", "box", "cat"])?;
    user.succeed(&["checkpoint", "create", "--leave-running", "echo", "idle"])?;
    let id = user.succeed(&["restore", "idle"])?;
    for name in ["echo", &id] {
        let mut attached = Started::spawn(&mut user.command(&["attach", name]))?;
        attached.write(b"words\n")?;
        attached.wait_for_output("words\n")?;
        user.succeed(&["kill", name])?;
        assert_eq!(attached.finish(b"")?.code, 137);
    }
    Ok(())
}

#[test]
fn one_that_was_paused_stays_paused() -> Result<()> {
    let user = User::with_box()?;
    counting(&user)?;
    user.succeed(&["pause", "counter"])?;
    user.succeed(&["checkpoint", "create", "--leave-running", "counter", "still"])?;
    assert_eq!(user.inspect(".State.Status", "counter")?, "paused");
    user.succeed(&["restore", "--name", "other", "still"])?;
    for name in ["counter", "other"] {
        assert_eq!(user.inspect(".State.Status", name)?, "paused");
        user.succeed(&["resume", name])?;
        goes_on(&user, name)?;
    }
    Ok(())
}

#[test]
fn run_goes_on_in_the_foreground_and_leaves_nothing() -> Result<()> {
    let user = User::with_box()?;
    saved(&user)?;
    user.succeed(&["rm", "-f", "counter"])?;
    let mut going = Started::spawn(&mut user.command(&["run", "--from", "warm"]))?;
    going.wait_for_output("\n")?;
    user.succeed(&["exec", "counter", "touch", "/end"])?;
    let ended = going.finish(b"")?;
    assert_eq!(ended.code, 3, "{ended:?}");
    assert_eq!(user.succeed(&["ps", "-a", "-q"])?, "");
    let id = user.succeed(&["run", "-d", "--rm", "--from", "warm"])?;
    user.succeed(&["exec", &id, "touch", "/end"])?;
    eventually("it has removed itself", || Ok(user.succeed(&["ps", "-a", "-q"])?.is_empty()))?;
    no_process_is_left()
}

#[test]
fn what_cannot_be_saved_is_told_and_runs_on() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-d", "--name", "shared", "-v", "/srv:/srv", "box", "sleep", "1000"])?;
    let refused = user.call(&["checkpoint", "create", "shared", "warm"])?;
    assert!(refused.err().contains("volumes and directories of the host would not be saved"), "{refused:?}");
    assert_eq!(user.succeed(&["exec", "shared", "echo", "there"])?, "there");
    user.succeed(&["run", "-d", "--name", "grown", "-m", "100m", "box", "sleep", "1000"])?;
    user.succeed(&["update", "-m", "300m", "grown"])?;
    let refused = user.call(&["checkpoint", "create", "grown", "warm"])?;
    assert!(refused.err().contains("the machine cannot be saved"), "{refused:?}");
    assert_eq!(user.succeed(&["exec", "grown", "echo", "there"])?, "there");
    let mut here = Started::spawn(&mut user.command(&[
        "run",
        "--name",
        "here",
        "box",
        "sh",
        "-c",
        "echo up; sleep 1000",
    ]))?;
    here.wait_for_output("up")?;
    let refused = user.call(&["fork", "here"])?;
    assert!(refused.err().contains("only a container that stays can be saved"), "{refused:?}");
    here.signal("KILL")?;
    here.finish(b"")?;
    assert_eq!(user.succeed(&["checkpoint", "ls", "-q"])?, "");
    Ok(())
}

#[test]
fn mistakes_are_told_before_anything_is_done() -> Result<()> {
    let user = User::with_box()?;
    saved(&user)?;
    for (words, told) in [
        (&["checkpoint", "create", "nobody", "cold"][..], "No such container: nobody"),
        (&["checkpoint", "create", "counter", "warm"], "there is a checkpoint warm already"),
        (&["checkpoint", "create", "counter", "../warm"], "a name must begin with a letter or digit"),
        (&["checkpoint", "rm", "cold"], "No such checkpoint: cold"),
        (&["restore", "cold"], "No such checkpoint: cold"),
        (&["restore", "--name", "counter", "warm"], "the name counter is in use"),
        (&["fork", "-n", "0", "counter"], "0 is not in 1..=1000"),
        (&["run", "--from", "warm", "-m", "1g"], "--memory does not go with it"),
        (&["run", "--from", "warm", "box"], "another command does not go with it"),
    ] {
        let refused = user.call(words)?;
        assert!(refused.code != 0 && refused.err().contains(told), "{words:?}: {refused:?}");
    }
    assert_eq!(user.succeed(&["ps", "-a", "-q"])?.lines().count(), 1);
    goes_on(&user, "counter")?;
    user.succeed(&["stop", "-t", "0", "counter"])?;
    let refused = user.call(&["checkpoint", "create", "counter", "cold"])?;
    assert!(refused.err().contains("container not running"), "{refused:?}");
    Ok(())
}

#[test]
fn a_checkpoint_that_is_not_what_was_saved_is_refused_and_nothing_stays() -> Result<()> {
    let user = User::with_box()?;
    let place = saved(&user)?;
    let refused = |told: &str| {
        let refused = user.call(&["restore", "--name", "other", "warm"])?;
        assert!(refused.code == 1 && refused.err().contains(told), "{refused:?}");
        assert_eq!(user.succeed(&["ps", "-a", "-q"])?.lines().count(), 1);
        Ok::<_, anyhow::Error>(())
    };
    let machine = place.join("machine");
    fs::set_permissions(&machine, fs::Permissions::from_mode(0o666))?;
    refused("machine is not a file of this user alone")?;
    fs::set_permissions(&machine, fs::Permissions::from_mode(0o600))?;
    // It was touched, but is the same.
    assert_eq!(user.succeed(&["checkpoint", "verify", "warm"])?, "warm: good");
    user.succeed(&["run", "-d", "--rm", "--name", "same", "--from", "warm"])?;
    user.succeed(&["rm", "-f", "same"])?;
    let document = place.join("checkpoint.json");
    let described = fs::read_to_string(&document)?;
    fs::write(&document, described.replacen("\"format\":1", "\"format\":9", 1))?;
    refused("the checkpoint has format 9")?;
    fs::write(&document, described.replacen("\"processor\":\"", "\"processor\":\"other", 1))?;
    refused("the checkpoint was made under another processor")?;
    fs::write(&document, &described[..described.len() / 2])?;
    refused("read the checkpoint")?;
    fs::write(&document, &described)?;
    for (file, place_in_it) in [("machine", 16 << 20), ("disk.ext4", 4096)] {
        fs::File::options().write(true).open(place.join(file))?.write_all_at(b"damage", place_in_it)?;
        refused(&format!("{file} was changed after it was made"))?;
    }
    assert_eq!(user.call(&["checkpoint", "verify", "warm"])?.code, 1);
    goes_on(&user, "counter")
}

#[test]
fn whoever_is_killed_while_saving_leaves_a_container_that_goes_on() -> Result<()> {
    let user = User::with_box()?;
    counting(&user)?;
    for pause_ms in [100, 300, 600, 1000, 1500] {
        let saving = Started::spawn(&mut user.command(&["checkpoint", "create", "counter", "killed"]))?;
        sleep(Duration::from_millis(pause_ms));
        saving.signal("KILL")?;
        saving.finish(b"")?;
        if user.inspect(".State.Status", "counter")? == "exited" {
            break;
        }
        goes_on(&user, "counter")?;
    }
    user.call(&["start", "counter"])?;
    user.succeed(&["checkpoint", "create", "counter", "whole"])?;
    let left = fs::read_dir(user.home().join("store/checkpoints"))?;
    let left: BTreeSet<_> = left.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert!(left.iter().all(|name| name == "whole" || name == "killed"), "{left:?}");
    Ok(())
}

#[test]
fn it_takes_no_root() -> Result<()> {
    let user = User::ordinary()?.having_box()?;
    saved(&user)?;
    user.succeed(&["fork", "counter"])?;
    user.succeed(&["restore", "--name", "other", "warm"])?;
    for name in ["counter", "counter-1", "other"] {
        goes_on(&user, name)?;
    }
    Ok(())
}

#[test]
fn a_network_goes_on_and_its_connections_end() -> Result<()> {
    let (user, world) = (User::with_box()?, World::new()?);
    let succeed = |words: &[&str]| -> Result<String> {
        let said = Started::spawn(&mut world.on_host(&user.command(words)))?.finish(b"")?;
        ensure!(said.code == 0, "{words:?}: {said:?}");
        Ok(said.out())
    };
    world.serve("10.77.0.1:5000".parse()?)?;
    let listener = world.outside(|| Ok(TcpListener::bind("10.77.0.1:5001")?))?;
    // What passt of Debian 12 has for a container that has closed its half, it now and then keeps: nc is to leave its half open.
    let script = "(while sleep 0.2; do echo tick; done) | nc 10.77.0.1 5001; echo ended; sleep 30 | nc 10.77.0.1 5000; sleep 1000";
    succeed(&["run", "-d", "--name", "talker", "--network", "nat", "box", "sh", "-c", script])?;
    let mut ticks = BufReader::new(listener.accept()?.0).lines();
    let mut tick = || ticks.next().context("a tick")?.context("read a tick");
    tick()?;
    succeed(&["checkpoint", "create", "--leave-running", "talker", "warm"])?;
    succeed(&["restore", "--name", "other", "warm"])?;
    let ended = eventually("its connection ends", || {
        Ok(succeed(&["logs", "other"])?.starts_with("ended\nyou are 10.77.0.2"))
    });
    let seen = || succeed(&["exec", "other", "sh", "-c", "ps; netstat -tn; cat /proc/interrupts"]);
    ended.with_context(|| format!("{:?} {}", succeed(&["logs", "other"]), seen().unwrap_or_default()))?;
    for _ in 0..20 {
        tick()?;
    }
    assert_eq!(succeed(&["logs", "talker"])?, "");
    Ok(())
}
