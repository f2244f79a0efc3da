//! What is done in a container from outside, as with docker: volumes are filled, processes listed and started.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use securectr_tests::{Started, User, eventually, image, no_process_is_left};

/// A container of the busybox image that runs until it is stopped.
fn box_running(options: &[&str]) -> Result<User> {
    let user = User::with_box()?;
    user.succeed(&[&["run", "-d", "--name", "web"], options, &["box", "sleep", "1000"]].concat())?;
    Ok(user)
}

fn user_with_debian() -> Result<User> {
    let user = User::new()?;
    user.succeed(&["load", "-q", "-t", "debian", &image("debian")])?;
    Ok(user)
}

#[test]
fn a_new_volume_gets_what_the_image_has_at_its_place() -> Result<()> {
    let user = user_with_debian()?;
    let run = |volume: &str, script: &str| user.succeed(&["run", "-v", volume, "debian", "sh", "-c", script]);
    // The sizes of directories are their file system's matter.
    let summary = "cd /etc && (find . ! -type d -exec stat -c '%n %f %u %g %s %Y' {} +; find . -mindepth 1 -type d -exec stat -c '%n %f %u %g %Y' {} +) | grep -v ^./host | sort | md5sum";
    let of_image = user.succeed(&["run", "debian", "sh", "-c", summary])?;
    assert_eq!(run("data:/etc", summary)?, of_image);
    assert_eq!(run("data:/etc", "echo changed >/etc/issue; cat /etc/issue")?, "changed");
    assert_eq!(run("data:/etc", "cat /etc/issue")?, "changed");
    assert_eq!(run("data:/srv", "cat /srv/issue; stat -c %a /srv")?, "changed\n755");
    assert_eq!(run("empty:/etc:nocopy", "ls /etc | grep -v host | wc -l")?, "0");
    let modes = "stat -c '%a %U' /tmp";
    assert_eq!(run("temporary:/tmp", modes)?, "1777 root");
    Ok(())
}

#[test]
fn only_a_new_container_fills_its_volume() -> Result<()> {
    let user = user_with_debian()?;
    let script = "ls -A /etc/skel | wc -l; rm -rf /etc/skel/.[a-z]*; sleep 1000";
    let start = ["run", "-d", "--name", "web", "-v", "data:/etc/skel", "debian", "sh", "-c", script];
    user.succeed(&start)?;
    eventually("it has emptied it", || {
        Ok(user.succeed(&["exec", "web", "ls", "-A", "/etc/skel"])?.is_empty())
    })?;
    user.succeed(&["restart", "-t", "0", "web"])?;
    assert_eq!(user.succeed(&["exec", "web", "ls", "-A", "/etc/skel"])?, "");
    let first = user.succeed(&["logs", "web"])?;
    assert!(first.lines().next().is_some_and(|count| count != "0"), "{first}");
    Ok(())
}

#[test]
fn a_privileged_process_has_what_its_container_has_not() -> Result<()> {
    let user = box_running(&[])?;
    let capabilities = ["web", "grep", "CapEff", "/proc/self/status"];
    assert_eq!(user.succeed(&[&["exec"], capabilities.as_slice()].concat())?, "CapEff:\t00000000a80425fb");
    let all = user.succeed(&[&["exec", "--privileged"], capabilities.as_slice()].concat())?;
    assert_eq!(all, "CapEff:\t000001ffffffffff");
    let script = "grep CapEff /proc/self/status >/left";
    user.succeed(&["exec", "-d", "--privileged", "web", "sh", "-c", script])?;
    eventually("it has said so", || Ok(user.succeed(&["exec", "web", "cat", "/left"])? == all))?;
    Ok(())
}

#[test]
fn an_init_passes_signals_on_and_reaps_what_is_left_to_it() -> Result<()> {
    let user = box_running(&["--init"])?;
    assert_eq!(user.succeed(&["exec", "web", "cat", "/proc/1/comm"])?, "init");
    user.succeed(&["exec", "web", "sh", "-c", "(sleep 0.1 &) ; exit 0"])?;
    eventually("nothing is left", || {
        Ok(!user.succeed(&["exec", "web", "sh", "-c", "cat /proc/[0-9]*/stat"])?.contains(") Z "))
    })?;
    user.succeed(&["stop", "-t", "20", "web"])?;
    assert_eq!(user.inspect(".State.ExitCode", "web")?, "143");
    for (script, code) in
        [("exit 3", 3), ("kill -9 $$", 137), ("trap 'exit 5' USR1; kill -USR1 1; sleep 5", 5)]
    {
        assert_eq!(user.call(&["run", "--init", "box", "sh", "-c", script])?.code, code, "{script}");
    }
    assert_eq!(user.call(&["run", "--init", "box", "/no/such/program"])?.code, 127);
    Ok(())
}

