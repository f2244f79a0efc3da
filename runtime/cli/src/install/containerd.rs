//! containerd's configuration: a runtime for CRI, by the name `securectr`. `ctr` and docker need no more than the shim in PATH.
//!
//! containerd 2 merges what a drop-in says into the rest. Older ones replace all that is said of the plugin, the user's settings
//! included: there the runtime stands in the main file. They also forget their built-in `runc` when any runtime is named, so that it
//! must be named, too.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use toml::{Spanned, Table};

use super::{
    Site, Wanted,
    block::{block, newline},
    change::Content,
    programs,
};

pub(super) const MAIN: &str = "etc/containerd/config.toml";
pub(super) const RUNTIME_TYPE: &str = "io.containerd.securectr.v2";
const DROP_IN: &str = "securectr.toml";

/// The first containerd that merges.
const MERGES_SINCE: u32 = 2;

/// What CRI's plugin is called by each version of the configuration; the first has no line for its version.
const PLUGINS: [&str; 4] =
    ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.runtime"];

/// Where the plugin is found in what containerd says of itself.
pub(super) fn is_cri(plugin: &str) -> bool {
    PLUGINS.contains(&plugin)
}

/// As much as is needed of the main file.
#[derive(Default, Deserialize)]
struct Document {
    version: Option<Spanned<usize>>,
    imports: Option<Spanned<Vec<String>>>,
    plugins: Option<Table>,
}

pub(super) fn wanted(site: &Site) -> Result<Vec<Wanted>> {
    let main = site.path(MAIN);
    let base = site.base(&main)?;
    let major = programs::major_version("containerd");
    let files = files(&main, base.as_deref(), major)?;
    Ok(files.into_iter().map(|(path, text)| Wanted { path, content: Content::File(text) }).collect())
}

/// The files that name the runtime, from a main file without it. Without a containerd to ask, as an old one wants them: a new one
/// understands that too.
fn files(main: &Path, base: Option<&str>, major: Option<u32>) -> Result<Vec<(PathBuf, String)>> {
    let merges = major.is_some_and(|major| major >= MERGES_SINCE);
    let text = match base {
        Some(text) if !text.trim().is_empty() => text.to_owned(),
        _ => format!("version = {}\n", if merges { 3 } else { 2 }),
    };
    let document = parse(main, &text)?;
    let version = document.version.as_ref().map_or(1, |version| *version.get_ref());
    let plugin = version.checked_sub(1).and_then(|index| PLUGINS.get(index)).with_context(|| {
        let at = document.version.as_ref().map_or(1, |version| line(&text, version.span().start));
        format!(
            "understand {}, line {at}: there is no version {version} of this configuration",
            main.display()
        )
    })?;
    if !merges {
        let with_runc = !has_runtimes(&document, plugin);
        let new = append(&text, &block(&runtimes(plugin, with_runc), newline(&text)));
        parse(main, &new).with_context(|| {
            format!(
                "add a runtime to {}, which says more of {plugin:?} in one line: write tables",
                main.display()
            )
        })?;
        return Ok(vec![(main.to_owned(), new)]);
    }
    let mut files = Vec::new();
    let directory = match imported_directory(main, &document) {
        Some(directory) => directory,
        None => {
            let directory = main.with_file_name("conf.d");
            files.push((main.to_owned(), import(&text, &document, &directory)?));
            directory
        }
    };
    let mut lines =
        document.version.is_some().then(|| format!("version = {version}")).into_iter().collect::<Vec<_>>();
    lines.extend(runtimes(plugin, false));
    files.push((directory.join(DROP_IN), block(&lines, "\n")));
    Ok(files)
}

fn parse(path: &Path, text: &str) -> Result<Document> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(1, |span| line(text, span.start));
        anyhow!("understand {}, line {at}: {}", path.display(), error.message())
    })
}

/// The number of the line that a byte stands in.
pub(super) fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

fn has_runtimes(document: &Document, plugin: &str) -> bool {
    let within = |table: &Table, key: &str| table.get(key).and_then(toml::Value::as_table).cloned();
    let runtimes = document.plugins.as_ref().and_then(|plugins| {
        within(plugins, plugin).and_then(|cri| within(&within(&cri, "containerd")?, "runtimes"))
    });
    runtimes.is_some_and(|runtimes| !runtimes.is_empty())
}

