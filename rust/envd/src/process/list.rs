//! `List`.

use wire::process::{ListResponse, ProcessInfo};

use crate::agent::Agent;

/// Most bytes of command, arguments and variables of one process.
const MAX_CONFIG_BYTES: usize = 16 * 1024;
/// Most bytes of those of all processes together: a host takes messages of 4 MiB.
const MAX_TOTAL_BYTES: usize = 2 * 1024 * 1024;

/// Lists running processes. Long arguments are cut, and variables left out where they are long.
pub fn list(agent: &Agent) -> ListResponse {
    let live = agent.processes.live();
    let longest = (MAX_TOTAL_BYTES / live.len().max(1)).min(MAX_CONFIG_BYTES);
    let info = |p: std::sync::Arc<crate::process::registry::Process>| ProcessInfo {
        config: p.shortened_config(longest),
        pid: p.pid,
        tag: p.tag.clone(),
    };
    ListResponse { processes: live.into_iter().map(info).collect() }
}
