//! What is asked of a pod, and of a container as a whole while it lives.

use securectr_protocol::agent::{
    AttachRequest, ContainerRequest, Empty, MakePodRequest, StatsResponse, UpdateRequest, WaitOomRequest,
};
use ttrpc::context::Context;

use crate::PodPlan;

use super::{Agent, AgentError, bounded, limit, refused};

impl Agent {
    pub(crate) async fn make_pod(&self, pod: &PodPlan) -> Result<(), AgentError> {
        let PodPlan { hostname, sysctls, shm_bytes } = pod.clone();
        let request = MakePodRequest { hostname, sysctls, shm_bytes, ..Default::default() };
        bounded(self.0.make_pod(limit(), &request)).await.map(drop)
    }

    pub(crate) async fn ping(&self) -> Result<(), AgentError> {
        bounded(self.0.ping(limit(), &Empty::default())).await.map(drop)
    }

    pub(crate) async fn reclaim(&self) -> Result<(), AgentError> {
        bounded(self.0.reclaim(limit(), &Empty::default())).await.map(drop)
    }

    pub(crate) async fn pause(&self, container_id: &str) -> Result<(), AgentError> {
        bounded(self.0.pause(limit(), &request(container_id))).await.map(drop)
    }

    pub(crate) async fn resume(&self, container_id: &str) -> Result<(), AgentError> {
        bounded(self.0.resume(limit(), &request(container_id))).await.map(drop)
    }

    pub(crate) async fn attach(&self, request: &AttachRequest) -> Result<(), AgentError> {
        bounded(self.0.attach(limit(), request)).await.map(drop)
    }

    /// `resources_json` is the runtime spec's `linux.resources`; what is not in it stays. So many vCPUs are online afterwards.
    pub(crate) async fn update(
        &self,
        container_id: &str,
        resources_json: Vec<u8>,
        vcpu_count: u8,
    ) -> Result<(), AgentError> {
        let container_id = container_id.to_owned();
        let vcpu_count = vcpu_count.into();
        let request = UpdateRequest { container_id, resources_json, vcpu_count, ..Default::default() };
        bounded(self.0.update(limit(), &request)).await.map(drop)
    }

    pub(crate) async fn stats(&self, container_id: &str) -> Result<StatsResponse, AgentError> {
        bounded(self.0.stats(limit(), &request(container_id))).await
    }

    /// Waits until the OOM killer has ended more processes of the container than were `seen`, and says how many; fails when the
    /// container ends. Dropping it ends the wait on this side only: the agent's ends with the container.
    pub(crate) async fn wait_oom(&self, container_id: &str, seen: u64) -> Result<u64, AgentError> {
        let request = WaitOomRequest { container_id: container_id.to_owned(), seen, ..Default::default() };
        self.0.wait_oom(Context::default(), &request).await.map(|told| told.count).map_err(refused)
    }
}

fn request(container_id: &str) -> ContainerRequest {
    ContainerRequest { container_id: container_id.to_owned(), ..Default::default() }
}
