//! `securectr run --rootfs DIR --in-place`: a directory of the host as a container's root, as containerd's snapshotters mount it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use rustix::fs::major;
use securectr_tests::{Finished, Started, securectr};
use tempfile::TempDir;

/// An overlay of a read-only layer and a writable one, with another file system mounted in it.
struct Snapshot(TempDir);

impl Snapshot {
    fn mount() -> Result<Self> {
        let snapshot = Self(tempfile::tempdir()?);
        for directory in ["lower/bin", "lower/data", "lower/srv", "upper", "work", "root"] {
            fs::create_dir_all(snapshot.path(directory))?;
        }
        let busybox =
            String::from_utf8(Command::new("sh").args(["-c", "command -v busybox"]).output()?.stdout)?;
        fs::copy(busybox.trim(), snapshot.path("lower/bin/busybox"))?;
        for program in
            ["sh", "cat", "ls", "rm", "mv", "mkdir", "chown", "chmod", "mknod", "stat", "touch", "ln", "find"]
        {
            symlink("busybox", snapshot.path("lower/bin").join(program))?;
        }
        for name in ["kept", "changed", "removed", "moved", "owned"] {
            fs::write(snapshot.path("lower/data").join(name), format!("{name}\n"))?;
        }
        let options =
            format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", snapshot.0.path().display());
        mount(&["-t", "overlay", "overlay", "-o", &options], &snapshot.path("root"))?;
        mount(&["-t", "tmpfs", "tmpfs"], &snapshot.path("root/srv"))?;
        fs::write(snapshot.path("root/srv/mounted"), "another file system\n")?;
        Ok(snapshot)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, options: &[&str], script: &str) -> Result<Finished> {
        let mut command = securectr();
        command.args(["run", "--in-place", "--rootfs"]).arg(self.path("root")).args(options);
        Started::spawn(command.args(["/bin/sh", "-ec", script]))?.finish(b"")
    }

    fn say(&self, options: &[&str], script: &str) -> Result<String> {
        let finished = self.run(options, script)?;
        ensure!(finished.code == 0, "{script}: {finished:?}");
        Ok(finished.out())
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-R").arg(self.path("root")).status();
    }
}

fn mount(arguments: &[&str], place: &Path) -> Result<()> {
    ensure!(Command::new("mount").args(arguments).arg(place).status()?.success(), "mount {arguments:?}");
    Ok(())
}

#[test]
fn what_a_container_changes_is_in_the_snapshots_upper_layer() -> Result<()> {
    let snapshot = Snapshot::mount()?;
    let script = "cat /data/kept; echo more >> /data/changed; rm /data/removed; mv /data/moved /data/other; \
                  mkdir /data/dir; echo new > /data/dir/file; ln /data/kept /data/hard; stat -c %h /data/kept; \
                  rm -r /data/dir; mkdir /data/dir; ls /data; ls -d /data/../bin; exec 3>> /data/owned; chown 5:6 /data/owned; \
                  echo written >&3; cat /data/owned";
    assert_eq!(
        snapshot.say(&[], script)?,
        "kept\n2\nchanged\ndir\nhard\nkept\nother\nowned\n/data/../bin\nowned\nwritten\n"
    );
    // Nothing of it in the lower layer; a whiteout is a character device of number 0.
    assert_eq!(fs::read_to_string(snapshot.path("lower/data/changed"))?, "changed\n");
    assert_eq!(fs::read_to_string(snapshot.path("upper/data/changed"))?, "changed\nmore\n");
    for name in ["removed", "moved"] {
        let whiteout = fs::symlink_metadata(snapshot.path("upper/data").join(name))?;
        assert!(whiteout.file_type().is_char_device() && major(whiteout.rdev()) == 0, "{name}");
    }
    let owned = fs::metadata(snapshot.path("upper/data/owned"))?;
    assert_eq!((owned.uid(), owned.gid(), owned.len()), (5, 6, 14));
    assert_eq!(fs::metadata(snapshot.path("lower/data/owned"))?.uid(), 0);
    Ok(())
}

#[test]
fn what_is_mounted_in_the_root_is_part_of_it() -> Result<()> {
    let snapshot = Snapshot::mount()?;
    // The same inode numbers in both file systems are different files to the guest.
    for number in 0..30 {
        fs::write(snapshot.path("root/srv").join(number.to_string()), "")?;
    }
    let script = "cat /srv/mounted; echo x > /srv/new; find /srv /data /bin -type f | while read f; do stat -c '%d:%i' $f; done";
    let said = snapshot.say(&[], script)?;
    let mut lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.remove(0), "another file system");
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert!(lines.len() == all && all >= 37, "{said}");
    assert_eq!(fs::read_to_string(snapshot.path("root/srv/new"))?, "x\n");
    assert!(!snapshot.path("upper/srv").exists());
    Ok(())
}

