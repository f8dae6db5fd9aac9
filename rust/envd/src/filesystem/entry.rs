//! Metadata of files.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sys::rustix;
use wire::Timestamp;
use wire::filesystem::{EntryInfo, FileType};

use crate::agent::Agent;
use crate::filesystem::fault::Fault;
use crate::paths;

/// Prefix of the attributes that store metadata given at upload.
pub const METADATA_PREFIX: &str = "user.e2b.";
/// Large enough for the attribute names of nearly every file.
const USUAL_ATTRIBUTES_BYTES: usize = 1024;
/// Linux's limit for the list of attribute names, and for a value.
const MAX_ATTRIBUTES_BYTES: usize = 64 * 1024;

fn file_type(about: &Metadata) -> FileType {
    if about.is_dir() {
        FileType::Directory
    } else if about.is_file() {
        FileType::File
    } else {
        FileType::Unspecified
    }
}

/// Returns the metadata of a file; empty if it has none or the file system does not support it.
pub fn metadata(path: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut names = vec![0; USUAL_ATTRIBUTES_BYTES];
    let listed = match rustix::fs::listxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::RANGE) => {
            names.resize(MAX_ATTRIBUTES_BYTES, 0);
            rustix::fs::listxattr(path, &mut names[..])
        }
        other => other,
    };
    let length = listed.unwrap_or(0);
    for name in names[..length].split(|b| *b == 0) {
        let Some(key) = std::str::from_utf8(name).ok().and_then(|n| n.strip_prefix(METADATA_PREFIX)) else { continue };
        let mut value = vec![0; MAX_ATTRIBUTES_BYTES];
        let Ok(length) = rustix::fs::getxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]) else {
            continue;
        };
        found.insert(key.to_owned(), String::from_utf8_lossy(&value[..length]).into_owned());
    }
    found
}

/// Describes the file at this path. For a symbolic link: type and mode of its target, everything else of the
/// link itself.
pub fn entry(agent: &Agent, path: &Path) -> Result<EntryInfo, Fault> {
    let about = fs::symlink_metadata(path).map_err(|e| Fault::new("look at", path, e))?;
    Ok(describe(agent, path, &about))
}

/// As [`entry`], for a file whose metadata was already read.
pub fn describe(agent: &Agent, path: &Path, about: &Metadata) -> EntryInfo {
    let is_symlink = about.is_symlink();
    let (mut kind, mut mode, mut symlink_target, mut is_broken) = (file_type(about), about.mode(), None, false);
    if is_symlink {
        let target = fs::metadata(path).ok();
        is_broken = target.is_none();
        kind = target.as_ref().map_or(FileType::Unspecified, file_type);
        mode = target.map_or(mode, |t| t.mode());
        let resolved = fs::canonicalize(path).or_else(|_| fs::read_link(path));
        symlink_target = resolved.ok().map(paths::to_text);
    }
    let may_have_metadata = about.is_file() || about.is_dir();
    EntryInfo {
        name: path.file_name().map_or_else(|| "/".to_owned(), paths::to_text),
        r#type: kind as i32,
        path: paths::to_text(path),
        size: about.size() as i64,
        mode: mode & 0o777,
        permissions: paths::permissions_text(about.mode()),
        owner: agent.users.user_name(about.uid()),
        group: agent.users.group_name(about.gid()),
        modified_time: Some(Timestamp { seconds: about.mtime(), nanos: about.mtime_nsec() as i32 }),
        symlink_target,
        metadata: if may_have_metadata { metadata(path) } else { BTreeMap::new() },
        is_symlink,
        is_broken,
    }
}
