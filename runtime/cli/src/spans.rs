//! The steps of a start as OpenTelemetry spans, a line of OTLP's JSON for each start: what a collector's otlpjsonfile receiver reads.
//! They belong to the trace that the environment's TRACEPARENT names (W3C Trace Context), or to one of their own.

use std::{
    env,
    fs::File,
    io::{Read, Write},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::timeline::Timeline;

/// Of opentelemetry/proto/trace/v1: SPAN_KIND_INTERNAL.
const INTERNAL: u8 = 1;

pub(crate) fn append(path: &Path, name: &str, id: &str, timeline: &Timeline) -> Result<()> {
    let parent = env::var("TRACEPARENT").ok().and_then(|text| Parent::parse(&text));
    let (trace_id, parent_id) = match parent {
        Some(Parent { trace_id, span_id }) => (trace_id, span_id),
        None => (random_hex::<16>()?, String::new()),
    };
    let own_id = random_hex::<8>()?;
    let span = |name: &str, (id, parent): (&str, &str), from: Duration, to: Duration| {
        json!({
            "traceId": trace_id,
            "spanId": id,
            "parentSpanId": parent,
            "name": name,
            "kind": INTERNAL,
            "startTimeUnixNano": unix_nanos(timeline.began + from),
            "endTimeUnixNano": unix_nanos(timeline.began + to),
        })
    };
    let stamps = timeline.stamps();
    let end = stamps.last().map_or(Duration::ZERO, |(_, end)| *end);
    let mut spans = vec![span("container run", (&own_id, &parent_id), Duration::ZERO, end)];
    let mut from = Duration::ZERO;
    for (step, to) in &stamps {
        spans.push(span(step, (&random_hex::<8>()?, &own_id), from, *to));
        from = *to;
    }
    let mut line = serde_json::to_vec(&document(spans, name, id))?;
    line.push(b'\n');
    let mut file = File::options().append(true).create(true).open(path)?;
    // One write: lines of several writers do not mix.
    Ok(file.write_all(&line)?)
}

fn document(spans: Vec<Value>, name: &str, id: &str) -> Value {
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "resourceSpans": [{
            "resource": {"attributes": [
                attribute("service.name", "securectr"),
                attribute("service.version", version),
                attribute("container.id", id),
                attribute("container.name", name),
            ]},
            "scopeSpans": [{"scope": {"name": "securectr", "version": version}, "spans": spans}],
        }],
    })
}

/// JSON's numbers are not long enough (OTLP, JSON Protobuf Encoding).
fn unix_nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

fn random_hex<const LEN: usize>() -> Result<String> {
    let mut bytes = [0; LEN];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("draw a span's id")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `00-<trace id>-<span id>-<flags>`.
#[derive(Debug, PartialEq, Eq)]
struct Parent {
    trace_id: String,
    span_id: String,
}

impl Parent {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace_id, span_id, _flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_id = |id: &str, len| {
            let is_hex = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            id.len() == len && is_hex && id.bytes().any(|byte| byte != b'0')
        };
        let is_good = version.len() == 2 && version != "ff" && is_id(trace_id, 32) && is_id(span_id, 16);
        is_good.then(|| Self { trace_id: trace_id.to_owned(), span_id: span_id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_step_is_a_span_behind_the_one_before_it() {
        let timeline = Timeline::begin();
        timeline.stamp("vmm");
        timeline.stamp("agent");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spans.jsonl");
        append(&path, "web", "0123", &timeline).unwrap();
        append(&path, "web", "0123", &timeline).unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let document: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let spans = &document["resourceSpans"][0]["scopeSpans"][0]["spans"];
        let names: Vec<_> =
            spans.as_array().unwrap().iter().map(|span| span["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["container run", "vmm", "agent"]);
        assert_eq!(spans[1]["endTimeUnixNano"], spans[2]["startTimeUnixNano"]);
        assert_eq!(spans[1]["parentSpanId"], spans[0]["spanId"]);
        assert_eq!(spans[0]["traceId"].as_str().unwrap().len(), 32);
    }

    #[test]
    fn a_trace_that_the_caller_has_begun_is_gone_on_with() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::parse(good).unwrap();
        assert_eq!(parent.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id, "00f067aa0ba902b7");
        for bad in [
            "",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            &good.replace('b', "B"),
        ] {
            assert_eq!(Parent::parse(bad), None, "{bad}");
        }
    }
}
