//! What a machine has for its containers: it grows before a container's limits are there or are raised, and shrinks after they have
//! gone or fallen.

use oci_spec::runtime::LinuxResources;

use crate::{
    MachinePlan, Sandbox, SandboxError, SandboxId,
    memory::{Memory, limit_of},
    vcpus::Vcpus,
};

#[derive(Debug)]
pub(crate) struct Room {
    memory: Memory,
    vcpus: Vcpus,
}

impl Room {
    pub(crate) fn of(plan: &MachinePlan) -> Self {
        Self { memory: Memory::of(plan), vcpus: Vcpus::of(plan) }
    }

    /// How many vCPUs may run.
    pub(crate) fn vcpu_count(&self) -> u8 {
        self.vcpus.allowed()
    }
}

impl Sandbox {
    /// Makes room for a container, and then the container, which is told how many vCPUs there are for all.
    pub(crate) async fn in_room<T, Made: Future<Output = Result<T, SandboxError>>>(
        &self,
        container: &SandboxId,
        resources: Option<&LinuxResources>,
        make: impl FnOnce(u8) -> Made,
    ) -> Result<T, SandboxError> {
        let mut room = self.room.lock().await;
        room.memory.set(container, limit_of(resources).flatten());
        room.vcpus.add(container, resources);
        let grown = self.grow(&mut room.memory).await.and_then(|()| self.let_run(&mut room.vcpus));
        drop(room);
        let made = match grown {
            Ok(vcpu_count) => make(vcpu_count).await,
            Err(refused) => Err(refused),
        };
        if made.is_err() {
            self.take_room(container).await;
        }
        made
    }

    /// Takes back what was there for a container that is gone.
    pub(crate) async fn take_room(&self, container: &SandboxId) {
        let mut room = self.room.lock().await;
        room.vcpus.remove(container);
        room.memory.put_back(container, None);
        self.shrink(&mut room.memory);
    }

    /// Lets a container's limits change, in between growing for them and shrinking.
    pub(crate) async fn change_room<Changed: Future<Output = Result<(), SandboxError>>>(
        &self,
        container: &SandboxId,
        resources: &LinuxResources,
        change: impl FnOnce(u8) -> Changed,
    ) -> Result<(), SandboxError> {
        let mut room = self.room.lock().await;
        let quota = room.vcpus.change(container, resources);
        let limit = limit_of(Some(resources)).map(|limit| room.memory.set(container, limit));
        let grown = self.grow(&mut room.memory).await.and_then(|()| self.let_run(&mut room.vcpus));
        let changed = match grown {
            Ok(vcpu_count) => change(vcpu_count).await,
            Err(refused) => Err(refused),
        };
        if changed.is_err() {
            room.vcpus.put_back(container, quota);
            if let Some(before) = limit {
                room.memory.put_back(container, before);
            }
        }
        self.shrink(&mut room.memory);
        changed
    }
}