#[test]
fn users_and_groups_are_known_by_name() -> Result<()> {
    let user = user_with_debian()?;
    let id = ["--group-add", "audio", "--group-add", "4000", "debian", "id", "-G"];
    assert_eq!(user.succeed(&[&["run", "-u", "daemon"], id.as_slice()].concat())?, "1 29 4000");
    user.succeed(&["run", "-d", "--name", "web", "debian", "sleep", "1000"])?;
    let said = user.succeed(&[
        "exec",
        "-u",
        "www-data",
        "web",
        "sh",
        "-c",
        "id -un; id -gn; echo $HOME; echo ok >/dev/stdout",
    ])?;
    assert_eq!(said, "www-data\nwww-data\n/var/www\nok");
    assert_eq!(user.succeed(&["exec", "-u", "games:audio", "web", "id", "-gn"])?, "audio");
    let refused = user.call(&["exec", "-u", "ghost", "web", "true"])?;
    assert!(refused.code == 1 && refused.err().contains("no such user"), "{refused:?}");
    user.write("env", "A=file\nB=file\n")?;
    let file = user.home().join("env").display().to_string();
    let said = ["exec", "--env-file", &file, "-e", "B=typed", "web", "sh", "-c", "echo $A $B"];
    assert_eq!(user.succeed(&said)?, "file typed");
    Ok(())
}

#[test]
fn its_processes_are_listed() -> Result<()> {
    let user = box_running(&["-u", "7"])?;
    let listed = user.succeed(&["top", "web"])?;
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(
        (lines[1][..3].to_vec(), lines[1][7..].to_vec()),
        (vec!["7", "1", "0"], vec!["sleep", "1000"])
    );
    user.succeed(&["pause", "web"])?;
    assert_eq!(user.succeed(&["top", "--format", "{{.PID}} {{.CMD}}", "web"])?, "1 sleep 1000");
    let refused = user.call(&["top", "web", "-o", "pid"])?;
    assert!(refused.code == 1 && refused.err().contains("options of ps"), "{refused:?}");
    Ok(())
}

/// What a container says to a script.
fn said(user: &User, script: &str) -> Result<String> {
    user.succeed(&["exec", "web", "sh", "-c", script])
}

#[test]
fn files_are_copied_into_a_container_by_dockers_rules() -> Result<()> {
    let user = box_running(&[])?;
    let here = |path: &str| user.home().join(path).display().to_string();
    user.write("dir/sub/file", "inner")?;
    user.write("one", "first")?;
    fs::set_permissions(user.home().join("one"), PermissionsExt::from_mode(0o4750))?;
    File::open(user.home().join("one"))?.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000))?;
    symlink("file", user.home().join("dir/sub/link"))?;
    for (from, to) in
        [("one", "/tmp"), ("one", "/tmp/renamed"), ("dir", "/tmp"), ("dir", "/new"), ("dir/.", "/tmp/")]
    {
        user.succeed(&["cp", &here(from), &format!("web:{to}")])?;
    }
    assert_eq!(said(&user, "stat -c '%a %u:%g %Y' /tmp/one; cat /tmp/renamed")?, "4750 0:0 1000000\nfirst");
    let files = "cat /tmp/dir/sub/file /new/sub/file /tmp/sub/link; readlink /tmp/sub/link";
    assert_eq!(said(&user, files)?, "innerinnerinnerfile");
    user.succeed(&["cp", &here("dir"), "web:/new"])?;
    assert_eq!(said(&user, "cat /new/dir/sub/file")?, "inner");
    for (from, to) in [("one", "/nowhere/x"), ("one", "/nowhere/"), ("dir", "/tmp/one"), ("none", "/tmp")] {
        let refused = user.call(&["cp", &here(from), &format!("web:{to}")])?;
        assert!(refused.code == 1 && !refused.err().is_empty(), "{from} {to}: {refused:?}");
    }
    said(&user, "ln -s /tmp /way; rm -rf /tmp/one")?;
    user.succeed(&["cp", &here("one"), "web:/way"])?;
    assert_eq!(said(&user, "cat /tmp/one")?, "first");
    Ok(())
}

