//! What `securectr run` shows is what `docker run` would show.

use std::{fs, process::Command};

use anyhow::Result;
use securectr_tests::{Started, checkout, image, run, run_in, securectr};

#[test]
fn a_container_has_a_kernel_of_its_own() -> Result<()> {
    let host = String::from_utf8(Command::new("uname").arg("-r").output()?.stdout)?;
    let guest = run(["uname", "-r"])?;
    assert_eq!(guest.code, 0, "{guest:?}");
    assert!(guest.out().starts_with("6.12.") && guest.out() != host, "{guest:?}");
    Ok(())
}

#[test]
fn a_debian_image_runs() -> Result<()> {
    let mut command = securectr();
    command.arg("run").arg(image("debian")).args(["bash", "-c", ". /etc/os-release; echo $ID; id -un"]);
    let finished = Started::spawn(&mut command)?.finish(b"")?;
    assert_eq!((finished.code, finished.out().as_str()), (0, "debian\nroot\n"), "{finished:?}");
    Ok(())
}

#[test]
fn the_exit_code_is_the_commands() -> Result<()> {
    assert_eq!(run(["sh", "-c", "exit 42"])?.code, 42);
    assert_eq!(
        run(["sh", "-c", "kill -9 $$"])?.code,
        0,
        "the init of a pid namespace ignores its own signals"
    );
    assert_eq!(run(["sh", "-c", "sh -c 'kill -9 $$'; exit $?"])?.code, 137);
    Ok(())
}

#[test]
fn a_command_that_is_not_there_is_127_and_one_that_cannot_run_126() -> Result<()> {
    let missing = run(["no-such-command"])?;
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.err().contains("no-such-command"), "{missing:?}");
    let directory = run(["/etc"])?;
    assert_eq!(directory.code, 126, "{directory:?}");
    Ok(())
}

#[test]
fn our_own_failures_are_125_in_one_line() -> Result<()> {
    for options in [vec!["--memory", "4m"], vec!["--no-such-option"], vec!["--user", "nobody-knows-me"]] {
        let refused = run_in(&options, ["true"])?;
        assert_eq!(refused.code, 125, "{options:?}: {refused:?}");
    }
    let refused = run_in(&["--memory", "4m"], ["true"])?;
    assert_eq!(refused.err().lines().count(), 1, "{refused:?}");
    Ok(())
}

#[test]
fn options_reach_the_process() -> Result<()> {
    let options = ["-e", "A=1 2", "-w", "/tmp", "-u", "1000:1000", "--hostname", "box"];
    let finished = run_in(&options, ["sh", "-c", "echo \"$A\"; pwd; id -u; id -g; hostname"])?;
    assert_eq!(finished.out(), "1 2\n/tmp\n1000\n1000\nbox\n", "{finished:?}");
    Ok(())
}

#[test]
fn a_user_is_found_by_name_with_its_groups() -> Result<()> {
    let finished = run_in(&["-u", "user"], ["sh", "-c", "id -un; id -G; echo $HOME"])?;
    assert_eq!(finished.out(), "user\n1000 6 29\n/home\n", "{finished:?}");
    Ok(())
}

#[test]
fn the_root_is_writable_unless_told_otherwise() -> Result<()> {
    assert_eq!(run(["sh", "-c", "echo x > /new && cat /new"])?.out(), "x\n");
    let refused = run_in(&["--read-only"], ["sh", "-c", "echo x > /new"])?;
    assert!(refused.code != 0 && refused.err().contains("Read-only file system"), "{refused:?}");
    Ok(())
}

#[test]
fn what_one_container_writes_no_other_sees() -> Result<()> {
    assert_eq!(run(["sh", "-c", "echo x > /etc/mark"])?.code, 0);
    assert_ne!(run(["cat", "/etc/mark"])?.code, 0);
    Ok(())
}

#[test]
fn an_entry_point_can_be_replaced() -> Result<()> {
    assert_eq!(run_in(&["--entrypoint", "echo"], ["a", "b"])?.out(), "a b\n");
    Ok(())
}

