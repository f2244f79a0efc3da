//! What options say, understood: each has its words for what is not.

use std::{net::IpAddr, path::PathBuf};

use oci_spec::runtime::PosixRlimit;
use securectr_sandbox::LEAST_DISK_BYTES;
use serde_json::json;

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() { Err("a label has a name".to_owned()) } else { Ok((name.into(), value.into())) }
}

/// Where a container's network comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    None,
    Nat,
    Namespace(PathBuf),
}

pub(crate) fn network(text: &str) -> Result<Network, String> {
    match text {
        "none" => Ok(Network::None),
        "nat" => Ok(Network::Nat),
        "host" => Err("the host's network cannot be given to a guest".to_owned()),
        path if path.starts_with('/') => Ok(Network::Namespace(path.into())),
        _ => Err("neither none nor nat nor the absolute path of a network namespace".to_owned()),
    }
}

/// A resource limit of each process (getrlimit(2)): `nofile=1024:2048`; -1 and unlimited are no limit.
pub(super) fn limit(text: &str) -> Result<PosixRlimit, String> {
    let wrong = || format!("not a limit: {text} (as in nofile=1024 or nofile=1024:2048)");
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let number = |value: &str| match value {
        "-1" | "unlimited" => Ok(u64::MAX),
        value => value.parse().map_err(|_| wrong()),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(wrong());
    }
    let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
    serde_json::from_value(json!({"type": kind, "soft": soft, "hard": hard}))
        .map_err(|_| format!("there is no limit {name:?}"))
}

/// `NAME=VALUE`.
pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("not a setting: {text} (as in name=value)")),
    }
}

/// `NAME:ADDRESS`; an IPv6 address has colons of its own.
pub(super) fn host(text: &str) -> Result<(String, IpAddr), String> {
    let wrong = || format!("not a host: {text} (as in name:192.0.2.1)");
    let (name, address) = text.split_once([':', '=']).ok_or_else(wrong)?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let address = address.trim_matches(['[', ']']).parse().map_err(|_| wrong())?;
    if is_name { Ok((name.to_owned(), address)) } else { Err(wrong()) }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecurityOption {
    NoNewPrivileges,
    /// There is no filter by default: the guest has a kernel of its own.
    SeccompUnconfined,
    /// Docker's file of a profile.
    Seccomp(PathBuf),
}

pub(super) fn security_option(text: &str) -> Result<SecurityOption, String> {
    match text {
        "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
            Ok(SecurityOption::NoNewPrivileges)
        }
        "seccomp=unconfined" | "seccomp:unconfined" => Ok(SecurityOption::SeccompUnconfined),
        _ => match text.strip_prefix("seccomp=").filter(|path| !path.is_empty()) {
            Some(path) => Ok(SecurityOption::Seccomp(path.into())),
            None => Err(format!("not understood: {text} (no-new-privileges and seccomp=FILE are)")),
        },
    }
}

/// Docker's only word: ids are those of the kernel, which is the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserNamespace;

pub(super) fn user_namespace(text: &str) -> Result<UserNamespace, String> {
    match text {
        "host" => Ok(UserNamespace),
        _ => Err("only host: ids in a container are those of its guest, and nobody's on this machine, which is what a user \
                  namespace is for"
            .to_owned()),
    }
}

/// As a size; -1 is no limit.
pub(crate) fn swap_size(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { memory_size(text) }
}

/// `128m` as docker reads it: a number, with a power of 1024 behind it.
pub(crate) fn memory_size(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let trimmed = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match trimmed.as_bytes().last() {
        Some(b'k') => (trimmed.trim_end_matches('k'), 10),
        Some(b'm') => (trimmed.trim_end_matches('m'), 20),
        Some(b'g') => (trimmed.trim_end_matches('g'), 30),
        _ => (trimmed, 0),
    };
    let number: i64 = digits.parse().map_err(|_| format!("not a size: {text} (as in 512m or 2g)"))?;
    match number.checked_mul(1 << shift) {
        Some(bytes @ 1..) => Ok(bytes),
        _ => Err(format!("out of range: {text}")),
    }
}

/// A size that a disk can have.
pub(super) fn disk_size(text: &str) -> Result<u64, String> {
    let bytes = memory_size(text)?.unsigned_abs();
    if bytes < LEAST_DISK_BYTES {
        return Err(format!("a disk has at least {} MiB", LEAST_DISK_BYTES >> 20));
    }
    Ok(bytes)
}

pub(crate) fn cpu_count(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(count) if count.is_finite() && (0.01..=1024.0).contains(&count) => Ok(count),
        _ => Err(format!("not a number of CPUs: {text} (from 0.01, as in 1 or 1.5)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::typed as run;

    #[test]
    fn options_behind_the_image_belong_to_the_command() {
        let run = run(&["-i", "oci:x", "ls", "-t", "--rm"]);
        assert!(run.interactive && !run.tty && !run.rm);
        assert_eq!(run.words, ["oci:x", "ls", "-t", "--rm"]);
    }

    #[test]
    fn short_options_can_be_joined() {
        let run = run(&["-it", "-eA=1", "-e", "B", "oci:x"]);
        assert!(run.interactive && run.tty);
        assert_eq!(run.env, ["A=1", "B"]);
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in
            [("64", 64), ("4k", 4096), ("128m", 128 << 20), ("1G", 1 << 30), ("2gb", 2 << 30)]
        {
            assert_eq!(memory_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1.5g", "1t", "99999999999g", "0"] {
            assert!(memory_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_none_or_nat_or_a_path() {
        assert_eq!(run(&["oci:x"]).network, None);
        assert_eq!(run(&["--network", "none", "oci:x"]).network, Some(Network::None));
        assert_eq!(run(&["--network", "nat", "oci:x"]).network, Some(Network::Nat));
        let namespace = Network::Namespace("/run/netns/x".into());
        assert_eq!(run(&["--network", "/run/netns/x", "oci:x"]).network, Some(namespace));
        for text in ["host", "bridge", "", "netns/x"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_user_namespace_is_the_hosts_or_refused_with_the_reason() {
        assert_eq!(run(&["--userns", "host", "i"]).userns, Some(UserNamespace));
        for text in ["", "private", "keep-id", "auto"] {
            assert!(user_namespace(text).unwrap_err().contains("of its guest"), "{text}");
        }
    }

    #[test]
    fn cpus_are_positive_numbers() {
        assert_eq!(cpu_count("1.5"), Ok(1.5));
        for text in ["0", "-1", "nan", "inf", "many", "1e9"] {
            assert!(cpu_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_have_two_sides() {
        let sides = |text| limit(text).map(|limit| (limit.soft(), limit.hard()));
        assert_eq!(sides("nofile=10:20"), Ok((10, 20)));
        assert_eq!(sides("nofile=20"), Ok((20, 20)));
        assert_eq!(sides("core=-1"), Ok((u64::MAX, u64::MAX)));
        for text in ["", "nofile", "nofile=", "nofile=2:1", "=1", "nofile=x", "nothing=1"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_have_addresses_of_either_kind() {
        assert_eq!(host("db:192.0.2.1"), Ok(("db".into(), "192.0.2.1".parse().unwrap())));
        assert_eq!(host("db:[::1]").unwrap().1, "::1".parse::<IpAddr>().unwrap());
        for text in ["", "db", "db:", ":192.0.2.1", "d b:192.0.2.1", "db:host"] {
            assert!(host(text).is_err(), "{text}");
        }
    }
}
