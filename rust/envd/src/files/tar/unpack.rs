//! Unpacks an archive into a directory, and nowhere else.
//!
//! Every name is looked up from a descriptor of that directory with `RESOLVE_BENEATH`: the kernel rejects
//! absolute names, `..` and links that lead outside, also when somebody changes the tree meanwhile. The last
//! component is never followed: whatever exists there is removed, unless it is a directory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use sys::rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, chownat, fchmod, fchown,
    ftruncate, futimens, linkat, makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use sys::rustix::io::Errno;
use sys::spawn::Ids;

use crate::agent::Agent;
use crate::files::FilesError;
use crate::files::owner::Owner;
use crate::files::tar::archive::{Archive, ArchiveError, Entry};
use crate::files::tar::header::{Header, kind};
use crate::filesystem::fault::Fault;
use crate::filesystem::make_dir::make_all;

/// Zeros are detected in pieces of this size: a block of common file systems.
const HOLE: usize = 4096;
/// Longest name of an entry.
const MAX_PATH_BYTES: usize = 4096;
const PATH_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl From<ArchiveError> for FilesError {
    fn from(error: ArchiveError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// The target of an archive.
struct Target<'a> {
    path: &'a Path,
    root: OwnedFd,
    agent: &'a Agent,
    /// The acting user.
    acting: &'a Ids,
    options: Options,
    /// Directories that were created and may still get entries, each within the one before: mode and time are
    /// set when the archive leaves them.
    made: Vec<Made>,
    /// The directory of the last entry, which is usually the next one's too, and the owner of new entries in
    /// it.
    last: Option<(PathBuf, OwnedFd, Option<Owner>)>,
}

/// How entries are unpacked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The owner of all entries.
    pub owner: Option<Owner>,
    /// Without `owner`: entries get the owners that the archive says.
    pub keep_owners: bool,
    /// The mode of all entries but links; otherwise the archive says it.
    pub mode: Option<u32>,
}

impl Options {
    /// Returns the owner that an entry gets wherever it is.
    fn owner_of(&self, header: &Header) -> Option<Owner> {
        self.owner.or_else(|| self.keep_owners.then(|| Owner::of_archive(header.owner)))
    }

    fn mode_of(&self, header: &Header) -> u32 {
        self.mode.unwrap_or(header.mode)
    }
}

struct Made {
    name: PathBuf,
    mode: u32,
    mtime: i64,
}

