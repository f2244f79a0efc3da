//! Whether a container's program is in its root: engines want to hear at the creation that it is not, and no machine need be booted for it.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};
use oci_spec::runtime::{Process, Spec};

use crate::LaunchFailure;

/// As the agent looks when the process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Any of the three execute bits.
const EXECUTABLE: u32 = 0o111;

/// Looks for the program in a root on the host.
///
/// # Errors
/// It is certainly not there, or nobody may execute it. What a mount of the spec may hold counts as there.
pub fn find_program(root: &Path, spec: &Spec) -> Result<(), LaunchFailure> {
    let Some(process) = spec.process() else { return Ok(()) };
    let Some(program) = process.args().iter().flatten().next() else { return Ok(()) };
    let Ok(root) = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) else {
        return Ok(());
    };
    let mut errno = libc::ENOENT;
    for candidate in candidates(program, process) {
        if is_mounted(&candidate, spec) {
            return Ok(());
        }
        match mode(&root, &candidate) {
            Ok(mode) if mode & EXECUTABLE != 0 => return Ok(()),
            Ok(_) => errno = libc::EACCES,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // What cannot be looked at from here may be there.
            Err(_) => return Ok(()),
        }
    }
    Err(LaunchFailure { program: program.clone(), source: io::Error::from_raw_os_error(errno) })
}

/// As execvp(3) has them.
fn candidates(program: &str, process: &Process) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![process.cwd().join(program)];
    }
    let path = process.env().iter().flatten().find_map(|variable| variable.strip_prefix("PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(':');
    directories.map(|directory| process.cwd().join(directory).join(program)).collect()
}

/// Mounts lie over what the root has, and symbolic links may lead into them.
fn is_mounted(candidate: &Path, spec: &Spec) -> bool {
    let mut mounts = spec.mounts().iter().flatten().filter(|mount| mount.source().is_some());
    mounts.any(|mount| candidate.starts_with(mount.destination()))
}

/// Type and permissions; a directory has none.
fn mode(root: &OwnedFd, path: &Path) -> io::Result<u32> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let metadata = File::from(openat2(root, path, how)?).metadata()?;
    Ok(if metadata.is_file() { metadata.permissions().mode() } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    fn root() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/tool"), "").unwrap();
        fs::set_permissions(root.path().join("usr/bin/tool"), PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(root.path().join("usr/bin/text"), "").unwrap();
        // Absolute, as in images: it must not lead to the host's.
        symlink("/usr/bin", root.path().join("bin")).unwrap();
        root
    }

    fn looked_for(program: &str) -> Option<i32> {
        let process = json!({"cwd": "/usr", "args": [program], "env": ["PATH=/sbin:/bin"], "user": {"uid": 0, "gid": 0}});
        let mounts = json!([{"destination": "/mnt", "type": "bind", "source": "/srv"}]);
        let spec = json!({"ociVersion": "1.2.0", "process": process, "mounts": mounts});
        let found = find_program(root().path(), &serde_json::from_value(spec).unwrap());
        found.err().and_then(|failure| failure.source.raw_os_error())
    }

    #[test]
    fn a_program_is_found_as_the_container_would_find_it() {
        for program in ["tool", "/usr/bin/tool", "/bin/tool", "bin/tool", "./bin/tool"] {
            assert_eq!(looked_for(program), None, "{program}");
        }
    }

    #[test]
    fn one_that_is_not_there_is_told_from_one_that_may_not_be_executed() {
        for program in ["nosuch", "/nosuch", "/bin/sh", "/usr/bin/tool/below"] {
            assert_eq!(looked_for(program), Some(libc::ENOENT), "{program}");
        }
        assert_eq!(looked_for("text"), Some(libc::EACCES));
        assert_eq!(looked_for("/usr"), Some(libc::EACCES));
    }

    #[test]
    fn what_a_mount_may_hold_counts_as_there() {
        assert_eq!(looked_for("/mnt/init"), None);
    }
}
