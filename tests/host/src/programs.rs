//! The machine's programs that the test host starts.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail};

/// Each with the Debian package that has it; what not every Debian has is also listed in `tests/host/packages`.
const PACKAGES: [(&str, &str); 10] = [
    ("apt-cache", "apt"),
    ("apt-get", "apt"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
    ("stty", "coreutils"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
];

/// Searches `PATH`, and the directories for administrators, which an ordinary user's `PATH` lacks.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    let Some(found) = found else {
        match PACKAGES.iter().find(|(name, _)| *name == program) {
            Some((_, package)) => bail!("{program} is missing: install the Debian package {package}"),
            None => bail!("{program} is missing"),
        }
    };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_that_not_every_debian_has_is_on_the_list() {
        let always_there = ["apt", "coreutils", "dpkg", "tar", "util-linux"];
        let listed: Vec<&str> = include_str!("../packages").lines().collect();
        let mut needed: Vec<&str> = PACKAGES.iter().map(|(_, package)| *package).collect();
        needed.retain(|package| !always_there.contains(package));
        assert_eq!(listed, needed);
    }

    #[test]
    fn a_missing_program_is_answered_with_its_package_or_its_name() {
        assert_eq!(find("no-such-program").unwrap_err().to_string(), "no-such-program is missing");
    }
}
