//! Packs a directory as an archive while it is read: memory grows only with its depth.
//!
//! GNU format, because it supports any bytes in names, any length and sparse files, and every tar can read
//! it. Names are relative to the directory, which is the first entry, `./`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use sys::rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fstat, fstatfs, major, minor, openat,
    openat2, readlinkat, seek, statat,
};
use sys::rustix::io::Errno;

use crate::agent::Agent;
use crate::files::tar::header::{BLOCK, Header, Segment, kind};
use crate::filesystem::fault::Fault;

/// Depth of nested directories; each has an open descriptor while it is read.
const MAX_DEPTH: usize = 512;
/// Files with several hard links that are remembered. Beyond that their content is written again.
const MAX_LINKED: usize = 65_536;
/// Segments of a sparse file. One with more is written in full, with zeros for the holes.
const MAX_SEGMENTS: usize = 16_384;
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Longest name in a header.
const NAME_LEN: usize = 100;
const LONG_NAME: &[u8] = b"././@LongLink";
/// Virtual file systems of the kernel: proc, sysfs, cgroup, cgroup2, devpts, debugfs, tracefs, securityfs,
/// bpf. Of these only the empty directory is written.
const VIRTUAL_FILE_SYSTEMS: [u64; 9] =
    [0x9FA0, 0x6265_6572, 0x0027_E0EB, 0x6367_7270, 0x1CD1, 0x6462_6720, 0x7472_6163, 0x7363_6673, 0xCAFE_4A11];

/// A directory that is being read.
struct Level {
    directory: OwnedFd,
    names: Dir,
    device: u64,
    /// Its name in the archive, with a trailing slash.
    name: Vec<u8>,
}

/// A directory that can be packed, or a file.
pub struct Source {
    path: PathBuf,
    top: Top,
    about: Stat,
    one_file_system: bool,
}

enum Top {
    Directory(Level),
    /// With its name in the archive.
    File(File, OsString),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Opens the directory, or with the name of an `entry` a file: errors that can be detected early occur here,
/// before the first byte. With `one_file_system` directories of others are packed without their content.
pub fn open(path: &Path, entry: Option<OsString>, one_file_system: bool) -> Result<Source, Fault> {
    let fault = |e: Errno| Fault::errno("pack", path, e);
    // A FIFO is opened without waiting for whoever writes it, and then refused.
    let kind = if entry.is_some() { OFlags::NONBLOCK | OFlags::NOCTTY } else { OFlags::DIRECTORY };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | kind;
    let opened = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(fault)?;
    let about = fstat(&opened).map_err(fault)?;
    let top = match entry {
        None => {
            let names = Dir::read_from(&opened).map_err(fault)?;
            Top::Directory(Level { directory: opened, names, device: about.st_dev, name: Vec::new() })
        }
        Some(name) if FileType::from_raw_mode(about.st_mode) == FileType::RegularFile => {
            Top::File(File::from(opened), name)
        }
        Some(_) => return Err(fault(Errno::INVAL)),
    };
    Ok(Source { path: path.to_owned(), top, about, one_file_system })
}

/// Writes the whole archive.
pub fn pack(agent: &Agent, source: Source, output: &mut impl Write) -> Result<(), Fault> {
    let Source { path, top, about, one_file_system } = source;
    let mut packer = Packer { agent, root: &path, output, linked: HashMap::new(), one_file_system };
    let top = match top {
        Top::Directory(level) => level,
        Top::File(file, name) => {
            packer.opened(&file, &about, name.as_bytes()).map_err(|e| packer.fault(b"", e))?;
            return packer.output.write_all(&[0; 2 * BLOCK]).map_err(|e| packer.fault(b"", e));
        }
    };
    let first = packer.head(kind::DIRECTORY, b"./", &about);
    packer.write(first).map_err(|e| packer.fault(b"", e))?;
    let mut levels = vec![top];
    while let Some(level) = levels.last_mut() {
        let Some(found) = level.names.next() else {
            levels.pop();
            continue;
        };
        let found = found.map_err(|e| packer.fault(&level.name, e.into()))?;
        let name = found.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let whole = [level.name.as_slice(), name].concat();
        let deeper = packer.entry(level, OsStr::from_bytes(name), &whole).map_err(|e| packer.fault(&whole, e))?;
        if let Some(deeper) = deeper {
            if levels.len() >= MAX_DEPTH {
                return Err(Fault::errno("pack", path.join(OsStr::from_bytes(&whole)), Errno::NAMETOOLONG));
            }
            levels.push(deeper);
        }
    }
    packer.output.write_all(&[0; 2 * BLOCK]).map_err(|e| packer.fault(b"", e))
}

struct Packer<'a, W> {
    agent: &'a Agent,
    root: &'a Path,
    output: &'a mut W,
    /// First names of files with several hard links, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    one_file_system: bool,
}

