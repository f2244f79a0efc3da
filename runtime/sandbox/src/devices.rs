//! Block devices of the host that a container is given: as nodes (`linux.devices`), and as file systems to mount. In the guest each
//! is a disk, whose file is laid in when the container is made, and taken out when it is deleted.
//!
//! What a container may do to a device is what its descriptor may: of a device that is only to be read, the VMM has one that
//! cannot be written.

mod places;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec};
use securectr_protocol::BLOCK_DEVICES;
use serde::Serialize;

pub use self::places::DeviceError;
pub(crate) use self::places::{Places, numbers_of, path_of};
use crate::{PlanError, shares::is_bind};

/// How many block devices the containers of a machine can have. A pod's machine has room for so many from its start, since its
/// containers come later: each place costs 0.8 million instructions at boot, and 130 kB of the guest's memory.
pub const MAX_BLOCK_DEVICES: u8 = 8;

/// Of the guest's kernel, those that are mounted from a block device.
const ON_BLOCK_DEVICES: [&str; 3] = ["erofs", "ext3", "ext4"];

/// A block device of the host, as a container's spec means it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockDevice {
    pub source: DeviceSource,
    pub read_only: bool,
}

/// By what it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceSource {
    Numbers { major: u32, minor: u32 },
    Path(PathBuf),
}

/// What a rule lets be done to a device (config-linux.md, Allowed Device list).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Access {
    read: bool,
    write: bool,
}

/// The block devices that a spec asks for. Mounts get the sources that they have in the guest.
///
/// A node alone asks for nothing: engines list all devices of the host for a privileged container. A rule that names the device
/// by its numbers does, as engines write it for each device that somebody has named.
pub(crate) fn of_spec(spec: &mut Spec) -> Result<Vec<BlockDevice>, PlanError> {
    let mut devices = named(spec);
    for mount in spec.mounts_mut().iter_mut().flatten().filter(|mount| is_of_a_device(mount)) {
        let Some(path) = mount.source().clone() else { continue };
        let read_only = mount.options().iter().flatten().any(|option| option == "ro");
        mount.set_source(Some(Path::new(BLOCK_DEVICES).join(devices.len().to_string())));
        devices.push(BlockDevice { source: DeviceSource::Path(path), read_only });
    }
    if devices.len() > usize::from(MAX_BLOCK_DEVICES) {
        return Err(PlanError::TooManyBlockDevices { asked: devices.len() });
    }
    Ok(devices)
}

fn named(spec: &Spec) -> Vec<BlockDevice> {
    let Some(linux) = spec.linux() else { return Vec::new() };
    let rules = linux.resources().as_ref().and_then(|all| all.devices().as_deref()).unwrap_or_default();
    let mut devices: Vec<BlockDevice> = Vec::new();
    for device in linux.devices().iter().flatten().filter(|device| device.typ() == LinuxDeviceType::B) {
        let Some((major, minor)) = numbers(device) else { continue };
        let Some(access) = access(rules, major, minor) else { continue };
        let source = DeviceSource::Numbers { major, minor };
        // One device may have several nodes.
        if access.read && devices.iter().all(|other| other.source != source) {
            devices.push(BlockDevice { source, read_only: !access.write });
        }
    }
    devices
}

fn numbers(device: &LinuxDevice) -> Option<(u32, u32)> {
    Some((device.major().try_into().ok()?, device.minor().try_into().ok()?))
}

/// None when no rule names it. Later rules outrank earlier ones.
fn access(rules: &[LinuxDeviceCgroup], major: u32, minor: u32) -> Option<Access> {
    let is = |number: Option<i64>, own: u32| number == Some(own.into());
    let names =
        |rule: &LinuxDeviceCgroup| is_block(rule) && is(rule.major(), major) && is(rule.minor(), minor);
    if !rules.iter().any(|rule| rule.allow() && names(rule)) {
        return None;
    }
    let mut access = Access::default();
    // Negative numbers are wildcards.
    let fits = |number: Option<i64>, own: u32| number.is_none_or(|number| number < 0) || is(number, own);
    for rule in rules.iter().filter(|rule| {
        is_for_all(rule) || is_block(rule) && fits(rule.major(), major) && fits(rule.minor(), minor)
    }) {
        let letters = rule.access().as_deref().filter(|letters| !letters.is_empty()).unwrap_or("rwm");
        if letters.contains('r') {
            access.read = rule.allow();
        }
        if letters.contains('w') {
            access.write = rule.allow();
        }
    }
    Some(access)
}

fn is_block(rule: &LinuxDeviceCgroup) -> bool {
    rule.typ() == Some(LinuxDeviceType::B)
}

fn is_for_all(rule: &LinuxDeviceCgroup) -> bool {
    rule.typ().is_none_or(|typ| typ == LinuxDeviceType::A)
}

