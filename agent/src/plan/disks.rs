//! A spec that speaks of block devices by the host's numbers, as one that means the guest's disks.

use std::path::Path;

use securectr_protocol::BLOCK_DEVICES;

use super::PlanError;
use crate::spec::{self, Spec};

/// A block device of the host as the guest has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Disk {
    /// In `/dev`.
    pub name: String,
    /// Major and minor number, here and on the host.
    pub numbers: (u32, u32),
    pub host_numbers: (u32, u32),
}

impl Disk {
    pub(crate) fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

/// Numbers that no disk has on the host stay as they are.
pub(super) fn translate(spec: &mut Spec, disks: &[Disk]) -> Result<(), PlanError> {
    for mount in &mut spec.mounts {
        if let Some(index) = mount.source.as_deref().and_then(|source| index_of(Path::new(source))) {
            let disk = index.parse::<usize>().ok().and_then(|index| disks.get(index));
            let invalid = || PlanError::Invalid { property: "mounts.source", value: index.to_owned() };
            mount.source = Some(disk.ok_or_else(invalid)?.path());
        }
    }
    let Some(linux) = &mut spec.linux else { return Ok(()) };
    for device in linux.devices.iter_mut().filter(|device| device.kind == "b") {
        renumber(disks, &mut device.major, &mut device.minor);
    }
    let Some(resources) = &mut linux.resources else { return Ok(()) };
    for rule in resources.devices.iter_mut().filter(|rule| rule.kind.as_deref() == Some("b")) {
        renumber_rule(disks, rule);
    }
    let Some(block_io) = &mut resources.block_io else { return Ok(()) };
    for device in &mut block_io.weight_device {
        renumber(disks, &mut device.major, &mut device.minor);
    }
    let throttled = [
        &mut block_io.throttle_read_bps_device,
        &mut block_io.throttle_write_bps_device,
        &mut block_io.throttle_read_iops_device,
        &mut block_io.throttle_write_iops_device,
    ];
    for device in throttled.into_iter().flatten() {
        renumber(disks, &mut device.major, &mut device.minor);
    }
    Ok(())
}

fn index_of(source: &Path) -> Option<&str> {
    source.strip_prefix(BLOCK_DEVICES).ok()?.to_str()
}

fn renumber(disks: &[Disk], major: &mut u32, minor: &mut u32) {
    if let Some(disk) = disks.iter().find(|disk| disk.host_numbers == (*major, *minor)) {
        (*major, *minor) = disk.numbers;
    }
}

/// A rule for more than one device is not about a disk's numbers.
fn renumber_rule(disks: &[Disk], rule: &mut spec::DeviceRule) {
    let number = |number: Option<i64>| u32::try_from(number?).ok();
    if let (Some(mut major), Some(mut minor)) = (number(rule.major), number(rule.minor)) {
        renumber(disks, &mut major, &mut minor);
        (rule.major, rule.minor) = (Some(major.into()), Some(minor.into()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn disk(name: &str, minor: u32, host_numbers: (u32, u32)) -> Disk {
        Disk { name: name.to_owned(), numbers: (254, minor), host_numbers }
    }

    fn translated(spec: Value) -> Result<Spec, PlanError> {
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        // The second one's numbers on the host are the first one's here.
        let disks = [disk("vdc", 32, (8, 0)), disk("vdd", 48, (254, 32))];
        translate(&mut spec, &disks).map(|()| spec)
    }

    #[test]
    fn nodes_rules_and_limits_are_the_guests_disks() {
        let device =
            |major, minor| json!({"type": "b", "path": "/dev/x", "major": major, "minor": minor, "rate": 1});
        let listed =
            json!([device(8, 0), device(254, 32), device(8, 1), {"type": "c", "major": 8, "minor": 0}]);
        let rules = json!([
            device(8, 0), device(254, 32), {"type": "b", "major": 8}, {"type": "b", "major": 8, "minor": -1}, {"major": 8, "minor": 0}
        ]);
        let block_io = json!({"weightDevice": listed, "throttleWriteIOPSDevice": listed});
        let linux = json!({"devices": listed, "resources": {"devices": rules, "blockIO": block_io}});
        let linux = translated(json!({"linux": linux})).unwrap().linux.unwrap();
        let numbers: Vec<_> = linux.devices.iter().map(|device| (device.major, device.minor)).collect();
        assert_eq!(numbers, [(254, 32), (254, 48), (8, 1), (8, 0)]);
        let resources = linux.resources.unwrap();
        let numbers: Vec<_> = resources.devices.iter().map(|rule| (rule.major, rule.minor)).collect();
        let as_they_were = [(Some(8), None), (Some(8), Some(-1)), (Some(8), Some(0))];
        assert_eq!(numbers[..2], [(Some(254), Some(32)), (Some(254), Some(48))]);
        assert_eq!(numbers[2..], as_they_were);
        let block_io = resources.block_io.unwrap();
        assert_eq!((block_io.weight_device[0].major, block_io.weight_device[0].minor), (254, 32));
        let throttled = &block_io.throttle_write_iops_device[1];
        assert_eq!((throttled.major, throttled.minor), (254, 48));
    }

    #[test]
    fn a_mount_has_the_disk_that_its_source_counts() {
        let mount =
            |source: &str| json!({"mounts": [{"destination": "/m", "type": "ext4", "source": source}]});
        let source = |spec: Spec| spec.mounts[0].source.clone();
        let second = translated(mount("/run/securectr/devices/1")).unwrap();
        assert_eq!(source(second).as_deref(), Some("/dev/vdd"));
        assert_eq!(source(translated(mount("/dev/sda")).unwrap()).as_deref(), Some("/dev/sda"));
        for wrong in ["2", "-1", "", "x", "0/0"] {
            let wrong = translated(mount(&format!("/run/securectr/devices/{wrong}")));
            assert!(matches!(wrong, Err(PlanError::Invalid { property: "mounts.source", .. })));
        }
    }
}
