//! Errors of file operations, and their representation for clients.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use http::StatusCode;
use sys::rustix::io::Errno;
use wire::code::{Code, ConnectError, Reason};

use crate::paths;

/// A failed file operation.
#[derive(Debug)]
pub struct Fault {
    /// The attempted operation, as a verb.
    action: &'static str,
    /// The file.
    path: PathBuf,
    /// The cause.
    source: io::Error,
}

impl Fault {
    /// An error of the kernel.
    pub fn new(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// An error detected by the agent, as the kernel would report it.
    pub fn errno(action: &'static str, path: impl AsRef<Path>, errno: Errno) -> Self {
        Self::new(action, path, errno)
    }

    /// Whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the kernel refuses this operation there, though another way may succeed.
    pub fn is_refusal(&self) -> bool {
        matches!(self.errno_of(), Some(Errno::BUSY | Errno::PERM | Errno::ACCESS | Errno::XDEV))
    }

    /// Whether the connection was closed by the other end.
    pub fn is_cut_off(&self) -> bool {
        self.source.kind() == io::ErrorKind::ConnectionAborted
    }

    fn errno_of(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }

    /// Returns the Connect code.
    pub fn code(&self) -> Code {
        match self.errno_of() {
            Some(Errno::NOENT) => Code::NotFound,
            Some(Errno::EXIST) => Code::AlreadyExists,
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Code::PermissionDenied,
            Some(
                Errno::NOTDIR
                | Errno::ISDIR
                | Errno::LOOP
                | Errno::NAMETOOLONG
                | Errno::INVAL
                | Errno::NXIO
                | Errno::XDEV
                | Errno::NODEV
                | Errno::OPNOTSUPP
                | Errno::ILSEQ,
            ) => Code::InvalidArgument,
            Some(Errno::NOTEMPTY | Errno::BUSY | Errno::TXTBSY) => Code::FailedPrecondition,
            Some(
                Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::MLINK,
            ) => Code::ResourceExhausted,
            None if self.source.kind() == io::ErrorKind::ResourceBusy => Code::Unavailable,
            _ => Code::Internal,
        }
    }

    /// Returns the reason that refines the code.
    fn reason(&self) -> Option<Reason> {
        matches!(self.errno_of(), Some(Errno::NOSPC | Errno::DQUOT)).then_some(Reason::StorageFull)
    }

    /// Returns the status of a plain HTTP response.
    pub fn status(&self) -> StatusCode {
        match self.reason() {
            Some(Reason::StorageFull) => StatusCode::INSUFFICIENT_STORAGE,
            None => StatusCode::from_u16(self.code().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = paths::to_text(&self.path);
        match self.errno_of() {
            Some(Errno::NOENT) => write!(f, "path '{path}' does not exist (cannot {} it)", self.action),
            Some(Errno::NOSPC | Errno::DQUOT) => write!(f, "not enough disk space to {} '{path}'", self.action),
            // It is not about this path: see `threads::NoThread`.
            None if self.source.kind() == io::ErrorKind::ResourceBusy => self.source.fmt(f),
            _ => write!(f, "cannot {} '{path}': {}", self.action, self.source),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<Fault> for ConnectError {
    fn from(fault: Fault) -> Self {
        Self::new(fault.code(), fault.to_string()).because(fault.reason())
    }
}
