//! What who applies a stranger's change ought to know of it: what tools of this machine would run or obey later, and what would lead
//! elsewhere.

use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Stat};

use super::file::printable;

/// Set-user-ID and set-group-ID.
pub(super) const SET_ID: u32 = 0o6000;

/// Files by name, wherever they are, and who runs or obeys them.
const BY_NAME: [(&str, &str); 31] = [
    ("Makefile", "make"),
    ("makefile", "make"),
    ("GNUmakefile", "make"),
    ("CMakeLists.txt", "cmake"),
    ("meson.build", "meson"),
    ("configure", "builds"),
    ("Justfile", "just"),
    ("justfile", "just"),
    ("package.json", "npm"),
    (".npmrc", "npm"),
    ("build.rs", "cargo"),
    ("Cargo.toml", "cargo"),
    ("rust-toolchain.toml", "cargo"),
    ("setup.py", "pip"),
    ("pyproject.toml", "pip"),
    ("conftest.py", "pytest"),
    ("Rakefile", "rake"),
    ("Gemfile", "bundler"),
    ("build.gradle", "gradle"),
    ("build.gradle.kts", "gradle"),
    ("pom.xml", "maven"),
    (".envrc", "direnv"),
    (".bashrc", "the shell"),
    (".bash_profile", "the shell"),
    (".profile", "the shell"),
    (".zshrc", "the shell"),
    (".vimrc", "vim"),
    (".pre-commit-config.yaml", "git"),
    (".gitmodules", "git"),
    (".gitlab-ci.yml", "CI"),
    ("Jenkinsfile", "CI"),
];

/// Directories, and who runs or obeys what is in them.
const BY_DIRECTORY: [(&str, &str); 9] = [
    (".git", "git"),
    (".husky", "git"),
    (".github/workflows", "CI"),
    (".circleci", "CI"),
    (".cargo", "cargo"),
    (".vscode", "the editor"),
    (".idea", "the editor"),
    (".ssh", "ssh"),
    (".config/systemd", "systemd"),
];

/// Of something at a way below the mount.
pub(super) fn note(way: &Path, stat: &Stat, target: Option<PathBuf>) -> Option<String> {
    let what = FileType::from_raw_mode(stat.st_mode);
    let mut notes = Vec::new();
    match (what, target) {
        (FileType::Symlink, Some(target)) if leads_out(way, &target) => {
            notes.push(format!("leads out, to {}", printable(&target)));
        }
        (FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice, _) => {
            notes.push("is not applied".to_owned());
        }
        (FileType::RegularFile, _) if stat.st_mode & SET_ID != 0 => {
            notes.push("set-user-ID and set-group-ID are not applied".to_owned());
        }
        _ => {}
    }
    if let Some(who) = who_obeys(way).filter(|_| what != FileType::Directory) {
        notes.push(format!("{who} runs or obeys it"));
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

fn who_obeys(way: &Path) -> Option<&'static str> {
    let parent = way.parent()?;
    let inside = |directory: &str| parent.ancestors().any(|above| above.ends_with(directory));
    let by_directory = BY_DIRECTORY.iter().find(|(directory, _)| inside(directory)).map(|(_, who)| *who);
    by_directory.or_else(|| {
        BY_NAME.iter().find(|(name, _)| way.file_name() == Some(name.as_ref())).map(|(_, who)| *who)
    })
}

fn leads_out(way: &Path, target: &Path) -> bool {
    let mut depth = way.components().count() - 1;
    for component in target.components() {
        match component {
            Component::RootDir | Component::Prefix(_) => return true,
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_would_run_is_told() {
        for (way, who) in [
            ("Makefile", Some("make")),
            ("a/b/package.json", Some("npm")),
            (".git/hooks/pre-commit", Some("git")),
            ("sub/.git/config", Some("git")),
            (".github/workflows/ci.yml", Some("CI")),
            ("workflows/ci.yml", None),
            ("src/main.c", None),
            ("Makefile.txt", None),
        ] {
            assert_eq!(who_obeys(Path::new(way)), who, "{way}");
        }
    }

    #[test]
    fn a_link_that_leads_out_is_told_from_one_that_does_not() {
        for (way, target, out) in [
            ("a", "/etc/passwd", true),
            ("a", "b/../c", false),
            ("a", "../x", true),
            ("d/a", "../x", false),
            ("d/a", "../../x", true),
            ("a", "b/../../x", true),
        ] {
            assert_eq!(leads_out(Path::new(way), Path::new(target)), out, "{way} -> {target}");
        }
    }
}