fn runtimes(plugin: &str, with_runc: bool) -> Vec<String> {
    let runc = with_runc.then_some(("runc", "io.containerd.runc.v2"));
    runc.into_iter()
        .chain([("securectr", RUNTIME_TYPE)])
        .flat_map(|(name, runtime_type)| {
            [
                format!("[plugins.{plugin:?}.containerd.runtimes.{name}]"),
                format!("  runtime_type = {runtime_type:?}"),
            ]
        })
        .collect()
}

fn append(text: &str, block: &str) -> String {
    let end = if text.ends_with('\n') { "" } else { newline(text) };
    format!("{text}{end}{block}")
}

/// The directory of drop-ins that the main file already imports.
fn imported_directory(main: &Path, document: &Document) -> Option<PathBuf> {
    let imports = document.imports.as_ref()?.get_ref();
    let directory = imports.iter().find_map(|pattern| pattern.strip_suffix("/*.toml"))?;
    (!directory.contains(['*', '?', '['])).then(|| main.with_file_name(directory))
}

/// The main file, importing a directory's drop-ins. A line of our own stands before all tables, or else it would belong to one.
fn import(text: &str, document: &Document, directory: &Path) -> Result<String> {
    let pattern = directory.join("*.toml");
    let pattern = pattern.to_str().with_context(|| format!("import {}: not UTF-8", pattern.display()))?;
    // A string in JSON is one in TOML.
    let pattern = serde_json::to_string(pattern)?;
    let mut new = text.to_owned();
    if let Some(imports) = &document.imports {
        let separator = if imports.get_ref().is_empty() { "" } else { ", " };
        insert(&mut new, imports.span(), &format!("{pattern}{separator}"))?;
        return Ok(new);
    }
    let ours = block(&[format!("imports = [{pattern}]")], newline(text));
    let behind_version = document.version.as_ref().map_or(0, |version| {
        let end = version.span().end;
        text.get(end..).and_then(|rest| rest.find('\n')).map_or(text.len(), |length| end + length + 1)
    });
    let (head, tail) = text.split_at_checked(behind_version).context("find the line of the version")?;
    let head = if head.is_empty() || head.ends_with('\n') {
        head.to_owned()
    } else {
        format!("{head}{}", newline(text))
    };
    Ok(format!("{head}{ours}{tail}"))
}

