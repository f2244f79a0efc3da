//! What the test host is to do once it is up, as the shell script that `session.sh` sources.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Job {
    /// This program.
    pub(crate) test_host: PathBuf,
    pub(crate) command: Vec<OsString>,
    pub(crate) cwd: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Directories that the job may write to, at the same path as outside.
    pub(crate) shares: Vec<PathBuf>,
    /// Files and directories that are laid into memory first, so that using them waits for nobody.
    pub(crate) copies: Vec<PathBuf>,
    /// Set for a command that talks to the caller's terminal.
    pub(crate) terminal: Option<TerminalSize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TerminalSize {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

impl Job {
    pub(crate) fn script(&self, modules_dir: &Path) -> Vec<u8> {
        let mut script = OsString::new();
        let mut line = |words: &[OsString]| {
            for word in words {
                script.push(word);
                script.push(" ");
            }
            script.push("\n");
        };
        line(&[assignment("MODULES", modules_dir.as_os_str())]);
        line(&[assignment("TEST_HOST", self.test_host.as_os_str())]);
        let size = self.terminal.map(|size| format!("rows {} cols {}", size.rows, size.columns));
        line(&[assignment("TERMINAL", OsStr::new(&size.unwrap_or_default()))]);
        line(&["prepare_job() {\n:".into()]);
        for (index, dir) in self.shares.iter().enumerate() {
            line(&["share".into(), index.to_string().into(), quoted(dir.as_os_str())]);
        }
        for path in &self.copies {
            line(&["copy_to_tmpfs".into(), quoted(path.as_os_str())]);
        }
        line(&["}\nrun_command() {".into()]);
        line(&["cd".into(), quoted(self.cwd.as_os_str()), "|| exit 125".into()]);
        let mut command: Vec<OsString> = vec!["exec setsid".into()];
        command.extend(self.terminal.map(|_| "-c".into()));
        command.push("env -i".into());
        command.extend(self.env.iter().map(|(name, value)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            quoted(&variable)
        }));
        command.extend(self.command.iter().map(|word| quoted(word)));
        line(&command);
        line(&["}".into()]);
        script.into_vec()
    }
}

fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut assignment = OsString::from(name);
    assignment.push("=");
    assignment.push(quoted(value));
    assignment
}

fn quoted(word: &OsStr) -> OsString {
    let mut quoted = b"'".to_vec();
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn job(command: &[&str]) -> Job {
        Job {
            test_host: "/test-host".into(),
            command: command.iter().map(OsString::from).collect(),
            cwd: "/usr/bin".into(),
            env: vec![("GREETING".into(), "it's\n$HOME".into())],
            shares: Vec::new(),
            copies: Vec::new(),
            terminal: None,
        }
    }

    fn run_by_a_shell(job: &Job) -> String {
        let mut script = job.script(Path::new("/modules"));
        script.extend(b"prepare_job; run_command");
        let output = Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_command_gets_its_words_as_they_were_given() {
        let words = ["/usr/bin/printf", "<%s>", "a b", "it's", "", "$(id)", "two\nlines"];
        assert_eq!(run_by_a_shell(&job(&words)), "<a b><it's><><$(id)><two\nlines>");
    }

    #[test]
    fn a_command_gets_its_directory_and_only_the_given_environment() {
        assert_eq!(run_by_a_shell(&job(&["/usr/bin/env"])), "GREETING=it's\n$HOME\n");
        assert_eq!(run_by_a_shell(&job(&["/usr/bin/pwd"])), "/usr/bin\n");
    }
}