impl<W: Write> Packer<'_, W> {
    fn fault(&self, name: &[u8], error: io::Error) -> Fault {
        Fault::new("pack", self.root.join(OsStr::from_bytes(name)), error)
    }

    /// Writes one entry; returns a directory that is to be entered.
    fn entry(&mut self, level: &Level, name: &OsStr, whole: &[u8]) -> io::Result<Option<Level>> {
        let about = match statat(&level.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It was removed while the directory was read.
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let kind = match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory => return self.directory(level, name, whole),
            FileType::RegularFile => return self.file(level, name, whole).map(|()| None),
            FileType::Symlink => kind::SYMLINK,
            FileType::Fifo => kind::FIFO,
            FileType::CharacterDevice => kind::CHAR_DEVICE,
            FileType::BlockDevice => kind::BLOCK_DEVICE,
            // A socket is useless without the program that listens on it, and archives have no type for it.
            _ => return Ok(None),
        };
        let mut header = self.head(kind, whole, &about);
        if kind == kind::SYMLINK {
            match readlinkat(&level.directory, name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                target => header.link = target?.into_bytes(),
            }
        }
        self.write(header)?;
        Ok(None)
    }

    fn directory(&mut self, level: &Level, name: &OsStr, whole: &[u8]) -> io::Result<Option<Level>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(&level.directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => other?,
        };
        let about = fstat(&directory)?;
        let name = [whole, b"/"].concat();
        self.write(self.head(kind::DIRECTORY, &name, &about))?;
        let is_view = about.st_dev != level.device
            && (self.one_file_system || VIRTUAL_FILE_SYSTEMS.contains(&(fstatfs(&directory)?.f_type as u64)));
        if is_view {
            return Ok(None);
        }
        let names = Dir::read_from(&directory)?;
        Ok(Some(Level { directory, names, device: about.st_dev, name }))
    }

    fn file(&mut self, level: &Level, name: &OsStr, whole: &[u8]) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match openat(&level.directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
            other => File::from(other?),
        };
        let about = fstat(&file)?;
        if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        self.opened(&file, &about, whole)
    }

    /// Writes the entry of an open file with its content.
    fn opened(&mut self, file: &File, about: &Stat, whole: &[u8]) -> io::Result<()> {
        let mut header = self.head(kind::FILE, whole, about);
        if about.st_nlink > 1 {
            let identity = (about.st_dev, about.st_ino);
            if let Some(first) = self.linked.get(&identity) {
                header.kind = kind::HARD_LINK;
                header.link.clone_from(first);
                return self.write(header);
            }
            if self.linked.len() < MAX_LINKED {
                self.linked.insert(identity, whole.to_vec());
            }
        }
        let size = about.st_size as u64;
        // Fewer blocks than its length requires: there are holes.
        let segments = if (about.st_blocks as u64) * 512 < size { pieces(file, size)? } else { None };
        if let Some(segments) = segments {
            header.kind = kind::SPARSE;
            header.size = segments.iter().map(|s| s.length).sum();
            self.long_names(&header)?;
            for block in header.sparse_blocks(size, &segments) {
                self.output.write_all(&block)?;
            }
            self.content(file, &segments)?;
            return self.pad(header.size);
        }
        header.size = size;
        self.write(header)?;
        self.content(file, &[Segment { offset: 0, length: size }])?;
        self.pad(size)
    }

    /// Writes the content. A file that becomes shorter meanwhile is an error: the archive would contain bytes
    /// that were never in it.
    fn content(&mut self, file: &File, segments: &[Segment]) -> io::Result<()> {
        let longest = segments.iter().map(|s| s.length).max().unwrap_or(0);
        let mut buffer = vec![0; CHUNK.min(usize::try_from(longest).unwrap_or(CHUNK))];
        for segment in segments {
            let (mut at, mut left) = (segment.offset, segment.length);
            while left > 0 {
                let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                file.read_exact_at(&mut buffer[..length], at)?;
                self.output.write_all(&buffer[..length])?;
                at += length as u64;
                left -= length as u64;
            }
        }
        Ok(())
    }

    fn pad(&mut self, stored: u64) -> io::Result<()> {
        let rest = stored as usize % BLOCK;
        if rest > 0 { self.output.write_all(&[0; BLOCK][rest..]) } else { Ok(()) }
    }

    fn head(&self, kind: u8, name: &[u8], about: &Stat) -> Header {
        let (uid, gid) = (about.st_uid, about.st_gid);
        Header {
            kind,
            name: name.to_vec(),
            link: Vec::new(),
            mode: about.st_mode & 0o7777,
            owner: (uid, gid),
            owner_names: (self.agent.users.user_name(uid), self.agent.users.group_name(gid)),
            size: 0,
            mtime: about.st_mtime,
            device: (major(about.st_rdev), minor(about.st_rdev)),
        }
    }

    fn write(&mut self, header: Header) -> io::Result<()> {
        self.long_names(&header)?;
        self.output.write_all(&header.block())
    }

    fn long_names(&mut self, header: &Header) -> io::Result<()> {
        for (kind, name) in [(kind::LONG_LINK, &header.link), (kind::LONG_NAME, &header.name)] {
            if name.len() <= NAME_LEN {
                continue;
            }
            let size = name.len() as u64 + 1;
            let before = Header { kind, name: LONG_NAME.to_vec(), size, ..Header::default() };
            self.output.write_all(&before.block())?;
            self.output.write_all(name)?;
            self.output.write_all(&[0])?;
            self.pad(size)?;
        }
        Ok(())
    }
}

/// Returns the segments of a file that contain data, with an empty one at its end as GNU tar expects. `None`:
/// not worthwhile.
fn pieces(file: impl AsFd, size: u64) -> io::Result<Option<Vec<Segment>>> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // This file system does not support it.
            Err(Errno::INVAL) => return Ok(None),
            other => other?,
        };
        let end = seek(&file, SeekFrom::Hole(start))?.min(size);
        if start >= size {
            break;
        }
        segments.push(Segment { offset: start, length: end - start });
        if segments.len() >= MAX_SEGMENTS {
            return Ok(None);
        }
        at = end;
    }
    segments.push(Segment { offset: size, length: 0 });
    Ok(Some(segments))
}
