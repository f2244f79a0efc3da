//! config.md, "Root" and "Mounts"; of config-linux.md what is about paths and mounts.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use securectr_tests::{Bundle, Runtime, on_each};
use serde_json::{Value, json};

use super::{on_securectr, refuses, script};

/// Adds mounts behind those of the example.
fn add(bundle: &Bundle, mounts: Vec<Value>) -> Result<()> {
    bundle.edit(|spec| {
        if let Some(all) = spec.get_mut("mounts").and_then(Value::as_array_mut) {
            all.extend(mounts);
        }
    })
}

fn tmpfs(place: &str, options: &[&str]) -> Value {
    json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
}

fn bind(source: &str, place: &str, options: &[&str]) -> Value {
    json!({"destination": place, "type": "none", "source": source, "options": options})
}

/// Of each mount: its attributes, its propagation, the file system's type and options, as proc_pid_mountinfo(5) has them.
fn mounts(mountinfo: &str) -> Result<BTreeMap<String, String>> {
    let lines = mountinfo.lines().filter(|line| line.contains(" - "));
    let mounts = lines.map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let (place, rest) = words.get(4).zip(words.get(5..)).with_context(|| line.to_owned())?;
        Ok(((*place).to_owned(), rest.join(" ")))
    });
    mounts.collect()
}

#[test]
fn mounts_are_made_in_their_order() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(
            runtime,
            "[ -d /m/a/b ] && echo nested; ls -A /n; cat /data/file /given /relative/file /inner/mounted; \
             touch /data/new && echo written; touch /fixed/new 2>/dev/null || echo fixed; touch /again/new 2>/dev/null || echo remounted; df -k /m | tail -1 | tr -s ' ' | cut -d' ' -f2",
        )?;
        fs::create_dir(bundle.path("data"))?;
        fs::write(bundle.path("data/file"), "file\n")?;
        let data = bundle.path("data").to_string_lossy().into_owned();
        add(
            &bundle,
            vec![
                tmpfs("/m", &["size=64k"]),
                tmpfs("/m/a", &[]),
                tmpfs("/m/a/b", &[]),
                tmpfs("/n/hidden", &[]),
                tmpfs("/n", &[]),
                tmpfs("/again", &[]),
                tmpfs("/again", &["remount", "ro"]),
                bind(&data, "/data", &["bind"]),
                bind(&format!("{data}/file"), "/given", &["bind", "ro"]),
                bind("data", "/relative", &["rbind"]),
                bind(&data, "/fixed", &["rbind", "ro"]),
                // Deprecated, but it counts from the root.
                bind(&format!("{data}/file"), "inner/mounted", &["bind"]),
            ],
        )?;
        assert_eq!(bundle.run()?, "nested\nfile\nfile\nfile\nfile\nwritten\nfixed\nremounted\n64\n");
        assert!(bundle.path("data/new").exists(), "it is the host's directory");
        Ok(())
    })
}

/// Those that a runtime must know, and what must and must not be seen of them in mountinfo.
const OPTIONS: &[(&str, &str, &str)] = &[
    ("async", "", "sync"),
    ("atime", "", "noatime"),
    ("defaults", "rw", "ro"),
    ("dev", "", "nodev"),
    ("diratime", "", "nodiratime"),
    ("dirsync", "dirsync", ""),
    ("exec", "", "noexec"),
    ("iversion", "", ""),
    ("lazytime", "lazytime", ""),
    ("loud", "", ""),
    ("noatime", "noatime", ""),
    ("nodev", "nodev", ""),
    ("nodiratime", "nodiratime", ""),
    ("noexec", "noexec", ""),
    ("noiversion", "", ""),
    ("nolazytime", "", "lazytime"),
    ("norelatime", "", ""),
    ("nostrictatime", "", ""),
    ("nosuid", "nosuid", ""),
    ("relatime", "relatime", ""),
    ("ro", "ro", ""),
    ("rw", "rw", "ro"),
    ("silent", "", ""),
    ("strictatime", "", "relatime"),
    ("suid", "", "nosuid"),
    ("sync", "sync", ""),
];

