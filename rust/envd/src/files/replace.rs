//! Atomic replacement of a file.
//!
//! The new content is written to a temporary file in the same directory, which is then renamed, optionally
//! after a flush: then readers see the old or the new content even after a power failure. A write that fails
//! before leaves nothing behind.

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

/// Attempts to find a free temporary name; a power failure may have left some.
const ATTEMPTS: u32 = 64;

/// What the new file inherits from the replaced one.
#[derive(Clone, Copy, Debug)]
pub struct Replaced {
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: Owner,
}

/// The guarantee after the file was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// All programs see the new file.
    Written,
    /// It is also on the disk.
    Flushed,
}

/// A file that is about to replace another.
#[derive(Debug)]
pub struct Replacement {
    /// The path for error messages.
    path: PathBuf,
    /// The directory as a descriptor: the file stays in it even if its name changes.
    directory: OwnedFd,
    /// The temporary name, until the rename.
    temporary: Option<OsString>,
    /// The final name.
    name: OsString,
    /// The acting user.
    ids: Ids,
}

impl Replacement {
    /// Creates the temporary file. Also returns mode and owner of the existing file.
    ///
    /// A symbolic link is followed: its target is replaced, and the link remains.
    pub fn begin(path: &Path, ids: &Ids) -> Result<(Self, File, Option<Replaced>), Fault> {
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
                FileType::RegularFile => Some(Replaced { mode: about.st_mode & 0o7777, owner: Owner::of_file(&about) }),
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

    /// The path of the file that is replaced.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the file to its final name. Blocks on the disk.
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
        // A directory that this user may write but not read cannot be flushed by them; the rename is valid
        // nevertheless.
        if let Ok(directory) = openat(&self.directory, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            fsync(&directory).map_err(|e| Fault::errno("write", &self.path, e))?;
        }
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        let Some(temporary) = self.temporary.take() else { return };
        // A single call that does not wait; if the directory was removed, so was the file.
        if let Ok(_acting) = become_user(&self.ids) {
            let _ = unlinkat(&self.directory, &temporary, AtFlags::empty());
        }
    }
}
