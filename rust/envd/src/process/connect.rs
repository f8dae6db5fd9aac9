//! `Connect`.

use std::sync::Arc;

use wire::code::{Code, ConnectError};
use wire::process::ConnectRequest;

use crate::agent::Agent;
use crate::body::Body;
use crate::process::registry::Found;
use crate::process::{not_found, selector};
use crate::rpc::Caller;

/// Follows a process from now on, or from the oldest buffered output. The caller's timeout ends the stream,
/// not the process.
pub fn connect(agent: &Arc<Agent>, request: ConnectRequest, caller: &Caller) -> Result<Body, ConnectError> {
    let selector = selector(request.process)?;
    let (Found::Live(process) | Found::Ended(process)) =
        agent.processes.find(&selector).ok_or_else(|| not_found(&selector))?;
    let (body, parts) = process.followers.follow(process.pid, caller, false, request.replay);
    if let Some(timeout) = caller.timeout {
        tokio::spawn(async move {
            tokio::select! {
                () = parts.closed() => {}
                () = tokio::time::sleep(timeout) => {
                    let late = ConnectError::new(Code::DeadlineExceeded, "the stream was open for as long as was asked");
                    process.followers.disconnect(&parts, &late);
                }
            }
        });
    }
    Ok(body)
}