#[test]
fn files_are_copied_out_of_a_container_by_dockers_rules() -> Result<()> {
    let user = box_running(&["--tmpfs", "/memory"])?;
    let here = |path: &str| user.home().join(path);
    let copy =
        |from: &str, to: &str| user.call(&["cp", &format!("web:{from}"), &here(to).display().to_string()]);
    said(
        &user,
        "mkdir -p /d/sub; echo inner >/d/sub/file; ln -s file /d/sub/link; ln /d/sub/file /d/twin; chown 7:8 /d/twin; chmod 4711 /d/twin; chmod 500 /d/sub; touch -d @1000000 /d/sub; echo there >/memory/file",
    )?;
    user.write("existing/file", "old")?;
    for (from, to) in [
        ("/d", "new"),
        ("/d", "existing"),
        ("/d/.", "existing"),
        ("d/twin", "plain"),
        ("/d/twin", "existing/file"),
        ("/memory/file", "memory"),
    ] {
        let copied = copy(from, to)?;
        assert_eq!(copied.code, 0, "{from} {to}: {copied:?}");
    }
    let metadata = here("new/sub").metadata()?;
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o500, 1_000_000));
    assert_eq!(fs::read_link(here("new/sub/link"))?, Path::new("file"));
    assert_eq!(here("new/twin").metadata()?.ino(), here("new/sub/file").metadata()?.ino());
    let plain = here("plain").metadata()?;
    assert_eq!((plain.mode() & 0o7777, plain.uid()), (0o711, 0), "no rights come with it");
    for path in ["existing/d/twin", "existing/twin", "existing/file"] {
        assert_eq!(fs::read_to_string(here(path))?, "inner\n", "{path}");
    }
    assert_eq!(fs::read_to_string(here("memory"))?, "there\n", "what is mounted is seen");
    user.succeed(&["cp", "-a", "web:/d/twin", &here("all").display().to_string()])?;
    assert_eq!((here("all").metadata()?.mode() & 0o7777, here("all").metadata()?.uid()), (0o4711, 7));
    user.succeed(&["cp", "-L", "web:/d/sub/link", &here("followed").display().to_string()])?;
    assert!(here("followed").symlink_metadata()?.is_file());
    for (from, to) in [
        ("/none", "x"),
        ("/d/twin", "nowhere/x"),
        ("/d/twin", "nowhere/"),
        ("/d", "plain"),
        ("/d/twin/.", "x"),
    ] {
        let refused = copy(from, to)?;
        assert!(refused.code == 1 && !refused.err().is_empty(), "{from} {to}: {refused:?}");
    }
    Ok(())
}

#[test]
fn archives_are_copied_by_standard_streams() -> Result<()> {
    let user = box_running(&[])?;
    said(&user, "mkdir -p /d; echo inner >/d/file")?;
    let archive = user.call(&["cp", "web:/d", "-"])?;
    assert_eq!(archive.code, 0, "{}", archive.err());
    let sent = Started::spawn(&mut user.command(&["cp", "-", "web:/tmp"]))?.finish(&archive.stdout)?;
    assert_eq!((sent.code, said(&user, "cat /tmp/d/file")?.as_str()), (0, "inner"), "{sent:?}");
    let cut = archive.stdout.get(..700).context("an archive")?;
    let refused = Started::spawn(&mut user.command(&["cp", "-", "web:/tmp"]))?.finish(cut)?;
    assert!(refused.code == 1 && !refused.err().is_empty(), "{refused:?}");
    Ok(())
}

#[test]
fn a_sparse_file_stays_one_on_its_way() -> Result<()> {
    let user = box_running(&[])?;
    let place = user.home().join("large");
    let path = place.display().to_string();
    said(&user, "dd if=/dev/zero of=/large bs=1 count=1 seek=400M 2>/dev/null; echo end >>/large")?;
    user.succeed(&["cp", "web:/large", &path])?;
    let metadata = place.metadata()?;
    assert_eq!((metadata.len(), metadata.blocks() < 1000), ((400 << 20) + 5, true), "{metadata:?}");
    Ok(())
}

