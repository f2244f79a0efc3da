//! Limits for what a container reads from a block device of the host and writes to it (`linux.resources.blockIO.throttle*`).
//!
//! On a host they are the cgroup's (`io.max`). Here the machine's disks that lie on the device are held to them, outside of the guest
//! and without root. A partition counts as its whole disk, as in the kernel.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use oci_spec::runtime::{LinuxThrottleDevice, Spec};
pub use securectr_vmm::spec::IoLimits;

use crate::{
    ContainerPlan, DeviceSource, PlanError,
    devices::{numbers_of, path_of},
};

/// Takes them out of a spec: in the guest, these numbers are nobody's.
pub(crate) fn of_spec(spec: &mut Spec) -> Result<Vec<IoLimits>, PlanError> {
    let resources = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    let Some(block_io) = resources.and_then(|all| all.block_io_mut().as_mut()) else {
        return Ok(Vec::new());
    };
    let mut limits = Vec::new();
    for device in block_io.throttle_read_bps_device().iter().flatten() {
        add(&mut limits, device, |limits| &mut limits.read_bps)?;
    }
    for device in block_io.throttle_write_bps_device().iter().flatten() {
        add(&mut limits, device, |limits| &mut limits.write_bps)?;
    }
    for device in block_io.throttle_read_iops_device().iter().flatten() {
        add(&mut limits, device, |limits| &mut limits.read_iops)?;
    }
    for device in block_io.throttle_write_iops_device().iter().flatten() {
        add(&mut limits, device, |limits| &mut limits.write_iops)?;
    }
    block_io
        .set_throttle_read_bps_device(None)
        .set_throttle_write_bps_device(None)
        .set_throttle_read_iops_device(None)
        .set_throttle_write_iops_device(None);
    Ok(limits)
}

/// A later rate of a device outranks an earlier one; 0 is no limit.
fn add(
    all: &mut Vec<IoLimits>,
    throttle: &LinuxThrottleDevice,
    rate: impl Fn(&mut IoLimits) -> &mut Option<u64>,
) -> Result<(), PlanError> {
    let (major, minor) = (throttle.major(), throttle.minor());
    let invalid = || PlanError::Invalid {
        property: "linux.resources.blockIO.throttle",
        value: format!("{major}:{minor}"),
    };
    let number = |number: i64| u32::try_from(number).map_err(|_| invalid());
    let device = (number(major)?, number(minor)?);
    let asked = Some(throttle.rate()).filter(|&rate| rate > 0);
    match all.iter_mut().find(|limits| limits.device == device) {
        Some(limits) => *rate(limits) = asked,
        None => {
            let mut limits =
                IoLimits { device, read_bps: None, write_bps: None, read_iops: None, write_iops: None };
            *rate(&mut limits) = asked;
            all.push(limits);
        }
    }
    Ok(())
}

/// Those of the device on which a disk's file lies, or which it is.
pub(crate) fn of_disk(all: &[IoLimits], disk: &Metadata) -> Option<IoLimits> {
    of_device(all, device_of(disk))
}

pub(crate) fn of_device(all: &[IoLimits], device: (u32, u32)) -> Option<IoLimits> {
    let whole = whole_disk(device);
    let theirs = all.iter().filter(|limits| whole_disk(limits.device) == whole);
    theirs.copied().reduce(stricter).map(|limits| IoLimits { device: whole, ..limits })
}

/// Of two partitions of a disk.
fn stricter(one: IoLimits, other: IoLimits) -> IoLimits {
    let least = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
    IoLimits {
        device: one.device,
        read_bps: least(one.read_bps, other.read_bps),
        write_bps: least(one.write_bps, other.write_bps),
        read_iops: least(one.read_iops, other.read_iops),
        write_iops: least(one.write_iops, other.write_iops),
    }
}

fn device_of(disk: &Metadata) -> (u32, u32) {
    numbers_of(if disk.file_type().is_block_device() { disk.rdev() } else { disk.dev() })
}

