//! runtime.md: the state, the operations, and what they refuse.

use std::fs;

use anyhow::{Context, Result, ensure};
use securectr_tests::{Bundle, eventually, on_each};
use serde_json::{Value, json};

use super::{is_refused, script};

#[test]
fn the_state_has_what_the_spec_asks_for() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "exec sleep 1000")?;
        let annotations = json!({"org.example.key": "value", "org.example.empty": ""});
        bundle.set("annotations", annotations.clone())?;
        bundle.create(&[])?;
        is_a_state(&bundle, "created", &annotations)?;
        bundle.succeed(&["start", "c1"])?;
        is_a_state(&bundle, "running", &annotations)?;
        bundle.succeed(&["kill", "c1", "KILL"])?;
        bundle.wait_until("stopped")?;
        assert_eq!(bundle.state("annotations")?, annotations);
        Ok(())
    })
}

fn is_a_state(bundle: &Bundle, status: &str, annotations: &Value) -> Result<()> {
    let state = bundle.whole_state()?;
    let version = state.get("ociVersion").and_then(Value::as_str).context("ociVersion")?;
    let numbers = version.split(['.', '-', '+']).take(3).filter(|part| part.parse::<u32>().is_ok());
    assert_eq!(numbers.count(), 3, "{version} is a semantic version");
    assert!(bundle.pid_is_alive()?, "{state}");
    let pid: u32 = bundle.read("pid")?.parse()?;
    let place = bundle.path("").canonicalize()?;
    for (name, value) in [
        ("id", &json!("c1")),
        ("status", &json!(status)),
        ("pid", &json!(pid)),
        ("bundle", &json!(place)),
        ("annotations", annotations),
    ] {
        assert_eq!(state.get(name), Some(value), "{name}");
    }
    Ok(())
}

#[test]
fn the_program_runs_when_it_is_started_and_as_it_was_when_created() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "echo first; echo first > /ran")?;
        bundle.create(&[])?;
        bundle.set("process.args", json!(["sh", "-c", "echo second"]))?;
        assert_eq!(bundle.state("status")?, "created");
        assert!(!bundle.path("rootfs/ran").exists(), "it ran before it was started");
        bundle.succeed(&["start", "c1"])?;
        bundle.wait_until("stopped")?;
        eventually("it speaks", || Ok(bundle.read("out")? == "first\n"))?;
        assert_eq!(bundle.read("rootfs/ran")?, "first\n");
        Ok(())
    })
}

#[test]
fn operations_without_a_container_fail() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "true")?;
        for operation in [&["state"][..], &["start"], &["kill"], &["delete"], &["create"]] {
            bundle.fail(operation)?;
        }
        for operation in
            [&["state", "none"][..], &["start", "none"], &["kill", "none", "KILL"], &["delete", "none"]]
        {
            bundle.fail(operation)?;
        }
        Ok(())
    })
}

#[test]
fn an_id_is_one_containers_until_that_is_deleted() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "exec sleep 1000")?;
        let place = bundle.path("").to_string_lossy().into_owned();
        bundle.create(&[])?;
        let pid = bundle.state("pid")?;
        bundle.fail(&["create", "--bundle", &place, "c1"])?;
        assert_eq!((bundle.state("status")?, bundle.state("pid")?), (json!("created"), pid), "no effect");
        bundle.succeed(&["kill", "c1", "KILL"])?;
        bundle.wait_until("stopped")?;
        bundle.fail(&["create", "--bundle", &place, "c1"])?;
        assert_eq!(bundle.state("status")?, "stopped", "no effect");
        bundle.succeed(&["delete", "c1"])?;
        bundle.create(&[])?;
        assert_eq!(bundle.state("status")?, "created");
        Ok(())
    })
}

#[test]
fn an_id_that_is_not_valid_makes_no_container() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "true")?;
        let place = bundle.path("").to_string_lossy().into_owned();
        for id in ["", ".", "..", "a/b", "../c1", "a b"] {
            bundle.fail(&["create", "--bundle", &place, id])?;
        }
        assert_eq!(left(&bundle)?, Vec::<String>::new());
        Ok(())
    })
}

/// Names of what a runtime has recorded.
fn left(bundle: &Bundle) -> Result<Vec<String>> {
    let Ok(records) = fs::read_dir(bundle.path("records")) else { return Ok(Vec::new()) };
    records.map(|record| Ok(record?.file_name().to_string_lossy().into_owned())).collect()
}

