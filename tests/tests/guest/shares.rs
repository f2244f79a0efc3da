//! `securectr run -v`: a directory of the host in the container is that directory, and nothing beside it.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use securectr_tests::{Finished, Started, image, program, run_in, securectr};
use tempfile::TempDir;

/// Further than a guest looks at what it remembers of a file.
const MEMORY: Duration = Duration::from_millis(1100);

/// A directory of the host that is `/mnt` in containers.
struct Shared(TempDir);

impl Shared {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn volume(&self) -> String {
        format!("{}:/mnt", self.0.path().display())
    }

    fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.path(name)).with_context(|| name.to_owned())
    }

    /// Runs a script in the busybox image; answers with what it says.
    fn say(&self, script: &str) -> Result<String> {
        self.say_with(&["-v", &self.volume()], script)
    }

    fn say_with(&self, options: &[&str], script: &str) -> Result<String> {
        let finished = run_in(options, ["sh", "-ec", script])?;
        ensure!(finished.code == 0, "{script}: {finished:?}");
        Ok(finished.out())
    }

    /// The same in the Debian image, which has Perl for system calls that no command makes.
    fn say_in_debian(&self, script: &str) -> Result<String> {
        let mut command = securectr();
        command.args(["run", "-v", &self.volume()]).arg(image("debian")).args(["bash", "-ec", script]);
        let finished = Started::spawn(&mut command)?.finish(b"")?;
        ensure!(finished.code == 0, "{script}: {finished:?}");
        Ok(finished.out())
    }

    /// Starts a container whose script waits for lines.
    fn start(&self, name: &str, script: &str) -> Result<Started> {
        let mut command = securectr();
        command.args(["run", "-i", "--name", name, "-v", &self.volume()]).arg(image("busybox"));
        Started::spawn(command.args(["sh", "-ec", script]))
    }
}

fn refused(finished: &Finished, because: &str) {
    assert!(finished.code != 0 && finished.err().contains(because), "{finished:?}");
}

#[test]
fn files_go_both_ways() -> Result<()> {
    let shared = Shared::new()?;
    fs::create_dir(shared.path("dir"))?;
    fs::write(shared.path("dir/from-host"), "hello\n")?;
    assert_eq!(
        shared.say(
            "cat /mnt/dir/from-host; echo back > /mnt/dir/from-guest; echo more >> /mnt/dir/from-host"
        )?,
        "hello\n"
    );
    assert_eq!(shared.read("dir/from-guest")?, "back\n");
    assert_eq!(shared.read("dir/from-host")?, "hello\nmore\n");
    Ok(())
}

#[test]
fn names_change_as_on_a_disk() -> Result<()> {
    let shared = Shared::new()?;
    let script = "cd /mnt; mkdir -p a/b; echo 1 > a/b/one; ln a/b/one hard; ln -s a/b/one soft; mv a/b/one a/two; \
                  rmdir a/b; stat -c %h hard; cat hard; readlink soft; mkfifo pipe; echo gone > x; rm x; \
                  ls a | tr '\\n' ' '; ls | tr '\\n' ' '";
    assert_eq!(shared.say(script)?, "2\n1\na/b/one\ntwo a hard pipe soft ");
    assert_eq!(fs::metadata(shared.path("hard"))?.ino(), fs::metadata(shared.path("a/two"))?.ino());
    assert_eq!(fs::read_link(shared.path("soft"))?, Path::new("a/b/one"));
    assert!(fs::metadata(shared.path("pipe"))?.file_type().is_fifo());
    assert!(!shared.path("x").exists() && !shared.path("a/b").exists());
    Ok(())
}

#[test]
fn owners_and_modes_are_real() -> Result<()> {
    let shared = Shared::new()?;
    fs::set_permissions(shared.path(""), fs::Permissions::from_mode(0o777))?;
    let script = "umask 027; touch /mnt/mine; mkdir /mnt/dir; ln -s x /mnt/link; chmod 4750 /mnt/mine; echo x >> /mnt/mine; \
                  stat -c '%u %g %a' /mnt/mine";
    let options = ["-v", &shared.volume(), "-u", "1000:2000"];
    // Who is not root loses the set-user-ID bit by writing.
    assert_eq!(shared.say_with(&options, script)?, "1000 2000 750\n");
    for name in ["mine", "dir", "link"] {
        let file = fs::symlink_metadata(shared.path(name))?;
        assert_eq!((file.uid(), file.gid()), (1000, 2000), "{name}");
    }
    assert_eq!(fs::metadata(shared.path("dir"))?.mode() & 0o7777, 0o750);
    shared.say("chown 33:44 /mnt/mine; chmod 6711 /mnt/mine; touch -d '2001-02-03 04:05:06' /mnt/mine")?;
    let file = fs::metadata(shared.path("mine"))?;
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.mtime()), (33, 44, 0o6711, 981_173_106));
    Ok(())
}

