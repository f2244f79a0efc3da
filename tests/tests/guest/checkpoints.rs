//! A container that is saved goes on from there, as often as somebody wants, and notices nothing but the time.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use anyhow::{Context, Result};
use securectr_tests::{User, eventually, no_process_is_left};

/// Counts in its memory, and says and writes how far it is.
const COUNT: &str =
    "i=0; while [ ! -e /end ]; do i=$((i+1)); echo $i; echo $i >>/counted; sleep 0.1; done; exit 3";

fn counting(user: &User, name: &str) -> Result<()> {
    user.succeed(&["run", "-d", "--name", name, "box", "sh", "-c", COUNT])?;
    eventually("it has counted", || Ok(counted(user, name)?.len() > 2))
}

fn counted(user: &User, name: &str) -> Result<Vec<u32>> {
    user.succeed(&["logs", name])?.lines().map(|line| Ok(line.parse()?)).collect()
}

#[test]
fn a_container_goes_on_where_it_was_saved() -> Result<()> {
    let user = User::with_box()?;
    counting(&user, "counter")?;
    assert_eq!(user.succeed(&["checkpoint", "create", "counter", "warm"])?, "warm");
    assert_eq!(user.inspect(".State.Status", "counter")?, "exited");
    let why = user.succeed(&["why", "counter"])?;
    assert!(why.contains("it was saved as the checkpoint warm"), "{why}");
    let before = counted(&user, "counter")?;
    user.succeed(&["rm", "counter"])?;
    let id = user.succeed(&["restore", "warm"])?;
    assert_eq!(user.inspect(".Id", "counter")?, id);
    eventually("it goes on", || Ok(counted(&user, "counter")?.len() > 2))?;
    let after = counted(&user, "counter")?;
    let first = *after.first().context("a number")?;
    assert!(before.contains(&(first - 1)) && after.is_sorted(), "{before:?} {after:?}");
    user.succeed(&["exec", "counter", "touch", "/end"])?;
    assert_eq!(user.succeed(&["wait", "counter"])?, "3");
    let all = user.succeed(&["logs", "counter"])?;
    user.succeed(&["start", "counter"])?;
    let written = user.succeed(&["exec", "counter", "cat", "/counted"]).unwrap_or_default();
    assert!(all.lines().last().is_some_and(|last| written.contains(last)), "{all} {written}");
    user.succeed(&["checkpoint", "rm", "warm"])?;
    assert_eq!(user.succeed(&["checkpoint", "ls", "-q"])?, "");
    Ok(())
}
