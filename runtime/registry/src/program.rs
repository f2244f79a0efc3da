//! Where the program lies: beside the one that starts it, in `PREFIX/bin` as in `target/release`.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum ProgramError {
    #[error("find out where this program lies")]
    Own(#[source] io::Error),
    #[error("the program securectr-registry is missing: looked for {0}")]
    Missing(PathBuf),
}

/// The path of `securectr-registry`.
pub fn find() -> Result<PathBuf, ProgramError> {
    let own = env::current_exe().map_err(ProgramError::Own)?;
    beside(own.parent().unwrap_or(Path::new("/")))
}

fn beside(programs: &Path) -> Result<PathBuf, ProgramError> {
    let program = programs.join("securectr-registry");
    if program.is_file() { Ok(program) } else { Err(ProgramError::Missing(program)) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_found_beside_or_told_to_be_missing() {
        let programs = tempfile::tempdir().unwrap();
        let error = beside(programs.path()).unwrap_err().to_string();
        assert!(error.contains(&programs.path().display().to_string()), "{error}");
        fs::write(programs.path().join("securectr-registry"), "").unwrap();
        assert!(beside(programs.path()).is_ok());
    }
}
