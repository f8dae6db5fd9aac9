//! `Stat`.

use std::sync::Arc;

use wire::code::ConnectError;
use wire::filesystem::{StatRequest, StatResponse};

use crate::agent::Agent;
use crate::filesystem::{as_user, entry, target};
use crate::rpc::Caller;

/// Returns the metadata of a path.
pub async fn stat(agent: &Arc<Agent>, request: StatRequest, caller: &Caller) -> Result<StatResponse, ConnectError> {
    let (user, path) = target(agent, caller, &request.path)?;
    let entry = as_user(agent, &user, move |agent| entry::entry(agent, &path)).await?;
    Ok(StatResponse { entry: Some(entry) })
}
