//! The part of Go's templates that scripts use with Docker: `{{.Field.Of.Field}}`, `{{json .Field}}`, `{{json .}}`, text in between, and
//! `table` before it for headings.

use std::str::FromStr;

use anyhow::{Result, bail};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template {
    has_headings: bool,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Field { path: Vec<String>, as_json: bool },
}

impl Template {
    /// A line for each; headings before them, if asked for.
    pub(super) fn render_all(&self, values: &[Value]) -> Result<Vec<String>> {
        let headings = self.has_headings.then(|| Ok(self.headings())).into_iter();
        headings.chain(values.iter().map(|value| self.render(value))).collect()
    }

    fn render(&self, value: &Value) -> Result<String> {
        let mut line = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Field { path, as_json } => {
                    let field = find(value, path)?;
                    match field {
                        Value::String(text) if !as_json => line.push_str(text),
                        other => line.push_str(&other.to_string()),
                    }
                }
            }
        }
        Ok(line)
    }

    fn headings(&self) -> String {
        let headings = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Field { path, .. } => path.last().map_or_else(String::new, |name| name.to_uppercase()),
        });
        headings.collect()
    }
}

fn find<'a>(value: &'a Value, path: &[String]) -> Result<&'a Value> {
    let mut found = value;
    for name in path {
        found = match found.get(name) {
            Some(field) => field,
            None => bail!("there is no field .{}", path.join(".")),
        };
    }
    Ok(found)
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (has_headings, text) = match text.strip_prefix("table ") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, behind)) = rest.split_once("{{") {
            let (action, behind) = behind.split_once("}}").ok_or("{{ without }}")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(field(action.trim())?);
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if !parts.iter().any(|part| matches!(part, Part::Field { .. })) {
            return Err("neither table nor json nor a template (as in '{{.ID}}')".to_owned());
        }
        Ok(Self { has_headings, parts })
    }
}

fn field(action: &str) -> Result<Part, String> {
    let (path, as_json) = match action.strip_prefix("json ") {
        Some(path) => (path.trim(), true),
        None => (action, false),
    };
    let unknown =
        || format!("{{{{{action}}}}} is not understood: {{{{.Field}}}} and {{{{json .Field}}}} are");
    let path = path.strip_prefix('.').ok_or_else(unknown)?;
    let names: Vec<_> = path.split('.').filter(|_| !path.is_empty()).map(str::to_owned).collect();
    let is_name = |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    if names.iter().all(is_name) { Ok(Part::Field { path: names, as_json }) } else { Err(unknown()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> Vec<String> {
        let values = [json!({"ID": "x", "Config": {"Cmd": ["a", "b"], "User": ""}, "Size": 7})];
        template.parse::<Template>().unwrap().render_all(&values).unwrap()
    }

    #[test]
    fn fields_are_filled_in() {
        assert_eq!(rendered("{{.ID}}"), ["x"]);
        assert_eq!(rendered("{{.ID}}\\t{{ .Size }}!"), ["x\t7!"]);
        assert_eq!(rendered("{{json .Config.Cmd}} {{.Config.User}}"), [r#"["a","b"] "#]);
        assert_eq!(rendered("{{json .ID}}"), [r#""x""#]);
        assert_eq!(rendered("table {{.ID}}\\t{{.Config.User}}"), ["ID\tUSER", "x\t"]);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for text in ["", "words", "{{.ID", "{{ID}}", "{{range .X}}", "{{.A..B}}", "{{len .ID}}"] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
        let missing = "{{.Nothing}}".parse::<Template>().unwrap().render_all(&[json!({})]).unwrap_err();
        assert_eq!(missing.to_string(), "there is no field .Nothing");
    }
}