#[test]
fn a_user_of_the_guest_may_do_what_the_modes_say() -> Result<()> {
    let shared = Shared::new()?;
    fs::set_permissions(shared.path(""), fs::Permissions::from_mode(0o755))?;
    fs::write(shared.path("secret"), "s")?;
    fs::set_permissions(shared.path("secret"), fs::Permissions::from_mode(0o600))?;
    for script in ["cat /mnt/secret", "touch /mnt/new", "rm -f /mnt/secret", "chmod 777 /mnt"] {
        let finished = run_in(&["-v", &shared.volume(), "-u", "1000"], ["sh", "-c", script])?;
        assert!(finished.code != 0 && finished.err().contains("ermi"), "{script}: {finished:?}");
    }
    // By one of its further groups: the image's user is in group 29.
    fs::create_dir(shared.path("group"))?;
    chown(shared.path("group"), Some(0), Some(29))?;
    fs::set_permissions(shared.path("group"), fs::Permissions::from_mode(0o770))?;
    shared.say_with(&["-v", &shared.volume(), "-u", "user"], "touch /mnt/group/file")?;
    assert_eq!(fs::metadata(shared.path("group/file"))?.uid(), 1000);
    Ok(())
}

#[test]
fn attributes_of_users_go_both_ways() -> Result<()> {
    let shared = Shared::new()?;
    fs::write(shared.path("f"), "")?;
    setxattr(shared.path("f"), "user.host", b"from host", XattrFlags::empty())?;
    // getxattr(2), setxattr(2) and listxattr(2).
    let script = r#"perl -e '
        my ($f, $h, $g, $w, $a, $x) = ("/mnt/f", "user.host", "user.guest", "from guest", "system.posix_acl_access", "x" x 28);
        my $v = " " x 100; my $n = syscall(191, $f, $h, $v, 100); print substr($v, 0, $n), "\n";
        syscall(188, $f, $g, $w, 10, 0) == 0 or die $!;
        my $l = " " x 100; $n = syscall(194, $f, $l, 100); print join(",", sort split /\0/, substr($l, 0, $n)), "\n";
        syscall(188, $f, $a, $x, 28, 0) == -1 or die; print "$!\n"'"#;
    assert_eq!(shared.say_in_debian(script)?, "from host\nuser.guest,user.host\nOperation not supported\n");
    let mut value = [0; 100];
    let len = getxattr(shared.path("f"), "user.guest", &mut value)?;
    assert_eq!(&value[..len], b"from guest");
    Ok(())
}

#[test]
fn a_file_is_mapped_and_locked() -> Result<()> {
    let shared = Shared::new()?;
    fs::write(shared.path("f"), "a".repeat(5000))?;
    // mmap(2) shared and writable, read(2) into it, write(2) out of it, msync(2).
    let script = r#"perl -e '
        open my $f, "+<", "/mnt/f" or die; open my $i, "<", "/etc/debian_version" or die;
        my $at = syscall(9, 0, 5000, 3, 1, fileno $f, 0); die if $at == -1;
        syscall(0, fileno $i, $at + 4096, 3); syscall(26, $at, 5000, 4) == 0 or die;
        $| = 1; syscall(1, 1, $at + 4094, 2); print "\n"'
        exec 9> /mnt/lock; flock -n 9; flock -n /mnt/lock true && exit 1; flock -u 9; flock -n /mnt/lock echo locked"#;
    assert_eq!(shared.say_in_debian(script)?, "aa\nlocked\n");
    let text = shared.read("f")?;
    assert!(text.len() == 5000 && text[..4096] == "a".repeat(4096) && &text[4096..4099] != "aaa");
    Ok(())
}

#[test]
fn a_big_file_is_the_same_byte_for_byte() -> Result<()> {
    let shared = Shared::new()?;
    let mut seed = 0x9e37_79b9_u32;
    let bytes: Vec<u8> = (0..50 << 20)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            seed as u8
        })
        .collect();
    fs::write(shared.path("big"), &bytes)?;
    let said = shared.say(
        "sha256sum < /mnt/big; cp /mnt/big /mnt/copy; dd if=/mnt/big of=/mnt/odd bs=77777 2> /dev/null",
    )?;
    let sum = Command::new("sha256sum").arg(shared.path("big")).output()?.stdout;
    assert_eq!(said.split(' ').next(), String::from_utf8(sum)?.split(' ').next());
    assert!(fs::read(shared.path("copy"))? == bytes && fs::read(shared.path("odd"))? == bytes);
    Ok(())
}

