//! A container that is saved with its machine while it stands still, and machines that go on from there.
//!
//! What lies outside of the machine does not come along: connections of the network end, and a container that holds volumes, or block
//! devices of the host, is not saved.

use std::fs::File;

use securectr_protocol::agent::AttachRequest;
use thiserror::Error;

use crate::{
    BootError, ContainerPlan, Disks, Host, MachinePlan, Sandbox, SandboxError, SandboxId, Streams,
    StreamsWanted, boot, vmm::SaveError,
};

const ATTACH: &str = "attach to the container";

#[derive(Debug, Error)]
pub enum NotSaved {
    #[error("{0} of the host would not be saved with it")]
    Outside(&'static str),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Machine(#[from] SaveError),
}

/// A machine as it was saved.
#[derive(Debug)]
pub struct Saved {
    pub file: File,
    /// How many vCPUs its guest may have brought online.
    pub vcpu_count: u8,
}

impl Sandbox {
    /// Saves the machine with its one container to an empty file, and answers with the number of its vCPUs. Both stand still from then
    /// on until [`Sandbox::go_on`], but not after an error; that the container is paused is told by `is_paused`.
    pub async fn save(&self, container: &ContainerPlan, is_paused: bool, to: &File) -> Result<u8, NotSaved> {
        if !container.shares.is_empty() {
            return Err(NotSaved::Outside("volumes and directories"));
        }
        if !container.block_devices.is_empty() {
            return Err(NotSaved::Outside("block devices"));
        }
        if !is_paused {
            // The first thing in another machine is to make that one of its own, and nothing of the container comes before it.
            self.pause(&container.id).await?;
        }
        match self.booted.vmm.save(to).await {
            Ok(()) => Ok(self.room.lock().await.vcpu_count()),
            Err(error) => {
                let _ = self.go_on(container, is_paused).await;
                Err(error.into())
            }
        }
    }

    /// Lets a machine and its container go on after [`Sandbox::save`].
    pub async fn go_on(&self, container: &ContainerPlan, is_paused: bool) -> Result<(), SandboxError> {
        // One that cannot be asked is at its end, which is told by the next who asks for something.
        let _ = self.booted.vmm.resume();
        if is_paused { Ok(()) } else { self.resume(&container.id).await }
    }

    /// Brings up a machine that goes on from a saved one, which was planned alike. Its container stands still. The file may be removed
    /// afterwards; what is written to its memory does not come there.
    pub async fn restore(
        id: &SandboxId,
        machine: &MachinePlan,
        host: &Host,
        disks: Disks,
        saved: Saved,
    ) -> Result<Self, BootError> {
        // A guest whose vCPU does not run waits for it.
        let vcpu_count = machine.vcpu_count.max(saved.vcpu_count).min(machine.most_vcpu_count);
        let machine = MachinePlan { vcpu_count, ..machine.clone() };
        let from = |disks| boot::restore(id, &machine, host, disks, saved.file);
        Self::on(&machine, disks, from).await
    }

    /// Takes over the container of a restored machine: its init gets these streams, and those of its other processes end.
    pub async fn attach(
        &self,
        container: &ContainerPlan,
        wanted: StreamsWanted,
    ) -> Result<Streams, SandboxError> {
        let attach = async |_| {
            let (streams, names) = self.connect(ATTACH, wanted).await?;
            let request = AttachRequest {
                container_id: container.id.to_string(),
                stdio: Some(names).into(),
                ..Default::default()
            };
            self.ask(ATTACH, self.agent().attach(&request)).await?;
            Ok(streams)
        };
        self.in_room(&container.id, container.resources(), attach).await
    }
}
