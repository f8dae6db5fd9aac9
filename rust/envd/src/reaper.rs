//! The one place that reaps. Process 1 inherits every orphan, so only a wait for "any child" leaves no zombies; and so
//! nothing else may wait for a child of its own, or one of the two would miss an exit status.
//!
//! No exit is lost: the registry starts a child and notes its pid under the same lock under which this reaps, so a
//! child is known before its end can be seen.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::Agent;

/// Starts to listen for ends. Must come before the first child.
pub fn listen() -> io::Result<Signal> {
    signal(SignalKind::child())
}

/// Reaps for ever.
pub async fn run(agent: Arc<Agent>, mut ends: Signal) {
    loop {
        agent.processes.reap();
        if ends.recv().await.is_none() {
            return;
        }
    }
}
