//! Lines as in a Dockerfile that change an image's configuration.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::signals;

/// Applies a line to the member `config` of an image's configuration.
pub(super) fn apply(config: &mut Map<String, Value>, line: &str) -> Result<()> {
    let wrong = || format!("not understood in a change: {line}");
    let (instruction, rest) = line.trim().split_once(char::is_whitespace).with_context(wrong)?;
    let rest = rest.trim();
    if rest.is_empty() {
        bail!(wrong());
    }
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => drop(config.insert("Cmd".into(), command(rest))),
        "ENTRYPOINT" => {
            config.insert("Entrypoint".into(), command(rest));
        }
        "ENV" => {
            for (name, value) in pairs(rest).with_context(wrong)? {
                set_variable(config, &name, &value);
            }
        }
        "LABEL" => {
            for (name, value) in pairs(rest).with_context(wrong)? {
                set_member(config, "Labels", name, value.into());
            }
        }
        "EXPOSE" => {
            for port in words(rest).with_context(wrong)? {
                let port = port_of(&port).with_context(wrong)?;
                set_member(config, "ExposedPorts", port, json!({}));
            }
        }
        "VOLUME" => {
            let paths = match serde_json::from_str(rest) {
                Ok(paths) => paths,
                Err(_) => words(rest).with_context(wrong)?,
            };
            for path in paths {
                set_member(config, "Volumes", path, json!({}));
            }
        }
        "USER" => drop(config.insert("User".into(), rest.into())),
        "WORKDIR" => {
            let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
            let path = std::path::Path::new(if before.is_empty() { "/" } else { before }).join(rest);
            config.insert("WorkingDir".into(), path.to_string_lossy().into());
        }
        "STOPSIGNAL" => {
            signals::number(rest).map_err(anyhow::Error::msg)?;
            config.insert("StopSignal".into(), rest.into());
        }
        _ => bail!(wrong()),
    }
    Ok(())
}

/// A JSON array is executed as it is, anything else by a shell.
fn command(text: &str) -> Value {
    let words: Vec<String> = match serde_json::from_str(text) {
        Ok(words) => words,
        Err(_) => vec!["/bin/sh".into(), "-c".into(), text.into()],
    };
    json!(words)
}

/// `80`, `80/tcp` or `53/udp`.
fn port_of(text: &str) -> Option<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    number.parse::<u16>().ok().filter(|_| matches!(protocol, "tcp" | "udp" | "sctp"))?;
    Some(format!("{number}/{protocol}"))
}

/// `name=value name="a value"`, or docker's older `name a value`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text)?;
    if !words.first()?.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let split = |word: String| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    words.into_iter().map(split).collect()
}

/// Parted by spaces, with quotes and backslashes as a shell has them. None when a quote has no end.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push(characters.next()?),
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn set_variable(config: &mut Map<String, Value>, name: &str, value: &str) {
    let variables = config.entry("Env").or_insert_with(|| json!([]));
    if !variables.is_array() {
        *variables = json!([]);
    }
    let Some(variables) = variables.as_array_mut() else { return };
    let is_it = |entry: &Value| entry.as_str().and_then(|entry| entry.split('=').next()) == Some(name);
    let variable = Value::from(format!("{name}={value}"));
    match variables.iter_mut().find(|entry| is_it(entry)) {
        Some(entry) => *entry = variable,
        None => variables.push(variable),
    }
}

fn set_member(config: &mut Map<String, Value>, set: &str, name: String, value: Value) {
    let members = config.entry(set).or_insert_with(|| json!({}));
    if !members.is_object() {
        *members = json!({});
    }
    if let Some(members) = members.as_object_mut() {
        members.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Value {
        let mut config = Map::new();
        config.insert("Env".into(), json!(["A=1"]));
        config.insert("Labels".into(), Value::Null);
        lines.iter().for_each(|line| apply(&mut config, line).unwrap());
        Value::Object(config)
    }

    #[test]
    fn lines_are_read_as_in_a_dockerfile() {
        let config = changed(&[
            r#"CMD ["a", "b"]"#,
            "entrypoint run it",
            r#"ENV A=2 B="x y""#,
            "ENV C d e",
            "LABEL tier=front",
            "EXPOSE 80 53/udp",
            "VOLUME /data /more",
            "USER web",
            "WORKDIR /srv",
            "WORKDIR www",
            "STOPSIGNAL INT",
        ]);
        assert_eq!(config["Cmd"], json!(["a", "b"]));
        assert_eq!(config["Entrypoint"], json!(["/bin/sh", "-c", "run it"]));
        assert_eq!(config["Env"], json!(["A=2", "B=x y", "C=d e"]));
        assert_eq!(config["Labels"], json!({"tier": "front"}));
        assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
        assert_eq!(config["Volumes"], json!({"/data": {}, "/more": {}}));
        assert_eq!((&config["User"], &config["WorkingDir"]), (&json!("web"), &json!("/srv/www")));
    }

    #[test]
    fn other_lines_are_refused() {
        let lines = [
            "",
            "CMD",
            "RUN x",
            "FROM x",
            "EXPOSE x",
            "EXPOSE 80/x",
            "ENV A",
            "LABEL a=\"b",
            "STOPSIGNAL NO",
        ];
        for line in lines {
            assert!(apply(&mut Map::new(), line).is_err(), "{line}");
        }
    }
}
