//! `CreateWatcher`, `GetWatcherEvents`, `RemoveWatcher`: events by polling.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use wire::code::{Code, ConnectError};
use wire::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, GetWatcherEventsRequest, GetWatcherEventsResponse,
    RemoveWatcherRequest, RemoveWatcherResponse,
};

use crate::agent::{Agent, lock};
use crate::filesystem::target;
use crate::filesystem::watch::{PolledWatcher, WatchOptions};
use crate::rpc::Caller;

/// A client that does not ask for its events for so long has ended, or forgotten the watcher.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1800);

fn not_found(id: &str) -> ConnectError {
    ConnectError::new(Code::NotFound, format!("watcher with id {id} not found"))
}

/// Starts watching. The watcher exists until it is removed or forgotten, or is the first to end at the limit of watchers.
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
    let reader_id = id.clone();
    let reader = tokio::spawn(async move {
        let reading = async {
            loop {
                reader_watcher.wait(&reader_agent).await;
            }
        };
        tokio::select! {
            () = reading => {}
            () = wait_forgotten(&reader_agent, &reader_id) => drop(lock(&reader_agent.watchers.polled).remove(&reader_id)),
        }
    });
    lock(&agent.watchers.polled).insert(id.clone(), PolledWatcher { watcher, reader, asked: Instant::now() });
    Ok(CreateWatcherResponse { watcher_id: id })
}

/// Waits until the client has not asked for [`FORGOTTEN_AFTER`].
async fn wait_forgotten(agent: &Agent, id: &str) {
    loop {
        let asked = lock(&agent.watchers.polled).get(id).map(|p| p.asked);
        match asked.map(|at| at + FORGOTTEN_AFTER) {
            Some(end) if Instant::now() < end => tokio::time::sleep_until(end).await,
            _ => return,
        }
    }
}

/// Returns the events since the last poll.
pub async fn events(
    agent: &Arc<Agent>,
    request: &GetWatcherEventsRequest,
) -> Result<GetWatcherEventsResponse, ConnectError> {
    let watcher = lock(&agent.watchers.polled).get_mut(&request.watcher_id).map(|polled| {
        polled.asked = Instant::now();
        polled.watcher.clone()
    });
    let watcher = watcher.ok_or_else(|| not_found(&request.watcher_id))?;
    // Events still queued in the kernel belong to the response.
    watcher.read(agent).await;
    Ok(GetWatcherEventsResponse { events: watcher.take()? })
}

/// Removes a watcher.
pub fn remove(agent: &Arc<Agent>, request: &RemoveWatcherRequest) -> Result<RemoveWatcherResponse, ConnectError> {
    let removed = lock(&agent.watchers.polled).remove(&request.watcher_id);
    removed.ok_or_else(|| not_found(&request.watcher_id))?.reader.abort();
    Ok(RemoveWatcherResponse {})
}