#[test]
fn a_thousand_files_are_made_listed_and_removed() -> Result<()> {
    let shared = Shared::new()?;
    let made =
        shared.say("cd /mnt; for n in $(seq 1000); do echo $n > f$n; done; ls | wc -l; cat f1 f999 f1000")?;
    assert_eq!(made, "1000\n1\n999\n1000\n");
    assert_eq!(fs::read_dir(shared.path(""))?.count(), 1000);
    assert_eq!(shared.say("find /mnt -type f | wc -l; rm -r /mnt/f*; ls /mnt")?, "1000\n");
    assert_eq!(fs::read_dir(shared.path(""))?.count(), 0);
    Ok(())
}

#[test]
fn holes_stay_holes() -> Result<()> {
    let shared = Shared::new()?;
    let file = fs::File::create(shared.path("from-host"))?;
    file.set_len(64 << 20)?;
    let script = "cd /mnt; stat -c '%s %b' from-host; truncate -s 67108864 a; echo end >> a; \
                  fallocate -l 1048576 b; dd if=/dev/zero of=c bs=1M count=2 2> /dev/null; \
                  fallocate -p -o 0 -l 1048576 c; cp --sparse=always from-host d; stat -c %s a b c d";
    assert_eq!(shared.say_in_debian(script)?, "67108864 0\n67108868\n1048576\n2097152\n67108864\n");
    let kilobytes = |name| fs::metadata(shared.path(name)).map(|file| file.blocks() / 2);
    assert!(kilobytes("a")? < 100 && kilobytes("d")? < 100);
    assert_eq!((kilobytes("b")?, kilobytes("c")?), (1024, 1024));
    Ok(())
}

#[test]
fn direct_input_and_output_works() -> Result<()> {
    let shared = Shared::new()?;
    let script = "dd if=/dev/urandom of=/tmp/r bs=1M count=3 2> /dev/null; \
                  dd if=/tmp/r of=/mnt/f bs=64k oflag=direct 2> /dev/null; \
                  dd if=/mnt/f of=/tmp/s bs=512k iflag=direct 2> /dev/null; cmp /tmp/r /tmp/s; cmp /tmp/r /mnt/f";
    shared.say_in_debian(script)?;
    assert_eq!(fs::metadata(shared.path("f"))?.len(), 3 << 20);
    Ok(())
}

#[test]
fn a_file_can_be_a_volume() -> Result<()> {
    let shared = Shared::new()?;
    fs::write(shared.path("conf"), "one\n")?;
    fs::write(shared.path("beside"), "secret")?;
    let volume = format!("{}:/etc/app/conf", shared.path("conf").display());
    let said =
        shared.say_with(&["-v", &volume], "cat /etc/app/conf; ls /etc/app; echo two > /etc/app/conf")?;
    assert_eq!((said.as_str(), shared.read("conf")?.as_str()), ("one\nconf\n", "two\n"));
    Ok(())
}

#[test]
fn a_read_only_volume_refuses_every_change() -> Result<()> {
    let shared = Shared::new()?;
    fs::create_dir(shared.path("dir"))?;
    fs::write(shared.path("f"), "x")?;
    let volume = format!("{}:ro", shared.volume());
    let changes = [
        "echo y > /mnt/f",
        "touch /mnt/new",
        "rm /mnt/f",
        "rmdir /mnt/dir",
        "mv /mnt/f /mnt/g",
        "chmod 600 /mnt/f",
    ];
    let script = changes.map(|change| format!("! {change} && ")).concat() + "cat /mnt/f";
    let finished = run_in(&["-v", &volume], ["sh", "-c", &script])?;
    assert_eq!(
        (finished.out().as_str(), finished.err().matches("Read-only file system").count()),
        ("x", changes.len())
    );
    // Nor does the guest's root get in by another way: the host's mount is read-only, whatever the guest's says.
    let options = ["-v", &volume, "--cap-add", "SYS_ADMIN"];
    refused(
        &run_in(&options, ["sh", "-c", "mount -o remount,bind,rw /mnt; echo y > /mnt/f"])?,
        "Read-only file system",
    );
    assert_eq!(shared.read("f")?, "x");
    Ok(())
}

