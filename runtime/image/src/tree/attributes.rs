//! What a file has besides its name and data.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The twelve permission bits: rwx of owner, group and others, set-user-ID, set-group-ID, sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_seconds: i64,
    pub(crate) mtime_nanoseconds: u32,
    /// By full name (`user.x`); only those that [`keeps_xattr`] keeps.
    pub(crate) xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Attributes {
    /// Of a folder that no layer describes.
    pub(crate) fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime_seconds: 0, mtime_nanoseconds: 0, xattrs: BTreeMap::new() }
    }
}

/// Whether an extended attribute of that name belongs into an image.
///
/// `trusted.*` stays out, and `user.overlay.*` with it: overlayfs takes orders from them (`redirect`, `metacopy`, `opaque`), so
/// that an image could show files under names, or data, that no layer gave them.
pub(crate) fn keeps_xattr(name: &[u8]) -> bool {
    let below =
        |prefix: &[u8]| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains(&0));
    if name.starts_with(b"user.overlay.") || name == b"user.overlay" {
        return false;
    }
    below(b"user.")
        || below(b"security.")
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_give_orders_to_overlayfs_are_dropped() {
        for kept in ["security.capability", "user.x", "system.posix_acl_access", "system.posix_acl_default"] {
            assert!(keeps_xattr(kept.as_bytes()), "{kept}");
        }
        for dropped in [
            "trusted.overlay.opaque",
            "trusted.x",
            "user.overlay.redirect",
            "user.",
            "system.nfs4_acl",
            "x",
            "user.a\0",
        ] {
            assert!(!keeps_xattr(dropped.as_bytes()), "{dropped}");
        }
    }
}
