//! Reaps children.

use std::io;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal.
    Signaled {
        /// Its number.
        signal: i32,
        /// Whether a core was written.
        core: bool,
    },
}

impl Ended {
    fn from_status(status: libc::c_int) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signaled { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }
}

/// Reaps any child that has ended. `None`: there is none at the moment.
pub fn reap_any() -> io::Result<Option<(u32, Ended)>> {
    wait(-1, libc::WNOHANG)
}

/// Waits for one child.
pub fn wait_for(pid: u32) -> io::Result<Ended> {
    match wait(pid as libc::pid_t, 0)? {
        Some((_, ended)) => Ok(ended),
        None => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn wait(pid: libc::pid_t, options: libc::c_int) -> io::Result<Option<(u32, Ended)>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is live for the call.
        let found = unsafe { libc::waitpid(pid, &raw mut status, options) };
        if found > 0 {
            return Ok(Some((found as u32, Ended::from_status(status))));
        }
        if found == 0 {
            return Ok(None);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) if pid == -1 => return Ok(None),
            _ => return Err(error),
        }
    }
}
