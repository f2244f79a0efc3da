use std::os::unix::fs::FileExt;

use super::*;

#[test]
fn later() {}
