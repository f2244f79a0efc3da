//! config.md, "POSIX-platform Hooks": when they run, what they are told, and what it means when one fails.

use std::fs;

use anyhow::{Context, Result};
use securectr_tests::{Bundle, Runtime, on_each};
use serde_json::{Value, json};

use super::{on_securectr, refuses, script};

/// A hook of the host that writes its name, its environment and what it reads into the bundle's `log`, and ends with a code.
fn hook(bundle: &Bundle, name: &str, code: u8) -> Value {
    let log = bundle.path("log").display().to_string();
    let write =
        format!("printf '%s %s ' \"$0\" \"$NAME\" >> {log}; cat >> {log}; echo >> {log}; exit {code}");
    json!({"path": "/bin/sh", "args": [name, "-c", write, name], "env": [format!("NAME={name}")]})
}

/// Names of the hooks that ran, and what they read.
fn ran(bundle: &Bundle) -> Result<Vec<(String, Value)>> {
    if !bundle.path("log").exists() {
        return Ok(Vec::new());
    }
    let log = bundle.read("log")?;
    let lines = log.lines().map(|line| {
        let [name, by_environment, state] =
            line.splitn(3, ' ').collect::<Vec<_>>().try_into().ok().with_context(|| line.to_owned())?;
        assert_eq!(name, by_environment, "its environment is the spec's");
        Ok((name.to_owned(), serde_json::from_str(state).with_context(|| line.to_owned())?))
    });
    lines.collect()
}

fn names(bundle: &Bundle) -> Result<Vec<String>> {
    Ok(ran(bundle)?.into_iter().map(|(name, _)| name).collect())
}

fn with_hooks(runtime: Runtime, program: &str, hooks: impl Fn(&Bundle) -> Value) -> Result<Bundle> {
    let bundle = script(runtime, program)?;
    bundle.edit(|spec| {
        spec["hooks"] = hooks(&bundle);
        spec["annotations"] = json!({"org.example.key": "value"});
    })?;
    Ok(bundle)
}

fn is_told(bundle: &Bundle, state: &Value, status: &str) {
    for (name, value) in [
        ("id", json!("c1")),
        ("status", json!(status)),
        ("bundle", json!(bundle.path("").to_string_lossy().trim_end_matches('/'))),
        ("annotations", json!({"org.example.key": "value"})),
    ] {
        assert_eq!(state.get(name), Some(&value), "{name} in {state}");
    }
    assert!(state.get("ociVersion").is_some_and(Value::is_string), "{state}");
}

#[test]
fn hooks_run_in_their_order_and_are_told_the_state() -> Result<()> {
    on_each(|runtime| {
        let bundle = with_hooks(runtime, "cat /told; echo; echo program", |bundle| {
            json!({
                "prestart": [hook(bundle, "prestart", 0)],
                "createRuntime": [hook(bundle, "first", 0), hook(bundle, "second", 0)],
                "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /told; id -u >> /user"]}],
                "poststop": [hook(bundle, "third", 0), hook(bundle, "fourth", 0)],
            })
        })?;
        bundle.create(&[])?;
        let before = ran(&bundle)?;
        assert_eq!(names(&bundle)?, ["prestart", "first", "second"]);
        for (_, state) in &before {
            is_told(&bundle, state, "creating");
            assert!(state["pid"].as_u64().is_some_and(|pid| pid > 0), "{state}");
        }
        assert!(!bundle.path("rootfs/told").exists(), "startContainer is for start");
        bundle.succeed(&["start", "c1"])?;
        bundle.wait_until("stopped")?;
        securectr_tests::eventually("the program speaks", || Ok(bundle.read("out")?.contains("program")))?;
        let told = bundle.read("out")?;
        let in_container: Value = serde_json::from_str(told.lines().next().unwrap_or_default())?;
        assert_eq!((&in_container["id"], &in_container["pid"]), (&json!("c1"), &json!(1)), "{told}");
        assert_eq!(in_container["annotations"], json!({"org.example.key": "value"}));
        bundle.edit(|spec| drop(spec["hooks"].take()))?;
        bundle.succeed(&["delete", "c1"])?;
        let after = ran(&bundle)?.split_off(before.len());
        for (_, state) in &after {
            is_told(&bundle, state, "stopped");
        }
        assert_eq!(after.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["third", "fourth"]);
        Ok(())
    })
}

