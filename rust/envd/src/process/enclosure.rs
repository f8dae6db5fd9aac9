//! A cgroup for each process, so that a kill reaches everything that came from it, whatever session it went to.
//!
//! Making a cgroup takes time, so those that are empty again are used again. Only in a guest with cgroup v2; elsewhere
//! descendants are found by session and parent ([`crate::process::signal`]). All of them are below one parent, so that
//! [`crate::process::freezer`] reaches everything.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use crate::agent::lock;

/// The topmost cgroup.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The parent of all.
pub const PARENT: &str = "/sys/fs/cgroup/wrenn";
/// The cgroup of those that have none of their own.
const OVERFLOW: &str = "overflow";
/// Cgroups kept; beyond, processes share one.
const MAX_ENCLOSURES: usize = 1024;
/// Occupied ones looked at when a free one is wanted.
const MAX_LOOKS: usize = 4;

/// One cgroup.
#[derive(Debug)]
pub struct Enclosure {
    /// Its directory, to be born in.
    directory: File,
    /// `cgroup.events`, which says whether anybody is in it.
    events: File,
    /// `memory.events`, which counts the kernel's kills for want of memory; `None` without the memory controller.
    memory_events: Option<File>,
    /// What it counted before the process of now.
    oom_kills_before: u64,
    /// Where it is.
    path: PathBuf,
}

/// The cgroups of processes that have ended.
#[derive(Debug, Default)]
pub struct Enclosures {
    /// Those and how many were made in all.
    state: Mutex<State>,
    /// The directory of [`OVERFLOW`], once it was wanted.
    overflow: OnceLock<File>,
}

#[derive(Debug, Default)]
struct State {
    /// Empty.
    free: Vec<Enclosure>,
    /// Their process has ended, but something that came from it has not.
    occupied: std::collections::VecDeque<Enclosure>,
    /// How many there are in all.
    made: usize,
}

impl Enclosure {
    fn make(number: usize) -> io::Result<Self> {
        let path = Path::new(PARENT).join(number.to_string());
        fs::create_dir(&path)?;
        let directory = File::open(&path)?;
        let events = File::open(path.join("cgroup.events"))?;
        let memory_events = File::open(path.join("memory.events")).ok();
        Ok(Self { directory, events, memory_events, oom_kills_before: 0, path })
    }

    /// To be born in.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Kills everything in it.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether the kernel has killed something in it for want of memory since [`Enclosures::take`].
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

impl Enclosures {
    /// An empty cgroup; `None` when there can be no more, or none at all.
    pub fn take(&self) -> Option<Enclosure> {
        let mut taken = self.take_empty()?;
        taken.oom_kills_before = taken.oom_kills();
        Some(taken)
    }

    fn take_empty(&self) -> Option<Enclosure> {
        let mut state = lock(&self.state);
        if let Some(free) = state.free.pop() {
            return Some(free);
        }
        for _ in 0..MAX_LOOKS.min(state.occupied.len()) {
            let oldest = state.occupied.pop_front()?;
            if oldest.is_empty() {
                return Some(oldest);
            }
            state.occupied.push_back(oldest);
        }
        if state.made >= MAX_ENCLOSURES {
            return None;
        }
        let made = Enclosure::make(state.made).ok()?;
        state.made += 1;
        Some(made)
    }

    /// To be born in for want of an own one. `None` when there are no cgroups at all.
    pub fn overflow(&self) -> Option<BorrowedFd<'_>> {
        if self.overflow.get().is_none() {
            let path = Path::new(PARENT).join(OVERFLOW);
            // It may be there already; if not, opening it fails.
            let _ = fs::create_dir(&path);
            let _ = self.overflow.set(File::open(path).ok()?);
        }
        self.overflow.get().map(|directory| directory.as_fd())
    }

    /// Takes back the cgroup of a process that has ended.
    pub fn give_back(&self, enclosure: Enclosure) {
        let mut state = lock(&self.state);
        if enclosure.is_empty() {
            state.free.push(enclosure);
        } else {
            state.occupied.push_back(enclosure);
        }
    }
}

/// The count behind `oom_kill` in the text of a `memory.events`.
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
