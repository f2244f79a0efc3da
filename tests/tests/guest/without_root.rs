//! All that a container's life is made of needs no root, and what is missing is named.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{
    Finished, ORDINARY_ID, Started, User, World, eventually, image, no_process_is_left, program,
    registry::Registry,
};

use crate::nat::page;

/// An ordinary user at a host that has a network.
struct Ordinary {
    user: User,
    world: World,
}

impl Ordinary {
    fn new() -> Result<Self> {
        Ok(Self { user: User::ordinary()?, world: World::new()? })
    }

    fn call(&self, words: &[&str]) -> Result<Finished> {
        Started::spawn(self.world.on_host(&self.user.command(words)).current_dir("/"))?.finish(b"")
    }

    fn say(&self, words: &[&str]) -> Result<String> {
        let finished = self.call(words)?;
        ensure!(finished.code == 0, "{words:?}: {finished:?}");
        Ok(finished.out().trim_end_matches('\n').to_owned())
    }

    fn exec(&self, script: &str) -> Result<String> {
        self.say(&["exec", "web", "sh", "-c", script])
    }

    /// A file of the home belongs to nobody else.
    fn owns(&self, path: &str) -> Result<()> {
        let file = fs::metadata(self.user.home().join(path)).with_context(|| path.to_owned())?;
        ensure!(file.uid() == ORDINARY_ID, "{path} is user {}'s", file.uid());
        Ok(())
    }
}

#[test]
fn a_container_lives_its_whole_life_without_root() -> Result<()> {
    let ordinary = Ordinary::new()?;
    let home = ordinary.user.home().display().to_string();
    ordinary.has_no_further_ids()?;
    let name = ordinary.fetch()?;
    assert_eq!(ordinary.say(&["run", "--rm", &name, "id", "-u"])?, "0");
    let bound = ordinary.user.home().join("bound");
    fs::create_dir(&bound)?;
    chown(&bound, Some(ORDINARY_ID), Some(fs::metadata(&home)?.gid()))?;
    ordinary.start(&name)?;
    assert_eq!(
        ordinary.say(&["ps", "--format", "{{.Names}} {{.State}} {{.Ports}}"])?,
        "web running 0.0.0.0:8080->80/tcp"
    );
    ordinary.limits_hold()?;
    ordinary.files_belong_to_who_started_it()?;

    let copied = format!("{home}/copied");
    ordinary.say(&["cp", "web:/www/index.html", &copied])?;
    ordinary.owns("copied")?;
    ordinary.say(&["cp", &copied, "web:/root/back"])?;
    assert_eq!(ordinary.exec("cat /root/back; stat -c %u /root/back")?, "a page\n0");
    let changed = ordinary.say(&["diff", "web"])?;
    ensure!(changed.contains("A /root/back") && changed.contains("A /www/index.html"), "{changed}");
    ordinary.say(&["commit", "web", "mine:2"])?;
    assert_eq!(ordinary.say(&["run", "--rm", "mine:2", "cat", "/root/back"])?, "a page");

    ordinary.say(&["restart", "web"])?;
    eventually("a page after the restart", || Ok(ordinary.page().is_ok_and(|page| page.contains("a page"))))?;
    assert_eq!(ordinary.exec("cat /root/back /data/kept")?, "a page\nkept");
    ordinary.say(&["stop", "web"])?;
    assert_eq!(ordinary.say(&["ps", "-q"])?, "");
    ordinary.say(&["rm", "web"])?;
    ordinary.say(&["rmi", "mine:2", &name])?;
    ordinary.say(&["volume", "rm", "data"])?;
    ordinary.has_left_nothing()
}

impl Ordinary {
    /// Nothing here needs ranges of ids, which an administrator would have to give (subuid(5)).
    fn has_no_further_ids(&self) -> Result<()> {
        for file in ["/etc/subuid", "/etc/subgid"] {
            let ranges = fs::read_to_string(file).unwrap_or_default();
            ensure!(!ranges.contains(&ORDINARY_ID.to_string()), "{file}: {ranges}");
        }
        Ok(())
    }

    /// Pulls an image; its name.
    fn fetch(&self) -> Result<String> {
        let registry = Registry::start()?;
        let name = registry.push("busybox", "team/box:1")?;
        // Not from within the world, whose loopback is another.
        ensure!(self.user.succeed(&["pull", &name])?.contains("Downloaded newer image"));
        Ok(name)
    }