#[test]
fn every_mount_option_that_must_be_known_is() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "cat /proc/self/mountinfo")?;
        fs::create_dir(bundle.path("data"))?;
        let data = bundle.path("data").to_string_lossy().into_owned();
        // This runc hands it on to the file system.
        let is_known = |option: &str| runtime == Runtime::Securectr || option != "defaults";
        let known = || OPTIONS.iter().filter(|(option, ..)| is_known(option));
        let of_a_file_system = known().map(|(option, ..)| tmpfs(&format!("/o/{option}"), &[option]));
        let of_a_bind =
            OPTIONS.iter().map(|(option, ..)| bind(&data, &format!("/b/{option}"), &["bind", option]));
        add(&bundle, of_a_file_system.chain(of_a_bind).collect())?;
        let mounts = mounts(&bundle.run()?)?;
        for (option, present, absent) in known() {
            let mount =
                mounts.get(&format!("/o/{option}")).with_context(|| format!("{option}: {mounts:?}"))?;
            let words: Vec<_> = mount.split([' ', ',']).collect();
            assert!(present.is_empty() || words.contains(present), "{option}: {mount}");
            assert!(absent.is_empty() || !words.contains(absent), "{option}: {mount}");
            assert!(mounts.contains_key(&format!("/b/{option}")), "{option} of a bind");
        }
        Ok(())
    })
}

#[test]
fn mounts_propagate_as_asked() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "cat /proc/self/mountinfo")?;
        let kinds =
            ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];
        let asked = kinds.iter().map(|kind| tmpfs(&format!("/p/{kind}"), &[kind]));
        add(&bundle, asked.collect())?;
        bundle.set("linux.rootfsPropagation", json!("private"))?;
        let mounts = mounts(&bundle.run()?)?;
        for kind in kinds {
            let mount = mounts.get(&format!("/p/{kind}")).with_context(|| format!("{kind}: {mounts:?}"))?;
            assert_eq!(mount.contains(" shared:"), kind.ends_with("shared"), "{kind}: {mount}");
            assert_eq!(mount.contains(" unbindable"), kind.ends_with("unbindable"), "{kind}: {mount}");
        }
        assert!(!mounts["/"].contains(" shared:"), "{}", mounts["/"]);
        Ok(())
    })
}

#[test]
fn the_root_propagates_as_asked() -> Result<()> {
    // This runc shares the mount that the root lies in, and not the root.
    on_securectr(|runtime| {
        let bundle = script(runtime, "cat /proc/self/mountinfo")?;
        bundle.set("linux.rootfsPropagation", json!("shared"))?;
        let shared = mounts(&bundle.run()?)?;
        assert!(shared["/"].contains(" shared:"), "{}", shared["/"]);
        refuses(&bundle, "no such propagation", "linux.rootfsPropagation", json!("viral"))
    })
}

#[test]
fn a_read_only_root_is_one_but_not_its_mounts() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(
            runtime,
            "touch /x 2>/dev/null || echo no; touch /etc/x 2>/dev/null || echo no; touch /w/x && echo yes",
        )?;
        fs::create_dir(bundle.path("rootfs/etc"))?;
        bundle.set("root.readonly", json!(true))?;
        add(&bundle, vec![tmpfs("/w", &[])])?;
        assert_eq!(bundle.run()?, "no\nno\nyes\n");
        assert!(!bundle.path("rootfs/x").exists());
        Ok(())
    })
}

#[test]
fn masked_paths_cannot_be_read_and_read_only_ones_not_written() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(
            runtime,
            "cat /srv/secret /proc/uptime; ls -A /srv/secrets; cat /srv/fixed/file; \
             for file in /srv/fixed/file /srv/fixed/new /srv/one; do (true >> $file) 2>/dev/null || echo no; done; \
             (echo 0 > /proc/sys/kernel/msgmax) 2>/dev/null || echo no; true >> /srv/free && echo yes",
        )?;
        fs::create_dir_all(bundle.path("rootfs/srv/secrets"))?;
        fs::create_dir_all(bundle.path("rootfs/srv/fixed"))?;
        for file in ["secret", "secrets/file", "fixed/file", "one", "free"] {
            fs::write(bundle.path("rootfs/srv").join(file), format!("{file}\n"))?;
        }
        bundle.edit(|spec| {
            spec["linux"]["maskedPaths"] = json!(["/srv/secret", "/srv/secrets", "/proc/uptime", "/nowhere"]);
            spec["linux"]["readonlyPaths"] = json!(["/srv/fixed", "/srv/one", "/proc/sys", "/nowhere"]);
        })?;
        assert_eq!(bundle.run()?, "fixed/file\nno\nno\nno\nno\nyes\n");
        Ok(())
    })
}