#[test]
fn what_cannot_be_made_leaves_nothing() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "true")?;
        let good = bundle.read("config.json")?;
        fs::remove_file(bundle.path("config.json"))?;
        is_refused(&bundle, "no config.json")?;
        fs::write(bundle.path("config.json"), "{\"ociVersion\": ")?;
        is_refused(&bundle, "no JSON")?;
        fs::write(bundle.path("config.json"), &good)?;
        bundle.set("root.path", json!("nowhere"))?;
        is_refused(&bundle, "no root file system")?;
        fs::write(bundle.path("config.json"), &good)?;
        bundle.edit(|spec| drop(spec["process"].take()))?;
        is_refused(&bundle, "no process to start")?;
        fs::write(bundle.path("config.json"), &good)?;
        bundle.edit(|spec| {
            spec["mounts"] = json!([{"destination": "/m", "type": "nosuchfs", "source": "none"}]);
        })?;
        is_refused(&bundle, "a file system that there is not")?;
        assert_eq!(left(&bundle)?, Vec::<String>::new());
        fs::write(bundle.path("config.json"), &good)?;
        bundle.create(&[])
    })
}

#[test]
fn only_a_created_container_is_started() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "echo ran; read never < /fifo")?;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            bundle.path("rootfs/fifo"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )?;
        bundle.create(&[])?;
        bundle.succeed(&["start", "c1"])?;
        assert_eq!(bundle.state("status")?, "running");
        bundle.fail(&["start", "c1"])?;
        assert_eq!(bundle.state("status")?, "running", "no effect");
        bundle.succeed(&["kill", "c1", "KILL"])?;
        bundle.wait_until("stopped")?;
        bundle.fail(&["start", "c1"])?;
        assert_eq!(bundle.state("status")?, "stopped", "no effect");
        assert_eq!(bundle.read("out")?, "ran\n", "once");
        Ok(())
    })
}

#[test]
fn a_signal_is_sent_to_what_is_created_or_running_and_to_nothing_else() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "trap 'echo heard; exit 7' USR1; echo up; while :; do sleep 0.1; done")?;
        bundle.create(&[])?;
        bundle.succeed(&["kill", "c1", "KILL"])?;
        bundle.wait_until("stopped")?;
        bundle.fail(&["kill", "c1", "KILL"])?;
        assert_eq!(bundle.read("out")?, "", "its program never ran");
        bundle.succeed(&["delete", "c1"])?;
        bundle.create(&[])?;
        bundle.succeed(&["start", "c1"])?;
        eventually("it is up", || Ok(bundle.read("out")? == "up\n"))?;
        bundle.succeed(&["kill", "c1", "USR1"])?;
        bundle.wait_until("stopped")?;
        eventually("it hears", || Ok(bundle.read("out")? == "up\nheard\n"))?;
        bundle.fail(&["kill", "c1", "USR1"])?;
        Ok(())
    })
}

#[test]
fn what_runs_is_not_deleted() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "exec sleep 1000")?;
        bundle.create(&[])?;
        bundle.succeed(&["start", "c1"])?;
        bundle.fail(&["delete", "c1"])?;
        assert_eq!(bundle.state("status")?, "running");
        assert!(bundle.pid_is_alive()?);
        Ok(())
    })
}

#[test]
fn delete_undoes_what_create_made_and_no_more() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "echo mine > /made; exec sleep 1000")?;
        fs::create_dir(bundle.path("data"))?;
        fs::write(bundle.path("data/kept"), "kept")?;
        let data = bundle.path("data").to_string_lossy().into_owned();
        bundle.edit(|spec| {
            let mount = json!({"destination": "/data", "type": "none", "source": data, "options": ["rbind"]});
            spec["mounts"].as_array_mut().into_iter().for_each(|mounts| mounts.push(mount.clone()));
        })?;
        let mounts = mounts_of_host(&bundle)?;
        bundle.create(&[])?;
        bundle.succeed(&["start", "c1"])?;
        eventually("it writes", || Ok(bundle.path("rootfs/made").exists()))?;
        bundle.succeed(&["kill", "c1", "KILL"])?;
        bundle.wait_until("stopped")?;
        bundle.succeed(&["delete", "c1"])?;
        bundle.fail(&["state", "c1"])?;
        ensure!(!bundle.pid_is_alive()?, "its process lives");
        assert_eq!(left(&bundle)?, Vec::<String>::new());
        assert_eq!(mounts_of_host(&bundle)?, mounts);
        assert_eq!(bundle.read("rootfs/made")?, "mine\n");
        assert_eq!(bundle.read("data/kept")?, "kept");
        Ok(())
    })
}

/// Those in the bundle.
fn mounts_of_host(bundle: &Bundle) -> Result<usize> {
    let place = bundle.path("").to_string_lossy().into_owned();
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| line.contains(&place)).count())
}
