//! `-v SOURCE:PATH:cow`: what a container writes there waits beside the source, until somebody has looked at it and decides.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use securectr_tests::{Ext4, Finished, Started, User, image, program};

/// Somebody with a directory that is `/w` in containers.
struct Desk {
    user: User,
    source: PathBuf,
}

impl Desk {
    fn new() -> Result<Self> {
        let user = User::with_box()?;
        for (path, content) in [
            ("src/kept", "kept\n"),
            ("src/old", "one\ntwo\nthree\n"),
            ("src/gone", "gone\n"),
            ("src/dir/a", "a\n"),
            ("src/dir/b", "b\n"),
            ("src/tree/x", "x\n"),
        ] {
            user.write(path, content)?;
        }
        let source = user.home().join("src");
        symlink("old", source.join("link"))?;
        Ok(Self { user, source })
    }

    /// Runs a script, whose changes are then those of the container `name`.
    fn run(&self, name: &str, script: &str) -> Result<Finished> {
        let finished =
            self.user.call(&["run", "--name", name, "-v", &self.volume(), "box", "sh", "-ec", script])?;
        ensure!(finished.code == 0, "{script}: {finished:?}");
        Ok(finished)
    }

    fn volume(&self) -> String {
        format!("{}:/w:cow", self.source.display())
    }

    fn read(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.source.join(name))?)
    }

    /// All there is, but for what is in files.
    fn tree(&self) -> Result<String> {
        let listed = Command::new("find")
            .args([".", "-printf", "%p %y %m %s %l %T@\n"])
            .current_dir(&self.source)
            .output()?;
        let mut lines: Vec<_> = String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines.join("\n"))
    }

    fn nothing_waits(&self) -> Result<bool> {
        let waits = self.user.succeed(&["diff", "--format", "{{.Names}}"])?;
        let copies = self.user.home().join("store/copies");
        Ok(waits.is_empty() && fs::read_dir(copies)?.next().is_none())
    }
}

fn refused(finished: &Finished, because: &str) {
    assert!(finished.code == 1 && finished.err().contains(because), "{finished:?}");
}

const SCRIPT: &str = "cd /w; sed -i s/two/2/ old; echo new > new; mkdir -p made/deep; echo deep > made/deep/file; chmod 640 made/deep/file; \
     rm -r dir gone; mkdir dir; echo c > dir/c; rm -r tree; echo file > tree; ln -sf kept link; touch kept; cat old";

#[test]
fn what_is_written_to_a_copy_comes_to_the_host_when_it_is_applied() -> Result<()> {
    let desk = Desk::new()?;
    let before = desk.tree()?;
    let ran = desk.run("desk", SCRIPT)?;
    assert_eq!(ran.out(), "one\n2\nthree\n");
    assert!(ran.err().contains("securectr diff desk"), "{ran:?}");
    assert_eq!(desk.tree()?, before);
    let shown = desk.user.succeed(&["diff", "desk"])?;
    let expected = "D /w/dir/a\nD /w/dir/b\nA /w/dir/c\nD /w/gone\nC /w/link\nA /w/made\nA /w/made/deep\nA /w/made/deep/file\nA /w/new\n\
                    C /w/old\nC /w/tree";
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&shown), sorted(expected), "{shown}");
    let patch = desk.user.succeed(&["diff", "--patch", "desk"])?;
    assert!(patch.contains("--- a/old\n+++ b/old\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three"), "{patch}");
    let waits = desk.user.succeed(&["diff", "--format", "{{.Names}} {{.Path}} {{.Changes}}"])?;
    assert_eq!(waits, "desk /w 11");
    // Nobody else takes its name meanwhile.
    let again = desk.user.call(&["run", "--name", "desk", "-v", &desk.volume(), "box", "true"])?;
    assert!(again.code == 125 && again.err().contains("waits: apply or discard it first"), "{again:?}");
    assert_eq!(sorted(&desk.user.succeed(&["apply", "desk"])?), sorted(expected));
    assert_eq!(
        (desk.read("old")?.as_str(), desk.read("made/deep/file")?.as_str()),
        ("one\n2\nthree\n", "deep\n")
    );
    assert_eq!(fs::metadata(desk.source.join("made/deep/file"))?.mode() & 0o7777, 0o640);
    assert_eq!((desk.read("dir/c")?.as_str(), desk.read("tree")?.as_str()), ("c\n", "file\n"));
    assert!(!desk.source.join("gone").exists() && !desk.source.join("dir/a").exists());
    assert_eq!(fs::read_link(desk.source.join("link"))?, Path::new("kept"));
    assert!(desk.nothing_waits()?);
    refused(&desk.user.call(&["diff", "desk"])?, "No such container: desk");
    Ok(())
}

