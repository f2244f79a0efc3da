//! What is listed, to standard output: a table for people, JSON for programs, or a template of theirs. The fields are named as Docker
//! names them, for the templates that people have.

mod template;

use std::io::{self, Write};
use std::time::SystemTime;

use anyhow::{Context, Result};
use indicatif::{DecimalBytes, HumanDuration};
use serde_json::Value;

use crate::report::Report;
use template::Template;

/// Between columns.
const GAP: &str = "   ";

/// How a list is to be written: `table`, `json` (a document a line), or a template.
#[derive(Clone, Debug, Default)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Template(Template),
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "table" => Self::Table,
            "json" => Self::Json,
            template => Self::Template(template.parse()?),
        })
    }
}

/// A heading, and the field that is below it.
pub(crate) type Column = (&'static str, &'static str);

/// Writes rows, each of which is an object.
pub(crate) fn rows(format: &Format, columns: &[Column], rows: &[Value]) -> Result<()> {
    match format {
        Format::Json => lines(rows.iter().map(Value::to_string)),
        Format::Template(template) => lines(template.render_all(rows)?),
        Format::Table => {
            let headings = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
            let cells =
                rows.iter().map(|row| columns.iter().map(|(_, field)| cell(row.get(*field))).collect());
            table(std::iter::once(headings).chain(cells).collect())
        }
    }
}

/// `inspect`: writes what there is to say of each name, and goes on with the others when one is not there.
pub(crate) fn describe(
    names: &[String],
    format: Option<&Format>,
    report: &Report,
    describe: impl Fn(&str) -> Result<Value>,
) -> Result<u8> {
    let mut all = Vec::new();
    let code = report.each(names, |name| {
        all.push(describe(name)?);
        Ok(())
    });
    documents(format, all)?;
    Ok(code)
}

/// Writes documents as `inspect` does: one array, or a template of each.
pub(crate) fn documents(format: Option<&Format>, documents: Vec<Value>) -> Result<()> {
    match format {
        Some(Format::Template(template)) => lines(template.render_all(&documents)?),
        Some(Format::Json) => lines([Value::Array(documents).to_string()]),
        Some(Format::Table) | None => lines([serde_json::to_string_pretty(&documents)?]),
    }
}

/// Writes one document, in one line.
pub(crate) fn document(format: &Format, document: Value) -> Result<()> {
    match format {
        Format::Template(template) => lines(template.render_all(&[document])?),
        Format::Json | Format::Table => lines([document.to_string()]),
    }
}

/// Writes it as it is.
pub(crate) fn text(text: &str) -> Result<()> {
    io::stdout().lock().write_all(text.as_bytes()).context("write to standard output")
}

pub(crate) fn lines(lines: impl IntoIterator<Item = String>) -> Result<()> {
    let mut stdout = io::stdout().lock();
    for line in lines {
        writeln!(stdout, "{line}").context("write to standard output")?;
    }
    Ok(())
}

/// Each column as wide as its widest cell; the last is not filled up.
fn table(rows: Vec<Vec<String>>) -> Result<()> {
    let mut widths = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    lines(rows.iter().map(|row| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join(GAP).trim_end().to_owned()
    }))
}

/// As a cell: no quotes around a string, nothing for nothing. What an image says of itself has no control characters here: it could
/// drive the terminal.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// As in "3 weeks ago".
pub(crate) fn ago(time: SystemTime) -> String {
    SystemTime::now()
        .duration_since(time)
        .map_or_else(|_| "in the future".to_owned(), |since| format!("{} ago", HumanDuration(since)))
}

/// As in "12.34 MB".
pub(crate) fn size(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}
