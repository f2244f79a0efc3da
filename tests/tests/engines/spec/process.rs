//! config.md, "Process": who the program is and what it finds.

use std::{fs, io::Read};

use anyhow::Result;
use securectr_tests::{Bundle, on_each};
use serde_json::{Value, json};

use super::{on_securectr, refuses, script};

#[test]
fn directory_arguments_and_environment_are_the_specs() -> Result<()> {
    on_each(|runtime| {
        let show = "pwd; tr '\\0' '\\n' < /proc/1/environ; for word; do echo \"<$word>\"; done";
        let bundle = script(runtime, "true")?;
        fs::create_dir_all(bundle.path("rootfs/srv/deep"))?;
        bundle.edit(|spec| {
            let process = &mut spec["process"];
            process["cwd"] = json!("/srv/deep");
            process["env"] = json!(["PATH=/bin", "EMPTY=", "WORDS=two words", "lower_1=x=y"]);
            process["args"] = json!(["sh", "-c", show, "zero", "two words", "", "*"]);
        })?;
        let expected = "/srv/deep\nPATH=/bin\nEMPTY=\nWORDS=two words\nlower_1=x=y\n<two words>\n<>\n<*>\n";
        assert_eq!(bundle.run()?.replace("HOME=/\n", ""), expected);
        Ok(())
    })
}

#[test]
fn the_program_is_looked_for_as_execvp_does() -> Result<()> {
    on_each(|runtime| {
        let bundle = Bundle::new(runtime, &["tool", "x"])?;
        fs::create_dir_all(bundle.path("rootfs/opt/tools"))?;
        fs::hard_link(bundle.path("rootfs/bin/busybox"), bundle.path("rootfs/opt/tools/echo"))?;
        bundle.edit(|spec| {
            spec["process"]["env"] = json!(["PATH=/nowhere:/opt/tools"]);
            spec["process"]["args"] = json!(["echo", "found"]);
        })?;
        assert_eq!(bundle.run()?, "found\n", "in the container's PATH");
        bundle.set("process.args", json!(["/opt/tools/echo", "by its path"]))?;
        assert_eq!(bundle.run()?, "by its path\n");
        Ok(())
    })
}

#[test]
fn the_user_its_groups_and_its_umask_are_the_specs() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "id -u; id -g; id -G; umask")?;
        bundle.edit(|spec| {
            spec["process"]["user"] =
                json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 60000], "umask": 0o27});
        })?;
        assert_eq!(bundle.run()?, "1000\n1001\n1001 5 60000\n0027\n");
        Ok(())
    })
}

#[test]
fn limits_capabilities_and_privileges_are_the_specs() -> Result<()> {
    on_each(|runtime| {
        let show = "cat /proc/1/limits; grep -E 'Cap|NoNewPrivs' /proc/1/status; echo adj $(cat /proc/1/oom_score_adj)";
        let bundle = script(runtime, show)?;
        bundle.edit(|spec| {
            let process = &mut spec["process"];
            process["user"] = json!({"uid": 1000, "gid": 1000});
            process["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 600},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
                {"type": "RLIMIT_NPROC", "soft": 77, "hard": 78},
            ]);
            process["noNewPrivileges"] = json!(true);
            process["oomScoreAdj"] = json!(321);
            process["capabilities"] = json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
                "permitted": ["CAP_CHOWN", "CAP_KILL"],
                "inheritable": ["CAP_CHOWN", "CAP_KILL"],
                "effective": ["CAP_CHOWN", "CAP_KILL"],
                "ambient": ["CAP_KILL"],
            });
        })?;
        let shown = bundle.run()?;
        // capabilities(7): of an ordinary user's after execve, only ambient ones are permitted and effective.
        for (name, values) in [
            ("Max open files", "512 600"),
            ("Max core file size", "0 4096"),
            ("Max processes", "77 78"),
            ("CapInh:", "0000000000000021"),
            ("CapPrm:", "0000000000000020"),
            ("CapEff:", "0000000000000020"),
            ("CapBnd:", "0000000000000421"),
            ("CapAmb:", "0000000000000020"),
            ("NoNewPrivs:", "1"),
            ("adj", "321"),
        ] {
            let found = values_of(&shown, name);
            assert!(found.starts_with(values), "{name} {values:?}: {found:?}");
        }
        Ok(())
    })
}

