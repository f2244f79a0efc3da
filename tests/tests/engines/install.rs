//! `securectr install` and `uninstall`, in a directory that stands for the machine.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use securectr_tests::{Containerd, Finished, Runtime, Started, program};

/// Everything below a directory: paths with modes and bytes.
fn tree(top: &Path) -> Result<BTreeMap<PathBuf, (u32, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let bytes = if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path)?.into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path)?
        };
        found.insert(path, (metadata.permissions().mode(), bytes));
    }
    Ok(found)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    Ok(fs::write(path, text)?)
}

fn securectr(verb: &str, sysroot: &Path, options: &[&str]) -> Result<Finished> {
    let mut command = Command::new(program("securectr"));
    Started::spawn(command.arg(verb).arg("--sysroot").arg(sysroot).args(options))?.finish(b"")
}

fn install(sysroot: &Path, engine: &str) -> Result<Finished> {
    securectr("install", sysroot, &["--no-check", engine])
}

/// What containerd makes of a configuration.
fn dump(config: &Path) -> Result<String> {
    let mut command = Command::new("containerd");
    Ok(Started::spawn(command.arg("--config").arg(config).args(["config", "dump"]))?.finish(b"")?.out())
}

#[test]
fn containerd_knows_the_runtime_until_it_is_taken_back() -> Result<()> {
    let place = Containerd::new_place()?;
    let sysroot = place.path().join("sysroot");
    let config = sysroot.join("etc/containerd/config.toml");
    let cri = "[plugins.\"io.containerd.grpc.v1.cri\"] # theirs\r\n  sandbox_image = \"own/pause:1\"";
    write(&config, &format!("version = 2\n{}{cri}", Containerd::places(place.path())))?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o440))?;
    let before = tree(&sysroot)?;

    let dry = securectr("install", &sysroot, &["--containerd", "--dry-run"])?;
    assert!(dry.code == 0 && dry.out().contains("\n+[plugins."), "{dry:?}");
    assert_eq!(tree(&sysroot)?, before);

    let first = install(&sysroot, "--containerd")?;
    assert_eq!(first.code, 0, "{first:?}");
    let installed = tree(&sysroot)?;
    let second = install(&sysroot, "--containerd")?;
    assert!(second.code == 0 && second.out().contains("nothing to change"), "{second:?}");
    assert_eq!(tree(&sysroot)?, installed);

    let effective = dump(&config)?;
    for part in ["runtimes.securectr]", "runtimes.runc]", "\"own/pause:1\""] {
        assert!(effective.contains(part), "no {part} in {effective}");
    }
    // The shim is found by the link that was made for it.
    let containerd = Containerd::start_by(place, config, sysroot.join("usr/local/bin"))?;
    let plugins = containerd.ctr(["plugins", "ls"])?.out();
    let cri = plugins.lines().find(|line| line.split_whitespace().nth(1) == Some("cri"));
    assert!(cri.is_some_and(|line| line.trim_end().ends_with("ok")), "{plugins}");
    let ran = containerd.run(Runtime::Securectr, "installed", &["uname", "-r"])?;
    assert!(ran.out().trim().ends_with("-securectr"), "{ran:?}");

    let undone = securectr("uninstall", &sysroot, &[])?;
    assert_eq!(undone.code, 0, "{undone:?}");
    assert_eq!(tree(&sysroot)?, before);
    Ok(())
}

#[test]
fn each_engine_goes_by_itself_and_leaves_what_others_need() -> Result<()> {
    let place = tempfile::tempdir()?;
    let sysroot = place.path();
    write(&sysroot.join("etc/containerd/config.toml"), "# nothing but this\r\nversion = 2")?;
    write(&sysroot.join("srv/daemon.json"), "{\r\n\t\"debug\": true\r\n}")?;
    fs::create_dir_all(sysroot.join("etc/docker"))?;
    symlink("../../srv/daemon.json", sysroot.join("etc/docker/daemon.json"))?;
    let before = tree(sysroot)?;

    for engine in ["--containerd", "--docker", "--podman"] {
        let installed = install(sysroot, engine)?;
        assert_eq!(installed.code, 0, "{installed:?}");
    }
    let link = sysroot.join("usr/local/bin/containerd-shim-securectr-v2");
    let docker: serde_json::Value = serde_json::from_slice(&fs::read(sysroot.join("srv/daemon.json"))?)?;
    assert!(docker["runtimes"]["securectr"].is_object() && docker["debug"] == true, "{docker}");
    for engine in ["--podman", "--containerd"] {
        assert_eq!(securectr("uninstall", sysroot, &[engine])?.code, 0);
        assert!(link.is_symlink(), "docker needs it after {engine}");
    }
    assert_eq!(securectr("uninstall", sysroot, &["--docker"])?.code, 0);
    assert_eq!(tree(sysroot)?, before);
    Ok(())
}

#[test]
fn an_edited_file_keeps_what_was_edited() -> Result<()> {
    let place = tempfile::tempdir()?;
    let config = place.path().join("etc/containerd/config.toml");
    write(&config, "version = 2\n")?;
    assert_eq!(install(place.path(), "--containerd")?.code, 0);
    let edited = fs::read_to_string(&config)? + "[debug]\n  level = \"debug\"\n";
    fs::write(&config, edited)?;
    let undone = securectr("uninstall", place.path(), &[])?;
    assert!(undone.code == 0 && undone.out().contains("edited since"), "{undone:?}");
    assert_eq!(fs::read_to_string(&config)?, "version = 2\n[debug]\n  level = \"debug\"\n");
    Ok(())
}

#[test]
fn a_configuration_by_which_containerd_would_lose_a_setting_is_left_alone() -> Result<()> {
    let place = tempfile::tempdir()?;
    let directory = place.path().join("etc/containerd");
    // containerd 1 takes all that is said of a plugin from the file that is read last; 2 merges.
    let imports = format!("version = 2\nimports = [\"{}/other.toml\"]\n", directory.display());
    write(&directory.join("config.toml"), &imports)?;
    let other = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"own/pause:1\"\n";
    write(&directory.join("other.toml"), other)?;
    let before = tree(place.path())?;
    let installed = install(place.path(), "--containerd")?;
    if installed.code == 0 {
        assert!(dump(&directory.join("config.toml"))?.contains("\"own/pause:1\""), "{installed:?}");
        assert_eq!(securectr("uninstall", place.path(), &[])?.code, 0);
    } else {
        assert!(installed.err().contains("another file of its imports"), "{installed:?}");
    }
    assert_eq!(tree(place.path())?, before);
    Ok(())
}

#[test]
fn a_configuration_that_is_not_understood_is_named() -> Result<()> {
    let place = tempfile::tempdir()?;
    write(&place.path().join("etc/docker/daemon.json"), "{\n  // no comments in JSON\n}\n")?;
    let before = tree(place.path())?;
    let installed = install(place.path(), "--docker")?;
    assert_eq!(installed.code, 125, "{installed:?}");
    assert!(installed.err().contains("etc/docker/daemon.json, line 2"), "{installed:?}");
    assert_eq!(tree(place.path())?, before);
    Ok(())
}