#[test]
fn what_was_changed_on_this_machine_meanwhile_is_not_overwritten() -> Result<()> {
    let desk = Desk::new()?;
    desk.user.write("src/new/a", "a\n")?;
    desk.run("desk", "cd /w; echo guest > old; rm -r dir; echo n > tree/n; echo m > kept; rm -r new; mkdir new; echo c > new/c")?;
    fs::write(desk.source.join("old"), "host\n")?;
    fs::write(desk.source.join("dir/late"), "late\n")?;
    let shown = desk.user.succeed(&["diff", "desk"])?;
    assert!(shown.contains("C /w/old   (was changed on this machine since)"), "{shown}");
    refused(
        &desk.user.call(&["apply", "desk"])?,
        "nothing is applied: /w/dir was changed on this machine since, and 1 more",
    );
    assert_eq!((desk.read("old")?.as_str(), desk.read("kept")?.as_str()), ("host\n", "kept\n"));
    assert_eq!(desk.user.succeed(&["apply", "desk", "/w/tree"])?, "A /w/tree/n");
    assert!(desk.source.join("tree/n").exists() && desk.read("kept")? == "kept\n");
    refused(
        &desk.user.call(&["discard", "desk", "/w/new/a"])?,
        "/w/new/a is changed with its directory: discard that",
    );
    desk.user.succeed(&["discard", "desk", "/w/new"])?;
    desk.user.succeed(&["discard", "desk", "/w/dir"])?;
    refused(&desk.user.call(&["discard", "desk", "/w/dir"])?, "changed nothing at /w/dir");
    assert_eq!(
        desk.user.succeed(&["apply", "--force", "desk"])?,
        "C /w/kept\nC /w/old   (was changed on this machine since)"
    );
    assert_eq!((desk.read("old")?.as_str(), desk.read("dir/late")?.as_str()), ("guest\n", "late\n"));
    assert!(desk.nothing_waits()?);
    Ok(())
}

#[test]
fn a_container_that_stays_goes_on_with_its_copy_until_it_is_removed() -> Result<()> {
    let desk = Desk::new()?;
    let before = desk.tree()?;
    let script =
        "trap 'exit 0' TERM; cat /w/count 2>/dev/null; echo x >> /w/count; while :; do sleep 0.1; done";
    desk.user.succeed(&["run", "-d", "--name", "stays", "-v", &desk.volume(), "box", "sh", "-c", script])?;
    refused(&desk.user.call(&["apply", "stays"])?, "container stays runs: stop it first");
    desk.user.succeed(&["stop", "stays"])?;
    desk.user.succeed(&["start", "stays"])?;
    desk.user.succeed(&["stop", "stays"])?;
    assert_eq!(desk.user.succeed(&["logs", "stays"])?, "x");
    assert_eq!(desk.user.succeed(&["diff", "--cow", "stays"])?, "A /w/count");
    let all = desk.user.succeed(&["diff", "stays"])?;
    assert!(all.lines().any(|line| line == "A /w/count"), "{all}");
    desk.user.succeed(&["rm", "stays"])?;
    assert!(desk.nothing_waits()? && desk.tree()? == before);
    Ok(())
}

