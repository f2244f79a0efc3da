//! The Debian packages that the emulated machine is made of: fetched with apt, unpacked into a cache, installed nowhere.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::programs;

/// Debian 12 has its newer kernel by the first name, Debian 13 by the second.
const KERNELS: [&str; 2] = ["linux-image-6.12-amd64", "linux-image-amd64"];

/// An unpacked kernel package, with busybox beside it.
pub(crate) struct Assets {
    dir: PathBuf,
    release: String,
}

impl Assets {
    /// What an earlier call has fetched, or what this one fetches.
    pub(crate) fn obtain() -> Result<Self> {
        let cache = cache_dir()?;
        let current = cache.join("current");
        if !current.exists() {
            fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
            let _lock = lock(&cache.join("lock"))?;
            if !current.exists() {
                let kernel = newest_kernel()?;
                fetch(&cache, &kernel)?;
                symlink(&kernel, &current).with_context(|| format!("link {}", current.display()))?;
            }
        }
        let dir = current.canonicalize().with_context(|| format!("find {}", current.display()))?;
        let release = only_entry(&dir.join("usr/lib/modules"))?;
        Ok(Self { dir, release })
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.dir.join(format!("boot/vmlinuz-{}", self.release))
    }

    pub(crate) fn modules_dir(&self) -> PathBuf {
        self.dir.join("usr/lib/modules").join(&self.release)
    }

    pub(crate) fn busybox(&self) -> Result<Vec<u8>> {
        let path = self.dir.join("usr/bin/busybox");
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn release(&self) -> &str {
        &self.release
    }
}

fn cache_dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("SECURECTR_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("securectr")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/securectr")))
        .context("none of SECURECTR_CACHE, XDG_CACHE_HOME and HOME is set")?;
    Ok(cache.join("test-host"))
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {}", path.display()))
}

/// The package that the newest of Debian's kernel names stands for.
fn newest_kernel() -> Result<String> {
    for name in KERNELS {
        let output = Command::new(programs::find("apt-cache")?)
            .args(["depends", "--important", name])
            .env("LC_ALL", "C")
            .output()
            .context("start apt-cache")?;
        let listing = String::from_utf8_lossy(&output.stdout);
        let kernel = listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|package| package.starts_with("linux-image-"));
        if let Some(kernel) = kernel {
            return Ok(kernel.to_owned());
        }
    }
    bail!("apt knows neither {}: run `apt-get update`, on Debian 12 or later", KERNELS.join(" nor "))
}

/// Makes the directory `kernel` in the cache, whole or not at all.
fn fetch(cache: &Path, kernel: &str) -> Result<()> {
    eprintln!("test-host: fetching {kernel} (about 110 MB) and busybox-static");
    let scratch =
        TempDir::new_in(cache).with_context(|| format!("create a directory in {}", cache.display()))?;
    let mut download = Command::new(programs::find("apt-get")?);
    // Without this apt warns that its own user cannot write there.
    download.args(["-o", "APT::Sandbox::User=root", "download", kernel, "busybox-static"]);
    succeed(download.current_dir(&scratch).stdout(Stdio::from(std::io::stderr())))?;

    eprintln!("test-host: unpacking into {}", cache.display());
    let tree = scratch.path().join("tree");
    // One layout for packages from before and after Debian's merge of /lib into /usr/lib.
    fs::create_dir_all(tree.join("usr/lib"))?;
    fs::create_dir(tree.join("usr/bin"))?;
    symlink("usr/lib", tree.join("lib"))?;
    symlink("usr/bin", tree.join("bin"))?;
    for entry in fs::read_dir(&scratch)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            unpack(&package, &tree)?;
        }
    }
    let release = only_entry(&tree.join("usr/lib/modules"))?;
    succeed(Command::new(programs::find("depmod")?).arg("--basedir").arg(&tree).arg(release))?;
    let target = cache.join(kernel);
    fs::rename(&tree, &target).with_context(|| format!("move the unpacked packages to {}", target.display()))
}

/// Like `dpkg-deb --extract`, which would put a directory in the place of the links.
fn unpack(package: &Path, tree: &Path) -> Result<()> {
    let mut contents = Command::new(programs::find("dpkg-deb")?)
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let archive = contents.stdout.take().context("read from dpkg-deb")?;
    let mut tar = Command::new(programs::find("tar")?);
    tar.args(["--extract", "--no-same-owner", "--keep-directory-symlink", "--directory"]).arg(tree);
    succeed(tar.stdin(archive))?;
    let status = contents.wait().context("wait for dpkg-deb")?;
    if !status.success() {
        bail!("unpack {}: {status}", package.display());
    }
    Ok(())
}

fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("start {program}"))?;
    if !status.success() {
        bail!("{program} failed: {status}");
    }
    Ok(())
}

fn only_entry(dir: &Path) -> Result<String> {
    let mut entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    match (entries.next().transpose()?, entries.next()) {
        (Some(entry), None) => Ok(entry.file_name().to_string_lossy().into_owned()),
        _ => bail!("{} should have one entry", dir.display()),
    }
}
