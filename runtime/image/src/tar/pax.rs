//! What extended headers say of the member that follows: PAX records (pax(1), "Extended Header") and GNU's long names.

use std::collections::BTreeMap;

use tar::Header;

use super::{Error, field, sparse};
use crate::tree::{Attributes, keeps_xattr};

/// Linux' XATTR_SIZE_MAX is 65536; EROFS has 16 bits for it.
const MAX_XATTR_BYTES: usize = 65_535;
/// EROFS counts an inode's attributes in 16 bits of 4 bytes; also with padding this stays below.
const MAX_XATTRS_BYTES: usize = 200_000;

#[derive(Debug, Default)]
pub(super) struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    pub(super) sparse: sparse::Records,
}

impl Extensions {
    pub(super) fn add_pax(&mut self, mut records: &[u8]) -> Result<(), Error> {
        while !records.is_empty() {
            let (key, value, rest) = split_record(records).ok_or(Error::Pax)?;
            records = rest;
            // An empty value takes a record back; what the header itself says then counts.
            if !value.is_empty() {
                self.add_record(key, value).ok_or(Error::Pax)?;
            }
        }
        Ok(())
    }

    /// `None` if the value is malformed.
    fn add_record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.target = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.into(), value.into());
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.add(name, value)?;
                }
            }
        }
        Some(())
    }

    pub(super) fn set_path(&mut self, path: Vec<u8>) {
        self.path = Some(path);
    }

    pub(super) fn set_target(&mut self, target: Vec<u8>) {
        self.target = Some(target);
    }

    pub(super) fn take_path(&mut self) -> Option<Vec<u8>> {
        self.sparse.take_name().or(self.path.take())
    }

    pub(super) fn take_target(&mut self) -> Option<Vec<u8>> {
        self.target.take()
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// The attributes of `header`, with what these extensions say instead; the error is the name of a bad field.
    pub(super) fn attributes(&mut self, header: &Header) -> Result<Attributes, &'static str> {
        let old = header.as_old();
        let id = |extended: Option<u64>, plain: Option<u64>, field| {
            let id = extended.or(plain).ok_or(field)?;
            // The highest means "no change" to chown(2) and no user at all.
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(field)
        };
        let (mtime_seconds, mtime_nanoseconds) = match self.mtime {
            Some(time) => time,
            None => (plain_time(&old.mtime).ok_or("time")?, 0),
        };
        let mut xattrs = std::mem::take(&mut self.xattrs);
        xattrs.retain(|name, _| keeps_xattr(name));
        if xattrs.iter().any(|(name, value)| name.len() > 255 || value.len() > MAX_XATTR_BYTES)
            || xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>()
                > MAX_XATTRS_BYTES
        {
            return Err("extended attribute (too large)");
        }
        Ok(Attributes {
            mode: u16::try_from(field(&old.mode).ok_or("mode")? & 0o7777).unwrap_or_default(),
            uid: id(self.uid, field(&old.uid), "user id")?,
            gid: id(self.gid, field(&old.gid), "group id")?,
            mtime_seconds,
            mtime_nanoseconds,
            xattrs,
        })
    }
}

/// The first record's key and value, and what follows it: `LENGTH KEY=VALUE\n`, LENGTH counting all of it.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(records.get(..space)?)?).ok()?;
    let record = records.get(space + 1..length)?;
    let (b'\n', record) = record.split_last()? else { return None };
    let equals = record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, records.get(length..)?))
}

/// Decimal digits and nothing else.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`, as seconds rounded down and nanoseconds.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    number(fraction.get(..fraction.len().min(9))?).or(fraction.is_empty().then_some(0))?;
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit.wrapping_sub(b'0')));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

/// The header's own time; GNU tar writes one before 1970 as a negative binary number.
fn plain_time(bytes: &[u8; 12]) -> Option<i64> {
    match bytes {
        [0xff, 0xff, 0xff, 0xff, low @ ..] => Some(i64::from_be_bytes(*low)),
        _ => i64::try_from(field(bytes)?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let length =
            (1..).find(|digits| (rest + digits).to_string().len() == *digits).map(|digits| rest + digits);
        [format!("{} {key}=", length.unwrap()).as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn a_value_may_hold_any_byte() {
        let value = b"\x01\n=\x00 7 path=x\n";
        let mut extensions = Extensions::default();
        extensions.add_pax(&record("SCHILY.xattr.security.capability", value)).unwrap();
        assert_eq!(extensions.xattrs.get(&b"security.capability"[..]).unwrap().as_ref(), value);
        assert_eq!(extensions.path, None);
    }

    #[test]
    fn a_malformed_record_is_refused() {
        for bad in
            [&b"path=x\n"[..], b"99 path=x\n", b"10 path=xxx", b"5 =x\n", b"0 a=b\n", b"7 a=b\n", b"+6 a=b\n"]
        {
            assert!(Extensions::default().add_pax(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(Extensions::default().add_pax(&record("size", b"-1")).is_err());
        assert!(Extensions::default().add_pax(&record("uid", b"99999999999999999999999")).is_err());
    }

    #[test]
    fn times_keep_their_fraction_also_before_1970() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.0000000019"), Some((12, 1)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(plain_time(b"00000000014\0"), Some(12));
        assert_eq!(plain_time(&[0; 12]), Some(0));
        assert_eq!(plain_time(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(plain_time(b"\x80\0\0\0\0\0\0\x01\0\0\0\0"), Some(1 << 32));
        assert_eq!(plain_time(b"99999999999\0"), None);
        for bad in [&b""[..], b"x", b"1.x", b"--1", b"99999999999999999999"] {
            assert_eq!(time(bad), None);
        }
    }
}
