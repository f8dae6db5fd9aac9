//! `CreateWatcher`, `GetWatcherEvents`, `RemoveWatcher`: events by polling.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wire::code::{Code, ConnectError};
use wire::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, GetWatcherEventsRequest, GetWatcherEventsResponse,
    RemoveWatcherRequest, RemoveWatcherResponse,
};

use crate::agent::{Agent, lock};
use crate::filesystem::target;
use crate::filesystem::watch::WatchOptions;
use crate::rpc::Caller;

fn not_found(id: &str) -> ConnectError {
    ConnectError::new(Code::NotFound, format!("watcher with id {id} not found"))
}

/// Starts watching. The watcher exists until it is removed.
pub async fn create(
    agent: &Arc<Agent>,
    request: CreateWatcherRequest,
    caller: &Caller,
) -> Result<CreateWatcherResponse, ConnectError> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (user, root) = target(agent, caller, &request.path)?;
    let options = WatchOptions {
        root,
        recursive: request.recursive,
        include_entry: request.include_entry,
        allow_network_mounts: request.allow_network_mounts,
        ids: user.ids,
    };
    let watcher = agent.watchers.create(agent, options).await?;
    let id = format!("w{}", NEXT.fetch_add(1, Ordering::Relaxed));
    // Also reads between polls, so that new directories are watched in time.
    let (reader_agent, reader_watcher) = (agent.clone(), watcher.clone());
    let reader = tokio::spawn(async move {
        loop {
            reader_watcher.wait(&reader_agent).await;
        }
    });
    lock(&agent.watchers.polled).insert(id.clone(), (watcher, reader.abort_handle()));
    Ok(CreateWatcherResponse { watcher_id: id })
}

/// Returns the events since the last poll.
pub async fn events(
    agent: &Arc<Agent>,
    request: &GetWatcherEventsRequest,
) -> Result<GetWatcherEventsResponse, ConnectError> {
    let watcher = lock(&agent.watchers.polled).get(&request.watcher_id).map(|(w, _)| w.clone());
    let watcher = watcher.ok_or_else(|| not_found(&request.watcher_id))?;
    // Events still queued in the kernel belong to the response.
    watcher.read(agent).await;
    Ok(GetWatcherEventsResponse { events: watcher.take()? })
}

/// Removes a watcher.
pub fn remove(agent: &Arc<Agent>, request: &RemoveWatcherRequest) -> Result<RemoveWatcherResponse, ConnectError> {
    let removed = lock(&agent.watchers.polled).remove(&request.watcher_id);
    let (_, reader) = removed.ok_or_else(|| not_found(&request.watcher_id))?;
    reader.abort();
    Ok(RemoveWatcherResponse {})
}
