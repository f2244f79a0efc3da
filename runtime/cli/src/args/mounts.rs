//! What is mounted in a container, in docker's shorter and longer words.

use std::path::PathBuf;

use crate::volumes::VolumeName;

/// What is shared with a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub source: VolumeSource,
    /// In the container.
    pub path: PathBuf,
    pub read_only: bool,
    /// An empty one with a name stays so, whatever the image has there.
    pub no_copy: bool,
    /// What the container writes goes to a copy of its own.
    pub is_copied: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeSource {
    /// Of this machine, absolute.
    Path(PathBuf),
    /// A volume that securectr keeps.
    Named(VolumeName),
}

/// `SOURCE:PATH[:OPTION,...]` as docker reads it: the path is absolute, the source is so or a name.
pub(super) fn volume(text: &str) -> Result<Volume, String> {
    let wrong = || {
        format!(
            "not a volume: {text} (as in /srv/data:/data, /srv/data:/data:ro, /srv/data:/data:cow or name:/data:nocopy)"
        )
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, path, options) = match parts.as_slice() {
        [source, path] => (source, path, ""),
        [source, path, options] if !options.is_empty() => (source, path, *options),
        _ => return Err(wrong()),
    };
    let source = volume_source(source)?;
    let mut volume =
        Volume { source, path: absolute(path)?, read_only: false, no_copy: false, is_copied: false };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "cow" => volume.is_copied = true,
            "nocopy" if matches!(volume.source, VolumeSource::Named(_)) => volume.no_copy = true,
            option if option == "rw" || changes_nothing(option) => {}
            _ => return Err(wrong()),
        }
    }
    volume.checked(text)
}

impl Volume {
    fn checked(self, text: &str) -> Result<Self, String> {
        match self.read_only && self.is_copied {
            true => Err(format!("what is read-only is not copied on write: {text}")),
            false => Ok(self),
        }
    }
}

/// Docker's words for what is so anyway: nothing that is mounted on one side comes to the other, there are no labels, and who is how
/// consistent was another system's matter.
fn changes_nothing(option: &str) -> bool {
    matches!(option, "private" | "rprivate" | "z" | "Z" | "consistent" | "cached" | "delegated" | "default")
}

fn volume_source(source: &str) -> Result<VolumeSource, String> {
    if source.contains('/') {
        return absolute(source).map(VolumeSource::Path);
    }
    source.parse().map(VolumeSource::Named)
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') { Ok(path.into()) } else { Err(format!("not an absolute path: {path}")) }
}

/// A file system in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tmpfs {
    pub path: PathBuf,
    /// As mount(8) takes them.
    pub options: Vec<String>,
}

pub(super) fn tmpfs(text: &str) -> Result<Tmpfs, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    Ok(Tmpfs { path: absolute(path)?, options })
}

/// What `--mount` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mounted {
    Volume(Volume),
    Tmpfs(Tmpfs),
}

/// `type=bind,source=/srv,target=/data,readonly` as docker reads it.
pub(super) fn mount(text: &str) -> Result<Mounted, String> {
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut read_only, mut no_copy, mut is_copied) = (false, false, false);
    let is_true = |value| matches!(value, "true" | "1");
    let mut options = Vec::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        match key {
            "type" => kind = value,
            "source" | "src" => source = Some(value),
            "target" | "dst" | "destination" => target = Some(value),
            "readonly" | "ro" => read_only = is_true(value),
            "cow" => is_copied = is_true(value),
            "volume-nocopy" => no_copy = is_true(value),
            "bind-propagation" | "consistency" if changes_nothing(value) => {}
            "tmpfs-size" => options.push(format!("size={value}")),
            "tmpfs-mode" => options.push(format!("mode={value}")),
            _ => return Err(format!("not understood in a mount: {part}")),
        }
    }
    let path = absolute(target.ok_or("a mount has a target")?)?;
    let volume = |source| {
        let volume = Volume { source, path: path.clone(), read_only, no_copy, is_copied };
        volume.checked(text).map(Mounted::Volume)
    };
    match (kind, source) {
        ("bind", Some(source)) => volume(VolumeSource::Path(absolute(source)?)),
        ("volume", Some(source)) => volume(VolumeSource::Named(source.parse()?)),
        ("tmpfs", None) => Ok(Mounted::Tmpfs(Tmpfs { path, options })),
        ("tmpfs", Some(_)) => Err("a tmpfs has no source".to_owned()),
        ("bind" | "volume", None) => Err(format!("a mount of type {kind} has a source")),
        _ => Err(format!("not a type of mounts: {kind} (bind, volume and tmpfs are)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::typed as run;

    #[test]
    fn a_volume_is_an_absolute_path_or_a_name_at_an_absolute_path() {
        let source = VolumeSource::Path("/a b".into());
        let writable =
            Volume { source, path: "/c".into(), read_only: false, no_copy: false, is_copied: false };
        assert_eq!(run(&["-v", "/a b:/c", "i"]).volume, std::slice::from_ref(&writable));
        let read_only = Volume { read_only: true, ..writable };
        assert_eq!(run(&["--volume", "/a b:/c:ro", "i"]).volume, [read_only]);
        let named = run(&["-v", "data:/c", "i"]).volume.remove(0).source;
        assert_eq!(named, VolumeSource::Named("data".parse().unwrap()));
        assert!(volume("/a:/b:cow").unwrap().is_copied && volume("/a:/b:cow,ro").is_err());
        let all = volume("data:/c:ro,nocopy,z").unwrap();
        assert!(all.read_only && all.no_copy);
        let bad = ["", "/a", "/a:", ":/b", "na me:/b", "/a:b", "/a:/b:no", "/a:/b:ro:x", "./a:/b", "..:/b"];
        for text in bad.into_iter().chain(["/a:/b:nocopy", "a:/b:rshared", "a:/b:"]) {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mounts_are_read_in_dockers_longer_words() {
        let bind = mount("type=bind,source=/srv,target=/data,readonly").unwrap();
        let source = VolumeSource::Path("/srv".into());
        assert_eq!(
            bind,
            Mounted::Volume(Volume {
                source,
                path: "/data".into(),
                read_only: true,
                no_copy: false,
                is_copied: false
            })
        );
        assert!(matches!(
            mount("src=data,dst=/data").unwrap(),
            Mounted::Volume(Volume { source: VolumeSource::Named(_), read_only: false, .. })
        ));
        assert!(matches!(
            mount("src=data,dst=/data,volume-nocopy").unwrap(),
            Mounted::Volume(Volume { no_copy: true, .. })
        ));
        assert!(matches!(
            mount("type=bind,src=/a,dst=/b,cow").unwrap(),
            Mounted::Volume(Volume { is_copied: true, .. })
        ));
        assert!(mount("type=bind,src=/a,dst=/b,bind-propagation=rprivate").is_ok());
        let memory = mount("type=tmpfs,target=/run,tmpfs-size=1m").unwrap();
        assert_eq!(memory, Mounted::Tmpfs(Tmpfs { path: "/run".into(), options: vec!["size=1m".into()] }));
        for text in [
            "",
            "type=bind,target=/x",
            "type=bind,source=x,target=/x",
            "source=a",
            "type=nfs,source=a,target=/b",
            "type=bind,source=/a,target=/b,bind-propagation=shared",
            "x=y",
        ] {
            assert!(mount(text).is_err(), "{text}");
        }
    }
}