fn is_of_a_device(mount: &Mount) -> bool {
    let is_file_system = mount.typ().as_deref().is_some_and(|typ| ON_BLOCK_DEVICES.contains(&typ));
    is_file_system && !is_bind(mount) && mount.source().as_ref().is_some_and(|source| source.is_absolute())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(spec: Value) -> Result<(Vec<BlockDevice>, Spec), PlanError> {
        let mut spec = serde_json::from_value(spec).unwrap();
        of_spec(&mut spec).map(|devices| (devices, spec))
    }

    fn with_rules(devices: Value, rules: Value) -> Vec<BlockDevice> {
        let linux = json!({"devices": devices, "resources": {"devices": rules}});
        asked(json!({"ociVersion": "1.2.0", "linux": linux})).unwrap().0
    }

    fn node(path: &str, minor: u32) -> Value {
        json!({"path": path, "type": "b", "major": 7, "minor": minor})
    }

    fn rule(allow: bool, minor: i64, access: &str) -> Value {
        json!({"allow": allow, "type": "b", "major": 7, "minor": minor, "access": access})
    }

    fn loop_device(minor: u32, read_only: bool) -> BlockDevice {
        BlockDevice { source: DeviceSource::Numbers { major: 7, minor }, read_only }
    }

    #[test]
    fn a_device_is_asked_for_by_a_node_and_a_rule_with_its_numbers() {
        let none = json!({"allow": false, "access": "rwm"});
        let devices = json!([node("/dev/a", 1), node("/dev/b", 2), node("/dev/again", 1)]);
        let rules = json!([none, rule(true, 1, "rwm"), rule(true, 2, "r")]);
        assert_eq!(with_rules(devices, rules), [loop_device(1, false), loop_device(2, true)]);
    }

    #[test]
    fn all_of_the_hosts_devices_are_not_asked_for() {
        let devices = json!([node("/dev/loop0", 0), node("/dev/loop1", 1)]);
        for rules in [json!([]), json!([{"allow": true, "access": "rwm"}]), json!([rule(true, -1, "rwm")])] {
            assert_eq!(with_rules(devices.clone(), rules), []);
        }
        let rules = json!([{"allow": true, "access": "rwm"}, rule(true, 1, "rwm")]);
        assert_eq!(with_rules(devices, rules), [loop_device(1, false)]);
    }

    #[test]
    fn later_rules_outrank_earlier_ones() {
        let devices = || json!([node("/dev/a", 1)]);
        let written = |last: Value| with_rules(devices(), json!([rule(true, 1, "rwm"), last]));
        assert_eq!(written(rule(false, 1, "w")), [loop_device(1, true)]);
        assert_eq!(written(rule(false, -1, "w")), [loop_device(1, true)]);
        assert_eq!(written(rule(false, 2, "w")), [loop_device(1, false)]);
        assert_eq!(written(json!({"allow": false, "access": "rwm"})), []);
        assert_eq!(written(json!({"allow": false, "type": "c", "access": "rwm"})), [loop_device(1, false)]);
        // To make a node is not to open it.
        assert_eq!(with_rules(devices(), json!([rule(true, 1, "m")])), []);
    }

    #[test]
    fn a_file_system_on_a_device_is_mounted_from_the_guests_disk() {
        let mounts = json!([
            {"destination": "/a", "type": "ext4", "source": "/dev/sda", "options": ["ro"]},
            {"destination": "/b", "type": "erofs", "source": "/srv/b"},
            {"destination": "/c", "type": "tmpfs", "source": "/dev/sda"},
            {"destination": "/d", "type": "ext4", "source": "/srv/d", "options": ["bind"]},
        ]);
        let (devices, spec) = asked(json!({"ociVersion": "1.2.0", "mounts": mounts})).unwrap();
        let device =
            |path: &str, read_only| BlockDevice { source: DeviceSource::Path(path.into()), read_only };
        assert_eq!(devices, [device("/dev/sda", true), device("/srv/b", false)]);
        let sources = spec.mounts().iter().flatten().map(|mount| mount.source().clone().unwrap());
        let in_guest = ["/run/securectr/devices/0", "/run/securectr/devices/1", "/dev/sda", "/srv/d"];
        assert!(sources.eq(in_guest.map(PathBuf::from)));
    }

    #[test]
    fn more_devices_than_a_machine_has_room_for_are_refused() {
        let (nodes, rules): (Vec<_>, Vec<_>) =
            (0..9).map(|minor| (node("/dev/x", minor), rule(true, minor.into(), "rwm"))).unzip();
        let linux = json!({"devices": nodes, "resources": {"devices": rules}});
        let refused = asked(json!({"ociVersion": "1.2.0", "linux": linux}));
        assert_eq!(refused.unwrap_err(), PlanError::TooManyBlockDevices { asked: 9 });
    }
}