#[test]
fn a_directory_serves_as_a_root() -> Result<()> {
    let root = tempfile::tempdir()?;
    fs::create_dir_all(root.path().join("bin"))?;
    let archive = checkout().join("target/images/busybox.tar");
    let busybox = Command::new("sh").arg("-c").arg("command -v busybox").output()?;
    let busybox = String::from_utf8(busybox.stdout)?;
    assert!(archive.exists() && !busybox.is_empty());
    fs::copy(busybox.trim(), root.path().join("bin/busybox"))?;
    let mut command = securectr();
    command.args(["run", "--rootfs"]).arg(root.path()).args(["/bin/busybox", "echo", "here"]);
    let finished = Started::spawn(&mut command)?.finish(b"")?;
    assert_eq!(finished.out(), "here\n", "{finished:?}");
    Ok(())
}

/// The same kernel under another name: what `uname` prints is data in the file.
#[test]
fn two_containers_run_on_two_kernels_side_by_side() -> Result<()> {
    let release = run(["uname", "-r"])?.out().trim().to_owned();
    let other = release.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect::<String>();
    let mut kernel = fs::read(checkout().join("target/guest/vmlinux"))?;
    let places: Vec<usize> = kernel
        .windows(release.len())
        .enumerate()
        .filter_map(|(at, window)| (window == release.as_bytes()).then_some(at))
        .collect();
    for at in places {
        kernel[at..at + other.len()].copy_from_slice(other.as_bytes());
    }
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), kernel)?;
    let path = file.path().to_str().unwrap();
    let words = ["sh", "-c", "echo up; read line; uname -r"];
    let mut ours = Started::spawn(securectr().args(["run", "-i"]).arg(image("busybox")).args(words))?;
    let mut theirs =
        Started::spawn(securectr().args(["run", "-i", "--kernel", path]).arg(image("busybox")).args(words))?;
    ours.wait_for_output("up")?;
    theirs.wait_for_output("up")?;
    assert_eq!(ours.finish(b"\n")?.out().trim(), release);
    assert_eq!(theirs.finish(b"\n")?.out().trim(), other);
    Ok(())
}

#[test]
fn a_signal_reaches_the_container() -> Result<()> {
    for (signal, code) in [("TERM", 15), ("INT", 2), ("USR1", 10)] {
        let script = format!("trap 'exit {code}' {signal}; echo ready; while :; do sleep 0.1; done");
        let mut command = securectr();
        command.arg("run").arg(image("busybox")).args(["sh", "-c", &script]);
        let mut started = Started::spawn(&mut command)?;
        started.wait_for_output("ready")?;
        started.signal(signal)?;
        assert_eq!(started.finish(b"")?.code, code, "{signal}");
    }
    Ok(())
}

#[test]
fn nat_by_nftables_works_in_a_container() -> Result<()> {
    let rules = "nft add table ip t && nft add chain ip t c '{ type nat hook postrouting priority 100; }' && \
                 nft add rule ip t c masquerade && nft list ruleset";
    let mut command = securectr();
    command.args(["run", "--cap-add", "NET_ADMIN"]).arg(image("debian")).args(["sh", "-c", rules]);
    let finished = Started::spawn(&mut command)?.finish(b"")?;
    assert!(finished.out().contains("masquerade"), "{finished:?}");
    Ok(())
}

#[test]
fn a_container_knows_its_own_name() -> Result<()> {
    let words =
        ["sh", "-c", "cat /etc/hostname; ping -c1 -W5 lighthouse >/dev/null && grep -c localhost /etc/hosts"];
    let known = run_in(&["--hostname", "lighthouse"], words)?;
    assert_eq!(known.out(), "lighthouse\n2\n", "{known:?}");
    let read_only = run_in(&["--read-only"], ["sh", "-c", "echo x >>/etc/hosts"])?;
    assert!(read_only.code != 0 && read_only.err().contains("Read-only"), "{read_only:?}");
    Ok(())
}
