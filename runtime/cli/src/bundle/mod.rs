//! From what was typed and what the image says to an OCI runtime spec. Where neither says anything, it is as with docker.

mod limits;
mod mounts;
mod names;
mod privileges;
mod seccomp;

pub(crate) use mounts::leave_volumes;

pub(crate) use limits::{CPU_PERIOD_US, cpu_of};

use std::{env, ffi::OsString, fs, io, path::PathBuf};

use oci_spec::runtime::{Process, Spec, User as SpecUser};
use securectr_image::{ImageConfig, User};
use securectr_sandbox::{Bundle, INIT, NetworkPlan, RootSource, SandboxId, Scope, Writable};
use thiserror::Error;

use crate::{
    args::Run,
    capabilities::{self, UnknownCapability},
};

/// What `docker run` does by default, in the terms of the runtime spec.
pub(crate) const DEFAULT_SPEC: &str = include_str!("default_spec.json");

/// As docker sets it when the image does not.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Error, PartialEq)]
pub(crate) enum BundleError {
    #[error("no command: neither the command line nor the image names one")]
    NoCommand,
    #[error("an argument is not UTF-8: {0:?}")]
    NotUtf8(OsString),
    #[error("read the environment variables in {path}: {kind}")]
    EnvFile { path: PathBuf, kind: io::ErrorKind },
    #[error("read the seccomp profile {path}: {words}")]
    Seccomp { path: PathBuf, words: String },
    #[error("an environment variable has no name: {0:?}")]
    NoVariableName(String),
    #[error("the working directory {0:?} is not an absolute path")]
    RelativeWorkdir(String),
    #[error("the host name {0:?} is not one: letters, digits, '-' and '.', at most 63")]
    Hostname(String),
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    #[error("the built-in default spec: {0}")]
    DefaultSpec(String),
}

/// What a container is made from.
pub(crate) struct Source<'a> {
    pub id: &'a SandboxId,
    pub run: &'a Run,
    /// The words behind the image.
    pub command: &'a [OsString],
    pub image: &'a ImageConfig,
    pub user: &'a User,
    pub root: RootSource,
    /// Where its network leads.
    pub network: Option<&'a NetworkPlan>,
    /// Where each of the run's volumes is on this machine, in their order.
    pub volumes: Vec<PathBuf>,
    /// Where its private copies are.
    pub copies: PathBuf,
}

/// Writes the bundle.
pub(crate) fn bundle(source: &Source<'_>) -> Result<Bundle, BundleError> {
    let hostname = hostname(source)?;
    let files = names::files(source.run, source.network, &hostname);
    let writable = match source.run {
        run if run.read_only => Writable::Nothing,
        run if run.in_place => Writable::InPlace,
        _ => Writable::Disk,
    };
    let spec = spec(source, hostname)?;
    let scope = Scope::alone(&spec);
    Ok(Bundle { spec, root: source.root.clone(), writable, scope, files })
}

fn spec(source: &Source<'_>, hostname: String) -> Result<Spec, BundleError> {
    let mut spec: Spec =
        serde_json::from_str(DEFAULT_SPEC).map_err(|error| BundleError::DefaultSpec(error.to_string()))?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args(source)?));
    process.set_env(Some(environment(source, &hostname)?));
    process.set_cwd(workdir(source)?.into());
    process.set_terminal(Some(source.run.tty));
    set_user(&mut process, source.user);
    capabilities::set(&mut process, source.run, source.user.uid == 0)?;
    process.set_no_new_privileges(Some(source.run.has_no_new_privileges()));
    process.set_oom_score_adj(source.run.oom_score_adj);
    process.set_rlimits(Some(source.run.ulimit.clone()));
    spec.set_process(Some(process));
    spec.set_hostname(Some(hostname));
    let mut root = spec.root().clone().unwrap_or_default();
    root.set_readonly(Some(source.run.read_only));
    spec.set_root(Some(root));
    if source.run.init {
        spec.set_annotations(Some([(INIT.to_owned(), "true".to_owned())].into()));
    }
    mounts::add(&mut spec, source);
    limits::set(&mut spec, source.run);
    if source.run.privileged {
        privileges::give(&mut spec);
    }
    if let Some(path) = source.run.seccomp() {
        seccomp::set(&mut spec, path)?;
    }
    Ok(spec)
}

