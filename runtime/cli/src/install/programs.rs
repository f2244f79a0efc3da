//! The engines' own programs, asked.

use std::{
    ffi::OsStr,
    io,
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};

pub(super) fn is_there(program: &str) -> bool {
    output(program, ["--version"]).is_ok()
}

/// None when there is no such program, or it does not say.
pub(super) fn major_version(program: &str) -> Option<u32> {
    let output = output(program, ["--version"]).ok()?;
    major_of(&String::from_utf8_lossy(&output.stdout))
}

/// `containerd github.com/containerd/containerd/v2 v2.1.4 75cb...`, `Docker version 20.10.24+dfsg1, build 5d6db84`,
/// `podman version 4.3.1`: the first word with numbers at dots.
fn major_of(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| {
        let (major, rest) = word.strip_prefix('v').unwrap_or(word).split_once('.')?;
        rest.starts_with(|c: char| c.is_ascii_digit()).then(|| major.parse().ok())?
    })
}

/// Standard output of a program that succeeds; what it says otherwise is the error.
pub(super) fn ask<W: AsRef<OsStr>>(program: &str, words: impl IntoIterator<Item = W>) -> Result<String> {
    let output = output(program, words).with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}", said.trim().lines().last().unwrap_or("it fails and does not say why"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output<W: AsRef<OsStr>>(program: &str, words: impl IntoIterator<Item = W>) -> io::Result<Output> {
    Command::new(program).args(words).output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_each_engine_writes_them() {
        for (text, major) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Some(1)),
            ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7193e4", Some(2)),
            ("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", Some(1)),
            ("Docker version 20.10.24+dfsg1, build 5d6db84", Some(20)),
            ("Docker version 28.0.4, build 6430e49", Some(28)),
            ("podman version 4.3.1\n", Some(4)),
            ("it does not say", None),
        ] {
            assert_eq!(major_of(text), major, "{text}");
        }
    }
}
