//! Promises about securectr under container engines. Each holds with runc first.

mod block;
mod cpus;
mod cri;
mod ctr;
mod docker;
mod faults;
mod figures;
mod habits;
mod install;
mod memory;
mod oci;
mod podman;
mod sandbox_api;
mod spec;
mod streams;
