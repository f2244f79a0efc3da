//! Real containers, made by the agent's own code over its own protocol, on the kernel that runs this: root and cgroup v2 are
//! needed, a machine of its own is advised. What is left out is only vsock and the machine's start.

use std::{future::Future, pin::Pin, process::ExitCode};

use anyhow::Context;
use guest::Guest;

type Scenario = for<'a> fn(&'a mut Guest) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        /// By name.
        pub(crate) const ALL: &[(&str, crate::Scenario)] = &[$((stringify!($name), |guest| Box::pin($name(guest)))),*];
    };
}

// After the macro, which they use.
mod control;
mod guest;
mod pod;
mod scenarios;

/// Scenarios whose names hold the first argument, or all.
fn main() -> anyhow::Result<ExitCode> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut guest = Guest::prepare().await.context("prepare a place for containers")?;
        let mut failed = 0;
        for (name, scenario) in scenarios::ALL
            .iter()
            .chain(control::ALL)
            .chain(pod::ALL)
            .filter(|(name, _)| name.contains(&wanted))
        {
            match scenario(&mut guest).await {
                Ok(()) => println!("test {name} ... ok"),
                Err(error) => {
                    println!("test {name} ... FAILED: {error:#}");
                    failed += 1;
                }
            }
        }
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
