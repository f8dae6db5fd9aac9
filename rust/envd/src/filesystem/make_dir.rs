//! `MakeDir`, and creation of parent directories.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use sys::rustix::fs::{AtFlags, CWD, Mode, OFlags, chownat, openat};
use sys::rustix::io::Errno;
use sys::spawn::Ids;
use wire::code::{Code, ConnectError};
use wire::filesystem::{MakeDirRequest, MakeDirResponse};

use crate::agent::Agent;
use crate::files::owner::Owner;
use crate::filesystem::fault::Fault;
use crate::filesystem::{as_user, entry, target};
use crate::rpc::Caller;

/// Mode of new directories.
const DIRECTORY_MODE: u32 = 0o755;

/// Creates a directory and its missing parents; see [`owner`] for their ownership. Returns whether anything
/// was created.
///
/// [`owner`]: crate::files::owner
pub fn make_all(agent: &Agent, acting: &Ids, path: &Path) -> Result<bool, Fault> {
    match make(agent, acting, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or_else(|| Fault::errno("make", path, Errno::NOENT))?;
            make_all(agent, acting, parent)?;
            match make(agent, acting, path) {
                Ok(()) => Ok(true),
                Err(_) if path.is_dir() => Ok(false),
                Err(error) => Err(Fault::new("make the directory", path, error)),
            }
        }
        Err(error) => match fs::metadata(path) {
            Ok(about) if about.is_dir() => Ok(false),
            Ok(_) => Err(Fault::errno("make the directory", path, Errno::NOTDIR)),
            Err(_) => Err(Fault::new("make the directory", path, error)),
        },
    }
}

fn make(agent: &Agent, acting: &Ids, path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY_MODE).create(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(parent) = openat(CWD, parent, flags, Mode::empty()) else { return Ok(()) };
    if let Some(owner) = Owner::of_new_entry(agent, acting, &parent) {
        let (uid, gid) = owner.ids();
        // It may have been moved meanwhile, and not all file systems support owners.
        let _ = chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    }
    Ok(())
}

/// Creates a directory with its parents.
pub async fn make_dir(
    agent: &Arc<Agent>,
    request: MakeDirRequest,
    caller: &Caller,
) -> Result<MakeDirResponse, ConnectError> {
    let (user, path) = target(agent, caller, &request.path)?;
    let acting = user.ids.clone();
    let entry = as_user(agent, &user, move |agent| {
        if !make_all(agent, &acting, &path)? {
            let text = format!("directory already exists: {}", crate::paths::to_text(&path));
            return Err(ConnectError::new(Code::AlreadyExists, text));
        }
        Ok(entry::entry(agent, &path)?)
    })
    .await?;
    agent.watchers.read_all(agent).await;
    Ok(MakeDirResponse { entry: Some(entry) })
}
