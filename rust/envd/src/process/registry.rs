//! The processes that were started here: who lives, and how those ended that did lately.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sys::spawn::SpawnError;
use sys::wait::{Ended, reap_any};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use wire::process::ProcessConfig;
use wire::process::process_selector::Selector;

use crate::agent::lock;
use crate::process::enclosure::Enclosure;
use crate::process::followers::Followers;
use crate::process::history;

/// Processes that may live at once; the guest's own bound is lower on small machines.
pub const MAX_PROCESSES: usize = 4096;
/// How long the result of a process waits for one more `Connect` after somebody was given it.
const KEEP_RESULT: Duration = Duration::from_secs(30);
/// How long a result waits that nobody was given.
const KEEP_UNREAD_RESULT: Duration = Duration::from_secs(3600);
/// Results that wait so. The oldest goes first.
const MAX_UNREAD_RESULTS: usize = 256;

/// A way to write to a process.
#[derive(Debug)]
pub enum Input {
    /// Nothing can be written.
    None,
    /// A pipe; `None` once closed.
    Pipe(tokio::sync::Mutex<Option<AsyncFd<OwnedFd>>>),
    /// A terminal, and whose turn it is to write.
    Terminal(Arc<AsyncFd<OwnedFd>>, tokio::sync::Mutex<()>),
}

/// A process that was started here.
#[derive(Debug)]
pub struct Process {
    /// Its id, which is also its session and its first process group.
    pub pid: u32,
    /// As it was asked for.
    pub config: ProcessConfig,
    /// The caller's name for it.
    pub tag: Option<String>,
    /// How to write to it.
    pub input: Input,
    /// Who reads what it says.
    pub followers: Followers,
    /// Told by a signal: after the exit, do not wait for pipes that a child of it still holds.
    pub released: Notify,
    /// Its result gave way to newer ones.
    displaced: Notify,
    /// Its cgroup, until the end is told.
    pub enclosure: Mutex<Option<Enclosure>>,
    /// Given by the reaper, once.
    exit: Mutex<Option<oneshot::Sender<Ended>>>,
}

impl Process {
    /// A process and the place where its end will be told.
    pub fn new(
        pid: u32,
        config: ProcessConfig,
        tag: Option<String>,
        input: Input,
    ) -> (Arc<Self>, oneshot::Receiver<Ended>) {
        let (sender, receiver) = oneshot::channel();
        let followers = Followers::default();
        let exit = Mutex::new(Some(sender));
        let enclosure = Mutex::new(None);
        let (released, displaced) = (Notify::new(), Notify::new());
        (Arc::new(Self { pid, config, tag, input, followers, released, displaced, enclosure, exit }), receiver)
    }

    /// Ends its input once it has ended. While a write is under way, the input ends when the process is forgotten.
    pub fn close_input(&self) {
        if let Input::Pipe(pipe) = &self.input
            && let Ok(mut pipe) = pipe.try_lock()
        {
            pipe.take();
        }
    }

    /// Whether it has ended and nobody was given its result.
    fn is_unread(&self) -> bool {
        self.followers.is_finished() && !self.followers.is_collected()
    }

    fn matches(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Pid(pid) => self.pid == *pid,
            Selector::Tag(tag) => self.tag.as_deref() == Some(tag),
        }
    }
}

/// All processes.
#[derive(Debug, Default)]
pub struct Registry {
    /// One lock for spawn and reap: see [`crate::reaper`].
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Not yet reaped: their pids are theirs.
    live: HashMap<u32, Arc<Process>>,
    /// Reaped, but with output to come or a result to keep; the oldest first. Their pids may belong to others by now.
    ended: VecDeque<Arc<Process>>,
}

/// Where a process was found.
#[derive(Debug)]
pub enum Found {
    /// It lives.
    Live(Arc<Process>),
    /// It was reaped.
    Ended(Arc<Process>),
}

/// Why no process was started.
#[derive(Debug)]
pub enum StartError {
    /// [`MAX_PROCESSES`] live.
    Full,
    /// The kernel did not make it.
    Spawn(SpawnError),
}

