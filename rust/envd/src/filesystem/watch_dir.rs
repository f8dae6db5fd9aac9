//! `WatchDir`: events as a stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use wire::code::{Code, ConnectError};
use wire::codec::Codec;
use wire::filesystem::watch_dir_response::{Event, KeepAlive, StartEvent};
use wire::filesystem::{WatchDirRequest, WatchDirResponse};

use crate::agent::Agent;
use crate::body::{Body, Part};
use crate::filesystem::target;
use crate::filesystem::watch::{WatchOptions, Watcher};
use crate::rpc::{Caller, end_frame, message_frame};

/// Events in transit to one client; more are queued in the watcher.
const MAX_WAITING_FRAMES: usize = 64;
/// Consecutive changes are sent together after this delay. Sending each on its own would wake the agent and
/// send a packet, at the expense of the program that makes the changes.
const GATHER: Duration = Duration::from_millis(5);

fn frame(codec: Codec, event: Event) -> Part {
    Part::More(message_frame(codec, &WatchDirResponse { event: Some(event) }).into())
}

/// Watches as long as the client is connected.
pub async fn watch_dir(agent: &Arc<Agent>, request: WatchDirRequest, caller: &Caller) -> Result<Body, ConnectError> {
    let (user, root) = target(agent, caller, &request.path)?;
    let options = WatchOptions {
        root,
        recursive: request.recursive,
        include_entry: request.include_entry,
        allow_network_mounts: request.allow_network_mounts,
        ids: user.ids,
    };
    let watcher = agent.watchers.create(agent, options).await?;
    let (parts, receiver) = mpsc::channel(MAX_WAITING_FRAMES);
    let codec = caller.codec;
    // The channel is new and not full.
    let _ = parts.try_send(frame(codec, Event::Start(StartEvent {})));
    let deadline = caller.timeout.map(|t| Instant::now() + t);
    let agent = agent.clone();
    tokio::spawn(async move {
        let error = tokio::select! {
            error = forward(&agent, &watcher, &parts, codec) => error,
            () = parts.closed() => return,
            () = sleep_until(deadline) => ConnectError::new(Code::DeadlineExceeded, "the stream was open for as long as was asked"),
        };
        // The client may have disconnected.
        let _ = parts.send(Part::Last(end_frame(Some(&error)).into())).await;
    });
    let keepalive = message_frame(codec, &WatchDirResponse { event: Some(Event::Keepalive(KeepAlive {})) });
    Ok(Body::events(receiver, caller.keepalive, keepalive.into()))
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Sends events until an error occurs.
async fn forward(agent: &Arc<Agent>, watcher: &Arc<Watcher>, parts: &mpsc::Sender<Part>, codec: Codec) -> ConnectError {
    let mut told_at: Option<Instant> = None;
    loop {
        watcher.wait(agent).await;
        if let Some(at) = told_at.filter(|at| at.elapsed() < GATHER) {
            tokio::time::sleep_until(at + GATHER).await;
            watcher.read(agent).await;
        }
        told_at = Some(Instant::now());
        let events = match watcher.take() {
            Ok(events) => events,
            Err(error) => return error,
        };
        for event in events {
            if parts.send(frame(codec, Event::Filesystem(event))).await.is_err() {
                return ConnectError::new(Code::Canceled, "nobody listens");
            }
        }
    }
}
