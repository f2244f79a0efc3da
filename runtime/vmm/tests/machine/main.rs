//! Starts the built VMM as its parent does and runs guests in it. Needs KVM that can run Linux, so `make test` runs it by itself,
//! with `--ignored`.
#![cfg(test)]

mod ends;
mod guest;
mod jail;
mod linux;
mod parent;
mod pauses;
mod refusals;
mod saved;
