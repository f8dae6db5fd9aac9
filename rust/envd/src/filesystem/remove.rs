//! `Remove`.

use std::fs;
use std::io;
use std::sync::Arc;

use sys::rustix::io::Errno;
use wire::code::ConnectError;
use wire::filesystem::{RemoveRequest, RemoveResponse};

use crate::agent::Agent;
use crate::filesystem::fault::Fault;
use crate::filesystem::{as_user, target};
use crate::rpc::Caller;

/// Removes a file, or a directory with everything in it. A missing path is ignored.
pub async fn remove(
    agent: &Arc<Agent>,
    request: RemoveRequest,
    caller: &Caller,
) -> Result<RemoveResponse, ConnectError> {
    let (user, path) = target(agent, caller, &request.path)?;
    as_user::<_, Fault>(agent, &user, move |_| {
        if path.parent().is_none() {
            return Err(Fault::errno("remove", &path, Errno::INVAL));
        }
        let removed = match fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(Fault::new("remove", &path, error))
            }
            _ => Ok(()),
        }
    })
    .await?;
    agent.watchers.read_all(agent).await;
    Ok(RemoveResponse {})
}
