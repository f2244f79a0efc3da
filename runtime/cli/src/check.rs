//! `securectr check`: whether this machine can run securectr. The proof is a guest that boots, not the presence of a device.

use std::time::Instant;

use anyhow::{Context, Result};
use securectr_sandbox::{Disks, Host, Installation, MachinePlan, Sandbox, SandboxId, Settings, StateRoot};
use serde::Serialize;

use crate::args::{Check, Global, LogFormat};

/// The tiny guest's memory, in MiB: kernel and agent, no container.
const MEMORY_MIB: u32 = 128;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub what: &'static str,
    pub ok: bool,
    pub detail: String,
    /// What to do about it; empty when it is well.
    pub advice: &'static str,
}

impl Finding {
    pub(crate) fn print(&self) {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        println!("{mark} {}: {}", self.what, self.detail);
        if !self.ok {
            println!("     {}", self.advice);
        }
    }
}

pub(crate) fn check(check: &Check, global: &Global) -> Result<u8> {
    let findings = findings(global)?;
    match check.format {
        LogFormat::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        LogFormat::Text => findings.iter().for_each(Finding::print),
    }
    Ok(u8::from(!findings.iter().all(|finding| finding.ok)))
}

/// Each finding needs those before it: the first failure is the last finding.
pub(crate) fn findings(global: &Global) -> Result<Vec<Finding>> {
    let state = StateRoot::open()?;
    let mut findings = Vec::new();
    let installation = match Installation::find() {
        Ok(found) => {
            findings.push(well("the parts of securectr", found.kernel.display().to_string()));
            found
        }
        Err(error) => {
            let advice = "build or install it: make build, or make install PREFIX=DIR";
            findings.push(Finding {
                what: "the parts of securectr",
                ok: false,
                detail: error.to_string(),
                advice,
            });
            return Ok(findings);
        }
    };
    // The proof is a kernel that boots.
    let host = Host { installation, state, echo_console: global.debug, templates: None };
    let settings = Settings {
        default_memory_mib: MEMORY_MIB,
        most_memory_mib: MEMORY_MIB,
        default_vcpu_count: 1,
        most_vcpu_count: 1,
        verbose_console: global.debug,
        network: None,
    };
    let begin = Instant::now();
    findings.push(match boot(&host, &MachinePlan::bare(&settings)) {
        Ok(()) => well("a guest boots", format!("its agent answered after {} ms", begin.elapsed().as_millis())),
        Err(error) => Finding {
            what: "a guest boots",
            ok: false,
            detail: format!("{error:#}"),
            advice: "use a machine with hardware virtualization (Intel VT-x or AMD-V; in a virtual machine: nested), or try the \
                     emulated test host: make host",
        },
    });
    Ok(findings)
}

fn well(what: &'static str, detail: String) -> Finding {
    Finding { what, ok: true, detail, advice: "" }
}

fn boot(host: &Host, machine: &MachinePlan) -> Result<()> {
    let id = SandboxId::random().context("make a name")?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(async {
        Sandbox::boot(&id, machine, host, Disks::default()).await?;
        Ok(())
    })
}
