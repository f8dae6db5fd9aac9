//! `/snapshot/prepare` and `/snapshot/finish`: what surrounds a snapshot of the guest.
//!
//! Nothing is written to disk here: the snapshot holds the memory, and with it all that the kernel has not written yet.
//! A guest that is restored from the snapshot gets `/init` in place of `/snapshot/finish`.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::agent::Agent;
use crate::body::Body;
use crate::server::reply;

/// The answer when not all programs stand still.
#[derive(Serialize)]
struct Prepared {
    /// Always false: that all stand still is said by 204.
    frozen: bool,
}

/// Stops all programs of users. 204: all stand still. 200: some did not in time, or this is no guest of ours; those
/// stop when they can. Either way none is started until the end of it. Twice is the same as once.
pub async fn prepare(agent: &Agent) -> Response<Body> {
    if agent.freezer.freeze().await {
        return reply::empty(StatusCode::NO_CONTENT);
    }
    reply::json(StatusCode::OK, &Prepared { frozen: false })
}

/// Lets them go on. Twice is the same as once, and fine when none was stopped.
pub fn finish(agent: &Agent) -> Response<Body> {
    match agent.freezer.thaw() {
        Ok(()) => reply::empty(StatusCode::NO_CONTENT),
        Err(error) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot let programs go on: {error}")),
    }
}
