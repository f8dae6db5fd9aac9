//! `List`.

use wire::process::{ListResponse, ProcessInfo};

use crate::agent::Agent;

/// Lists running processes.
pub fn list(agent: &Agent) -> ListResponse {
    let info = |p: std::sync::Arc<crate::process::registry::Process>| ProcessInfo {
        config: Some(p.config.clone()),
        pid: p.pid,
        tag: p.tag.clone(),
    };
    ListResponse { processes: agent.processes.live().into_iter().map(info).collect() }
}