/// Unpacks everything into `path`, which is created if it does not exist.
///
/// Entries unpacked before an error remain.
pub fn unpack(agent: &Agent, acting: &Ids, input: impl Read, path: &Path, options: Options) -> Result<(), FilesError> {
    let fault = |e: Errno| Fault::errno("unpack into", path, e);
    let is_new = make_all(agent, acting, path)?;
    let root = openat2(CWD, path, PATH_FLAGS, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(fault)?;
    if let Some(owner) = options.owner.filter(|_| is_new) {
        let (uid, gid) = owner.ids();
        chownat(&root, "", uid, gid, AtFlags::EMPTY_PATH).map_err(fault)?;
    }
    let mut target = Target { path, root, agent, acting, options, made: Vec::new(), last: None };
    let mut archive = Archive::new(input);
    while let Some(entry) = archive.next()? {
        let name = inner(&entry.header.name)?;
        if name.as_os_str().is_empty() {
            let is_first = target.made.is_empty();
            if is_new && is_first && entry.header.kind == kind::DIRECTORY {
                if let Some(owner) = options.owner_of(&entry.header) {
                    let (uid, gid) = owner.ids();
                    chownat(&target.root, "", uid, gid, AtFlags::EMPTY_PATH).map_err(fault)?;
                }
                target.made.push(Made { name, mode: options.mode_of(&entry.header), mtime: entry.header.mtime });
            }
            continue;
        }
        target.leave(&name)?;
        target.take(&mut archive, &entry, &name)?;
    }
    while let Some(made) = target.made.pop() {
        target.settle(&made).map_err(|e| target.fault(&made.name, e))?;
    }
    Ok(())
}

/// Returns the name of an entry relative to the target, without `.` and doubled slashes.
fn inner(name: &[u8]) -> Result<PathBuf, FilesError> {
    let text = || crate::paths::to_text(OsStr::from_bytes(name));
    let refused = |why: &str| Err(FilesError::Invalid(format!("the entry '{}' of the archive {why}", text())));
    if name.len() > MAX_PATH_BYTES {
        return refused("has too long a name");
    }
    if name.contains(&0) {
        return refused("has a NUL character in its name");
    }
    if name.starts_with(b"/") || name.split(|b| *b == b'/').any(|part| part == b"..") {
        return refused("leads outside of the target: names must be relative and without '..'");
    }
    let parts = name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
    Ok(parts.map(OsStr::from_bytes).collect())
}

impl Target<'_> {
    fn fault(&self, name: &Path, errno: Errno) -> FilesError {
        if matches!(errno, Errno::XDEV | Errno::LOOP) {
            let text = crate::paths::to_text(name);
            return FilesError::Invalid(format!(
                "the entry '{text}' of the archive leads outside of the target by a link"
            ));
        }
        Fault::errno("unpack", self.path.join(name), errno).into()
    }

    fn beneath(&self, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        // Nothing is outside of the whole disk, so absolute links, as of `/var/run`, lead to what they say there.
        let scope = if self.path == Path::new("/") { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
        let resolve = scope | ResolveFlags::NO_MAGICLINKS;
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        openat2(&self.root, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Opens the directory of an entry and creates missing parents.
    fn parent(&mut self, name: &Path) -> Result<(), FilesError> {
        let parent = name.parent().unwrap_or(Path::new(""));
        if self.last.as_ref().is_some_and(|(last, _, _)| last == parent) {
            return Ok(());
        }
        let opened = match self.beneath(parent, PATH_FLAGS) {
            Err(Errno::NOENT) => {
                let mut directory = self.beneath(Path::new(""), PATH_FLAGS).map_err(|e| self.fault(name, e))?;
                let mut whole = PathBuf::new();
                for part in parent {
                    whole.push(part);
                    match mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {
                            let owner = self.owner_in(&directory);
                            own(&directory, part, owner).map_err(|e| self.fault(name, e))?;
                        }
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(self.fault(name, errno)),
                    }
                    directory = self.beneath(&whole, PATH_FLAGS).map_err(|e| self.fault(name, e))?;
                }
                directory
            }
            other => other.map_err(|e| self.fault(name, e))?,
        };
        let owner = self.owner_in(&opened);
        self.last = Some((parent.to_owned(), opened, owner));
        Ok(())
    }

    /// Returns the owner of new entries of a directory; `None`: the acting user.
    fn owner_in(&self, directory: impl AsFd) -> Option<Owner> {
        self.options.owner.or_else(|| Owner::of_new_entry(self.agent, self.acting, directory))
    }

    /// Returns the owner of an entry that replaces a file of `former`.
    fn owner_after(&self, header: &Header, former: Option<Owner>, usual: Option<Owner>) -> Option<Owner> {
        self.options.owner_of(header).or(former.filter(|_| self.acting.uid == 0)).or(usual)
    }

    fn take(&mut self, archive: &mut Archive<impl Read>, entry: &Entry, name: &Path) -> Result<(), FilesError> {
        let header = &entry.header;
        if header.kind == kind::DIRECTORY {
            return self.directory(entry, name);
        }
        self.parent(name)?;
        let Some((_, parent, usual)) = &self.last else { return Ok(()) };
        let last = name.file_name().unwrap_or_default();
        let times = Timestamps { last_access: omitted(), last_modification: at(header.mtime) };
        let outcome = match header.kind {
            0 | kind::FILE | kind::CONTIGUOUS | kind::SPARSE => return self.file(archive, entry, name),
            kind::HARD_LINK => return self.hard_link(entry, name),
            kind::SYMLINK => {
                let to = OsString::from_vec(header.link.clone());
                making_way(parent, last, || symlinkat(&to, parent, last))
            }
            kind::FIFO => self.node(parent, last, FileType::Fifo, entry),
            kind::CHAR_DEVICE => self.node(parent, last, FileType::CharacterDevice, entry),
            kind::BLOCK_DEVICE => self.node(parent, last, FileType::BlockDevice, entry),
            other => {
                let text = crate::paths::to_text(name);
                let other = char::from(other).escape_default();
                return Err(FilesError::Invalid(format!(
                    "the entry '{text}' of the archive has the unknown type '{other}'"
                )));
            }
        };
        outcome
            .and_then(|former| own(parent, last, self.owner_after(header, former, *usual)))
            .and_then(|()| utimensat(parent, last, &times, AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|e| self.fault(name, e))
    }

    fn file(&self, archive: &mut Archive<impl Read>, entry: &Entry, name: &Path) -> Result<(), FilesError> {
        let Some((_, parent, usual)) = &self.last else { return Ok(()) };
        let last = name.file_name().unwrap_or_default();
        let failed = |errno| self.fault(name, errno);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut opened = None;
        let former = making_way(parent, last, || {
            opened = Some(openat(parent, last, flags, Mode::from_raw_mode(0o600))?);
            Ok(())
        })
        .map_err(failed)?;
        let Some(file) = opened.map(File::from) else { return Ok(()) };
        let mut end = 0;
        archive.content::<FilesError>(entry, |at, bytes| {
            write_with_holes(&file, at, bytes, &mut end)
                .map_err(|e| Fault::new("unpack", self.path.join(name), e).into())
        })?;
        if end < entry.size {
            ftruncate(&file, entry.size).map_err(failed)?;
        }
        if let Some(owner) = self.owner_after(&entry.header, former, *usual) {
            let (uid, gid) = owner.ids();
            fchown(&file, uid, gid).map_err(failed)?;
        }
        fchmod(&file, Mode::from_raw_mode(self.options.mode_of(&entry.header))).map_err(failed)?;
        futimens(&file, &Timestamps { last_access: omitted(), last_modification: at(entry.header.mtime) })
            .map_err(failed)
    }

    fn node(&self, parent: &OwnedFd, last: &OsStr, kind: FileType, entry: &Entry) -> Result<Option<Owner>, Errno> {
        let header = &entry.header;
        let device = makedev(header.device.0, header.device.1);
        let mode = Mode::from_raw_mode(self.options.mode_of(header));
        making_way(parent, last, || mknodat(parent, last, kind, mode, device))
    }

    fn hard_link(&mut self, entry: &Entry, name: &Path) -> Result<(), FilesError> {
        let first = inner(&entry.header.link)?;
        if first == name {
            return Ok(());
        }
        let above = first.parent().unwrap_or(Path::new(""));
        let source = self.beneath(above, PATH_FLAGS).map_err(|e| self.fault(name, e))?;
        let first = first.file_name().unwrap_or_default();
        let Some((_, parent, _)) = &self.last else { return Ok(()) };
        let last = name.file_name().unwrap_or_default();
        making_way(parent, last, || linkat(&source, first, parent, last, AtFlags::empty()))
            .map(drop)
            .map_err(|e| self.fault(name, e))
    }

    fn directory(&mut self, entry: &Entry, name: &Path) -> Result<(), FilesError> {
        self.parent(name)?;
        let Some((_, parent, usual)) = &self.last else { return Ok(()) };
        let last = name.file_name().unwrap_or_default();
        let header = &entry.header;
        let mode = self.options.mode_of(header);
        match mkdirat(parent, last, Mode::from_raw_mode(mode | 0o700)) {
            Ok(()) => {
                let owner = self.options.owner_of(header).or(*usual);
                own(parent, last, owner).map_err(|e| self.fault(name, e))?;
                self.made.push(Made { name: name.to_owned(), mode, mtime: header.mtime });
                Ok(())
            }
            // An existing directory is not changed, also behind a link within the target.
            Err(Errno::EXIST) => self.beneath(name, PATH_FLAGS).map(drop).map_err(|e| self.fault(name, e)),
            Err(errno) => Err(self.fault(name, errno)),
        }
    }

    /// Sets mode and time of the directories that do not contain `name`.
    fn leave(&mut self, name: &Path) -> Result<(), FilesError> {
        while let Some(made) = self.made.pop_if(|made| !name.starts_with(&made.name)) {
            self.settle(&made).map_err(|e| self.fault(&made.name, e))?;
        }
        Ok(())
    }

    fn settle(&self, made: &Made) -> Result<(), Errno> {
        let directory = match self.beneath(&made.name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            // It was removed meanwhile, or the archive put something else in its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            other => other?,
        };
        let times = Timestamps { last_access: omitted(), last_modification: at(made.mtime) };
        futimens(&directory, &times)?;
        fchmod(&directory, Mode::from_raw_mode(made.mode))
    }
}

/// Sets the owner of a new entry.
fn own(directory: impl AsFd, name: &OsStr, owner: Option<Owner>) -> Result<(), Errno> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = owner.ids();
    chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

fn omitted() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }
}

fn at(seconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: 0 }
}

