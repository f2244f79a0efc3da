//! A machine costs the host what its guest uses, and not what it has once used.

use std::{
    fs,
    process::{Child, Command},
};

use anyhow::{Context, Result};
use securectr_tests::{User, eventually};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Reads so much that the guest's kernel keeps, and frees what it has written to memory.
const FILL: &str = "head -c 48m /dev/urandom >/file; sync; cat /file >/dev/null; echo filled; sleep 1000";

fn filled(user: &User) -> Result<u64> {
    user.succeed(&["run", "-d", "--name", "web", "-m", "256m", "box", "sh", "-c", FILL])?;
    eventually("it has filled its memory", || Ok(user.succeed(&["logs", "web"])? == "filled"))?;
    own_bytes(user)
}

/// What the machine of the container costs alone.
fn own_bytes(user: &User) -> Result<u64> {
    let stated = user.home().join("store/containers").read_dir()?.next().context("a container")??;
    let id = stated.file_name().into_string().ok().context("an id")?;
    let state: Value = serde_json::from_slice(&fs::read(format!("/run/securectr/{id}/state.json"))?)?;
    let pid = state.get("vmm_pid").context("a pid")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    Ok(line.context("RssAnon")?.parse::<u64>()? << 10)
}

#[test]
fn what_a_guest_only_keeps_comes_back_when_it_is_asked_for() -> Result<()> {
    let user = User::with_box()?;
    let before = filled(&user)?;
    assert!(before > 48 * MIB, "{before}");
    let told = user.succeed(&["reclaim", "--format", "json", "web"])?;
    let told: Value = serde_json::from_str(&told)?;
    let after = told["AfterBytes"].as_u64().context("a number")?;
    assert!(after < before - 32 * MIB && told["Name"] == "web", "{before}: {told}");
    assert_eq!(user.succeed(&["exec", "web", "sh", "-c", "wc -c </file"])?, (48 * MIB).to_string());
    let refused = user.call(&["reclaim", "nobody"])?;
    assert!(refused.code == 1 && refused.err().contains("No such container: nobody"), "{refused:?}");
    Ok(())
}

#[test]
fn what_a_program_has_freed_comes_back_by_itself() -> Result<()> {
    let user = User::with_box()?;
    let script =
        "head -c 64m /dev/urandom >/dev/shm/file; echo filled; sleep 3; rm /dev/shm/file; sleep 1000";
    user.succeed(&["run", "-d", "--name", "web", "--shm-size", "80m", "box", "sh", "-c", script])?;
    eventually("it has filled its memory", || Ok(user.succeed(&["logs", "web"])? == "filled"))?;
    let before = own_bytes(&user)?;
    assert!(before > 64 * MIB, "{before}");
    eventually("it comes back", || Ok(own_bytes(&user)? < before - 48 * MIB))
}

#[test]
fn when_the_host_wants_memory_its_guests_give_what_they_can() -> Result<()> {
    let user = User::with_box()?;
    let before = filled(&user)?;
    let _want = Want::begin()?;
    eventually("it comes back", || Ok(own_bytes(&user)? < before - 32 * MIB))
}

/// A program of the host that wants more memory than it gets.
struct Want(Child);

const GROUP: &str = "/sys/fs/cgroup/securectr-tests-want";

impl Want {
    fn begin() -> Result<Self> {
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
        fs::create_dir_all(GROUP)?;
        fs::write(format!("{GROUP}/memory.high"), "8M")?;
        fs::write(format!("{GROUP}/memory.max"), "200M")?;
        let script = format!("echo $$ >{GROUP}/cgroup.procs && exec tail /dev/zero >/dev/null");
        Ok(Self(Command::new("sh").args(["-c", &script]).spawn()?))
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_dir(GROUP);
    }
}
