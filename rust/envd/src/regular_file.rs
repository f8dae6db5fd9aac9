//! Files of the guest that are read again when they change.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use sys::rustix::fs::OFlags;

/// Identifies the content of a file: device, inode, size, and change time.
pub type Version = (u64, u64, u64, i64, i64);

/// Returns the version of a file.
pub fn version_of(about: &Metadata) -> Version {
    (about.dev(), about.ino(), about.size(), about.ctime(), about.ctime_nsec())
}

/// Opens a regular file. Anything else is refused without waiting for it: a pipe would never end.
pub fn open_regular(path: &str) -> io::Result<(File, Metadata)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let about = file.metadata()?;
    if about.is_file() { Ok((file, about)) } else { Err(io::ErrorKind::InvalidInput.into()) }
}