#[test]
fn a_change_on_the_host_is_seen_within_a_second() -> Result<()> {
    let shared = Shared::new()?;
    // As a kubelet does it: a link to a link to a directory, and the second one is replaced.
    fs::create_dir(shared.path("..1"))?;
    fs::create_dir(shared.path("..2"))?;
    fs::write(shared.path("..1/key"), "old\n")?;
    fs::write(shared.path("..2/key"), "new and longer\n")?;
    symlink("..1", shared.path("..data"))?;
    symlink("..data/key", shared.path("key"))?;
    fs::write(shared.path("file"), "before\n")?;
    let script = "exec 3< /mnt/file; cat /mnt/key /mnt/file; ls /mnt; echo ready; read line; cat /mnt/key /mnt/file /mnt/made; cat <&3";
    let mut started = shared.start("live", script)?;
    started.wait_for_output("ready")?;
    symlink("..2", shared.path("..tmp"))?;
    fs::rename(shared.path("..tmp"), shared.path("..data"))?;
    fs::OpenOptions::new().append(true).open(shared.path("file"))?.write_all(b"after\n")?;
    fs::write(shared.path("made"), "made\n")?;
    thread::sleep(MEMORY);
    assert_eq!(started.finish(b"\n")?.out(), "\nnew and longer\nbefore\nafter\nmade\nbefore\nafter\n");
    Ok(())
}

#[test]
fn links_and_dots_lead_to_the_guests_own_files() -> Result<()> {
    let shared = Shared::new()?;
    fs::write(shared.path("mark"), "")?;
    let outside = tempfile::tempdir()?;
    fs::write(outside.path().join("secret"), "secret")?;
    let secret = outside.path().join("secret");
    symlink(&secret, shared.path("absolute"))?;
    symlink(Path::new("../").join(secret.strip_prefix("/tmp").unwrap_or(&secret)), shared.path("relative"))?;
    symlink("/etc/os-release", shared.path("release"))?;
    let script =
        "cat /mnt/release; ! cat /mnt/absolute && ! cat /mnt/relative && ls -d /mnt/../mnt/mark; ls /mnt/..";
    let finished = run_in(&["-v", &shared.volume()], ["sh", "-c", script])?;
    assert!(
        finished.out().contains("ID=busybox") && finished.out().contains("/mnt/../mnt/mark"),
        "{finished:?}"
    );
    assert!(!finished.out().contains("secret") && finished.out().contains("\nproc\n"), "{finished:?}");
    Ok(())
}

#[test]
fn no_device_of_the_guests_making_is_left_on_the_host() -> Result<()> {
    let shared = Shared::new()?;
    let finished = run_in(&["-v", &shared.volume()], ["mknod", "/mnt/disk", "b", "8", "0"])?;
    refused(&finished, "Operation not permitted");
    assert_eq!(fs::read_dir(shared.path(""))?.count(), 0);
    Ok(())
}

#[test]
fn several_volumes_are_several() -> Result<()> {
    let (one, two) = (Shared::new()?, Shared::new()?);
    fs::write(one.path("f"), "1\n")?;
    fs::write(two.path("f"), "2\n")?;
    let volumes = [format!("{}:/a", one.path("").display()), format!("{}:/b/c:ro", two.path("").display())];
    let options = ["-v", &volumes[0], "-v", &volumes[1]];
    assert_eq!(
        one.say_with(&options, "cat /a/f /b/c/f; cp /b/c/f /a/g; ln /a/f /b/c/x 2> /dev/null || echo apart")?,
        "1\n2\napart\n"
    );
    assert_eq!(one.read("g")?, "2\n");
    Ok(())
}

#[test]
fn a_source_that_is_not_there_is_named() -> Result<()> {
    let finished = run_in(&["-v", "/no/such:/mnt"], ["true"])?;
    assert_eq!((finished.code, finished.err().lines().count()), (125, 1), "{finished:?}");
    assert!(
        finished.err().contains("share /no/such") && finished.err().contains("No such file"),
        "{finished:?}"
    );
    Ok(())
}

/// The file server of a running container.
fn server_of(name: &str) -> Result<i64> {
    let state = fs::read(Path::new("/run/securectr").join(name).join("state.json"))?;
    let state: serde_json::Value = serde_json::from_slice(&state)?;
    state.get("files_pid").and_then(serde_json::Value::as_i64).context("files_pid")
}