#[test]
fn what_a_container_has_changed_is_told_and_becomes_an_image() -> Result<()> {
    let user = user_with_debian()?;
    let run = ["run", "-d", "--name", "web", "-e", "A=1", "-l", "tier=front", "debian", "sleep", "1000"];
    user.succeed(&run)?;
    assert_eq!(user.succeed(&["diff", "web"])?, "");
    let script = "cd /etc; echo new >/srv/new; chmod 600 issue; rm passwd-; rm -rf skel; mkdir skel; echo x >skel/only; mkdir -p /a/b; ln -s b /a/link; ln /srv/new /srv/twin; touch -r group /tmp/stamp; setcap cap_net_raw+ep /srv/new 2>/dev/null; true";
    said(&user, script)?;
    let expected = "A /a\nA /a/b\nA /a/link\nC /etc\nC /etc/issue\nD /etc/passwd-\nC /etc/skel\nD /etc/skel/.bash_logout\nD /etc/skel/.bashrc\nD /etc/skel/.profile\nA /etc/skel/only\nC /srv\nA /srv/new\nA /srv/twin\nC /tmp\nA /tmp/stamp";
    let told = user.succeed(&["diff", "web"])?;
    let without = told.replace("D /etc/passwd-\n", "");
    assert_eq!(without, expected.replace("D /etc/passwd-\n", ""));
    let commit = ["commit", "-m", "why", "-a", "who", "-c", "ENV B=2", "-c", "WORKDIR /srv", "web", "made:1"];
    let id = user.succeed(&commit)?;
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    assert_eq!(status(&user)?, "running");
    let summary = "cat new; ls -A /etc/skel /a; stat -c '%a %h' /etc/issue /srv/new; echo $A $B; pwd";
    let said = user.succeed(&["run", "--rm", "made:1", "sh", "-c", summary])?;
    assert_eq!(said, "new\n/a:\nb\nlink\n\n/etc/skel:\nonly\n600 1\n644 2\n1 2\n/srv");
    let field = |field: &str| user.succeed(&["image", "inspect", "-f", field, "made:1"]);
    assert_eq!(field("{{.Id}} {{.Author}} {{json .Config.Cmd}}")?, format!("{id} who [\"sleep\",\"1000\"]"));
    assert_eq!(field("{{json .Config.Labels}}")?, "{\"tier\":\"front\"}");
    let history = user.succeed(&["history", "--format", "{{.CreatedBy}} {{.Comment}}", "made:1"])?;
    assert_eq!(history.lines().next(), Some("sleep 1000 why"));
    Ok(())
}

fn status(user: &User) -> Result<String> {
    user.inspect(".State.Status", "web")
}

#[test]
fn one_that_has_ended_is_looked_into_as_well() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-d", "--name", "web", "box", "sh", "-c", "echo left >/file"])?;
    user.succeed(&["wait", "web"])?;
    let here = user.home().join("file").display().to_string();
    user.succeed(&["cp", "web:/file", &here])?;
    assert_eq!(fs::read_to_string(&here)?, "left\n");
    user.write("more", "brought")?;
    user.succeed(&["cp", &user.home().join("more").display().to_string(), "web:/more"])?;
    assert_eq!(user.succeed(&["diff", "web"])?, "A /file\nA /more");
    user.succeed(&["commit", "web", "made"])?;
    assert_eq!(user.succeed(&["run", "made", "cat", "/file", "/more"])?, "left\nbrought");
    assert_eq!(status(&user)?, "exited");
    let refused = user.call(&["top", "web"])?;
    assert!(refused.code == 1 && refused.err().contains("needs one that runs"), "{refused:?}");
    no_process_is_left()
}

#[test]
fn a_seccomp_profile_of_dockers_format_holds() -> Result<()> {
    let user = User::with_box()?;
    let rules = r#"[{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}}]"#;
    user.write("profile", &format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {rules}}}"#))?;
    let option = format!("seccomp={}", user.home().join("profile").display());
    let run = |more: &[&str]| {
        user.call(&[&["run", "--security-opt", &option], more, &["box", "mkdir", "/x"]].concat())
    };
    let refused = run(&[])?;
    assert!(refused.code == 1 && refused.err().contains("not permitted"), "{refused:?}");
    assert_eq!(run(&["--cap-add", "SYS_ADMIN"])?.code, 0);
    Ok(())
}
