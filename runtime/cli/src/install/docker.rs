//! docker's daemon.json: a runtime in `runtimes`, put in as text, so that everything else stays byte for byte.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow};
use serde_json::{json, value::RawValue};

use super::{Site, Wanted, change::Content, containerd::RUNTIME_TYPE, programs};

pub(super) const CONFIG: &str = "etc/docker/daemon.json";
const NAME: &str = "securectr";

/// The first docker that takes a shim by `runtimeType`; older ones know runc's command line only.
const SHIMS_SINCE: u32 = 23;

pub(super) fn wanted(site: &Site) -> Result<Vec<Wanted>> {
    let path = site.path(CONFIG);
    let runtime = match programs::major_version("dockerd") {
        Some(major) if major >= SHIMS_SINCE => json!({"runtimeType": RUNTIME_TYPE}),
        _ => json!({"path": site.program("securectr")?}),
    };
    let text = with_runtime(&path, site.base(&path)?.as_deref(), &runtime.to_string())?;
    Ok(text.map(|text| Wanted { path, content: Content::File(text) }).into_iter().collect())
}

type Object<'a> = BTreeMap<String, &'a RawValue>;

/// None when somebody else has named the runtime already.
fn with_runtime(path: &Path, base: Option<&str>, runtime: &str) -> Result<Option<String>> {
    let ours = format!("\"{NAME}\": {runtime}");
    let text = match base {
        Some(text) if !text.trim().is_empty() => text,
        _ => return Ok(Some(format!("{{\n    \"runtimes\": {{\n        {ours}\n    }}\n}}\n"))),
    };
    let root = parse(path, text, text)?;
    let Some(runtimes) = root.get("runtimes").filter(|runtimes| runtimes.get() != "null") else {
        return add(text, text.find('{').context("find the object")?, &format!("\"runtimes\": {{{ours}}}"))
            .map(Some);
    };
    if parse(path, text, runtimes.get())?.contains_key(NAME) {
        return Ok(None);
    }
    add(text, offset(text, runtimes.get())?, &ours).map(Some)
}

/// An object that is a part of a file's text.
fn parse<'a>(path: &Path, text: &str, part: &'a str) -> Result<Object<'a>> {
    serde_json::from_str(part).map_err(|error| {
        let lines_before = offset(text, part).map_or(0, |at| super::containerd::line(text, at) - 1);
        anyhow!("understand {}, line {}: {error}", path.display(), lines_before + error.line())
    })
}

/// Where a part of a text begins.
fn offset(text: &str, part: &str) -> Result<usize> {
    (part.as_ptr() as usize)
        .checked_sub(text.as_ptr() as usize)
        .filter(|&at| at <= text.len())
        .context("find a part of the text")
}

/// Puts a member first into the object that opens at a place, indented as the next one is.
fn add(text: &str, open: usize, member: &str) -> Result<String> {
    let (head, tail) = text.split_at_checked(open + 1).context("find the object")?;
    let rest = tail.trim_start();
    let lead = tail.strip_suffix(rest).unwrap_or_default();
    Ok(if rest.starts_with('}') {
        format!("{head}{member}{tail}")
    } else if lead.is_empty() {
        format!("{head}{member}, {tail}")
    } else {
        format!("{head}{lead}{member},{tail}")
    })
}

