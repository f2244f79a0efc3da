//! The host's hooks of a spec (runtime spec, "POSIX-platform Hooks"): programs that engines want run beside a container's life, such
//! as Docker's, which wires its network.

use std::{collections::HashMap, io, path::PathBuf, process::Stdio, time::Duration};

use oci_spec::runtime::{Hook, Spec};
use serde::Serialize;
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::timeout,
};

/// A hook without a limit of its own does not hang a container for ever.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// No more of a hook's last words is shown, in characters.
const WORDS_LIMIT: usize = 500;

#[derive(Debug, Error)]
pub enum HookError {
    #[error("run the hook {}", .0.display())]
    Run(PathBuf, #[source] io::Error),
    #[error("the hook {} did not end within {} s", .0.display(), .1.as_secs())]
    Deadline(PathBuf, Duration),
    #[error("the hook {} failed with {status}: {words}", path.display())]
    Failed { path: PathBuf, status: std::process::ExitStatus, words: String },
}

/// What a hook reads on standard input: the container's state.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    pub oci_version: String,
    pub id: String,
    pub status: &'static str,
    /// Of a process whose namespaces stand for the container's.
    pub pid: i32,
    pub bundle: PathBuf,
    pub annotations: HashMap<String, String>,
}

/// Those that come before the container: `prestart`, then `createRuntime`. The first failure is the last one run.
pub async fn run_before_create(spec: &Spec, state: &HookState) -> Result<(), HookError> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let all: Vec<&Hook> = hooks.prestart().iter().chain(hooks.create_runtime()).flatten().collect();
    run_in_turn(all, state).await
}

/// One after the other; the first failure is the last one run.
pub async fn run_in_turn(hooks: impl IntoIterator<Item = &Hook>, state: &HookState) -> Result<(), HookError> {
    for hook in hooks {
        run(hook, state).await?;
    }
    Ok(())
}

/// All of them, whatever one says: the container's life does not depend on them. Answers with the failures.
pub async fn run_all(hooks: Option<&[Hook]>, state: &HookState) -> Vec<HookError> {
    let mut failures = Vec::new();
    for hook in hooks.into_iter().flatten() {
        failures.extend(run(hook, state).await.err());
    }
    failures
}

async fn run(hook: &Hook, state: &HookState) -> Result<(), HookError> {
    let path = || hook.path().clone();
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let child = start(hook).map_err(|error| HookError::Run(path(), error))?;
    match timeout(limit, talk(child, state)).await {
        Err(_) => Err(HookError::Deadline(path(), limit)),
        Ok(Err(error)) => Err(HookError::Run(path(), error)),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.trim().chars().filter(|c| !c.is_control()).take(WORDS_LIMIT).collect();
            Err(HookError::Failed { path: path(), status: output.status, words })
        }
    }
}

/// It dies when nobody waits for it any more.
fn start(hook: &Hook) -> io::Result<Child> {
    let mut command = Command::new(hook.path());
    let mut args = hook.args().iter().flatten();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    let environment = hook.env().iter().flatten().filter_map(|variable| variable.split_once('='));
    command
        .args(args)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

async fn talk(mut child: Child, state: &HookState) -> io::Result<std::process::Output> {
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it may end without.
        let _ = stdin.write_all(&serde_json::to_vec(state)?).await;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state() -> HookState {
        HookState {
            oci_version: "1.2.0".into(),
            id: "c".into(),
            status: "creating",
            pid: 7,
            bundle: "/b".into(),
            annotations: HashMap::new(),
        }
    }

    fn shell(script: &str) -> serde_json::Value {
        json!({"path": "/bin/sh", "args": ["hook", "-c", script], "timeout": 5})
    }

    async fn before(hooks: &[serde_json::Value]) -> Result<(), HookError> {
        let spec = json!({"ociVersion": "1.2.0", "hooks": {"prestart": hooks}});
        run_before_create(&serde_json::from_value(spec).unwrap(), &state()).await
    }

    #[tokio::test]
    async fn a_hook_reads_the_containers_state() {
        before(&[shell("grep -q '\"pid\":7' && test -z \"$HOME\"")]).await.unwrap();
    }

    #[tokio::test]
    async fn a_hook_that_fails_is_told_in_its_words_and_is_the_last() {
        let marks = tempfile::tempdir().unwrap();
        let mark = marks.path().join("ran");
        let hooks = [shell("echo no such network >&2; exit 3"), shell(&format!("touch {}", mark.display()))];
        let error = before(&hooks).await.unwrap_err().to_string();
        assert!(error.contains("/bin/sh") && error.ends_with("no such network"), "{error}");
        assert!(!mark.exists());
    }

    #[tokio::test]
    async fn a_hook_that_hangs_has_an_end() {
        let hung = json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1});
        assert!(matches!(before(&[hung]).await, Err(HookError::Deadline(..))));
    }
}
