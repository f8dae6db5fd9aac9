//! `Update`: the size of a terminal.

use std::sync::Arc;

use wire::code::{Code, ConnectError};
use wire::process::{Pty, UpdateRequest, UpdateResponse};

use crate::agent::Agent;
use crate::process::registry::{Found, Input};
use crate::process::{not_found, selector};

/// Returns the requested size in the kernel's types.
pub fn size(pty: &Pty) -> (u16, u16) {
    let size = pty.size.unwrap_or_default();
    let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    (narrow(size.cols), narrow(size.rows))
}

/// Changes the size.
pub fn update(agent: &Arc<Agent>, request: UpdateRequest) -> Result<UpdateResponse, ConnectError> {
    let selector = selector(request.process)?;
    let Some(Found::Live(process)) = agent.processes.find(&selector) else { return Err(not_found(&selector)) };
    let Some(pty) = request.pty else { return Ok(UpdateResponse {}) };
    let Input::Terminal(terminal, _) = &process.input else {
        return Err(ConnectError::new(Code::FailedPrecondition, format!("process {} has no terminal", process.pid)));
    };
    let (columns, rows) = size(&pty);
    sys::pty::resize(terminal.get_ref(), columns, rows)
        .map_err(|e| ConnectError::new(Code::Internal, format!("cannot resize the terminal: {e}")))?;
    Ok(UpdateResponse {})
}