    fn start(&self, name: &str) -> Result<()> {
        let bound = format!("{}:/bound", self.user.home().join("bound").display());
        let options = ["--init", "--name", "web", "-p", "8080:80", "-v", "data:/data", "-v", &bound];
        let limits =
            ["--tmpfs", "/scratch:size=1m", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50"];
        let script = "mkdir -p /www; echo a page >/www/index.html; echo kept >/data/kept; echo up; exec httpd -f -p 80 -h /www";
        let command = [name, "sh", "-c", script];
        self.say(&[["run", "-d"].as_slice(), &options, &limits, &command].concat())?;
        eventually("a page", || Ok(self.page().is_ok_and(|page| page.contains("a page"))))?;
        assert_eq!(self.say(&["logs", "web"])?, "up");
        Ok(())
    }

    fn page(&self) -> Result<String> {
        self.world.outside(page("10.77.0.2:8080"))
    }

    fn limits_hold(&self) -> Result<()> {
        let script = "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max; df -k /scratch | tail -n 1 | awk '{ print $2 }'";
        assert_eq!(self.exec(script)?, "67108864\n50000 100000\n50\n1024");
        let shown = self.say(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"])?;
        ensure!(shown.starts_with("web ") && shown.ends_with("/ 64.00 MiB"), "{shown}");
        let told = self.say(&["events", "--since", "10m", "--until", "0s", "--format", "{{.Action}}"])?;
        ensure!(told.contains("create") && told.contains("start"), "{told}");
        Ok(())
    }

    /// On both sides: root's in the container, the user's here. There is nobody else to give them to.
    fn files_belong_to_who_started_it(&self) -> Result<()> {
        assert_eq!(
            self.exec("touch /bound/made /data/made; stat -c %u:%g /bound/made /data/made /bound")?,
            "0:0\n0:0\n0:0"
        );
        self.owns("bound/made")?;
        self.owns("store/volumes/data/_data/made")?;
        let given = self.call(&["exec", "web", "chown", "1000:1000", "/bound/made"])?;
        ensure!(given.code != 0 && given.err().contains("Invalid argument"), "{given:?}");
        // The container's own disk has all users.
        assert_eq!(self.exec("touch /root/x; chown 1000:1000 /root/x; stat -c %u /root/x")?, "1000");
        Ok(())
    }

    fn has_left_nothing(&self) -> Result<()> {
        let names = |path: &str| -> Result<Vec<String>> {
            let entries = fs::read_dir(self.user.home().join(path)).with_context(|| path.to_owned())?;
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        for place in ["store/containers", "store/volumes", "store/v1/images", "runtime/securectr"] {
            ensure!(names(place)?.is_empty(), "{place}: {:?}", names(place)?);
        }
        eventually("passt has gone", || Ok(self.world.programs()?.is_empty()))?;
        no_process_is_left()
    }
}

/// One line, which names the one thing that is missing.
fn told(finished: &Finished, missing: &str) {
    assert!(finished.code == 125 && finished.err().contains(missing), "no {missing:?} in {finished:?}");
    assert_eq!(finished.err().lines().count(), 1, "{finished:?}");
}

#[test]
fn what_is_missing_is_named_with_what_to_do_about_it() -> Result<()> {
    let busybox = image("busybox");
    let user = User::ordinary()?;
    let run = |options: &[&str]| user.command(&[&["run"], options, &[&busybox, "true"]].concat());
    let finish = |command: &mut Command| Started::spawn(command)?.finish(b"");
    let ran = finish(&mut run(&[]))?;
    assert_eq!(ran.code, 0, "{ran:?}");
    told(
        &finish(run(&["--network", "nat"]).env("PATH", "/nowhere"))?,
        "passt is missing, which makes a network without root: install the Debian package passt",
    );
    told(
        &finish(run(&[]).env_remove("XDG_RUNTIME_DIR"))?,
        "XDG_RUNTIME_DIR is not set: without root, sandboxes keep their state there",
    );
    // In a user namespace that may have none below it.
    let mut bounded = Command::new("unshare");
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    bounded.args(["--user", "--map-root-user", "sh", "-c", script]).arg(program("securectr"));
    let store = tempfile::tempdir()?;
    bounded.arg("--store").arg(store.path()).args(["run", &busybox, "true"]);
    let finished = finish(&mut bounded)?;
    ensure!(
        finished.code == 125 && finished.err().contains("raise user.max_user_namespaces"),
        "{finished:?}"
    );
    let stranger = User::ordinary_in_group(ORDINARY_ID)?;
    stranger.succeed(&["load", "-q", "-t", "box", &busybox])?;
    told(&stranger.call(&["run", "box", "true"])?, "open /dev/kvm: join the group kvm, or run as root");
    for user in [&user, &stranger] {
        let left = fs::read_dir(user.runtime().join("securectr"))?.count();
        ensure!(left == 0, "a start that failed has left its state");
    }
    let checked = stranger.call(&["check"])?;
    ensure!(checked.code == 1 && checked.out().contains("join the group kvm"), "{checked:?}");
    Ok(())
}
