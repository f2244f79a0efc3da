//! Promises about securectr under container engines. Each holds with runc first.

mod ctr;
mod docker;
mod faults;
mod oci;
mod podman;
