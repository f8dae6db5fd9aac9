//! All programs of users stopped at one moment, for a snapshot, by the freezer of cgroup v2.
//!
//! Programs are born below [`PARENT`]. What root makes beside it, as a container engine does, is looked for and stopped
//! as well. Only what root moved into the topmost cgroup, which cannot be frozen, runs on: it harms only its own sandbox.

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
use crate::process::enclosure::{PARENT, ROOT};

/// How long programs may take to stop. One that waits for a disk or for FUSE cannot be stopped before that is over.
const FREEZE_TIMEOUT: Duration = Duration::from_millis(300);
/// Looks before any sleep: each program only has to run once to stop, so giving the processor away mostly suffices.
const QUICK_LOOKS: usize = 16;
/// Between two looks after that. The kernel tells of the change too, but up to 10 ms late.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Cgroups beside ours that are looked for. With more of them not all programs can be stopped.
const MAX_OTHERS: usize = 256;
/// Links of a cgroup with one child: its name, its own `.`, and the child's `..`.
const LINKS_WITH_ONE_CHILD: u64 = 3;

/// Stops and continues programs.
#[derive(Debug)]
pub struct Freezer {
    /// `None` in an ordinary process, and in a guest whose kernel has no cgroups.
    ours: Option<Group>,
    /// Those beside ours that were stopped.
    others: Mutex<Vec<Group>>,
    /// From the order to stop to the order to go on. The snapshot of a stopped guest has it too.
    closed: AtomicBool,
}

/// The files of one cgroup. Those of our own are open from the start, so that stopping looks nothing up.
#[derive(Debug)]
struct Group {
    /// `cgroup.freeze`: takes the orders.
    order: File,
    /// `cgroup.events`: says whether everything below stands still.
    events: File,
}

impl Group {
    fn make_ours() -> io::Result<Self> {
        match fs::create_dir(PARENT) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Only for its count of kills for want of memory. Without it ends are told all the same, only less is known.
        for above in [ROOT, PARENT] {
            if let Err(error) = fs::write(Path::new(above).join("cgroup.subtree_control"), "+memory") {
                eprintln!("envd: kills for want of memory are not counted: {error}");
                break;
            }
        }
        Self::open(Path::new(PARENT))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let order = File::options().read(true).write(true).open(path.join("cgroup.freeze"))?;
        Ok(Self { order, events: File::open(path.join("cgroup.events"))? })
    }

    fn order(&self, stop: bool) -> io::Result<()> {
        self.order.write_at(if stop { b"1" } else { b"0" }, 0).map(drop)
    }

    /// Whether it was told to stop, by whomever.
    fn is_ordered(&self) -> bool {
        let mut text = [0_u8; 1];
        matches!(self.order.read_at(&mut text, 0), Ok(1)) && text == *b"1"
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

/// The cgroups beside ours, but for those that somebody else has stopped. An error when there are too many.
fn others() -> io::Result<Vec<Group>> {
    // The usual case costs one look.
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
        // It may be gone again.
        if let Ok(group) = Group::open(&entry.path())
            && !group.is_ordered()
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
    /// Makes the cgroup above all programs, in a guest.
    pub fn new(mode: Mode) -> Self {
        let ours = (mode == Mode::Pid1).then(Group::make_ours).transpose().unwrap_or_else(|error| {
            eprintln!("envd: programs cannot be stopped for snapshots: {error}");
            None
        });
        Self { ours, others: Mutex::default(), closed: AtomicBool::new(false) }
    }

    /// Whether programs were told to stop, so that none may be started.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether there may be programs of users.
    pub fn may_have_programs(&self) -> bool {
        let has_others = || fs::metadata(ROOT).is_ok_and(|about| about.st_nlink() > LINKS_WITH_ONE_CHILD);
        self.ours.as_ref().is_none_or(|ours| !ours.says(b"populated 0") || has_others())
    }

    /// Stops all programs. Returns whether all stand still; if not, the rest stops when it can. Twice is the same as
    /// once. Given up in between, programs are stopped all the same until [`Self::thaw`].
    pub async fn freeze(&self) -> bool {
        self.closed.store(true, Ordering::Relaxed);
        let Some(ours) = &self.ours else { return false };
        // Ours first: from then on nobody makes another.
        let ordered = ours.order(true).and_then(|()| self.stop_others());
        if let Err(error) = ordered {
            eprintln!("envd: cannot stop programs: {error}");
            return false;
        }
        for _ in 0..QUICK_LOOKS {
            if self.is_still(ours) {
                return true;
            }
            rustix::thread::sched_yield();
        }
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        while self.is_closed() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if self.is_still(ours) {
                return true;
            }
        }
        false
    }

    fn stop_others(&self) -> io::Result<()> {
        let mut stopped = lock(&self.others);
        for other in others()? {
            if other.order(true).is_ok() {
                stopped.push(other);
            }
        }
        Ok(())
    }

    fn is_still(&self, ours: &Group) -> bool {
        ours.is_still() && lock(&self.others).iter().all(Group::is_still)
    }

    /// Lets all programs go on. Fine when none was stopped.
    pub fn thaw(&self) -> io::Result<()> {
        if self.is_closed() {
            for other in lock(&self.others).drain(..) {
                // It may have been removed from outside a program: there is nobody in it then.
                if let Err(error) = other.order(false) {
                    eprintln!("envd: a cgroup beside ours does not go on: {error}");
                }
            }
            if let Some(ours) = &self.ours {
                ours.order(false)?;
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