fn args(source: &Source<'_>) -> Result<Vec<String>, BundleError> {
    let command = source
        .command
        .iter()
        .map(|word| word.to_str().map(str::to_owned).ok_or_else(|| BundleError::NotUtf8(word.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    // With another entry point the image's arguments would make no sense.
    let (entrypoint, image_command) = match &source.run.entrypoint {
        Some(asked) => (Vec::from_iter(Some(asked.clone()).filter(|asked| !asked.is_empty())), Vec::new()),
        None => (source.image.entrypoint.clone(), source.image.cmd.clone()),
    };
    let command = if command.is_empty() { image_command } else { command };
    let args = [entrypoint, command].concat();
    if args.is_empty() { Err(BundleError::NoCommand) } else { Ok(args) }
}

fn environment(source: &Source<'_>, hostname: &str) -> Result<Vec<String>, BundleError> {
    let mut variables = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if source.run.tty {
        set_variable(&mut variables, "TERM=xterm".to_owned());
    }
    for variable in &source.image.env {
        set_variable(&mut variables, variable.clone());
    }
    set_typed(&mut variables, &source.run.env_file, &source.run.env)?;
    if !variables.iter().any(|variable| variable.starts_with("HOME=")) {
        variables.push(format!("HOME={}", source.user.home));
    }
    Ok(variables)
}

/// Sets what files and the command line say; a name without a value has that of this environment, if there is one.
pub(crate) fn set_typed(
    variables: &mut Vec<String>,
    files: &[PathBuf],
    typed: &[String],
) -> Result<(), BundleError> {
    for typed in from_files(files)?.iter().chain(typed) {
        if typed.is_empty() || typed.starts_with('=') {
            return Err(BundleError::NoVariableName(typed.clone()));
        }
        if typed.contains('=') {
            set_variable(variables, typed.clone());
        } else if let Some(value) = env::var_os(typed) {
            let value = value.into_string().map_err(BundleError::NotUtf8)?;
            set_variable(variables, format!("{typed}={value}"));
        }
    }
    Ok(())
}

/// A variable a line; empty lines and those that begin with # are nothing.
fn from_files(files: &[PathBuf]) -> Result<Vec<String>, BundleError> {
    let mut variables = Vec::new();
    for path in files {
        let text = fs::read_to_string(path)
            .map_err(|source| BundleError::EnvFile { path: path.clone(), kind: source.kind() })?;
        let lines =
            text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        variables.extend(lines.map(str::to_owned));
    }
    Ok(variables)
}

/// A later value takes the place of an earlier one.
fn set_variable(variables: &mut Vec<String>, variable: String) {
    let name = |entry: &str| entry.split('=').next().map(str::to_owned);
    match variables.iter_mut().find(|entry| name(entry) == name(&variable)) {
        Some(entry) => *entry = variable,
        None => variables.push(variable),
    }
}

fn workdir(source: &Source<'_>) -> Result<String, BundleError> {
    let image = Some(source.image.working_dir.clone()).filter(|dir| !dir.is_empty());
    let dir = source.run.workdir.clone().or(image).unwrap_or_else(|| "/".to_owned());
    if dir.starts_with('/') { Ok(dir) } else { Err(BundleError::RelativeWorkdir(dir)) }
}

fn hostname(source: &Source<'_>) -> Result<String, BundleError> {
    let Some(asked) = &source.run.hostname else {
        return Ok(source.id.as_str().chars().take(12).map(|c| if c == '_' { '-' } else { c }).collect());
    };
    let fits = (1..=63).contains(&asked.len()) && !asked.starts_with(['-', '.']);
    if fits && asked.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)) {
        Ok(asked.clone())
    } else {
        Err(BundleError::Hostname(asked.clone()))
    }
}

fn set_user(process: &mut Process, user: &User) {
    let mut spec_user = SpecUser::default();
    spec_user.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.additional_gids.clone()));
    process.set_user(spec_user);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use securectr_sandbox::COPY_UP;

    use super::*;
    use crate::args;

    const ROOT: User = User { uid: 0, gid: 0, additional_gids: Vec::new(), home: String::new() };

    fn with(options: &[&str], image: &ImageConfig, user: &User) -> Result<Spec, BundleError> {
        let run = args::typed(options);
        let command = run.words.get(1..).unwrap_or_default();
        let source = Source {
            id: &"some_name".parse().unwrap(),
            run: &run,
            command,
            image,
            user,
            root: RootSource::Image,
            network: None,
            volumes: run.volumes().map(|_| "/srv".into()).collect(),
            copies: "/store/copies/x".into(),
        };
        bundle(&source).map(|bundle| bundle.spec)
    }

    fn process(options: &[&str], image: &ImageConfig) -> Process {
        with(options, image, &ROOT).unwrap().process().clone().unwrap()
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            env: vec!["PATH=/image".into(), "A=image".into()],
            working_dir: "/work".into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_image_decides_what_was_not_typed() {
        let process = process(&["i"], &image());
        assert_eq!(process.args().as_deref().unwrap(), ["/entry", "default"]);
        assert_eq!(process.cwd().to_str(), Some("/work"));
    }

    #[test]
    fn words_replace_the_images_command_and_an_entrypoint_both() {
        assert_eq!(process(&["i", "a", "b"], &image()).args().as_deref().unwrap(), ["/entry", "a", "b"]);
        let asked = process(&["--entrypoint", "/mine", "i", "a"], &image());
        assert_eq!(asked.args().as_deref().unwrap(), ["/mine", "a"]);
        assert_eq!(process(&["--entrypoint=", "i", "a"], &image()).args().as_deref().unwrap(), ["a"]);
        assert_eq!(with(&["--entrypoint=", "i"], &image(), &ROOT), Err(BundleError::NoCommand));
    }

    #[test]
    fn typed_variables_outrank_the_images() {
        let variables = process(&["-e", "A=typed", "-e", "B=1", "i"], &image()).env().clone().unwrap();
        assert!(variables.contains(&"PATH=/image".to_owned()) && variables.contains(&"A=typed".to_owned()));
        assert_eq!(variables.iter().filter(|variable| variable.starts_with("A=")).count(), 1);
        assert!(with(&["-e", "=x", "i"], &image(), &ROOT).is_err());
    }

    #[test]
    fn a_user_has_no_capabilities_of_its_own() {
        let user = User { uid: 1000, gid: 1000, additional_gids: vec![5], home: "/home/u".into() };
        let process = with(&["i"], &image(), &user).unwrap().process().clone().unwrap();
        let capabilities = process.capabilities().clone().unwrap();
        assert!(capabilities.bounding().is_some() && capabilities.effective().is_none());
        assert!(process.env().clone().unwrap().contains(&"HOME=/home/u".to_owned()));
    }

    #[test]
    fn limits_reach_the_spec() {
        let spec = with(&["--memory", "128m", "--cpus", "1.5", "i"], &image(), &ROOT).unwrap();
        let resources = spec.linux().clone().unwrap().resources().clone().unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(128 << 20));
        assert_eq!(resources.cpu().clone().unwrap().quota(), Some(150_000));
    }

    #[test]
    fn the_privileged_have_the_guests_devices_and_nothing_is_hidden_from_them() {
        let spec = with(&["--privileged", "-v", "/srv:/data:ro", "i"], &image(), &ROOT).unwrap();
        let linux = spec.linux().clone().unwrap();
        assert!(linux.masked_paths().is_none() && linux.readonly_paths().is_none());
        let is_read_only =
            |mount: &&oci_spec::runtime::Mount| mount.options().iter().flatten().any(|option| option == "ro");
        let mounts = spec.mounts().as_ref().unwrap();
        let read_only: Vec<_> = mounts.iter().filter(is_read_only).map(|mount| mount.destination()).collect();
        assert_eq!(read_only, [Path::new("/data")]);
        assert!(mounts.iter().any(|mount| mount.typ().as_deref() == Some("devtmpfs")));
    }

    #[test]
    fn a_volume_is_a_bind_mount() {
        let spec = with(&["-v", "/srv:/data:ro", "i"], &image(), &ROOT).unwrap();
        let mount = spec.mounts().as_ref().unwrap().last().unwrap().clone();
        assert_eq!(
            (mount.source().as_deref(), mount.destination().as_path()),
            (Some("/srv".as_ref()), "/data".as_ref())
        );
        assert_eq!(mount.options().as_deref().unwrap(), ["rbind", "ro"]);
        let filled = |volume| {
            let spec = with(&["-v", volume, "i"], &image(), &ROOT).unwrap();
            let mount = spec.mounts().as_ref().unwrap().last().unwrap().clone();
            mount.options().as_ref().unwrap().contains(&COPY_UP.to_owned())
        };
        assert!(
            filled("data:/x") && !filled("data:/x:ro") && !filled("data:/x:nocopy") && !filled("/srv:/x")
        );
    }

    #[test]
    fn each_mount_that_is_copied_has_a_place_of_its_own() {
        let spec = with(&["-v", "/a:/a:cow", "-v", "/b:/b", "-v", "c:/c:cow", "i"], &image(), &ROOT).unwrap();
        let mounts = spec.mounts().clone().unwrap();
        let options = |path: &str| {
            let mount = mounts.iter().find(|mount| mount.destination().as_path() == Path::new(path)).unwrap();
            mount.options().clone().unwrap()
        };
        assert_eq!(options("/a"), ["rbind", "rw", "securectr-copy=/store/copies/x/0"]);
        assert_eq!(options("/b"), ["rbind", "rw"]);
        assert_eq!(options("/c"), ["rbind", "rw", "securectr-copy=/store/copies/x/1"]);
    }

    #[test]
    fn a_host_name_is_checked_and_made_from_the_name_otherwise() {
        assert_eq!(with(&["i"], &image(), &ROOT).unwrap().hostname().as_deref(), Some("some-name"));
        for bad in ["", "a b", ".x", "a\nb"] {
            assert!(with(&["--hostname", bad, "i"], &image(), &ROOT).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_relative_workdir_is_refused() {
        let refused = Err(BundleError::RelativeWorkdir("tmp".into()));
        assert_eq!(with(&["-w", "tmp", "i"], &image(), &ROOT), refused);
    }
}
