//! The service `filesystem.Filesystem`. Every file operation runs with the named user's permissions: see
//! [`as_user`].
//!
//! - [`entry`]: metadata of a file; [`fault`]: errors.
//! - One file for each method: [`stat`], [`make_dir`], [`rename`] (`Move`), [`list_dir`], [`remove`],
//!   [`watch_dir`], [`watcher`] (the three polling calls); [`watch`]: shared by both kinds of watching.

pub mod entry;
pub mod fault;
pub mod list_dir;
pub mod make_dir;
pub mod remove;
pub mod rename;
pub mod stat;
pub mod watch;
pub mod watch_dir;
pub mod watcher;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sys::credentials::ActingAs;
use sys::spawn::Ids;
use wire::code::{Code, ConnectError};

use crate::agent::Agent;
use crate::paths;
use crate::rpc::Caller;
use crate::users::User;

/// Acts as a user in this thread. Does nothing for root, or if the agent does not run as root.
pub fn become_user(ids: &Ids) -> io::Result<Option<ActingAs>> {
    let own = sys::rustix::process::geteuid();
    if own.as_raw() == ids.uid {
        return Ok(None);
    }
    ActingAs::user(ids).map(Some)
}

/// Runs file operations with the permissions of a user, outside the thread that serves requests.
pub async fn as_user<T, E>(
    agent: &Arc<Agent>,
    user: &User,
    work: impl FnOnce(&Agent) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<fault::Fault> + Send + 'static,
{
    let (agent, ids) = (agent.clone(), user.ids.clone());
    let worker = agent.clone();
    let done = agent.threads.files.run(move || {
        let _acting = become_user(&ids).map_err(|e| fault::Fault::new("act as the user on", "/", e))?;
        work(&worker)
    });
    done.await.unwrap_or_else(|error| Err(fault::Fault::new("finish the work on", "/", error).into()))
}

/// Returns the caller's user and the path of the request.
pub fn target(agent: &Agent, caller: &Caller, path: &str) -> Result<(User, PathBuf), ConnectError> {
    let user = caller.user(agent)?;
    let name = paths::to_name(path);
    if name.as_encoded_bytes().contains(&0) {
        return Err(ConnectError::new(Code::InvalidArgument, "the path holds a NUL character"));
    }
    let path = paths::resolve(&name, &user.home);
    Ok((user, path))
}
