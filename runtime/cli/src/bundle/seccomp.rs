//! Docker's files of seccomp profiles: what they allow depends on the architecture, the kernel and the container's capabilities, and is
//! decided here. The result is the runtime spec's.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::Path,
};

use oci_spec::runtime::{Capability, LinuxSeccomp, Spec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::BundleError;

/// By Go's name: that of guests.
const ARCHITECTURE: &str = "amd64";
const NATIVE: &str = "SCMP_ARCH_X86_64";

/// The version of the guests' kernel, which is at least this.
const KERNEL: (u32, u32) = (6, 12);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// In older files.
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Value>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    arches: Vec<String>,
    caps: Vec<String>,
    min_kernel: Option<String>,
}

/// Gives the container the profile of a file.
pub(super) fn set(spec: &mut Spec, path: &Path) -> Result<(), BundleError> {
    let failed = |words: String| BundleError::Seccomp { path: path.to_owned(), words };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let process = spec.process().as_ref();
    let bounding = process.and_then(|process| process.capabilities().as_ref()?.bounding().clone());
    let profile = profile(&text, &bounding.into_iter().flatten().collect()).map_err(failed)?;
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(Some(profile));
    }
    Ok(())
}

fn profile(text: &str, capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp, String> {
    let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let names = capabilities.iter().filter_map(|one| serde_json::to_value(one).ok());
    let has: BTreeSet<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let mut syscalls = Vec::new();
    for rule in profile.syscalls {
        if !rule.applies(&has)? {
            continue;
        }
        let names: Vec<String> = rule.names.into_iter().chain(rule.name).collect();
        let mut syscall = json!({"names": names, "action": rule.action});
        if let Some(members) = syscall.as_object_mut() {
            members.extend(rule.errno_ret.map(|errno| ("errnoRet".to_owned(), errno.into())));
            let args = rule.args.filter(|args| args.as_array().is_some_and(|args| !args.is_empty()));
            members.extend(args.map(|args| ("args".to_owned(), args)));
        }
        syscalls.push(syscall);
    }
    let mut whole = json!({
        "defaultAction": profile.default_action,
        "architectures": [NATIVE],
        "syscalls": syscalls,
    });
    if let Some(members) = whole.as_object_mut() {
        members.extend(profile.default_errno_ret.map(|errno| ("defaultErrnoRet".to_owned(), errno.into())));
        if !profile.flags.is_empty() {
            members.insert("flags".to_owned(), json!(profile.flags));
        }
    }
    serde_json::from_value(whole).map_err(|error| error.to_string())
}

impl Rule {
    fn applies(&self, capabilities: &BTreeSet<String>) -> Result<bool, String> {
        let has = |name: &String| capabilities.contains(name);
        let here = |arches: &[String]| arches.iter().any(|arch| arch == ARCHITECTURE);
        let (includes, excludes) = (&self.includes, &self.excludes);
        let is_excluded = here(&excludes.arches)
            || excludes.caps.iter().any(has)
            || excludes.min_kernel.as_deref().map(is_reached).transpose()?.unwrap_or(false);
        let is_included = (includes.arches.is_empty() || here(&includes.arches))
            && includes.caps.iter().all(has)
            && includes.min_kernel.as_deref().map(is_reached).transpose()?.unwrap_or(true);
        Ok(is_included && !is_excluded)
    }
}

fn is_reached(version: &str) -> Result<bool, String> {
    let numbers = version.split_once('.').and_then(|(major, minor)| {
        let minor = minor.split('.').next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    let numbers: (u32, u32) = numbers.ok_or_else(|| format!("not a kernel's version: {version}"))?;
    Ok(numbers <= KERNEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_apply_by_architecture_kernel_and_capabilities() {
        let rule = |name: &str, rest: Value| {
            let mut rule = json!({"names": [name], "action": "SCMP_ACT_ALLOW"});
            rule.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            rule
        };
        let text = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                rule("read", json!({"comment": "", "args": []})),
                rule("ptrace", json!({"includes": {"minKernel": "4.8"}})),
                rule("future", json!({"includes": {"minKernel": "9.0"}})),
                rule("chroot", json!({"includes": {"caps": ["CAP_SYS_CHROOT"]}})),
                rule("mount", json!({"includes": {"caps": ["CAP_SYS_ADMIN"]}})),
                rule("clone", json!({"excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]}})),
                rule("arm", json!({"includes": {"arches": ["arm64"]}})),
            ],
        });
        let capabilities = [Capability::SysChroot, Capability::NetBindService].into();
        let profile = profile(&text.to_string(), &capabilities).unwrap();
        let names = profile.syscalls().iter().flatten().flat_map(|one| one.names().clone());
        assert_eq!(names.collect::<Vec<_>>(), ["read", "ptrace", "chroot", "clone"]);
        assert_eq!(profile.default_errno_ret(), Some(1));
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for text in ["", "{}", r#"{"defaultAction": "ALLOW"}"#] {
            assert!(profile(text, &Default::default()).is_err(), "{text}");
        }
    }
}