#[test]
fn a_killed_file_server_is_the_cause_of_the_end() -> Result<()> {
    let shared = Shared::new()?;
    let mut started = shared.start("killed-files", "echo ready; sleep 1000")?;
    started.wait_for_output("ready")?;
    let begin = Instant::now();
    assert!(
        Command::new("kill").args(["-KILL", &server_of("killed-files")?.to_string()]).status()?.success()
    );
    let finished = started.finish(b"")?;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!((finished.code, finished.err().lines().count()), (125, 1), "{finished:?}");
    assert!(finished.err().contains("the file server was ended by signal 9"), "{finished:?}");
    Ok(())
}

#[test]
fn the_file_servers_jail_holds_nothing_but_the_share() -> Result<()> {
    let shared = Shared::new()?;
    fs::write(shared.path("mark"), "")?;
    let mut started = shared.start("jail", "ls /mnt; echo ready; read line")?;
    started.wait_for_output("ready")?;
    let process = PathBuf::from(format!("/proc/{}", server_of("jail")?));
    let own = Path::new("/proc/self");

    let status = fs::read_to_string(process.join("status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        line.map(str::to_owned).with_context(|| name.to_owned())
    };
    // CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID SETGID SETUID SETFCAP (linux/capability.h)
    let kept: u64 = [0, 1, 2, 3, 4, 6, 7, 31].map(|bit| 1_u64 << bit).iter().sum();
    for set in ["CapEff:", "CapPrm:"] {
        assert_eq!(u64::from_str_radix(&field(set)?, 16)?, kept, "{set}");
    }
    for set in ["CapInh:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set)?, 16)?, 0, "{set}");
    }
    assert_eq!((field("NoNewPrivs:")?, field("Seccomp:")?), ("1".into(), "2".into()));

    let names = |path: PathBuf| -> Result<BTreeSet<String>> {
        let entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    assert_eq!(names(process.join("root"))?, BTreeSet::from(["jail-0".to_owned()]));
    assert_eq!(names(process.join("root/jail-0"))?, BTreeSet::from(["mark".to_owned()]));
    let mounts = fs::read_to_string(process.join("mountinfo"))?;
    let share = mounts.lines().find(|line| line.contains(" /jail-0 ")).context("the share's mount")?;
    assert!(mounts.lines().count() == 2 && share.contains("nosuid,nodev,noexec"), "{mounts}");

    for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let id = |process: &Path| fs::read_link(process.join("ns").join(namespace));
        assert_ne!(id(&process)?, id(own)?, "{namespace}");
    }
    let limits = fs::read_to_string(process.join("limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("limits")?;
    assert_eq!(core.split_ascii_whitespace().nth(4), Some("0"));
    // None of them is in our own namespace, nor stays when the container has ended.
    assert!(!fs::read_to_string(own.join("mountinfo"))?.contains("jail-0"));
    assert_eq!(started.finish(b"\n")?.code, 0);
    let begin = Instant::now();
    while process.exists() {
        ensure!(begin.elapsed() < Duration::from_secs(10), "the file server has outlived its container");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Nobody on the host.
const USER_ID: u32 = 54_321;

#[test]
fn without_root_what_a_container_makes_belongs_to_who_started_it() -> Result<()> {
    let shared = Shared::new()?;
    let runtime = shared.path("runtime");
    fs::create_dir(&runtime)?;
    fs::write(shared.path("roots"), "root's")?;
    fs::set_permissions(shared.path("roots"), fs::Permissions::from_mode(0o600))?;
    for path in [shared.path(""), runtime.clone()] {
        chown(path, Some(USER_ID), Some(USER_ID))?;
    }
    let group = fs::metadata("/dev/kvm")?.gid().to_string();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &USER_ID.to_string(), "--regid", &group, "--clear-groups"])
        .arg(program("securectr"));
    command.args(["run", "-v", &shared.volume(), &image("busybox"), "sh", "-ec"]);
    command.arg("! cat /mnt/roots 2> /dev/null; echo hello > /mnt/made; chmod 640 /mnt/made; stat -c %u /mnt/made; cat /mnt/made");
    command.env_clear().env("HOME", shared.path("")).env("XDG_RUNTIME_DIR", &runtime).current_dir("/");
    let finished = Started::spawn(&mut command)?.finish(b"")?;
    assert_eq!((finished.code, finished.out().as_str()), (0, "0\nhello\n"), "{finished:?}");
    let made = fs::metadata(shared.path("made"))?;
    assert_eq!(
        (made.uid(), made.mode() & 0o7777, shared.read("made")?.as_str()),
        (USER_ID, 0o640, "hello\n")
    );
    Ok(())
}
