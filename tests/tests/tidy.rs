//! The code keeps the shape that ARCHITECTURE.md states.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use securectr_tests::checkout;

/// Production lines of a file, without its tests.
const MOST_LINES: usize = 400;

/// Which workspace packages a package may use: each is a trust border, see ARCHITECTURE.md.
const MAY_USE: &[(&str, &[&str])] = &[
    ("securectr", &["securectr-image", "securectr-registry", "securectr-sandbox", "securectr-sdk"]),
    ("securectr-agent", &["securectr-protocol"]),
    ("securectr-bench", &[]),
    ("securectr-files", &["securectr-jail"]),
    ("securectr-image", &[]),
    ("securectr-jail", &[]),
    ("securectr-protocol", &[]),
    ("securectr-registry", &["securectr-jail"]),
    ("securectr-sandbox", &["securectr-files", "securectr-protocol", "securectr-vmm", "securectr-wall"]),
    ("securectr-sdk", &[]),
    ("securectr-shim", &["securectr-sandbox"]),
    ("securectr-test-host", &[]),
    ("securectr-tests", &["securectr-sdk"]),
    ("securectr-vmm", &["securectr-jail"]),
    ("securectr-wall", &["securectr-jail"]),
];

/// What must not come into the process that a hostile guest talks to, nor into the guest's PID 1.
const NEVER_IN: &[(&str, &[&str])] = &[
    ("securectr-vmm", &["tokio", "protobuf", "ttrpc", "oci-spec", "clap"]),
    ("securectr-files", &["tokio", "protobuf", "ttrpc", "oci-spec", "clap", "vm-memory"]),
    ("securectr-wall", &["tokio", "protobuf", "ttrpc", "oci-spec", "clap", "vm-memory"]),
    ("securectr-agent", &["clap", "reqwest", "openssl-sys"]),
];

fn tracked(suffix: &str) -> Result<Vec<PathBuf>> {
    let listed = Command::new("git")
        .arg("-C")
        .arg(checkout())
        .args(["ls-files", "-co", "--exclude-standard"])
        .output()?;
    let names = String::from_utf8(listed.stdout)?;
    let files: Vec<_> = names.lines().filter(|name| name.ends_with(suffix)).map(PathBuf::from).collect();
    anyhow::ensure!(!files.is_empty(), "git lists no files that end with {suffix:?}");
    Ok(files)
}

/// Scenarios of a package's own tests: tables of independent entries, which may be longer.
fn is_a_test(path: &Path) -> bool {
    path.to_string_lossy().contains("/tests/") || path.file_name().is_some_and(|name| name == "tests.rs")
}

/// A file up to its tests.
fn production(path: &Path) -> Result<String> {
    let text = fs::read_to_string(checkout().join(path)).with_context(|| path.display().to_string())?;
    Ok(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned())
}

#[test]
fn a_file_fits_in_one_mind() -> Result<()> {
    for path in tracked(".rs")?.into_iter().filter(|path| !is_a_test(path)) {
        let lines = production(&path)?.lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", path.display());
    }
    Ok(())
}

#[test]
fn unsafe_code_has_rooms_of_its_own() -> Result<()> {
    for path in tracked(".rs")? {
        let in_a_room = path.file_name().is_some_and(|name| name == "sys.rs");
        let text = production(&path)?;
        let uses = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("unsafe {"));
        assert!(in_a_room || !uses, "{} has unsafe code: that belongs into a file sys.rs", path.display());
    }
    Ok(())
}

fn metadata() -> Result<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(checkout())
        .output()?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn packages_use_only_what_their_border_allows() -> Result<()> {
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let ours = packages.iter().filter(|package| package["source"].is_null());
    for package in ours {
        let name = package["name"].as_str().context("name")?;
        let may = allowed.get(name).with_context(|| format!("{name} is not in the table of borders"))?;
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let used = dependency["name"].as_str().context("name")?;
            let is_ours = dependency["source"].is_null();
            assert!(!is_ours || may.contains(&used), "{name} must not use {used}");
        }
    }
    Ok(())
}

#[test]
fn the_attack_surface_stays_small() -> Result<()> {
    for (package, forbidden) in NEVER_IN {
        let tree = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none", "-p", package])
            .current_dir(checkout())
            .output()?;
        let text = String::from_utf8(tree.stdout)?;
        let used: BTreeSet<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(used.contains(package), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
        for name in *forbidden {
            assert!(!used.contains(name), "{package} must not depend on {name}");
        }
    }
    Ok(())
}

/// Words in backquotes that look like paths of this tree.
fn named_paths(text: &str) -> Vec<&str> {
    let tops = ["runtime/", "agent/", "guest-kernel/", "rootfs/", "tests/", ".ci/"];
    text.split('`').skip(1).step_by(2).filter(|word| tops.iter().any(|top| word.starts_with(top))).collect()
}

#[test]
fn documents_name_only_what_exists() -> Result<()> {
    for document in ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "docs/runtime-spec.md"] {
        let text = fs::read_to_string(checkout().join(document)).with_context(|| document.to_owned())?;
        for path in named_paths(&text) {
            assert!(checkout().join(path).exists(), "{document} names {path}, which is not there");
        }
    }
    let architecture = fs::read_to_string(checkout().join("ARCHITECTURE.md"))?;
    assert!(named_paths(&architecture).len() > 10, "ARCHITECTURE.md names the parts");
    Ok(())
}

#[test]
fn every_package_obeys_the_workspaces_lints() -> Result<()> {
    for path in tracked("Cargo.toml")? {
        let text = fs::read_to_string(checkout().join(&path))?;
        assert!(
            text.contains("[lints]\nworkspace = true") || text.contains("[workspace]"),
            "{}",
            path.display()
        );
    }
    Ok(())
}
