//! fs-verity (fs-verity.rst of the kernel): the file system keeps a hash tree of a file that can no longer be written, checks with
//! it whatever is read, and knows the file's digest at once.

mod sys;

use std::{fmt::Write, fs::File, io, path::Path};

use rustix::io::Errno;

/// The digest of a file, in hexadecimal.
pub(super) type Measured = String;

/// Seals a file that nobody has open for writing. None where the file system has no such thing.
pub(super) fn seal(path: &Path) -> io::Result<Option<Measured>> {
    let file = File::open(path)?;
    match sys::enable(&file) {
        Ok(()) | Err(Errno::EXIST) => measure(&file),
        // Neither it nor its kind has it, it is not switched on, or its blocks are not of the size of pages.
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The digest of a file that is sealed.
pub(super) fn measure(file: &File) -> io::Result<Option<Measured>> {
    match sys::measure(file) {
        Ok(digest) => Ok(Some(digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_sealed_has_no_digest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "content").unwrap();
        assert_eq!(measure(&File::open(&path).unwrap()).unwrap(), None);
    }
}