#[test]
fn a_hook_that_fails_before_the_container_is_its_end() -> Result<()> {
    on_each(|runtime| {
        let bundle = with_hooks(runtime, "true", |bundle| {
            json!({
                "createRuntime": [hook(bundle, "fails", 3), hook(bundle, "next", 0)],
                "poststop": [hook(bundle, "after", 0)],
            })
        })?;
        super::is_refused(&bundle, "a hook that fails")?;
        assert_eq!(names(&bundle)?, ["fails", "after"]);
        Ok(())
    })
}

#[test]
fn a_hook_that_takes_too_long_has_failed() -> Result<()> {
    on_each(|runtime| {
        let slow = json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1});
        let bundle = with_hooks(runtime, "true", |_| json!({"createRuntime": [slow]}))?;
        super::is_refused(&bundle, "a hook that hangs")
    })
}

#[test]
fn a_hook_that_fails_at_the_start_keeps_the_program_from_running() -> Result<()> {
    on_each(|runtime| {
        let fails = json!({"path": "/bin/false"});
        let bundle = with_hooks(runtime, "echo ran > /ran", |_| json!({"startContainer": [fails]}))?;
        bundle.create(&[])?;
        let started = bundle.call(&["start", "c1"])?;
        // This runc does not hear of it.
        assert!(runtime == Runtime::Runc || started.code != 0, "{started:?}");
        bundle.wait_until("stopped")?;
        assert!(!bundle.path("rootfs/ran").exists());
        bundle.succeed(&["delete", "c1"])
    })
}

#[test]
fn a_hook_after_the_start_runs_before_start_returns_and_its_failure_stops_the_container() -> Result<()> {
    // This runc calls it at the creation.
    on_securectr(|runtime| {
        let bundle = with_hooks(runtime, "exec sleep 1000", |bundle| {
            json!({
                "poststart": [hook(bundle, "good", 0), hook(bundle, "fails", 3), hook(bundle, "next", 0)],
                "poststop": [hook(bundle, "after", 0)],
            })
        })?;
        bundle.create(&[])?;
        assert_eq!(names(&bundle)?, Vec::<String>::new());
        let refused = bundle.fail(&["start", "c1"])?;
        assert!(refused.err().contains("/bin/sh"), "{refused:?}");
        is_told(&bundle, &ran(&bundle)?[0].1, "running");
        bundle.wait_until("stopped")?;
        bundle.succeed(&["delete", "c1"])?;
        assert_eq!(names(&bundle)?, ["good", "fails", "after"]);
        Ok(())
    })
}

#[test]
fn a_hook_that_fails_after_the_end_holds_nothing_up() -> Result<()> {
    // This runc leaves the others out.
    on_securectr(|runtime| {
        let bundle = with_hooks(
            runtime,
            "true",
            |bundle| json!({"poststop": [hook(bundle, "fails", 3), hook(bundle, "next", 0)]}),
        )?;
        bundle.run()?;
        assert_eq!(names(&bundle)?, ["fails", "next"]);
        bundle.fail(&["state", "c1"])?;
        Ok(())
    })
}

#[test]
fn a_hook_has_an_absolute_path_and_time_to_run() -> Result<()> {
    on_securectr(|runtime| {
        let bundle = script(runtime, "true")?;
        for kind in ["prestart", "createRuntime", "startContainer", "poststart", "poststop"] {
            let hooks = |hook: Value| json!({kind: [hook]});
            refuses(&bundle, "a relative path", "hooks", hooks(json!({"path": "bin/true"})))?;
            refuses(&bundle, "no time", "hooks", hooks(json!({"path": "/bin/true", "timeout": 0})))?;
        }
        assert!(fs::read_dir(bundle.path("records")).is_ok_and(|records| records.count() == 0));
        Ok(())
    })
}