/// A partition's directory is in that of its disk (sysfs(5)).
fn whole_disk(device: (u32, u32)) -> (u32, u32) {
    let directory = format!("/sys/dev/block/{}:{}", device.0, device.1);
    let numbers = || {
        fs::metadata(format!("{directory}/partition")).ok()?;
        let text = fs::read_to_string(format!("{directory}/../dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    numbers().unwrap_or(device)
}

impl ContainerPlan {
    /// What somebody should know whose limits hold for nothing: on their device lies none of these disks of the machine, nor is it
    /// one of the container's own.
    pub fn limits_warnings(&self, disks: &[Metadata]) -> Vec<String> {
        let own = self.block_devices.iter().filter_map(|device| match &device.source {
            DeviceSource::Numbers { major, minor } => Some((*major, *minor)),
            DeviceSource::Path(path) => Some(device_of(&fs::metadata(path).ok()?)),
        });
        let used: Vec<_> = disks.iter().map(device_of).chain(own).map(whole_disk).collect();
        let unused = self.io_limits.iter().filter(|limits| !used.contains(&whole_disk(limits.device)));
        unused
            .map(|limits| {
                let (major, minor) = limits.device;
                let name = path_of(major, minor);
                let name = name.map_or_else(|_| format!("{major}:{minor}"), |path| path.display().to_string());
                format!(
                    "no disk of the container lies on {name}: its limits hold for nothing (shared directories have none)"
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NONE: IoLimits =
        IoLimits { device: (8, 0), read_bps: None, write_bps: None, read_iops: None, write_iops: None };

    fn asked(block_io: serde_json::Value) -> (Result<Vec<IoLimits>, PlanError>, Spec) {
        let linux = json!({"resources": {"blockIO": block_io}});
        let mut spec = serde_json::from_value(json!({"ociVersion": "1.2.0", "linux": linux})).unwrap();
        (of_spec(&mut spec), spec)
    }

    fn rate(minor: i64, rate: u64) -> serde_json::Value {
        json!({"major": 8, "minor": minor, "rate": rate})
    }

    #[test]
    fn the_rates_of_a_device_are_gathered_and_taken_out_of_the_spec() {
        let (limits, spec) = asked(json!({
            "weight": 10,
            "throttleReadBpsDevice": [rate(0, 1), rate(16, 2), rate(0, 3)],
            "throttleWriteBpsDevice": [rate(0, 4)],
            "throttleReadIOPSDevice": [rate(0, 5), rate(16, 0)],
            "throttleWriteIOPSDevice": [rate(0, 6)],
        }));
        let first = IoLimits {
            read_bps: Some(3),
            write_bps: Some(4),
            read_iops: Some(5),
            write_iops: Some(6),
            ..NONE
        };
        assert_eq!(limits.unwrap(), [first, IoLimits { device: (8, 16), read_bps: Some(2), ..NONE }]);
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert_eq!(serde_json::to_value(resources.block_io()).unwrap(), json!({"weight": 10}));
    }

    #[test]
    fn a_device_has_numbers() {
        assert!(matches!(
            asked(json!({"throttleReadBpsDevice": [rate(-1, 1)]})).0,
            Err(PlanError::Invalid { .. })
        ));
    }

    #[test]
    fn a_file_has_the_limits_of_the_device_it_lies_on() {
        let file = tempfile::tempfile().unwrap().metadata().unwrap();
        let limits = IoLimits { device: device_of(&file), read_bps: Some(1), ..NONE };
        let whole = IoLimits { device: whole_disk(limits.device), ..limits };
        assert_eq!(of_disk(&[NONE, limits], &file), Some(whole));
        assert_eq!(of_disk(&[IoLimits { device: (4000, 1), ..NONE }], &file), None);
    }

    #[test]
    fn of_several_limits_of_one_disk_the_least_holds() {
        let one = IoLimits { read_bps: Some(1), write_bps: Some(2), ..NONE };
        let other = IoLimits { write_bps: Some(1), write_iops: Some(3), ..NONE };
        let both = IoLimits { read_bps: Some(1), write_bps: Some(1), write_iops: Some(3), ..NONE };
        assert_eq!(of_device(&[one, other], (8, 0)), Some(both));
    }
}
