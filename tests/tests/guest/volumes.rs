//! A volume is a file system like any other: what a program finds there is what it finds on a local one. `tests/src/bin/trials` is that
//! program; by the same seed it does the same.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{Ext4, Started, image, securectr};
use tempfile::TempDir;

use crate::failures::SmallDisk;

fn trials() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_trials"))
}

/// On the host.
fn here(words: &[&str]) -> Result<String> {
    let done = Command::new(trials()).args(words).output()?;
    ensure!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

/// Containers with the program in `/programs`, a file system of their own in `/local`, and a directory of the host in `/volume`.
struct Guest {
    programs: TempDir,
    directory: PathBuf,
}

impl Guest {
    fn new(directory: &Path) -> Result<Self> {
        let guest = Self { programs: tempfile::tempdir()?, directory: directory.to_owned() };
        fs::copy(trials(), guest.programs.path().join("trials")).context("copy the program")?;
        Ok(guest)
    }

    fn run(&self, options: &[&str], script: &str) -> Result<String> {
        let mut command = securectr();
        command.args(["run", "--tmpfs", "/local:dev,suid,exec"]).args(options);
        command.arg("-v").arg(format!("{}:/programs:ro", self.programs.path().display()));
        command.arg("-v").arg(format!("{}:/volume", self.directory.display()));
        command.arg(image("debian")).args(["bash", "-ec", &format!("PATH=$PATH:/programs; {script}")]);
        let finished = Started::spawn(&mut command)?.finish(b"")?;
        ensure!(finished.code == 0, "{script}: {finished:?}");
        Ok(finished.out())
    }
}

/// A file system in memory on this side too, so that both sides are of a kind.
fn of_a_kind() -> Result<(SmallDisk, Guest)> {
    let disk = SmallDisk::mount("64m")?;
    let guest = Guest::new(disk.path())?;
    Ok((disk, guest))
}

#[test]
fn what_two_processes_write_in_every_way_is_what_both_read_and_the_host_has() -> Result<()> {
    let disk = Ext4::mount(128 << 20)?;
    let [local, shared] = ["local", "shared"].map(|name| disk.path().join(name));
    for directory in [&local, &shared] {
        fs::create_dir(directory)?;
    }
    let guest = Guest::new(&shared)?;
    for (seed, count) in [("1", "1000"), ("2", "1000")] {
        let file = local.join(seed).display().to_string();
        let expected = here(&["content", &file, seed, count])?;
        ensure!(expected.contains(" 0 not supported"), "{expected}");
        assert_eq!(guest.run(&[], &format!("trials content /volume/{seed} {seed} {count}"))?, expected);
        ensure!(fs::read(shared.join(seed))? == fs::read(file)?, "the files differ after seed {seed}");
    }
    Ok(())
}

#[test]
fn names_and_attributes_change_as_on_a_local_file_system() -> Result<()> {
    for seed in ["1", "2"] {
        let (disk, guest) = of_a_kind()?;
        let said = guest.run(&[], &format!("trials tree /local /volume {seed} 2000"))?;
        let (summary, tree) = said.split_once('\n').context("a line")?;
        println!("seed {seed}: {summary}");
        ensure!(summary.starts_with("2000 changes") && tree.lines().count() > 10, "{said}");
        assert_eq!(here(&["list", &disk.path().display().to_string()])?, tree);
    }
    Ok(())
}

#[test]
fn users_may_do_what_they_may_on_a_local_file_system() -> Result<()> {
    let (_disk, guest) = of_a_kind()?;
    let said = guest.run(&[], "trials permissions /local /volume 1 20")?;
    println!("{said}");
    ensure!(said.starts_with("720 tried"), "{said}");
    Ok(())
}

#[test]
fn what_is_refused_is_refused_with_the_same_words_also_where_nothing_may_change() -> Result<()> {
    let (_disk, guest) = of_a_kind()?;
    let questions =
        guest.run(&[], "trials prepare /local; trials prepare /volume; trials errors /local /volume")?;
    let volume = format!("{}:/sealed:ro", guest.directory.display());
    let sealed = "trials prepare /local; trials seal /local; trials errors /local /sealed";
    let sealed = guest.run(&["--cap-add", "SYS_ADMIN", "-v", &volume], sealed)?;
    let refused = |said: &str| -> Result<u32> {
        let words: Vec<&str> = said.split_whitespace().collect();
        Ok(words.get(2).context("a number")?.parse()?)
    };
    println!("{questions}{sealed}");
    ensure!(refused(&sealed)? > refused(&questions)?, "{questions}{sealed}");
    Ok(())
}
