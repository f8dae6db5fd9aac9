//! What runs and listens in the guest, read from `/proc`: `GET /listeners` and `GET /processes`.
//!
//! - [`listeners`]: sockets that accept connections, and the processes that have them;
//! - [`processes`]: all programs, with what they use;
//! - [`proc`]: reading of `/proc`, bounded.
//!
//! Programs in the guest decide what is there and how much of it, so every list has a limit.

mod listeners;
mod proc;
mod processes;

use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Serialize;

use crate::agent::Agent;
use crate::body::Body;
use crate::server::reply;

/// Responds with the sockets that accept TCP connections.
pub async fn listeners(agent: &Agent) -> Response<Body> {
    answer(agent, listeners::read).await
}

/// Responds with the programs that run.
pub async fn processes(agent: &Arc<Agent>) -> Response<Body> {
    let worker = agent.clone();
    answer(agent, move || processes::read(&worker)).await
}

/// Reads outside the thread that serves requests: with thousands of processes it takes a while.
async fn answer<T: Serialize + Send + 'static>(
    agent: &Agent,
    read: impl FnOnce() -> T + Send + 'static,
) -> Response<Body> {
    match agent.threads.system.run(read).await {
        Ok(found) => reply::json(StatusCode::OK, &found),
        Err(error) => reply::error(error.status(), &error.to_string()),
    }
}
