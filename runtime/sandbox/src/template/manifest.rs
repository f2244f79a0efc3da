//! What is written about a template, and whether what lies there is that.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::inputs::Inputs;
use crate::sealed::{self, Broken, Sealed};

/// Changes whenever the meaning of a field does.
const FORMAT: u32 = 2;

pub(super) const NAME: &str = "manifest.json";
pub(super) const MACHINE: &str = "machine";

/// No manifest is longer, in bytes.
const MOST_MANIFEST: u64 = 64 << 10;

/// Why a template is not used.
#[derive(Debug, Error)]
pub enum Refusal {
    #[error("there is none")]
    Missing,
    #[error("understand {NAME}")]
    Json(#[source] serde_json::Error),
    #[error("it has format {0}, this program reads {FORMAT}")]
    Format(u32),
    #[error("it was made from something else")]
    Inputs,
    #[error(transparent)]
    Broken(#[from] Broken),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// Of this program.
    version: String,
    pub(super) inputs: Inputs,
    machine: Sealed,
}

impl Manifest {
    /// Of a saved machine.
    pub(super) fn of(inputs: &Inputs, machine: &File) -> io::Result<Self> {
        Ok(Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            inputs: inputs.clone(),
            machine: Sealed::of(machine)?,
        })
    }

    pub(super) fn read(directory: &Path) -> Result<Self, Refusal> {
        let file = match sealed::open_own(directory, NAME) {
            Err(Broken::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::Missing);
            }
            file => file?,
        };
        let mut json = Vec::new();
        file.take(MOST_MANIFEST).read_to_end(&mut json).map_err(|error| Broken::Read(NAME, error))?;
        let manifest: Self = serde_json::from_slice(&json).map_err(Refusal::Json)?;
        if manifest.format == FORMAT { Ok(manifest) } else { Err(Refusal::Format(manifest.format)) }
    }

    /// Opens it for one that is made from the same.
    pub(super) fn open(&self, directory: &Path, inputs: &Inputs) -> Result<File, Refusal> {
        if self.inputs != *inputs {
            return Err(Refusal::Inputs);
        }
        Ok(self.machine.open(directory, MACHINE)?)
    }

    /// Compares all that is there with what was written.
    pub(super) fn verify(&self, directory: &Path) -> Result<(), Refusal> {
        self.machine.open(directory, MACHINE)?;
        self.machine.verify(directory, MACHINE)?;
        Ok(())
    }
}
