//! The only place that reaps children. Process 1 inherits every orphan, so only a wait for "any child" leaves
//! no zombies; and so nothing else may wait for a child of its own, or one of the two would miss an exit
//! status.
//!
//! No exit status is lost: a start is announced to the registry, and the kernel writes the pid of the child there before the
//! child runs, so a child is known before its end can be seen.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::Agent;

/// Starts to listen for SIGCHLD. Must be called before the first child is started.
pub fn listen() -> io::Result<Signal> {
    signal(SignalKind::child())
}

/// Reaps forever.
pub async fn run(agent: Arc<Agent>, mut ends: Signal) {
    loop {
        agent.processes.reap();
        if ends.recv().await.is_none() {
            return;
        }
    }
}
