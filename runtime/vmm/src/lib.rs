//! What a parent says to `securectr-vmm`, and what it hears back. The VMM itself is the binary beside this library.

pub mod control;
pub mod spec;
