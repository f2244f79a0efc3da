//! Images from a registry: fetched when they are needed, kept once, named, and gone without a trace.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, thread};

use crate::failures::SmallDisk;
use anyhow::{Context, Result};
use securectr_tests::{
    Finished, Started, User, program,
    registry::{PASSWORD, Registry, USERNAME},
};

/// Files with content that belong to images.
fn content(store: &Path) -> Result<String> {
    let found = Command::new("find").arg(store.join("v1")).args(["-type", "f", "-size", "+0"]).output()?;
    let is_content = |line: &&str| !line.ends_with("/index.json") && !line.ends_with("/oci-layout");
    Ok(String::from_utf8(found.stdout)?.lines().filter(is_content).collect::<Vec<_>>().join("\n"))
}

#[test]
fn an_image_that_is_not_here_is_fetched_once() -> Result<()> {
    let registry = Registry::start()?;
    let name = registry.push("busybox", "team/box:1")?;
    let user = User::new()?;
    let first = user.call(&["run", &name, "echo", "hello"])?;
    assert_eq!((first.code, first.out().as_str()), (0, "hello\n"), "{first:?}");
    assert!(
        first.err().contains("Unable to find image") && first.err().contains("Pull complete"),
        "{first:?}"
    );
    drop(registry);
    let again = user.call(&["run", &name, "echo", "again"])?;
    assert_eq!((again.out().as_str(), again.err().as_str()), ("again\n", ""), "{again:?}");
    let listed = user.succeed(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?;
    assert_eq!(listed, name);
    user.succeed(&["rmi", &name])?;
    assert_eq!(content(&user.home().join("store"))?, "");
    let gone = user.call(&["run", &name, "true"])?;
    assert_eq!(gone.code, 125, "{gone:?}");
    Ok(())
}

#[test]
fn a_newer_image_of_the_name_comes_when_it_is_asked_for() -> Result<()> {
    let registry = Registry::start()?;
    let name = registry.push("busybox", "app:1")?;
    let user = User::new()?;
    assert!(user.succeed(&["pull", &name])?.contains("Downloaded newer image"));
    assert!(user.succeed(&["pull", &name])?.contains("Image is up to date"));
    registry.push("pause", "app:1")?;
    user.succeed(&["run", &name, "true"])?;
    assert!(user.succeed(&["pull", &name])?.contains("Downloaded newer image"));
    let tags = user.succeed(&["images", "--format", "{{.Tag}}"])?;
    assert_eq!(tags.lines().collect::<Vec<_>>(), ["1", "<none>"], "{tags}");
    user.succeed(&["image", "prune", "--force"])?;
    assert_eq!(user.succeed(&["images", "--format", "{{.Tag}}"])?, "1");
    Ok(())
}

#[test]
fn a_digest_pins_what_is_fetched() -> Result<()> {
    let registry = Registry::start()?;
    let name = registry.push("busybox", "app:1")?;
    let user = User::new()?;
    let pulled = user.succeed(&["pull", &name])?;
    let digest = pulled.lines().find_map(|line| line.strip_prefix("Digest: ")).context("a digest")?;
    let pinned = format!("{}/app@{digest}", registry.address);
    let other = User::new()?;
    assert_eq!(other.succeed(&["run", &pinned, "echo", "pinned"])?, "pinned");
    let wrong = format!("{}/app@sha256:{}", registry.address, "0".repeat(64));
    let refused = other.call(&["pull", &wrong])?;
    assert_eq!(refused.code, 1, "{refused:?}");
    Ok(())
}

#[test]
fn credentials_are_dockers() -> Result<()> {
    let registry = Registry::start_with_login()?;
    let name = registry.push("busybox", "secret:1")?;
    let user = User::new()?;
    let refused = user.call(&["pull", &name])?;
    assert_eq!(refused.code, 1, "{refused:?}");
    let helper = format!(
        "#!/bin/sh\necho '{{\"ServerURL\":\"x\",\"Username\":\"{USERNAME}\",\"Secret\":\"{PASSWORD}\"}}'\n"
    );
    user.write("bin/docker-credential-tests", &helper)?;
    fs::set_permissions(user.home().join("bin/docker-credential-tests"), fs::Permissions::from_mode(0o755))?;
    user.write(
        ".docker/config.json",
        &format!("{{\"credHelpers\":{{\"{}\":\"tests\"}}}}", registry.address),
    )?;
    let path = format!("{}:{}", user.home().join("bin").display(), std::env::var("PATH")?);
    let pulled = Started::spawn(user.command(&["pull", "-q", &name]).env("PATH", path))?.finish(b"")?;
    assert_eq!((pulled.code, pulled.out()), (0, format!("{name}\n")), "{pulled:?}");
    user.write(".docker/config.json", "{")?;
    let malformed = user.call(&["pull", &name])?;
    assert!(malformed.code == 1 && malformed.err().contains(".docker/config.json"), "{malformed:?}");
    Ok(())
}

#[test]
fn a_mirror_is_asked_first_and_may_be_down() -> Result<()> {
    let mirror = Registry::start()?;
    mirror.push("busybox", "library/app:1")?;
    let user = User::new()?;
    let down = "http://127.0.0.1:1";
    let config =
        format!("[registries.\"docker.io\"]\nmirrors = [\"{down}\", \"http://{}\"]\n", mirror.address);
    user.write(".config/securectr/registries.toml", &config)?;
    let pulled = user.call(&["pull", "app:1"])?;
    assert_eq!(pulled.code, 0, "{pulled:?}");
    assert!(pulled.err().contains("127.0.0.1:1 does not have it"), "{pulled:?}");
    assert!(pulled.out().ends_with("docker.io/library/app:1\n"), "{pulled:?}");
    Ok(())
}

#[test]
fn two_who_pull_the_same_at_once_share_it() -> Result<()> {
    let registry = Registry::start()?;
    let name = registry.push("debian", "os:12")?;
    let user = User::new()?;
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(|| user.succeed(&["pull", &name]))).collect();
        pulls.into_iter().try_for_each(|pull| {
            let said = pull.join().map_err(|_| anyhow::anyhow!("a pull panicked"))??;
            assert!(said.ends_with(&name), "{said}");
            Ok::<_, anyhow::Error>(())
        })
    })?;
    assert_eq!(user.succeed(&["images", "-q"])?.lines().count(), 1);
    user.succeed(&["rmi", &name])?;
    assert_eq!(content(&user.home().join("store"))?, "");
    Ok(())
}

