//! The names that a container knows: its own, those of other hosts, and who is asked for the rest.

use std::{fmt::Write, net::IpAddr};

use securectr_sandbox::{GivenFile, NetworkPlan};

use crate::args::Run;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Who is asked where nobody has said so: this machine's own, where the network has a way to it.
fn resolver(network: &NetworkPlan) -> Option<IpAddr> {
    match network {
        NetworkPlan::Nat(nat) if nat.resolver => securectr_sandbox::resolver(),
        _ => None,
    }
}

/// What is laid over the image's files in `/etc`.
pub(super) fn files(run: &Run, network: Option<&NetworkPlan>, hostname: &str) -> Vec<GivenFile> {
    let [mut hosts, own] = GivenFile::names(hostname);
    for (name, address) in &run.add_host {
        // Writing to a String cannot fail.
        let _ = writeln!(hosts.content, "{address}\t{name}");
    }
    let mut files = vec![hosts, own];
    let addresses =
        if run.dns.is_empty() { network.and_then(resolver).into_iter().collect() } else { run.dns.clone() };
    if !addresses.is_empty() || !run.dns_search.is_empty() || !run.dns_option.is_empty() {
        let mut content = String::new();
        for address in &addresses {
            let _ = writeln!(content, "nameserver {address}");
        }
        for (word, values) in [("search", &run.dns_search), ("options", &run.dns_option)] {
            if !values.is_empty() {
                let _ = writeln!(content, "{word} {}", values.join(" "));
            }
        }
        files.push(GivenFile::new(RESOLV_CONF, content));
    }
    files
}