#[test]
fn other_users_than_root_own_what_they_make() -> Result<()> {
    let snapshot = Snapshot::mount()?;
    fs::set_permissions(snapshot.path("root/data"), fs::Permissions::from_mode(0o777))?;
    chown(snapshot.path("root/data/kept"), Some(1000), Some(1000))?;
    let script = "echo mine > /data/mine; echo more >> /data/kept; ! echo x 2>/dev/null >> /data/changed; stat -c %u:%g /data/mine";
    assert_eq!(snapshot.say(&["-u", "1000:2000"], script)?, "1000:2000\n");
    let mine = fs::metadata(snapshot.path("upper/data/mine"))?;
    assert_eq!((mine.uid(), mine.gid()), (1000, 2000));
    assert_eq!(fs::read_to_string(snapshot.path("root/data/kept"))?, "kept\nmore\n");
    Ok(())
}

#[test]
fn who_writes_to_a_set_user_id_program_clears_the_bit() -> Result<()> {
    let snapshot = Snapshot::mount()?;
    for name in ["kept", "changed", "owned"] {
        fs::set_permissions(snapshot.path("root/data").join(name), fs::Permissions::from_mode(0o6777))?;
    }
    let modes = "stat -c '%n %a' /data/kept /data/changed /data/owned";
    let script = format!("echo x >> /data/kept; echo x > /data/changed; {modes}");
    assert_eq!(
        snapshot.say(&["-u", "1000:1000"], &script)?,
        "/data/kept 777\n/data/changed 777\n/data/owned 6777\n"
    );
    // Root keeps them by writing and loses them by giving the file away, as everywhere.
    let script = format!("chmod 6777 /data/kept; echo x >> /data/kept; chown 1:1 /data/owned; {modes}");
    assert_eq!(snapshot.say(&[], &script)?, "/data/kept 6777\n/data/changed 777\n/data/owned 777\n");
    assert_eq!(fs::metadata(snapshot.path("upper/data/owned"))?.mode() & 0o7777, 0o777);
    Ok(())
}

#[test]
fn device_nodes_of_the_root_are_the_guests_devices() -> Result<()> {
    let snapshot = Snapshot::mount()?;
    let zero = snapshot.path("lower/data/zero");
    ensure!(Command::new("mknod").arg(&zero).args(["c", "1", "5"]).status()?.success());
    ensure!(
        Command::new("mknod")
            .arg(snapshot.path("lower/data/disk"))
            .args(["b", "254", "0"])
            .status()?
            .success()
    );
    // The container's cgroup lets it have one, and not the other; a new one would be the host's, too.
    let script = "stat -c '%F %t %T' /data/zero; busybox dd if=/data/zero bs=4 count=1 2>/dev/null | busybox od -An -tx1; \
                  ! cat /data/disk 2>/dev/null; ! mknod /data/mine c 1 5 2>/dev/null; mknod /data/pipe p; mknod /srv/whiteout c 0 0";
    let said = snapshot.say(&["-e", "PATH=/bin"], script)?;
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>().join(" "),
        "character special file 1 5 00 00 00 00"
    );
    Ok(())
}

#[test]
fn a_read_only_root_is_read_only_to_the_file_server_too() -> Result<()> {
    let snapshot = Snapshot::mount()?;
    let finished = snapshot.run(&["--read-only"], "cat /data/kept /srv/mounted; echo x > /data/kept")?;
    assert_eq!(finished.out(), "kept\nanother file system\n");
    assert!(finished.code != 0 && finished.err().contains("Read-only file system"), "{finished:?}");
    assert_eq!(fs::read_dir(snapshot.path("upper/data")).map(Iterator::count).unwrap_or(0), 0);
    Ok(())
}

#[test]
fn nothing_of_a_root_stays_mounted_when_its_container_has_ended() -> Result<()> {
    let snapshot = Snapshot::mount()?;
    snapshot.say(&[], "exec 3> /data/open; exec 4< /srv/mounted; touch /data/x")?;
    let unmounted = Command::new("umount").arg("-R").arg(snapshot.path("root")).output()?;
    assert!(unmounted.status.success(), "{unmounted:?}");
    // Every mount of the overlay would hold its working directory.
    let again = format!(
        "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work,index=on",
        snapshot.0.path().display()
    );
    mount(&["-t", "overlay", "overlay", "-o", &again], &snapshot.path("root"))?;
    assert!(snapshot.path("root/data/x").exists() && !snapshot.path("root/srv/mounted").exists());
    Ok(())
}
