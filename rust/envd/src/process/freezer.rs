//! All programs of users stopped at one moment, for a snapshot, by the freezer of cgroup v2.
//!
//! What root moved out of `/sys/fs/cgroup/wrenn` is not reached and runs on: it harms only its own sandbox.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sys::rustix;
use tokio::time::Instant;

use crate::agent::Mode;
use crate::process::enclosure::PARENT;

/// How long programs may take to stop. One that waits for a disk or for FUSE cannot be stopped before that is over.
const FREEZE_TIMEOUT: Duration = Duration::from_millis(300);
/// Looks before any sleep: each program only has to run once to stop, so giving the processor away mostly suffices.
const QUICK_LOOKS: usize = 16;
/// Between two looks after that. The kernel tells of the change too, but up to 10 ms late.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Stops and continues programs.
#[derive(Debug)]
pub struct Freezer {
    /// `None` in an ordinary process, and in a guest whose kernel has no cgroups.
    group: Option<Group>,
    /// From the order to stop to the order to go on. The snapshot of a stopped guest has it too.
    closed: AtomicBool,
}

/// The files of the cgroup above all programs of users, open from the start, so that stopping looks nothing up.
#[derive(Debug)]
struct Group {
    /// `cgroup.freeze`: takes the orders.
    order: File,
    /// `cgroup.events`: says whether everything below stands still.
    events: File,
}

impl Group {
    fn open() -> io::Result<Self> {
        match fs::create_dir(PARENT) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let parent = Path::new(PARENT);
        // Only for its count of kills for want of memory. Without it ends are told all the same, only less is known.
        for above in [parent.parent().unwrap_or(parent), parent] {
            if let Err(error) = fs::write(above.join("cgroup.subtree_control"), "+memory") {
                eprintln!("envd: kills for want of memory are not counted: {error}");
                break;
            }
        }
        let order = File::options().write(true).open(parent.join("cgroup.freeze"))?;
        Ok(Self { order, events: File::open(parent.join("cgroup.events"))? })
    }

    /// Whether `cgroup.events` has this line; no when it cannot be read.
    fn says(&self, line: &[u8]) -> bool {
        let mut text = [0_u8; 128];
        let length = self.events.read_at(&mut text, 0).unwrap_or(0);
        has_line(&text[..length], line)
    }

    fn is_still(&self) -> bool {
        self.says(b"frozen 1")
    }
}

fn has_line(text: &[u8], line: &[u8]) -> bool {
    text.split(|b| *b == b'\n').any(|l| l == line)
}

impl Freezer {
    /// Makes the cgroup above all programs, in a guest.
    pub fn new(mode: Mode) -> Self {
        let group = (mode == Mode::Pid1).then(Group::open).transpose().unwrap_or_else(|error| {
            eprintln!("envd: programs cannot be stopped for snapshots: {error}");
            None
        });
        Self { group, closed: AtomicBool::new(false) }
    }

    /// Whether programs were told to stop, so that none may be started.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether there may be programs of users.
    pub fn may_have_programs(&self) -> bool {
        self.group.as_ref().is_none_or(|group| !group.says(b"populated 0"))
    }

    /// Stops all programs. Returns whether all stand still; if not, the rest stops when it can. Twice is the same as
    /// once. Given up in between, programs are stopped all the same until [`Self::thaw`].
    pub async fn freeze(&self) -> bool {
        self.closed.store(true, Ordering::Relaxed);
        let Some(group) = &self.group else { return false };
        if let Err(error) = group.order.write_at(b"1", 0) {
            eprintln!("envd: cannot stop programs: {error}");
            return false;
        }
        for _ in 0..QUICK_LOOKS {
            if group.is_still() {
                return true;
            }
            rustix::thread::sched_yield();
        }
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        while self.is_closed() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if group.is_still() {
                return true;
            }
        }
        false
    }

    /// Lets all programs go on. Fine when none was stopped.
    pub fn thaw(&self) -> io::Result<()> {
        if self.is_closed() {
            if let Some(group) = &self.group {
                group.order.write_at(b"0", 0)?;
            }
            self.closed.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stillness_is_read_from_the_events() {
        assert!(has_line(b"populated 1\nfrozen 1\n", b"frozen 1"));
        assert!(!has_line(b"populated 1\nfrozen 0\n", b"frozen 1"));
        assert!(!has_line(b"", b"frozen 1"));
    }

    #[tokio::test]
    async fn an_ordinary_process_stops_nothing_and_says_so() {
        let freezer = Freezer::new(Mode::Process);
        assert!(!freezer.freeze().await);
        assert!(freezer.is_closed());
        freezer.thaw().expect("nothing to do");
        freezer.thaw().expect("twice is the same as once");
        assert!(!freezer.is_closed());
    }
}
