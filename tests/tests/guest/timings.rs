//! How long each step of a start took is told where people look for it.

use std::fs;

use anyhow::{Context, Result};
use securectr_tests::User;
use serde_json::Value;

/// Of every start, in their order; the machine is restored from a template, or booted.
const STEPS: [&str; 7] = ["prepared", "template", "vmm", "restored|booted", "agent", "created", "started"];

/// In microseconds, as far as they are there.
fn steps(timings: &Value) -> Vec<u64> {
    let of = |step: &str| timings.get(format!("{step}_us"))?.as_u64();
    STEPS.iter().filter_map(|step| step.split('|').find_map(of)).collect()
}

#[test]
fn of_a_container_that_stays_they_are_in_inspect_and_in_the_event_of_its_start() -> Result<()> {
    let user = User::with_box()?;
    user.succeed(&["run", "-d", "--name", "web", "box", "sleep", "1000"])?;
    let inspected: Value = serde_json::from_str(&user.succeed(&["inspect", "web"])?)?;
    let timings = inspected.pointer("/0/StartTimings").context("timings")?;
    let steps = steps(timings);
    assert_eq!(steps.len(), STEPS.len(), "{timings}");
    assert!(steps.is_sorted() && steps.last() < Some(&60_000_000), "{timings}");
    let start = ["events", "--since", "1m", "--until", "0s", "--filter", "event=start", "--format"];
    let told = user.succeed(&[&start[..], &["{{.Actor.Attributes.agent_us}}"]].concat())?;
    assert_eq!(Some(told.parse()?), timings["agent_us"].as_u64());
    Ok(())
}

#[test]
fn of_a_container_in_the_foreground_they_are_spans_of_the_callers_trace() -> Result<()> {
    let user = User::with_box()?;
    let file = user.home().join("spans.jsonl");
    let path = file.to_str().context("a path")?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut command = user.command(&["run", "--otlp", path, "box", "echo", "there"]);
    command.env("TRACEPARENT", format!("00-{trace}-00f067aa0ba902b7-01"));
    assert!(command.status()?.success());
    let document: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    let spans = document.pointer("/resourceSpans/0/scopeSpans/0/spans").and_then(Value::as_array);
    let spans = spans.context("spans")?;
    assert!(spans.iter().all(|span| span["traceId"] == trace), "{document}");
    let names: Vec<_> = spans.iter().filter_map(|span| span["name"].as_str()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"container run"), Some(&"exit")));
    let is_there = |step: &&str| step.split('|').any(|name| names.contains(&name));
    assert!(STEPS.iter().chain(&["first_byte"]).all(is_there), "{names:?}");
    let nanos = |span: &Value, field: &str| span[field].as_str().unwrap_or_default().parse::<u128>();
    for span in spans {
        assert!(nanos(span, "startTimeUnixNano")? <= nanos(span, "endTimeUnixNano")?, "{span}");
    }
    Ok(())
}
