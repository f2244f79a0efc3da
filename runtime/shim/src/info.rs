//! What the shim says of itself: `-v` to people, `-info` to containerd, which asks before it makes the first container.

use std::io::{self, Write};

use containerd_shim_protos::{
    protobuf::{Message, well_known_types::any::Any},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};
use securectr_sandbox::features;
use thiserror::Error;

pub(crate) const RUNTIME: &str = "io.containerd.securectr.v2";
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// By which containerd knows the runtime spec's features document.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

#[derive(Debug, Error)]
pub(crate) enum InfoError {
    #[error("describe the runtime")]
    Describe(#[from] protobuf::Error),
    #[error("answer containerd")]
    Answer(#[source] io::Error),
}

pub(crate) fn version() {
    println!("containerd-shim-securectr-v2:\n  Version: {VERSION}");
}

pub(crate) fn describe() -> Result<(), InfoError> {
    let features = Any {
        type_url: FEATURES_TYPE.to_owned(),
        value: features().to_string().into_bytes(),
        ..Default::default()
    };
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: Some(RuntimeVersion { version: VERSION.to_owned(), ..Default::default() }).into(),
        features: Some(features).into(),
        ..Default::default()
    };
    io::stdout().write_all(&info.write_to_bytes()?).map_err(InfoError::Answer)
}
