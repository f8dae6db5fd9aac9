//! `ListDir`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::rustix::io::Errno;
use wire::code::{Code, ConnectError};
use wire::filesystem::{EntryInfo, ListDirRequest, ListDirResponse};

use crate::agent::Agent;
use crate::filesystem::fault::Fault;
use crate::filesystem::{as_user, entry, target};
use crate::rpc::Caller;

/// Most entries in one response, which take about 20 MB of memory.
const MAX_ENTRIES: usize = 20_000;

/// Lists a directory to a depth, with the names of each directory in order and its contents directly after
/// it.
pub async fn list_dir(
    agent: &Arc<Agent>,
    request: ListDirRequest,
    caller: &Caller,
) -> Result<ListDirResponse, ConnectError> {
    let (user, path) = target(agent, caller, &request.path)?;
    let depth = request.depth.max(1);
    let entries = as_user(agent, &user, move |agent| {
        let about = fs::metadata(&path).map_err(|e| Fault::new("list", &path, e))?;
        if !about.is_dir() {
            return Err(Fault::errno("list", &path, Errno::NOTDIR).into());
        }
        walk(agent, &path, depth)
    });
    Ok(ListDirResponse { entries: entries.await? })
}

/// Returns the names in a directory, in order.
fn names(directory: &Path) -> Result<Vec<OsString>, Fault> {
    let fault = |e| Fault::new("list", directory, e);
    let mut names = Vec::new();
    for found in fs::read_dir(directory).map_err(fault)? {
        names.push(found.map_err(fault)?.file_name());
    }
    names.sort_unstable();
    Ok(names)
}

fn too_many(path: &Path) -> ConnectError {
    let path = crate::paths::to_text(path);
    let text = format!("'{path}' holds more than {MAX_ENTRIES} entries: list a part of it, or with less depth");
    ConnectError::new(Code::ResourceExhausted, text)
}

fn walk(agent: &Agent, root: &Path, depth: u32) -> Result<Vec<EntryInfo>, ConnectError> {
    let mut entries = Vec::new();
    // The next path to visit is the last one; depth counts from the root's own entries.
    let mut waiting: Vec<(PathBuf, u32)> = Vec::new();
    let push_all = |waiting: &mut Vec<_>, directory: &Path, names: Vec<OsString>, level| {
        waiting.extend(names.into_iter().rev().map(|n| (directory.join(n), level)));
    };
    push_all(&mut waiting, root, names(root)?, 1);
    while let Some((path, level)) = waiting.pop() {
        if entries.len() + waiting.len() >= MAX_ENTRIES {
            return Err(too_many(root));
        }
        // A file may be removed during the walk, and a directory may be inaccessible to this user.
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        entries.push(entry::describe(agent, &path, &about));
        if about.is_dir() && level < depth {
            push_all(&mut waiting, &path, names(&path).unwrap_or_default(), level + 1);
        }
    }
    Ok(entries)
}
