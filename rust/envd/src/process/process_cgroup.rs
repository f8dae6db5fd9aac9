//! A cgroup for each process, so that a kill reaches all its descendants, whatever their session.
//!
//! Creating a cgroup takes time, so empty ones are reused. Only in a guest with cgroup v2; elsewhere
//! descendants are found by session and parent ([`crate::process::signal`]). All have one parent, so that
//! [`crate::process::freezer`] reaches everything.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use crate::agent::lock;

/// The root cgroup.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The parent of all cgroups of processes.
pub const PARENT: &str = "/sys/fs/cgroup/wrenn";
/// The shared cgroup of processes that have none of their own.
const OVERFLOW: &str = "overflow";
/// Limit on cgroups; beyond it, processes share one.
const MAX_CGROUPS: usize = 1024;
/// Occupied cgroups that are checked when a free one is needed.
const MAX_OCCUPIED_CHECKS: usize = 4;

/// One cgroup.
#[derive(Debug)]
pub struct ProcessCgroup {
    /// Its directory, in which a process is started.
    directory: File,
    /// `cgroup.events`, which reports whether it contains processes.
    events: File,
    /// `memory.events`, which counts OOM kills; `None` without the memory controller.
    memory_events: Option<File>,
    /// The count before the current process was started.
    oom_kills_before: u64,
    /// Its path.
    path: PathBuf,
}

/// The pool of cgroups.
#[derive(Debug, Default)]
pub struct ProcessCgroups {
    /// The cgroups that are not in use, and the number of all.
    state: Mutex<State>,
    /// The directory of [`OVERFLOW`], once it was needed.
    overflow: OnceLock<File>,
}

#[derive(Debug, Default)]
struct State {
    /// Empty.
    free: Vec<ProcessCgroup>,
    /// Their process has ended, but some of its descendants have not.
    occupied: std::collections::VecDeque<ProcessCgroup>,
    /// The number of all cgroups.
    made: usize,
}

impl ProcessCgroup {
    fn make(number: usize) -> io::Result<Self> {
        let path = Path::new(PARENT).join(number.to_string());
        fs::create_dir(&path)?;
        let directory = File::open(&path)?;
        let events = File::open(path.join("cgroup.events"))?;
        let memory_events = File::open(path.join("memory.events")).ok();
        Ok(Self { directory, events, memory_events, oom_kills_before: 0, path })
    }

    /// The directory in which a process is started.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Kills all processes in it.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether there was an OOM kill in it since [`ProcessCgroups::take`].
    pub fn ran_out_of_memory(&self) -> bool {
        self.oom_kills() > self.oom_kills_before
    }

    fn oom_kills(&self) -> u64 {
        let mut text = [0_u8; 256];
        let length = self.memory_events.as_ref().and_then(|f| f.read_at(&mut text, 0).ok()).unwrap_or(0);
        oom_kills_in(&text[..length])
    }

    fn is_empty(&self) -> bool {
        let mut text = [0_u8; 64];
        let length = self.events.read_at(&mut text, 0).unwrap_or(0);
        text[..length].starts_with(b"populated 0")
    }
}

impl ProcessCgroups {
    /// Returns an empty cgroup; `None` if the limit is reached, or if there are no cgroups.
    pub fn take(&self) -> Option<ProcessCgroup> {
        let mut taken = self.take_empty()?;
        taken.oom_kills_before = taken.oom_kills();
        Some(taken)
    }

    fn take_empty(&self) -> Option<ProcessCgroup> {
        let mut state = lock(&self.state);
        if let Some(free) = state.free.pop() {
            return Some(free);
        }
        for _ in 0..MAX_OCCUPIED_CHECKS.min(state.occupied.len()) {
            let oldest = state.occupied.pop_front()?;
            if oldest.is_empty() {
                return Some(oldest);
            }
            state.occupied.push_back(oldest);
        }
        if state.made >= MAX_CGROUPS {
            return None;
        }
        let made = ProcessCgroup::make(state.made).ok()?;
        state.made += 1;
        Some(made)
    }

    /// Returns the shared cgroup. `None` if there are no cgroups.
    pub fn overflow(&self) -> Option<BorrowedFd<'_>> {
        if self.overflow.get().is_none() {
            let path = Path::new(PARENT).join(OVERFLOW);
            // It may already exist; if it cannot be created, opening it fails.
            let _ = fs::create_dir(&path);
            let _ = self.overflow.set(File::open(path).ok()?);
        }
        self.overflow.get().map(|directory| directory.as_fd())
    }

    /// Returns the cgroup of a process that has ended to the pool.
    pub fn give_back(&self, process_cgroup: ProcessCgroup) {
        let mut state = lock(&self.state);
        if process_cgroup.is_empty() {
            state.free.push(process_cgroup);
        } else {
            state.occupied.push_back(process_cgroup);
        }
    }
}

/// Parses the value of `oom_kill` in a `memory.events`.
fn oom_kills_in(text: &[u8]) -> u64 {
    let text = str::from_utf8(text).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_for_want_of_memory_are_counted_and_other_events_are_not() {
        assert_eq!(oom_kills_in(b"low 0\nhigh 0\nmax 4\noom 1\noom_kill 3\noom_group_kill 5\n"), 3);
        assert_eq!(oom_kills_in(b""), 0);
    }
}
