//! Programs that could not be executed, and what is said of them.

use std::io;

use thiserror::Error;

/// The program could not be executed.
#[derive(Debug, Error)]
#[error("execute {program}")]
pub struct LaunchFailure {
    pub program: String,
    pub source: io::Error,
}

impl LaunchFailure {
    /// As runc says it: engines tell from these words what to answer, docker the exit codes 126 and 127.
    pub fn in_runcs_words(&self) -> String {
        let program = &self.program;
        let reason = match self.source.raw_os_error() {
            Some(libc::ENOENT) if program.contains('/') => {
                format!("stat {program}: no such file or directory")
            }
            Some(libc::ENOENT) => "executable file not found in $PATH".to_owned(),
            Some(libc::EACCES) => "permission denied".to_owned(),
            Some(libc::ENOEXEC) => "exec format error".to_owned(),
            Some(libc::EISDIR) => "is a directory".to_owned(),
            _ => self.source.to_string(),
        };
        format!("unable to start container process: exec: {program:?}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_in_runcs_words() {
        let told = |program: &str, errno| {
            let source = io::Error::from_raw_os_error(errno);
            LaunchFailure { program: program.to_owned(), source }.in_runcs_words()
        };
        assert!(
            told("nosuch", libc::ENOENT).ends_with(r#"exec: "nosuch": executable file not found in $PATH"#)
        );
        assert!(
            told("/nosuch", libc::ENOENT).ends_with(r#""/nosuch": stat /nosuch: no such file or directory"#)
        );
        assert!(told("/etc/passwd", libc::EACCES).ends_with(r#"exec: "/etc/passwd": permission denied"#));
    }
}