/// A text without the runtime, whoever wrote it and however it is written now.
pub(super) fn cut(path: &Path, text: &str) -> Result<String> {
    let root = parse(path, text, text)?;
    let Some(runtimes) = root.get("runtimes") else { return Ok(text.to_owned()) };
    let Some(runtime) = parse(path, text, runtimes.get())?.get(NAME).copied() else {
        return Ok(text.to_owned());
    };
    let begin = offset(text, runtime.get())?;
    let (head, tail) = text.split_at_checked(begin).context("find the runtime")?;
    let tail = tail.get(runtime.get().len()..).unwrap_or_default();
    let key = head.trim_end().strip_suffix(':').map(str::trim_end);
    let head = key.and_then(|key| key.strip_suffix(&format!("\"{NAME}\""))).with_context(|| {
        format!("take securectr out of {}: its name is written in an unusual way", path.display())
    })?;
    // One comma goes with it: the one behind, or else the one before.
    Ok(match tail.trim_start().strip_prefix(',') {
        Some(tail) => format!("{}{}", head.trim_end(), tail),
        None => format!("{}{tail}", head.trim_end().trim_end_matches(',')),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const RUNTIME: &str = r#"{"path":"/usr/bin/securectr"}"#;

    fn of(base: Option<&str>) -> Option<String> {
        with_runtime(Path::new("/etc/docker/daemon.json"), base, RUNTIME).unwrap()
    }

    fn fails(base: &str) -> String {
        format!("{:#}", with_runtime(Path::new("/daemon.json"), Some(base), RUNTIME).unwrap_err())
    }

    const ODD: [&str; 8] = [
        "{}",
        "{ }\n",
        "{\"debug\":true}",
        "{\r\n\t\"z\": 1.50,\r\n\t\"a\": [\"}\"]\r\n}",
        "{\n    \"runtimes\": {}\n}\n",
        "{\n  \"a\": 1,\n  \"runtimes\": {\n    \"other\": {\"path\": \"/o\"},\n    \"more\": {\"path\": \"/m\"}\n  }, \"z\": {}\n}",
        "\n{\"runtimes\":{\"other\":{\"path\":\"{\\\"\"}}}",
        "{\n  \"live-restore\": true\n\n}\n",
    ];

    #[test]
    fn a_runtime_comes_to_all_that_is_there() {
        for text in ODD {
            let new = of(Some(text)).unwrap();
            let mut value: Value = serde_json::from_str(&new).expect(&new);
            let runtimes = value["runtimes"].as_object_mut().unwrap();
            assert_eq!(runtimes.remove(NAME).unwrap().to_string(), RUNTIME, "{new}");
            let old: Value = serde_json::from_str(text).unwrap();
            if old.get("runtimes").is_none() {
                value.as_object_mut().unwrap().remove("runtimes");
            }
            assert_eq!(value, old, "{new}");
        }
    }

    #[test]
    fn it_stands_in_line_with_the_others() {
        let new = of(Some("{\n  \"debug\": true\n}\n")).unwrap();
        assert_eq!(
            new,
            "{\n  \"runtimes\": {\"securectr\": {\"path\":\"/usr/bin/securectr\"}},\n  \"debug\": true\n}\n"
        );
    }

    #[test]
    fn no_file_and_an_empty_one_get_a_whole_one() {
        for base in [None, Some(""), Some(" \n")] {
            let value: Value = serde_json::from_str(&of(base).unwrap()).unwrap();
            assert_eq!(value["runtimes"][NAME]["path"], "/usr/bin/securectr");
        }
    }

    #[test]
    fn it_can_be_taken_out_of_a_file_that_others_have_edited() {
        let path = Path::new("/daemon.json");
        for text in ODD {
            let new = cut(path, &of(Some(text)).unwrap()).unwrap();
            let mut value: Value = serde_json::from_str(&new).expect(&new);
            let mut old: Value = serde_json::from_str(text).unwrap();
            // An object that is empty now says nothing.
            for value in [&mut value, &mut old] {
                let members = value.as_object_mut().unwrap();
                members.retain(|key, value| key != "runtimes" || value != &json!({}));
            }
            assert_eq!(value, old, "{new}");
        }
        let last = "{\"runtimes\": {\"a\": {} , \"securectr\" : {\"path\": \"/x\"} }}";
        assert_eq!(cut(path, last).unwrap(), "{\"runtimes\": {\"a\": {}  }}");
    }

    #[test]
    fn one_that_somebody_else_has_named_is_left_alone() {
        assert_eq!(of(Some(r#"{"runtimes": {"securectr": {"path": "/own"}}}"#)), None);
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        assert!(fails("{\n\"a\": 1,\n}").contains("/daemon.json, line 3"), "{}", fails("{\n\"a\": 1,\n}"));
        assert!(fails("[]").contains("line 1"));
        let runtimes = fails("{\n\n\"runtimes\": 7}");
        assert!(runtimes.contains("line 3"), "{runtimes}");
    }
}
