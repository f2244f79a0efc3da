//! What the runtime specification forbids, however a spec would be carried out. Pure.

use std::{collections::HashSet, path::Path};

use oci_spec::runtime::{Hook, Hooks, Linux, Spec};

use crate::PlanError;

/// To be asked before anything is done for a spec: its hooks are run before the rest of it is planned.
pub(crate) fn check(spec: &Spec) -> Result<(), PlanError> {
    let invalid = |property, value: &str| Err(PlanError::Invalid { property, value: value.to_owned() });
    if !is_semantic_version(spec.version()) {
        return invalid("ociVersion", spec.version());
    }
    if spec.annotations().iter().any(|annotations| annotations.contains_key("")) {
        return invalid("annotations", "");
    }
    spec.linux().as_ref().map_or(Ok(()), check_namespaces)?;
    let hooks = spec.hooks().iter().flat_map(all_hooks);
    hooks.into_iter().try_for_each(check_hook)
}

/// Of semver 2.0.0 the part that everybody writes: three numbers, and what comes behind them.
fn is_semantic_version(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    core.split('.').count() == 3 && core.split('.').all(is_number)
}

fn check_namespaces(linux: &Linux) -> Result<(), PlanError> {
    let mut seen = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ().to_string();
        if !seen.insert(kind.clone()) {
            return Err(PlanError::Invalid { property: "linux.namespaces", value: format!("{kind} twice") });
        }
        let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
        is_absolute("linux.namespaces.path", path.unwrap_or(Path::new("/")))?;
    }
    Ok(())
}

fn all_hooks(hooks: &Hooks) -> impl Iterator<Item = &Hook> {
    let kinds = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    kinds.into_iter().flatten().flatten()
}

fn check_hook(hook: &Hook) -> Result<(), PlanError> {
    is_absolute("hooks.path", hook.path())?;
    match hook.timeout() {
        Some(seconds) if seconds <= 0 => {
            Err(PlanError::Invalid { property: "hooks.timeout", value: seconds.to_string() })
        }
        _ => Ok(()),
    }
}

fn is_absolute(property: &'static str, path: &Path) -> Result<(), PlanError> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(PlanError::Invalid { property, value: path.display().to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with(name: &str, value: Value) -> Result<(), PlanError> {
        let mut spec = json!({"ociVersion": "1.2.0"});
        spec[name] = value;
        check(&serde_json::from_value(spec).unwrap())
    }

    fn is_refused(name: &str, value: Value) -> bool {
        matches!(with(name, value), Err(PlanError::Invalid { .. }))
    }

    #[test]
    fn a_version_is_a_semantic_one() {
        for good in ["1.0.0", "1.0.2-dev", "1.2.0+build.7"] {
            assert_eq!(with("ociVersion", json!(good)), Ok(()), "{good}");
        }
        for bad in ["", "1", "1.2", "1.2.x", "v1.2.0", "1.2.0.1"] {
            assert!(is_refused("ociVersion", json!(bad)), "{bad}");
        }
    }

    #[test]
    fn a_namespace_is_listed_once_and_by_an_absolute_path() {
        let network = |path: &str| json!({"type": "network", "path": path});
        let listed = |namespaces: Value| json!({"namespaces": namespaces});
        assert_eq!(with("linux", listed(json!([network("/n"), {"type": "pid"}]))), Ok(()));
        assert_eq!(with("linux", listed(json!([network("")]))), Ok(()));
        assert!(is_refused("linux", listed(json!([network("/n"), {"type": "network"}]))));
        assert!(is_refused("linux", listed(json!([network("n")]))));
    }

    #[test]
    fn a_hook_of_any_kind_has_an_absolute_path_and_time() {
        for kind in
            ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        {
            assert_eq!(with("hooks", json!({kind: [{"path": "/h", "timeout": 1}]})), Ok(()));
            assert!(is_refused("hooks", json!({kind: [{"path": "h"}]})), "{kind}");
            assert!(is_refused("hooks", json!({kind: [{"path": "/h", "timeout": 0}]})), "{kind}");
        }
    }

    #[test]
    fn an_annotation_has_a_name() {
        assert_eq!(with("annotations", json!({"x": ""})), Ok(()));
        assert!(is_refused("annotations", json!({"": "x"})));
    }
}
