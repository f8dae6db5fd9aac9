//! `Move`.

use std::fs;
use std::sync::Arc;

use wire::code::ConnectError;
use wire::filesystem::{MoveRequest, MoveResponse};

use crate::agent::Agent;
use crate::filesystem::fault::Fault;
use crate::filesystem::make_dir::make_all;
use crate::filesystem::{as_user, entry, target};
use crate::rpc::Caller;

/// Moves within one file system and creates missing parents of the destination.
pub async fn rename(agent: &Arc<Agent>, request: MoveRequest, caller: &Caller) -> Result<MoveResponse, ConnectError> {
    let (user, from) = target(agent, caller, &request.source)?;
    let (_, to) = target(agent, caller, &request.destination)?;
    let acting = user.ids.clone();
    let entry = as_user::<_, Fault>(agent, &user, move |agent| {
        fs::symlink_metadata(&from).map_err(|e| Fault::new("move", &from, e))?;
        if let Some(parent) = to.parent() {
            make_all(agent, &acting, parent)?;
        }
        fs::rename(&from, &to).map_err(|e| Fault::new("move", &from, e))?;
        entry::entry(agent, &to)
    })
    .await?;
    agent.watchers.read_all(agent).await;
    Ok(MoveResponse { entry: Some(entry) })
}
