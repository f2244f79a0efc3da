//! As whom a thread acts on files.

mod sys;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use securectr_files::Owners;

/// What a file server needs (capabilities(7)). The guest's kernel has decided who may do what; here it is only done.
pub(crate) const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP);

/// While it lives, what this thread makes belongs to a user of the guest.
#[must_use]
pub(crate) struct Caller(Owners);

impl Caller {
    pub(crate) fn assume(owners: Owners, uid: u32, gid: u32) -> Self {
        if owners == Owners::Real {
            sys::set_fs_ids(uid, gid);
        }
        Self(owners)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.0 == Owners::Real {
            sys::set_fs_ids(0, 0);
        }
    }
}

/// While it lives, a change of a file by this thread clears the file's set-user-ID and set-group-ID bits as one by a user of the
/// guest does, who has no capabilities and is in one group.
#[must_use]
pub(crate) struct Unprivileged(#[expect(dead_code, reason = "ends with it")] Caller);

impl Unprivileged {
    pub(crate) fn become_one(caller: Caller) -> rustix::io::Result<Self> {
        set(CAPABILITIES.difference(CapabilitySet::FSETID))?;
        Ok(Self(caller))
    }
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        // It only takes up again what is permitted, which the kernel never refuses.
        let _ = set(CAPABILITIES);
    }
}

fn set(effective: CapabilitySet) -> rustix::io::Result<()> {
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective, permitted: CAPABILITIES, inheritable })
}
