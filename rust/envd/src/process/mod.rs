//! The service `process.Process`.
//!
//! - [`start`]: from a request to a child; [`pump`] forwards its output to [`followers`] until its end;
//!   [`history`] buffers the last output.
//! - [`process_cgroup`]: a cgroup for each process, so that a kill reaches all descendants; [`freezer`]: freezes
//!   all processes.
//! - [`registry`]: running and ended processes; [`signal`]: how they are killed.
//! - One file for each method: [`list`], [`start`], [`connect`], [`update`], [`input`], [`signal`].

pub mod connect;
pub mod ending;
pub mod followers;
pub mod freezer;
pub mod history;
pub mod input;
pub mod list;
pub mod process_cgroup;
pub mod pump;
pub mod registry;
pub mod shell;
pub mod signal;
pub mod start;
pub mod update;

use wire::code::{Code, ConnectError};
use wire::process::{ProcessSelector, process_selector::Selector};

/// Returns the required selector of a request.
pub fn selector(process: Option<ProcessSelector>) -> Result<Selector, ConnectError> {
    process
        .and_then(|p| p.selector)
        .ok_or_else(|| ConnectError::new(Code::InvalidArgument, "the request names no process: give a pid or a tag"))
}

/// There is no such process.
pub fn not_found(selector: &Selector) -> ConnectError {
    let text = match selector {
        Selector::Pid(pid) => format!("process with pid {pid} not found"),
        Selector::Tag(tag) => format!("process with tag {tag} not found"),
    };
    ConnectError::new(Code::NotFound, text)
}
