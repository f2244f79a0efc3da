//! What the tests of the built binaries share.
