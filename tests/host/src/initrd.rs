//! What the kernel unpacks into its first root: busybox, modules and scripts, in the `newc` format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::assets::Assets;
use crate::job::Job;
use crate::modules;

const INIT: &str = include_str!("init.sh");
const SESSION: &str = include_str!("session.sh");

/// What it takes to mount the machine's file system, and KVM, which nothing would load on demand.
const MODULES: [&str; 4] = ["9pnet_virtio", "9p", "overlay", "kvm-amd"];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// A file in memory that a child process inherits, and that is gone with the last process that holds it.
pub(crate) fn build(assets: &Assets, job: &Job) -> Result<OwnedFd> {
    let name = CString::new("initrd")?;
    let memory = memfd_create(name.as_c_str(), MFdFlags::empty()).context("create the initrd in memory")?;
    let mut archive = Archive { out: File::from(memory), entries: 0 };
    archive.add("bin", DIRECTORY, &[])?;
    archive.add("bin/busybox", PROGRAM, &assets.busybox()?)?;
    archive.add("init", PROGRAM, INIT.as_bytes())?;
    archive.add("session.sh", FILE, SESSION.as_bytes())?;
    archive.add("job.sh", FILE, &job.script(&assets.modules_dir()))?;
    archive.add("modules", DIRECTORY, &[])?;
    for (index, path) in modules::in_load_order(&assets.modules_dir(), &MODULES)?.iter().enumerate() {
        archive.add(&format!("modules/{index:02}.ko"), FILE, &modules::read(path)?)?;
    }
    archive.finish().context("write the initrd")
}

struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let name_size = u32::try_from(name.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (inode, link_count) = (self.entries, 1);
        let fields = [inode, mode, 0, 0, link_count, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(name);
        header.push('\0');
        self.write_padded(header.as_bytes())?;
        self.write_padded(content)
    }

    fn write_padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        io::copy(&mut io::repeat(0).take(padding as u64), &mut self.out)?;
        Ok(())
    }
}

impl<W: Write + Into<OwnedFd>> Archive<W> {
    fn finish(mut self) -> io::Result<OwnedFd> {
        self.add("TRAILER!!!", 0, &[])?;
        Ok(self.out.into())
    }
}
