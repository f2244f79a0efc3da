//! What engines need for a bridge of containers, and what is seen through it.

use std::process::Command;

use anyhow::{Result, ensure};

/// Engines count on these to be loaded on demand, which happens only where the kernel is told to.
const MODULES: [&str; 14] = [
    "overlay",
    "bridge",
    "veth",
    "br_netfilter",
    "iptable_nat",
    "iptable_filter",
    "ip6table_nat",
    "nf_nat",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_nat",
];

pub fn load_bridge_modules() -> Result<()> {
    let loaded = Command::new("modprobe").arg("--all").args(MODULES).status()?;
    ensure!(loaded.success(), "modprobe");
    Ok(())
}

/// The page behind a URL, as the host gets it; empty when there is none.
pub fn fetch(url: &str) -> Result<String> {
    let fetched = Command::new("wget").args(["-q", "-T", "5", "-O", "-", url]).output()?;
    Ok(String::from_utf8_lossy(&fetched.stdout).into_owned())
}