/// Puts a text behind the bracket that opens an array.
fn insert(text: &mut String, array: Range<usize>, what: &str) -> Result<()> {
    if text.get(array.start..=array.start) != Some("[") {
        bail!("find the array that begins in line {}", line(text, array.start));
    }
    text.insert_str(array.start + 1, what);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::block::cut;

    const MAIN: &str = "/etc/containerd/config.toml";
    const OLD: Option<u32> = Some(1);
    const NEW: Option<u32> = Some(2);

    fn of(base: Option<&str>, major: Option<u32>) -> Vec<(PathBuf, String)> {
        files(Path::new(MAIN), base, major).unwrap()
    }

    fn fails(base: &str) -> String {
        format!("{:#}", files(Path::new(MAIN), Some(base), OLD).unwrap_err())
    }

    fn runtime_of(text: &str, plugin: &str, name: &str) -> String {
        let table: Table = toml::from_str(text).unwrap();
        table["plugins"][plugin]["containerd"]["runtimes"][name]["runtime_type"].as_str().unwrap().to_owned()
    }

    #[test]
    fn an_old_containerd_gets_the_runtime_in_its_main_file_and_keeps_runc() {
        let texts = [
            "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"mine\" # dear\n",
            "# only a comment\r\nversion = 2\r\n",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/x\"",
        ];
        for text in texts {
            let [(path, new)]: [_; 1] = of(Some(text), OLD).try_into().unwrap();
            assert_eq!(path, Path::new(MAIN));
            assert!(new.starts_with(text) && cut(&new).trim_end() == text.trim_end(), "{new}");
            assert_eq!(new.contains("\r\n"), text.contains("\r\n"));
            assert_eq!(runtime_of(&new, "io.containerd.grpc.v1.cri", "securectr"), RUNTIME_TYPE);
            assert_eq!(runtime_of(&new, "io.containerd.grpc.v1.cri", "runc"), "io.containerd.runc.v2");
        }
    }

    #[test]
    fn runtimes_that_are_named_stay_as_they_are() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"own\"\n";
        let [(_, new)]: [_; 1] = of(Some(text), OLD).try_into().unwrap();
        assert_eq!(runtime_of(&new, "io.containerd.grpc.v1.cri", "runc"), "own");
        assert_eq!(runtime_of(&new, "io.containerd.grpc.v1.cri", "securectr"), RUNTIME_TYPE);
    }

    #[test]
    fn the_first_version_has_names_of_its_own() {
        let [(_, new)]: [_; 1] = of(Some("disabled_plugins = [\"cri\"]\n"), OLD).try_into().unwrap();
        assert_eq!(runtime_of(&new, "cri", "securectr"), RUNTIME_TYPE);
    }

    #[test]
    fn without_a_main_file_there_is_one_of_the_engines_version() {
        let [(path, new)]: [_; 1] = of(None, OLD).try_into().unwrap();
        assert!(path == Path::new(MAIN) && new.starts_with("version = 2\n"), "{new}");
        let [(_, main), (drop_in, new)]: [_; 2] = of(Some(" \n"), NEW).try_into().unwrap();
        assert!(main.starts_with("version = 3\n"), "{main}");
        assert_eq!(drop_in, Path::new("/etc/containerd/conf.d/securectr.toml"));
        assert_eq!(runtime_of(&new, "io.containerd.cri.v1.runtime", "securectr"), RUNTIME_TYPE);
    }

    #[test]
    fn a_new_containerd_gets_a_drop_in_of_its_main_files_version() {
        let text = "# head\nversion = 2 # old\nroot = \"/r\"\n[grpc]\n  uid = 0\n";
        let [(_, main), (_, drop_in)]: [_; 2] = of(Some(text), NEW).try_into().unwrap();
        assert_eq!(cut(&main), text);
        let table: Table = toml::from_str(&main).unwrap();
        assert_eq!(table["imports"][0].as_str(), Some("/etc/containerd/conf.d/*.toml"));
        assert!(drop_in.contains("\nversion = 2\n"), "{drop_in}");
        assert_eq!(runtime_of(&drop_in, "io.containerd.grpc.v1.cri", "securectr"), RUNTIME_TYPE);
    }

    #[test]
    fn imports_that_are_there_are_used() {
        for (pattern, directory) in
            [("/etc/other/*.toml", "/etc/other"), ("more/*.toml", "/etc/containerd/more")]
        {
            let text = format!("version = 3\nimports = [\"/one.toml\", \"{pattern}\"]\n");
            let [(path, _)]: [_; 1] = of(Some(&text), NEW).try_into().unwrap();
            assert_eq!(path, Path::new(directory).join("securectr.toml"));
        }
    }

    #[test]
    fn imports_of_single_files_get_one_more() {
        for (imports, count) in
            [("[]", 1), ("[\"/one.toml\"]", 2), ("[\r\n  '/a.toml', # a\r\n  '/b.toml',\r\n]", 3)]
        {
            let text = format!("version = 3\r\nimports = {imports}\r\n[debug]\r\n");
            let [(_, main), _]: [_; 2] = of(Some(&text), NEW).try_into().unwrap();
            let table: Table = toml::from_str(&main).unwrap();
            assert_eq!(table["imports"].as_array().unwrap().len(), count, "{main}");
            assert_eq!(main.replace("\"/etc/containerd/conf.d/*.toml\"", "").replace("[, ", "["), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        assert!(fails("version = 2\n\nx = [\n").contains("/etc/containerd/config.toml, line "));
        let unknown = fails("\nversion = 9\n");
        assert!(unknown.contains("line 2") && unknown.contains("version 9"), "{unknown}");
        let inline =
            fails("version = 2\nplugins = { \"io.containerd.grpc.v1.cri\" = { sandbox_image = \"x\" } }\n");
        assert!(inline.contains("write tables"), "{inline}");
    }
}