/// Of a line that starts with a name, single spaces between them.
fn values_of(shown: &str, name: &str) -> String {
    let line = shown.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_not_asked_for_is_not_changed() -> Result<()> {
    on_each(|runtime| {
        let show = "cat /proc/1/oom_score_adj; grep NoNewPrivs /proc/1/status; tty; ls /proc/1/fd; uname -n";
        let bundle = script(runtime, show)?;
        bundle.edit(|spec| {
            spec["process"]["consoleSize"] = json!({"width": 40, "height": 20});
            spec["hostname"] = json!("asked-for");
        })?;
        let adjustment = fs::read_to_string("/proc/self/oom_score_adj")?;
        let expected = format!("{adjustment}NoNewPrivs:\t0\nnot a tty\n0\n1\n2\nasked-for\n");
        assert_eq!(bundle.run()?, expected);
        Ok(())
    })
}

#[test]
fn a_terminal_is_the_console_and_has_the_size_that_was_asked_for() -> Result<()> {
    on_each(|runtime| {
        let show = "tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo on terminal; \
                    echo to console > /dev/console; read enough";
        let bundle = script(runtime, show)?;
        bundle.set("process.consoleSize", json!({"width": 91, "height": 17}))?;
        let mut terminal = bundle.create_with_terminal()?;
        bundle.succeed(&["start", "c1"])?;
        let mut seen = String::new();
        let mut chunk = [0; 256];
        while !seen.contains("to console") {
            let len = terminal.read(&mut chunk)?;
            seen.push_str(&String::from_utf8_lossy(&chunk[..len]));
        }
        let lines: Vec<_> = seen.split_whitespace().collect();
        assert_eq!(lines.join(" "), "/dev/pts/0 17 91 on terminal to console");
        Ok(())
    })
}

#[test]
fn a_domain_name_is_the_specs() -> Result<()> {
    on_securectr(|runtime| {
        let bundle = script(runtime, "cat /proc/sys/kernel/domainname")?;
        bundle.set("domainname", json!("example.test"))?;
        assert_eq!(bundle.run()?, "example.test\n");
        Ok(())
    })
}

#[test]
fn a_process_that_cannot_be_is_refused() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "true")?;
        for (why, property, value) in [
            ("a relative cwd", "process.cwd", json!("tmp")),
            ("no arguments", "process.args", json!([])),
            ("a limit on nothing", "process.rlimits", json!([limit("RLIMIT_DREAMS")])),
        ] {
            refuses(&bundle, why, property, value)?;
        }
        Ok(())
    })
}

#[test]
fn a_limit_is_given_once() -> Result<()> {
    on_securectr(|runtime| {
        let twice = json!([limit("RLIMIT_CORE"), limit("RLIMIT_CORE")]);
        refuses(&script(runtime, "true")?, "a limit twice", "process.rlimits", twice)
    })
}

fn limit(name: &str) -> Value {
    json!({"type": name, "soft": 1, "hard": 1})
}

#[test]
fn a_capability_that_there_is_not_is_a_warning() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "grep CapBnd /proc/self/status; echo ran")?;
        bundle.set("process.capabilities", json!({"bounding": ["CAP_KILL", "CAP_FLY"]}))?;
        assert_eq!(bundle.run()?, "CapBnd:\t0000000000000020\nran\n");
        assert!(bundle.read("err")?.contains("CAP_FLY"), "{}", bundle.read("err")?);
        Ok(())
    })
}

#[test]
fn what_a_spec_may_not_say_is_refused() -> Result<()> {
    on_securectr(|runtime| {
        let bundle = script(runtime, "true")?;
        let idmap = json!([{"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["idmap"]}]);
        for (why, property, value) in [
            ("no semantic version", "ociVersion", json!("1.2")),
            ("an annotation without a name", "annotations", json!({"": "x"})),
            ("an annotation that is no text", "annotations", json!({"x": 1})),
            ("a personality's flag", "linux.personality", json!({"domain": "LINUX", "flags": ["X"]})),
            ("a relative masked path", "linux.maskedPaths", json!(["proc/kcore"])),
            ("a relative read-only path", "linux.readonlyPaths", json!(["proc/sys"])),
            ("a map of ids that is not given", "mounts", idmap),
        ] {
            refuses(&bundle, why, property, value)?;
        }
        Ok(())
    })
}

#[test]
fn unknown_properties_are_ignored() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "echo ran")?;
        bundle.edit(|spec| {
            for place in ["/process", "/process/user", "/root", "/linux", "/linux/resources", "/mounts/0"] {
                if let Some(object) = spec.pointer_mut(place) {
                    object["ofTheFuture"] = json!({"any": ["thing"]});
                }
            }
            spec["ofTheFuture"] = json!(1);
            spec["hooks"] = json!({"ofTheFuture": []});
            spec["annotations"] = json!({"org.opencontainers.future": "x"});
        })?;
        assert_eq!(bundle.run()?, "ran\n");
        Ok(())
    })
}
