//! What may be read from a block device of this machine, and written to it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use oci_spec::runtime::{LinuxThrottleDevice, LinuxThrottleDeviceBuilder};
use rustix::fs::{major, minor};

use super::values::memory_size;

/// `/dev/sda:10m`
pub(super) fn byte_rate(text: &str) -> Result<LinuxThrottleDevice, String> {
    rate(text, |size| memory_size(size).map(i64::unsigned_abs))
}

/// `/dev/sda:100`
pub(super) fn request_rate(text: &str) -> Result<LinuxThrottleDevice, String> {
    rate(text, |number| {
        let count = number.parse().ok().filter(|&count| count > 0);
        count.ok_or_else(|| format!("not a number of requests: {number}"))
    })
}

fn rate(text: &str, value: impl Fn(&str) -> Result<u64, String>) -> Result<LinuxThrottleDevice, String> {
    let parts = text.rsplit_once(':').filter(|(path, _)| path.starts_with('/'));
    let (path, rate) =
        parts.ok_or_else(|| format!("not a device and a rate: {text} (as in /dev/sda:10m)"))?;
    let rate = value(rate)?;
    let file = fs::metadata(path).map_err(|error| format!("look at {path}: {error}"))?;
    if !file.file_type().is_block_device() {
        return Err(format!("{path} is not a block device"));
    }
    let device = LinuxThrottleDeviceBuilder::default();
    let device = device.major(major(file.rdev())).minor(minor(file.rdev())).rate(rate);
    device.build().map_err(|error| error.to_string())
}

/// A weight is against others under one kernel, and a container is alone with its own. On the host it would need root and a cgroup.
pub(super) fn blkio_weight(_: &str) -> Result<u16, String> {
    Err("a container has a kernel of its own, where there is nobody to weigh it against; --device-read-bps and its like \
         limit it, and IOWeight of systemd-run weighs the whole machine"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_a_block_device() {
        for text in ["", "10m", "sda:10m", "/dev/null:10m", "/nowhere:1", "/dev/null", "/dev/null:x"] {
            assert!(byte_rate(text).is_err() && request_rate(text).is_err(), "{text}");
        }
        assert_eq!(byte_rate("/dev/null:10m"), Err("/dev/null is not a block device".to_owned()));
        assert_eq!(request_rate("/dev/null:10m"), Err("not a number of requests: 10m".to_owned()));
        assert!(request_rate("/dev/null:0").unwrap_err().starts_with("not a number"));
    }

    #[test]
    fn a_weight_is_refused_with_the_reason() {
        assert!(blkio_weight("500").unwrap_err().contains("a kernel of its own"));
    }
}
