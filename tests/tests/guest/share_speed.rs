//! What a share costs: the same program on the host, on a volume, and in a container's root that is a directory of the host.
//!
//! `cargo test -p securectr-tests --test guest -- --ignored --nocapture what_a_share_costs`

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use securectr_tests::{image, securectr};

const DIRECTORIES: usize = 50;
const FILES: usize = 100;
const FILE_MIB: usize = 64;

/// Prints a name and how many seconds it took, a line each. CLOCK_MONOTONIC by its system call: the small Perl has no Time::HiRes.
const PROGRAM: &str = r#"
use strict; use Fcntl;
my $d = shift;
sub now { my $t = "\0" x 16; syscall(228, 1, $t); my ($s, $n) = unpack "qq", $t; $s + $n / 1e9 }
sub timed { my ($name, $f) = @_; my $t = now(); $f->(); printf "%s %.6f\n", $name, now() - $t }
sub walk { my ($p) = @_; opendir(my $h, $p) or die "$p: $!"; my @e = readdir $h;
  for (@e) { next if /^\.\.?$/; lstat "$p/$_" or die $!; walk("$p/$_") if -d _ } }
sub in_order { open(my $f, "<", "$d/$_[0]") or die $!; my $b; 1 while sysread $f, $b, 131072 }
sub at_random { open(my $f, "<", "$d/$_[0]") or die $!; my ($x, $b) = 1;
  for (1..4000) { $x = ($x * 1103515245 + 12345) & 0x7fffffff; sysseek $f, ($x >> 8) % 16384 * 4096, 0; sysread $f, $b, 4096 } }
timed("walk", sub { walk("$d/tree") });
timed("walk-again", sub { walk("$d/tree") });
sleep 2;
timed("walk-after-2-s", sub { walk("$d/tree") });
timed("read-64-MiB", sub { in_order("a") });
timed("read-64-MiB-again", sub { in_order("a") });
timed("4000-reads-of-4-KiB", sub { at_random("b") });
timed("4000-reads-of-4-KiB-again", sub { at_random("b") });
"#;

/// A tree of files, two large ones, and Perl with what it needs.
fn fill(root: &Path) -> Result<()> {
    for directory in 0..DIRECTORIES {
        let directory = root.join("tree").join(directory.to_string());
        fs::create_dir_all(&directory)?;
        for file in 0..FILES {
            fs::write(directory.join(file.to_string()), "")?;
        }
    }
    for name in ["a", "b"] {
        fs::write(root.join(name), vec![7; FILE_MIB << 20])?;
    }
    fs::write(root.join("program"), PROGRAM)?;
    for directory in ["usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib64"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    let script = r#"cp "$(readlink -f "$(command -v perl)")" "$0/usr/bin/perl"
        cp -r /usr/lib/x86_64-linux-gnu/perl-base "$0/usr/lib/x86_64-linux-gnu/"
        for library in $(ldd "$0/usr/bin/perl" | grep -o '/[^ ]*'); do cp -L "$library" "$0$library"; done"#;
    ensure!(Command::new("sh").args(["-ec", script]).arg(root).status()?.success());
    Ok(())
}

fn times(command: &mut Command) -> Result<Vec<(String, f64)>> {
    let output = command.output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| {
            let (name, seconds) = line.split_once(' ').with_context(|| line.to_owned())?;
            Ok((name.to_owned(), seconds.parse()?))
        })
        .collect()
}

#[test]
#[ignore = "a measurement"]
fn what_a_share_costs() -> Result<()> {
    let root = tempfile::tempdir()?;
    fill(root.path())?;
    let host = || times(Command::new("perl").arg(root.path().join("program")).arg(root.path()));
    host()?;
    let on_host = host()?;
    let volume = format!("{}:/mnt", root.path().display());
    let mut command = securectr();
    command.args(["run", "-v", &volume]).arg(image("debian")).args(["perl", "/mnt/program", "/mnt"]);
    let on_volume = times(&mut command)?;
    let mut command = securectr();
    command.args(["run", "--in-place", "--rootfs"]).arg(root.path());
    let in_root = times(command.args(["/usr/bin/perl", "/program", ""]))?;
    println!("{:<26} {:>9} {:>17} {:>17}", "", "host, ms", "volume", "root");
    for (((name, host), (_, volume)), (_, root)) in on_host.iter().zip(&on_volume).zip(&in_root) {
        let [volume_ratio, root_ratio] = [volume / host, root / host];
        let [host, volume, root] = [host, volume, root].map(|seconds| seconds * 1000.0);
        println!(
            "{name:<26} {host:>9.1} {volume:>9.1} ({volume_ratio:>5.1}) {root:>9.1} ({root_ratio:>5.1})"
        );
    }
    Ok(())
}