#[test]
fn a_killed_pull_is_gone_on_with() -> Result<()> {
    let registry = Registry::start()?;
    let name = registry.push("debian", "os:12")?;
    let user = User::new()?;
    for delay_ms in [50, 100, 200, 400] {
        let mut pull = user.command(&["pull", &name]).spawn()?;
        thread::sleep(std::time::Duration::from_millis(delay_ms));
        pull.kill()?;
        pull.wait()?;
    }
    assert_eq!(user.succeed(&["run", "--pull", "always", &name, "echo", "whole"])?, "whole");
    user.succeed(&["rmi", &name])?;
    assert_eq!(content(&user.home().join("store"))?, "");
    Ok(())
}

#[test]
fn a_full_disk_ends_a_pull_with_its_cause() -> Result<()> {
    let registry = Registry::start()?;
    let name = registry.push("debian", "os:12")?;
    let disk = SmallDisk::mount("4m")?;
    let pull = |words: &[&str]| -> Result<Finished> {
        let mut command = Command::new(program("securectr"));
        Started::spawn(command.arg("--store").arg(disk.path()).args(words))?.finish(b"")
    };
    let refused = pull(&["pull", &name])?;
    assert!(refused.code == 1 && refused.err().contains("No space left on device"), "{refused:?}");
    let pruned = pull(&["image", "prune", "--force"])?;
    assert_eq!(pruned.code, 0, "{pruned:?}");
    assert_eq!(content(disk.path())?, "");
    Ok(())
}

#[test]
fn what_is_not_there_is_told_apart() -> Result<()> {
    let registry = Registry::start()?;
    registry.push("busybox", "app:1")?;
    let user = User::new()?;
    for (name, cause) in [("app:2", "no tag '2'"), ("other:1", "no such image")] {
        let refused = user.call(&["pull", &format!("{}/{name}", registry.address)])?;
        assert!(refused.code == 1 && refused.err().contains(cause), "{refused:?}");
    }
    let address = registry.address.clone();
    drop(registry);
    let refused = user.call(&["pull", &format!("{address}/app:1")])?;
    assert!(refused.code == 1 && refused.err().contains("refused"), "{refused:?}");
    let refused = user.call(&["run", "--pull", "never", "app:1", "true"])?;
    assert!(refused.code == 125 && refused.err().contains("No such image: app:1"), "{refused:?}");
    assert_eq!(content(&user.home().join("store"))?, "");
    Ok(())
}
