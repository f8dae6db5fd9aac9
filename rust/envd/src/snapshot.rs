//! `/snapshot/prepare` and `/snapshot/finish`, called before and after a snapshot of the guest.
//!
//! Nothing is written to disk here: the snapshot contains the memory, and with it everything that the kernel
//! has not written yet. A guest that is restored from the snapshot gets `/init` instead of
//! `/snapshot/finish`.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::agent::Agent;
use crate::body::Body;
use crate::server::reply;

/// The response if not all processes are frozen.
#[derive(Serialize)]
struct Prepared {
    /// Always false: if all are frozen the response is 204.
    frozen: bool,
}

/// Freezes all user processes. 204: all are frozen. 200: some were not frozen in time, or the agent does not
/// own the machine; those freeze when they can. In either case none is started until they are thawed.
/// Idempotent.
pub async fn prepare(agent: &Agent) -> Response<Body> {
    if agent.freezer.freeze().await {
        return reply::empty(StatusCode::NO_CONTENT);
    }
    reply::json(StatusCode::OK, &Prepared { frozen: false })
}

/// Thaws them. Idempotent.
pub fn finish(agent: &Agent) -> Response<Body> {
    match agent.freezer.thaw() {
        Ok(()) => reply::empty(StatusCode::NO_CONTENT),
        Err(error) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot let programs go on: {error}")),
    }
}
