//! Where securectr lies and who runs it make no difference.

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use anyhow::Result;
use securectr_tests::{Finished, Started, checkout, image, program};

/// A user whom no system has.
const USER_ID: u32 = 54_321;

/// The program in `target/installed`, where `make install` has put it, without any environment.
fn installed() -> Command {
    let mut command = Command::new(checkout().join("target/installed/bin/securectr"));
    command.env_clear().current_dir("/");
    command
}

fn finish(command: &mut Command) -> Result<Finished> {
    Started::spawn(command)?.finish(b"")
}

#[test]
fn an_installed_securectr_finds_its_parts_without_configuration() -> Result<()> {
    let store = tempfile::tempdir()?;
    let mut command = installed();
    command.arg("--store").arg(store.path()).arg("run").arg(image("busybox")).args(["echo", "found"]);
    let finished = finish(&mut command)?;
    assert_eq!((finished.code, finished.out().as_str()), (0, "found\n"), "{finished:?}");
    Ok(())
}

#[test]
fn a_check_is_json_for_programs() -> Result<()> {
    let checked = finish(installed().args(["check", "--format", "json"]))?;
    assert_eq!(checked.code, 0, "{checked:?}");
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&checked.stdout)?;
    assert!(findings.len() > 1 && findings.iter().all(|finding| finding["ok"] == true), "{findings:?}");
    Ok(())
}

#[test]
fn a_user_who_may_use_kvm_needs_no_root() -> Result<()> {
    let home = tempfile::tempdir()?;
    let runtime = home.path().join("runtime");
    fs::create_dir(&runtime)?;
    for path in [home.path(), &runtime] {
        std::os::unix::fs::chown(path, Some(USER_ID), Some(USER_ID))?;
    }
    let kvm_group = fs::metadata("/dev/kvm")?.gid().to_string();
    let user = USER_ID.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &kvm_group, "--clear-groups"]).arg(program("securectr"));
    command.args([
        "run",
        &image("busybox"),
        "sh",
        "-c",
        "id -u; hostname >/root/written; wc -l </root/written",
    ]);
    command.env_clear().env("HOME", home.path()).env("XDG_RUNTIME_DIR", &runtime).current_dir("/");
    let finished = finish(&mut command)?;
    assert_eq!((finished.code, finished.out().as_str()), (0, "0\n1\n"), "{finished:?}");
    let left = fs::read_dir(runtime.join("securectr"))?.count();
    assert_eq!(left, 0, "state was left");
    Ok(())
}