#[test]
fn a_stranger_gets_nothing_out_of_its_copy() -> Result<()> {
    let desk = Desk::new()?;
    let secret = desk.user.home().join("secret");
    fs::write(&secret, "secret")?;
    // What leads out, what would be run, what is too large or too deep, and a name for terminals.
    let script = "cd /w; rm -r dir; ln -s ../../.. dir; ln -s ../secret old2; echo x > Makefile; mkdir -p .git/hooks; echo x > .git/hooks/pre-push; \
         cp kept suid; chmod 6755 suid; mkfifo pipe; truncate -s 1000G big; printf end >> big; touch \"$(printf 'a\\033[2Jb')\"; \
         i=0; mkdir deep; cd deep; while [ $i -lt 150 ]; do mkdir d; cd d; i=$((i+1)); done; echo bottom > file";
    desk.run("bad", script)?;
    let shown = desk.user.succeed(&["diff", "bad"])?;
    for line in [
        "C /w/dir   (leads out, to ../../..)",
        "A /w/Makefile   (make runs or obeys it)",
        "A /w/.git/hooks/pre-push   (git runs or obeys it)",
        "A /w/suid   (set-user-ID and set-group-ID are not applied)",
        "A /w/a?[2Jb",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    desk.user.succeed(&["apply", "bad"])?;
    assert_eq!(
        (fs::read_to_string(&secret)?.as_str(), fs::read_link(desk.source.join("dir"))?.as_path()),
        ("secret", Path::new("../../.."))
    );
    assert_eq!(fs::metadata(desk.source.join("suid"))?.mode() & 0o7777, 0o755);
    let big = fs::metadata(desk.source.join("big"))?;
    assert!(big.len() == (1000 << 30) + 3 && big.blocks() < 1024, "{big:?}");
    assert_eq!(desk.read(&format!("deep/{}file", "d/".repeat(150)))?, "bottom\n");
    // Deeper than anybody looks: it can still be forgotten.
    let deeper = "cd /w; i=0; while [ $i -lt 250 ]; do mkdir d; cd d; i=$((i+1)); done; chmod 0 .";
    let ran = desk.run("deep", deeper)?;
    assert!(ran.err().contains("directories in each other"), "{ran:?}");
    desk.user.succeed(&["discard", "deep"])?;
    assert!(desk.nothing_waits()?);
    Ok(())
}

#[test]
fn only_a_directory_that_is_written_is_copied() -> Result<()> {
    let desk = Desk::new()?;
    let file = format!("{}:/w:cow", desk.source.join("old").display());
    let of_a_file = desk.user.call(&["run", "-v", &file, "box", "true"])?;
    assert!(
        of_a_file.code == 125 && of_a_file.err().contains("only a directory can be copied on write"),
        "{of_a_file:?}"
    );
    let unchanged = desk.run("idle", "cat /w/old > /dev/null; echo > /tmp/x")?;
    assert_eq!(unchanged.err(), "");
    assert!(desk.nothing_waits()?);
    Ok(())
}

/// Nobody on the host.
const USER_ID: u32 = 54_322;

#[test]
fn an_ordinary_user_copies_on_write() -> Result<()> {
    let disk = Ext4::mount(64 << 20)?;
    let home = disk.path();
    let source = home.join("src");
    for path in [source.clone(), home.join("run"), home.join("store")] {
        fs::create_dir(path)?;
    }
    File::create(source.join("old"))?;
    fs::write(source.join("gone"), "gone")?;
    for path in ["", "src", "src/old", "src/gone", "run", "store"] {
        chown(home.join(path), Some(USER_ID), Some(USER_ID))?;
    }
    fs::set_permissions(home, Permissions::from_mode(0o755))?;
    let group = fs::metadata("/dev/kvm")?.gid().to_string();
    let call = |words: &[&str]| -> Result<Finished> {
        let id = USER_ID.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--groups", &group]).arg(program("securectr"));
        command.arg("--store").arg(home.join("store")).args(words);
        command.env_clear().env("HOME", home).env("XDG_RUNTIME_DIR", home.join("run")).current_dir("/");
        Started::spawn(&mut command)?.finish(b"")
    };
    let volume = format!("{}:/w:cow", source.display());
    let script = "cd /w; echo guest > old; rm gone; mkdir -p closed/in; echo x > closed/in/x; chmod 500 closed; stat -c %u old";
    let ran = call(&["run", "--name", "mine", "-v", &volume, &image("busybox"), "sh", "-ec", script])?;
    assert_eq!((ran.code, ran.out().as_str()), (0, "0\n"), "{ran:?}");
    assert!(source.join("gone").exists());
    let applied = call(&["apply", "mine"])?;
    assert_eq!(
        applied.out(),
        "A /w/closed\nA /w/closed/in\nA /w/closed/in/x\nD /w/gone\nC /w/old\n",
        "{applied:?}"
    );
    assert_eq!(fs::read_to_string(source.join("old"))?, "guest\n");
    let made = fs::metadata(source.join("closed"))?;
    assert_eq!((made.uid(), made.mode() & 0o777, source.join("gone").exists()), (USER_ID, 0o500, false));
    Ok(())
}
