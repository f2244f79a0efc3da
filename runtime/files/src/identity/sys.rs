//! setfsuid(2) and setfsgid(2), which have no safe wrapper.

/// Sets the calling thread's ids for the access of files. The kernel refuses without a word what is not mapped: files then belong
/// to the ids before.
pub(super) fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: takes an integer.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: takes an integer.
    unsafe { libc::setfsuid(uid) };
}
