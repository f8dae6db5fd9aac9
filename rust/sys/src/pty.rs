//! Terminals.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::pty::{OpenptFlags, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::check;

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Pty {
    /// The agent's end, non-blocking.
    pub master: OwnedFd,
    /// The program's end.
    pub slave: OwnedFd,
}

/// Creates a terminal that belongs to `owner`.
pub fn open(owner: Option<u32>, columns: u16, rows: u16) -> io::Result<Pty> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    unlockpt(&master)?;
    let open_flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: an open terminal and plain flags; the answer is a new descriptor. It needs no path, so it works
    // whatever /dev/pts holds.
    let slave = check(unsafe { libc::syscall(libc::SYS_ioctl, master.as_raw_fd(), libc::TIOCGPTPEER, open_flags) })?;
    // SAFETY: `slave` is new and nobody else's.
    let slave = unsafe { OwnedFd::from_raw_fd(slave as i32) };
    if let Some(uid) = owner {
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(uid)), None)?;
    }
    resize(&master, columns, rows)?;
    Ok(Pty { master, slave })
}

/// Sets the size and notifies the foreground processes.
pub fn resize(master: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, size)?)
}