impl Registry {
    /// Starts a process and notes it, in one step with respect to [`Self::reap`].
    pub fn start<T>(
        &self,
        spawn: impl FnOnce() -> Result<u32, SpawnError>,
        note: impl FnOnce(u32) -> (Arc<Process>, T),
    ) -> Result<(Arc<Process>, T), StartError> {
        let mut tables = lock(&self.tables);
        if tables.live.len() >= MAX_PROCESSES {
            return Err(StartError::Full);
        }
        let pid = spawn().map_err(StartError::Spawn)?;
        let (process, rest) = note(pid);
        tables.live.insert(pid, process.clone());
        Ok((process, rest))
    }

    /// Reaps every child that has ended and tells those who wait for it.
    pub fn reap(&self) {
        loop {
            let mut tables = lock(&self.tables);
            match reap_any() {
                Ok(Some((pid, ended))) => {
                    // A pid that is not here is an orphan, or a child that never came to its program.
                    if let Some(process) = tables.live.remove(&pid) {
                        tables.ended.push_back(process.clone());
                        if let Some(exit) = lock(&process.exit).take() {
                            // The pump may have gone with the runtime; then nobody waits.
                            let _ = exit.send(ended);
                        }
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    eprintln!("envd: cannot reap: {error}");
                    return;
                }
            }
        }
    }

    /// Those that live, by age of the pid.
    pub fn live(&self) -> Vec<Arc<Process>> {
        let mut list: Vec<_> = lock(&self.tables).live.values().cloned().collect();
        list.sort_unstable_by_key(|p| p.pid);
        list
    }

    /// The process meant, living ones first.
    pub fn find(&self, selector: &Selector) -> Option<Found> {
        let tables = lock(&self.tables);
        tables.find(selector)
    }

    /// Looks a process up and acts on it while it cannot be reaped.
    pub fn with<T>(&self, selector: &Selector, action: impl FnOnce(Found) -> T) -> Option<T> {
        let tables = lock(&self.tables);
        tables.find(selector).map(action)
    }

    /// Forgets an ended process: a while after its result was given to somebody, or when it has waited long enough for
    /// that. Called once its last event is out.
    pub fn forget_later(agent: &Arc<crate::agent::Agent>, process: &Arc<Process>) {
        if process.is_unread() {
            lock(&agent.processes.tables).bound_unread();
        }
        let (agent, process) = (agent.clone(), process.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = process.followers.wait_collected() => tokio::time::sleep(KEEP_RESULT).await,
                () = tokio::time::sleep(KEEP_UNREAD_RESULT) => {}
                () = process.displaced.notified() => {}
            }
            lock(&agent.processes.tables).ended.retain(|p| !Arc::ptr_eq(p, &process));
        });
    }
}

impl Tables {
    fn find(&self, selector: &Selector) -> Option<Found> {
        let live = match selector {
            Selector::Pid(pid) => self.live.get(pid),
            Selector::Tag(_) => self.live.values().filter(|p| p.matches(selector)).max_by_key(|p| p.pid),
        };
        let ended = || self.ended.iter().rev().find(|p| p.matches(selector));
        live.cloned().map(Found::Live).or_else(|| ended().cloned().map(Found::Ended))
    }

    /// Forgets the oldest results that nobody was given, as far as they are too many or too long together: they may hold
    /// half of the memory for output, so that processes that live have room for theirs.
    fn bound_unread(&mut self) {
        let unread = || self.ended.iter().filter(|p| p.is_unread());
        let mut count = unread().count();
        let mut bytes: u64 = unread().map(|p| p.followers.kept_bytes()).sum();
        let most_bytes = history::bound() as u64 / 2;
        self.ended.retain(|process| {
            let stays = !process.is_unread() || (count <= MAX_UNREAD_RESULTS && (bytes <= most_bytes || count <= 1));
            if !stays {
                count -= 1;
                bytes -= process.followers.kept_bytes();
                // What waits to forget it holds it, with its output.
                process.displaced.notify_one();
            }
            stays
        });
    }
}
