//! `config.json`: what lies in a bundle becomes a spec that can be carried out from anywhere.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Capability, Spec};
use serde_json::Value;
use thiserror::Error;

use crate::{PlanError, shares, validity};

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("understand {path}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Invalid(#[from] PlanError),
}

/// A spec without relative sources, and without what no runtime may take.
#[derive(Debug)]
pub struct Config {
    pub spec: Spec,
    /// Left out: the specification wants a warning, and no failure.
    pub unknown_capabilities: Vec<String>,
}

impl Config {
    /// Reads the one of a bundle, whose path is absolute.
    pub fn read(bundle: &Path) -> Result<Self, ConfigError> {
        let path = bundle.join("config.json");
        let json = fs::read(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let config = parse(&json).map_err(|source| ConfigError::Json { path, source })?;
        validity::check(&config.spec)?;
        let Self { mut spec, unknown_capabilities } = config;
        shares::resolve(&mut spec, bundle);
        Ok(Self { spec, unknown_capabilities })
    }
}

fn parse(json: &[u8]) -> Result<Config, serde_json::Error> {
    let mut document: Value = serde_json::from_slice(json)?;
    let mut unknown_capabilities = Vec::new();
    let sets = document.pointer_mut("/process/capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let is_known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if let Some(name) = name.as_str().filter(|_| !is_known) {
                unknown_capabilities.push(name.to_owned());
            }
            // What is no name is for the parser to refuse.
            is_known || !name.is_string()
        });
    }
    unknown_capabilities.sort_unstable();
    unknown_capabilities.dedup();
    Ok(Config { spec: serde_json::from_value(document)?, unknown_capabilities })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(document: &Value) -> Result<Config, ConfigError> {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), document.to_string()).unwrap();
        Config::read(bundle.path())
    }

    #[test]
    fn unknown_capabilities_are_told_and_left_out() {
        let sets = json!({"bounding": ["CAP_KILL", "CAP_FLY"], "effective": ["CAP_FLY", "CAP_SWIM"]});
        let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "capabilities": sets});
        let config = read(&json!({"ociVersion": "1.2.0", "process": process})).unwrap();
        assert_eq!(config.unknown_capabilities, ["CAP_FLY", "CAP_SWIM"]);
        let capabilities = config.spec.process().clone().unwrap().capabilities().clone().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
        assert!(capabilities.effective().as_ref().unwrap().is_empty());
    }

    #[test]
    fn what_is_no_spec_is_refused() {
        assert!(matches!(Config::read(Path::new("/nowhere")), Err(ConfigError::Read { .. })));
        let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "capabilities": {"bounding": [7]}});
        for document in [json!("spec"), json!({"ociVersion": "1.2.0", "process": process})] {
            assert!(matches!(read(&document), Err(ConfigError::Json { .. })), "{document}");
        }
        assert!(matches!(read(&json!({"ociVersion": "one"})), Err(ConfigError::Invalid(_))));
    }
}
