//! Freezes all user processes at once for a snapshot, with the cgroup v2 freezer.
//!
//! Processes are started below [`PARENT`]. Cgroups that root creates next to it, as container engines do, are
//! found and frozen as well. Only processes that root moved into the root cgroup, which cannot be frozen,
//! keep running: they harm only their own sandbox.

use std::fs::{self, File};
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sys::rustix;
use tokio::time::Instant;

use crate::agent::{Mode, lock};
use crate::process::process_cgroup::{PARENT, ROOT};

/// How long processes may take to freeze. One that waits for a disk or for FUSE cannot be frozen before that
/// is over.
const FREEZE_TIMEOUT: Duration = Duration::from_millis(300);
/// Checks before any sleep: each process only has to run once to freeze, so yielding the CPU is usually
/// sufficient.
const YIELDING_CHECKS: usize = 16;
/// Interval of the checks after that. The kernel sends notifications too, but up to 10 ms late.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);
/// Limit on cgroups next to ours. If there are more, not all processes can be frozen.
const MAX_OTHERS: usize = 256;
/// Link count of a cgroup with one child: its name, its own `.`, and the child's `..`.
const LINKS_WITH_ONE_CHILD: u64 = 3;

/// Freezes and thaws processes.
#[derive(Debug)]
pub struct Freezer {
    /// `None` in an ordinary process, and in a guest whose kernel has no cgroups.
    ours: Option<Group>,
    /// The cgroups next to ours that were frozen.
    others: Mutex<Vec<Group>>,
    /// Set from the request to freeze until the request to thaw. It is also set in the snapshot of a frozen
    /// guest.
    frozen: AtomicBool,
}

/// The files of one cgroup. Those of our own are opened at the start, so that freezing needs no look-up.
#[derive(Debug)]
struct Group {
    /// `cgroup.freeze`, which accepts the requests.
    control: File,
    /// `cgroup.events`, which reports whether everything below is frozen.
    events: File,
}

impl Group {
    fn make_ours() -> io::Result<Self> {
        match fs::create_dir(PARENT) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Only for its count of OOM kills, which is optional information.
        for above in [ROOT, PARENT] {
            if let Err(error) = fs::write(Path::new(above).join("cgroup.subtree_control"), "+memory") {
                eprintln!("envd: OOM kills are not counted: {error}");
                break;
            }
        }
        Self::open(Path::new(PARENT))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open(path.join("cgroup.freeze"))?;
        Ok(Self { control, events: File::open(path.join("cgroup.events"))? })
    }

    fn control(&self, stop: bool) -> io::Result<()> {
        self.control.write_at(if stop { b"1" } else { b"0" }, 0).map(drop)
    }

    /// Whether a freeze was requested, by anybody.
    fn is_freeze_requested(&self) -> bool {
        let mut text = [0_u8; 1];
        matches!(self.control.read_at(&mut text, 0), Ok(1)) && text == *b"1"
    }

    /// Whether `cgroup.events` has this line; false if it cannot be read.
    fn has_event(&self, line: &[u8]) -> bool {
        let mut text = [0_u8; 128];
        let length = self.events.read_at(&mut text, 0).unwrap_or(0);
        has_line(&text[..length], line)
    }

    fn is_still(&self) -> bool {
        self.has_event(b"frozen 1")
    }
}

/// Returns the cgroups next to ours, except those that somebody else has frozen. An error if there are too
/// many.
fn others() -> io::Result<Vec<Group>> {
    // The common case needs only one system call.
    if fs::metadata(ROOT)?.st_nlink() <= LINKS_WITH_ONE_CHILD {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(ROOT)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || entry.path() == Path::new(PARENT) {
            continue;
        }
        if found.len() >= MAX_OTHERS {
            return Err(io::Error::other(format!("there are more than {MAX_OTHERS} cgroups beside '{PARENT}'")));
        }
        // It may have been removed.
        if let Ok(group) = Group::open(&entry.path())
            && !group.is_freeze_requested()
        {
            found.push(group);
        }
    }
    Ok(found)
}

fn has_line(text: &[u8], line: &[u8]) -> bool {
    text.split(|b| *b == b'\n').any(|l| l == line)
}

impl Freezer {
    /// Creates the cgroup for all processes, in a guest.
    pub fn new(mode: Mode) -> Self {
        let ours = (mode == Mode::Pid1).then(Group::make_ours).transpose().unwrap_or_else(|error| {
            eprintln!("envd: programs cannot be stopped for snapshots: {error}");
            None
        });
        Self { ours, others: Mutex::default(), frozen: AtomicBool::new(false) }
    }

    /// Whether processes are frozen, so that none may be started.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Whether there may be user processes.
    pub fn may_have_programs(&self) -> bool {
        let has_others = || fs::metadata(ROOT).is_ok_and(|about| about.st_nlink() > LINKS_WITH_ONE_CHILD);
        self.ours.as_ref().is_none_or(|ours| !ours.has_event(b"populated 0") || has_others())
    }

    /// Freezes all processes. Returns whether all are frozen; if not, the others freeze when they can.
    /// Idempotent. If cancelled, processes remain frozen until [`Self::thaw`].
    pub async fn freeze(&self) -> bool {
        self.frozen.store(true, Ordering::Relaxed);
        let Some(ours) = &self.ours else { return false };
        // Ours first: from then on no process can create another cgroup.
        let ordered = ours.control(true).and_then(|()| self.stop_others());
        if let Err(error) = ordered {
            eprintln!("envd: cannot stop programs: {error}");
            return false;
        }
        for _ in 0..YIELDING_CHECKS {
            if self.is_still(ours) {
                return true;
            }
            rustix::thread::sched_yield();
        }
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        while self.is_frozen() && Instant::now() < deadline {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if self.is_still(ours) {
                return true;
            }
        }
        false
    }

    fn stop_others(&self) -> io::Result<()> {
        let mut stopped = lock(&self.others);
        for other in others()? {
            if other.control(true).is_ok() {
                stopped.push(other);
            }
        }
        Ok(())
    }

    fn is_still(&self, ours: &Group) -> bool {
        ours.is_still() && lock(&self.others).iter().all(Group::is_still)
    }

    /// Thaws all processes. Idempotent.
    pub fn thaw(&self) -> io::Result<()> {
        if self.is_frozen() {
            for other in lock(&self.others).drain(..) {
                // It may have been removed from outside; it is empty then.
                if let Err(error) = other.control(false) {
                    eprintln!("envd: a cgroup beside ours does not go on: {error}");
                }
            }
            if let Some(ours) = &self.ours {
                ours.control(false)?;
            }
            self.frozen.store(false, Ordering::Relaxed);
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
        assert!(freezer.is_frozen());
        freezer.thaw().expect("nothing to do");
        freezer.thaw().expect("idempotent");
        assert!(!freezer.is_frozen());
    }
}