/// Creates an entry. Whatever exists there is removed first, and its owner returned; a directory remains and
/// is an error.
fn making_way(
    parent: &OwnedFd,
    name: &OsStr,
    mut make: impl FnMut() -> Result<(), Errno>,
) -> Result<Option<Owner>, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            let about = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(about.st_mode) == FileType::Directory {
                return Err(Errno::ISDIR);
            }
            unlinkat(parent, name, AtFlags::empty())?;
            make().map(|()| Some(Owner::of_file(&about)))
        }
        other => other.map(|()| None),
    }
}

/// Writes bytes at an offset, skipping whole blocks of zeros. `end` becomes the end of what was written.
fn write_with_holes(file: &File, at: u64, bytes: &[u8], end: &mut u64) -> std::io::Result<()> {
    let mut start = 0;
    while start < bytes.len() {
        let is_zero = |piece: &[u8]| piece.len() == HOLE && piece.iter().all(|b| *b == 0);
        let zeros: usize = bytes[start..].chunks(HOLE).take_while(|p| is_zero(p)).map(<[u8]>::len).sum();
        start += zeros;
        let data: usize = bytes[start..].chunks(HOLE).take_while(|p| !is_zero(p)).map(<[u8]>::len).sum();
        if data > 0 {
            file.write_all_at(&bytes[start..start + data], at + start as u64)?;
            *end = at + (start + data) as u64;
        }
        start += data;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below() {
        assert_eq!(inner(b"./a//b/./c/").expect("good"), Path::new("a/b/c"));
        assert_eq!(inner(b"./").expect("good"), Path::new(""));
        assert_eq!(inner(b"a..b/..c").expect("good"), Path::new("a..b/..c"));
        for name in [&b"/etc"[..], b"..", b"a/../../b", b"a\0b", &[b'x'; 5000]] {
            assert!(inner(name).is_err());
        }
    }
}
