//! The sandbox's environment variables as a file, for services that were started before the sandbox existed: a
//! process's own environment does not change when its snapshot becomes another sandbox.
//!
//! `/run/wrenn/environment.json` is a JSON object, readable by the default user, whose processes have these
//! variables anyway, and by nobody else. It is written before processes of a snapshot go on.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::agent::Agent;
use crate::init::sandbox_env;

/// The folder, on the `tmpfs` that stage 1 mounted.
const FOLDER: &str = "/run/wrenn";
/// Name of the file.
const NAME: &str = "environment.json";

/// Writes the file. A failure is reported on the console only: root in the guest may have made it impossible, and
/// must not make its own sandbox fail to start.
pub fn write(agent: &Agent) {
    let owner = agent.user(None).map_or((0, 0), |user| (user.ids.uid, user.ids.gid));
    let text = match serde_json::to_vec(&sandbox_env(agent)) {
        Ok(text) => text,
        Err(error) => return eprintln!("envd: init: encode the variables: {error}"),
    };
    if let Err(error) = write_to(Path::new(FOLDER), &text, owner) {
        eprintln!("envd: init: write the variables: {error}");
    }
}

/// Replaces the file in one step, so that no reader sees a part of it. The folder is root's, so nobody else can
/// put a link in the way.
fn write_to(folder: &Path, text: &[u8], (uid, gid): (u32, u32)) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let draft = folder.join(".environment");
    let _ = fs::remove_file(&draft);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&draft)?;
    file.write_all(text)?;
    std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    fs::rename(&draft, folder.join(NAME))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_file_is_replaced_and_only_its_owner_may_read_it() {
        let folder = std::env::temp_dir().join(format!("variables-{}", std::process::id()));
        let (uid, gid) = (sys::rustix::process::getuid().as_raw(), sys::rustix::process::getgid().as_raw());
        for text in ["{\"A\":\"1\"}", "{}"] {
            write_to(&folder, text.as_bytes(), (uid, gid)).expect("written");
            let path = folder.join(NAME);
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
            let about = fs::metadata(&path).expect("there");
            assert_eq!((about.mode() & 0o777, about.uid()), (0o400, uid));
        }
        assert_eq!(fs::read_dir(&folder).expect("read").count(), 1);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
