//! A file that takes another's place as a whole, or not at all.
//!
//! It is written under a name of its own in the same directory and renamed, on demand after it was flushed: then readers
//! see the old content or the new one also after a loss of power. A write that does not get that far leaves nothing behind.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sys::rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fsync, openat, openat2, renameat, statat, unlinkat,
};
use sys::rustix::io::Errno;
use sys::spawn::Ids;

use crate::files::owner::Owner;
use crate::filesystem::become_user;
use crate::filesystem::fault::Fault;

/// Tries to find a free name; what was left by a machine that lost its power may have some.
const ATTEMPTS: u32 = 64;

/// What the new file takes over from the one whose place it takes.
#[derive(Clone, Copy, Debug)]
pub struct Former {
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: Owner,
}

/// What holds when a file has taken its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// All programs see it.
    Written,
    /// It is on the disk, too.
    Flushed,
}

/// A file on its way to its place.
#[derive(Debug)]
pub struct Replacement {
    /// For errors.
    path: PathBuf,
    /// The directory, by descriptor: whatever happens to its name, the file stays in it.
    directory: OwnedFd,
    /// Its name until then.
    temporary: Option<OsString>,
    /// Its name afterwards.
    name: OsString,
    /// Who writes.
    ids: Ids,
}

impl Replacement {
    /// Makes the new file beside its place. Also gives mode and owner of the file that is there now.
    ///
    /// A link is followed: what it leads to is replaced, and it stays a link.
    pub fn begin(path: &Path, ids: &Ids) -> Result<(Self, File, Option<Former>), Fault> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let fault = |e: Errno| Fault::errno("write", path, e);
        let place = match fs::symlink_metadata(path) {
            Ok(about) if about.is_symlink() => fs::canonicalize(path).map_err(|e| Fault::new("write", path, e))?,
            _ => path.to_owned(),
        };
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else { return Err(fault(Errno::ISDIR)) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat2(CWD, parent, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(fault)?;
        let former = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) => match FileType::from_raw_mode(about.st_mode) {
                FileType::RegularFile => Some(Former { mode: about.st_mode & 0o7777, owner: Owner::of_file(&about) }),
                FileType::Directory => return Err(fault(Errno::ISDIR)),
                _ => return Err(fault(Errno::INVAL)),
            },
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(fault(errno)),
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..ATTEMPTS {
            let temporary = OsString::from(format!(".wrenn-{:x}.part", NEXT.fetch_add(1, Ordering::Relaxed)));
            match openat(&directory, &temporary, flags, Mode::from_raw_mode(0o600)) {
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(fault(errno)),
                Ok(file) => {
                    let (path, name, ids) = (path.to_owned(), name.to_owned(), ids.clone());
                    let replacement = Self { path, directory, temporary: Some(temporary), name, ids };
                    return Ok((replacement, File::from(file), former));
                }
            }
        }
        Err(fault(Errno::EXIST))
    }

    /// Which file is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file in its place. Blocks on the disk.
    pub fn commit(mut self, file: &File, durability: Durability) -> Result<(), Fault> {
        let fault = |e: Errno| Fault::errno("write", &self.path, e);
        if durability == Durability::Flushed {
            file.sync_all().map_err(|e| Fault::new("write", &self.path, e))?;
        }
        let temporary = self.temporary.as_deref().unwrap_or(OsStr::new(""));
        renameat(&self.directory, temporary, &self.directory, &self.name).map_err(fault)?;
        self.temporary = None;
        if durability == Durability::Written {
            return Ok(());
        }
        // A directory that this user may write to but not read cannot be flushed by him; the rename holds all the same.
        if let Ok(directory) = openat(&self.directory, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            fsync(&directory).map_err(|e| Fault::errno("write", &self.path, e))?;
        }
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        let Some(temporary) = self.temporary.take() else { return };
        // One call, which needs no wait; a directory that went meanwhile took the file with it.
        if let Ok(_acting) = become_user(&self.ids) {
            let _ = unlinkat(&self.directory, &temporary, AtFlags::empty());
        }
    }
}
