//! What containerd makes of its configuration, in its own words. Only it knows how it merges its files: an installation after which it
//! has lost a setting is taken back.

use std::path::Path;

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use super::{containerd::is_cri, programs};

pub(super) struct Effective(Table);

impl Effective {
    /// Without a main file, what is built in.
    pub(super) fn ask(main: &Path) -> Result<Self> {
        let text = if main.exists() {
            programs::ask(
                "containerd",
                ["--config".as_ref(), main.as_os_str(), "config".as_ref(), "dump".as_ref()],
            )
            .with_context(|| format!("containerd does not take {}", main.display()))?
        } else {
            programs::ask("containerd", ["config", "default"])?
        };
        Ok(Self(toml::from_str(&text).context("understand what containerd says of its configuration")?))
    }

    fn cri(&self) -> impl Iterator<Item = &Value> {
        let plugins = self.0.get("plugins").and_then(Value::as_table).into_iter().flatten();
        plugins.filter(|(name, _)| is_cri(name)).map(|(_, plugin)| plugin)
    }

    /// CRI can be switched off; docker's packages do so.
    pub(super) fn has_cri(&self) -> bool {
        self.cri().next().is_some()
    }

    pub(super) fn knows(&self, runtime: &str) -> bool {
        self.cri().any(|cri| {
            let runtimes = cri.get("containerd").and_then(|containerd| containerd.get("runtimes"));
            runtimes.and_then(|runtimes| runtimes.get(runtime)).is_some()
        })
    }

    /// That the runtime has come, and nothing has gone.
    pub(super) fn check_since(&self, before: &Self) -> Result<()> {
        if !self.knows("securectr") {
            bail!(
                "containerd would not see the runtime: another file of its imports speaks of the same plugin"
            );
        }
        let mut lost = Vec::new();
        collect_lost(&before.0, &self.0, "", &mut lost);
        if let Some(first) = lost.first() {
            bail!("containerd would lose {} of its settings, {first} among them", lost.len());
        }
        Ok(())
    }
}

/// Settings that are not the same any more. One that says nothing may be left out; imports are what was changed.
fn collect_lost(before: &Table, after: &Table, path: &str, lost: &mut Vec<String>) {
    for (key, old) in before.iter().filter(|(key, _)| !(path.is_empty() && *key == "imports")) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (old, after.get(key)) {
            (Value::Table(old), new) => {
                let nothing = Table::new();
                collect_lost(old, new.and_then(Value::as_table).unwrap_or(&nothing), &path, lost);
            }
            (old, new) if new == Some(old) || (new.is_none() && says_nothing(old)) => {}
            _ => lost.push(path),
        }
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Boolean(is_set) => !is_set,
        Value::Array(values) => values.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Effective {
        Effective(toml::from_str(text).unwrap())
    }

    const BEFORE: &str = "imports = []\n[plugins.cri]\nimage = \"mine\"\n[plugins.cri.containerd.runtimes.runc]\nx = \"\"\ny = 1\n";

    #[test]
    fn one_more_runtime_is_all_that_may_differ() {
        let after = BEFORE.replace("[]", "[\"/a\"]").replace("x = \"\"\n", "")
            + "[plugins.cri.containerd.runtimes.securectr]\n";
        of(&after).check_since(&of(BEFORE)).unwrap();
    }

    #[test]
    fn a_lost_setting_is_named() {
        let after = BEFORE.replace("y = 1\n", "[plugins.cri.containerd.runtimes.securectr]\n");
        let error = of(&after).check_since(&of(BEFORE)).unwrap_err().to_string();
        assert!(error.contains("plugins.cri.containerd.runtimes.runc.y"), "{error}");
        assert!(of(BEFORE).check_since(&of(BEFORE)).is_err());
    }
}
