//! The processes started by the agent: running ones, and results of those that have ended.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sys::rustix::process::{Pid, Signal, kill_process};
use sys::wait::{Ended, reap_any};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use wire::process::ProcessConfig;
use wire::process::process_selector::Selector;

use crate::agent::lock;
use crate::process::followers::Followers;
use crate::process::history;
use crate::process::process_cgroup::ProcessCgroup;

/// Limit on running processes; the guest's own limit is lower on small machines.
pub const MAX_PROCESSES: usize = 4096;
/// What an argument counts beside its text in a list of processes.
const ARGUMENT_BYTES: usize = 8;
/// How long a result is stored after it was read.
const KEEP_RESULT: Duration = Duration::from_secs(30);
/// How long an unread result is stored.
const KEEP_UNREAD_RESULT: Duration = Duration::from_secs(3600);
/// Limit on unread results. The oldest is dropped first.
const MAX_UNREAD_RESULTS: usize = 256;

/// The input of a process.
#[derive(Debug)]
pub enum Input {
    /// No input.
    None,
    /// A pipe; `None` once closed.
    Pipe(tokio::sync::Mutex<Option<AsyncFd<OwnedFd>>>),
    /// A terminal, and the lock of its writers.
    Terminal(Arc<AsyncFd<OwnedFd>>, tokio::sync::Mutex<()>),
}

/// A process started by the agent.
#[derive(Debug)]
pub struct Process {
    /// Its pid, which is also its session and its first process group.
    pub pid: u32,
    /// The requested configuration, as long as it runs.
    config: Mutex<Option<ProcessConfig>>,
    /// The caller's name for it.
    pub tag: Option<String>,
    /// Its input.
    pub input: Input,
    /// The readers of its output.
    pub followers: Followers,
    /// Notified by a signal: after the exit, do not wait for pipes that a child still has open.
    pub released: Notify,
    /// Notified when its result is dropped in favour of newer ones.
    displaced: Notify,
    /// Its cgroup, until the end was sent.
    pub cgroup: Mutex<Option<ProcessCgroup>>,
    /// Receives the exit status from the reaper, once.
    exit: Mutex<Option<oneshot::Sender<Ended>>>,
}

impl Process {
    /// Creates a process, and the receiver of its exit status.
    pub fn new(
        pid: u32,
        config: ProcessConfig,
        tag: Option<String>,
        input: Input,
    ) -> (Arc<Self>, oneshot::Receiver<Ended>) {
        let (sender, receiver) = oneshot::channel();
        let followers = Followers::default();
        let (exit, config) = (Mutex::new(Some(sender)), Mutex::new(Some(config)));
        let cgroup = Mutex::new(None);
        let (released, displaced) = (Notify::new(), Notify::new());
        (Arc::new(Self { pid, config, tag, input, followers, released, displaced, cgroup, exit }), receiver)
    }

    /// Returns the configuration, shortened to about this many bytes; `None` if it has ended.
    pub fn shortened_config(&self, bytes: usize) -> Option<ProcessConfig> {
        lock(&self.config).as_ref().map(|config| shortened(config, bytes))
    }

    /// Closes the input of an ended process. If a write is in progress, the input is closed when the process
    /// is removed.
    pub fn close_input(&self) {
        if let Input::Pipe(pipe) = &self.input
            && let Ok(mut pipe) = pipe.try_lock()
        {
            pipe.take();
        }
    }

    /// Whether it has ended and its result was not read.
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

/// Returns the configuration without its variables and with shorter arguments, if it is longer than this.
fn shortened(config: &ProcessConfig, bytes: usize) -> ProcessConfig {
    let args: usize = config.args.iter().map(|arg| arg.len() + ARGUMENT_BYTES).sum();
    let variables: usize = config.envs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let mut left = bytes.saturating_sub(config.cmd.len() + config.cwd.as_ref().map_or(0, String::len));
    if args + variables <= left {
        return config.clone();
    }
    let mut short = ProcessConfig { cmd: config.cmd.clone(), cwd: config.cwd.clone(), ..ProcessConfig::default() };
    for arg in &config.args {
        left = left.saturating_sub(ARGUMENT_BYTES);
        if left == 0 {
            break;
        }
        let end = (0..=left.min(arg.len())).rev().find(|end| arg.is_char_boundary(*end)).unwrap_or(0);
        short.args.push(arg[..end].to_owned());
        left -= end;
    }
    short
}

/// A process that is being started by another thread, which may wait for a file system.
#[derive(Debug, Default)]
pub struct Starting {
    /// Its pid; 0 before it exists.
    pub pid: AtomicU32,
    /// Its exit status, if it was reaped before it was registered. Its pid is not valid any longer then.
    exit: Mutex<Option<Ended>>,
    /// Nobody waits for it any longer.
    given_up: AtomicBool,
}

impl Starting {
    /// Whether it should not be started any longer.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// All processes.
#[derive(Debug, Default)]
pub struct Registry {
    /// One lock for registering and reaping: see [`crate::reaper`].
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Not reaped yet: their pids are valid.
    live: HashMap<u32, Arc<Process>>,
    /// Not registered yet.
    starting: Vec<Arc<Starting>>,
    /// Reaped, but with remaining output or a stored result; the oldest first. Their pids may have been
    /// reused.
    ended: VecDeque<Arc<Process>>,
}

/// The state of a process that was found.
#[derive(Debug)]
pub enum Found {
    /// It is running.
    Live(Arc<Process>),
    /// It was reaped.
    Ended(Arc<Process>),
}

impl Registry {
    /// Announces a process before it exists, so that its exit status is kept until [`Self::register`]. `None` if
    /// [`MAX_PROCESSES`] are running.
    pub fn announce(&self) -> Option<Arc<Starting>> {
        let mut tables = lock(&self.tables);
        if tables.live.len() + tables.starting.len() >= MAX_PROCESSES {
            return None;
        }
        let starting = Arc::new(Starting::default());
        tables.starting.push(starting.clone());
        Some(starting)
    }

    /// Registers a process that was started. It may have ended already.
    pub fn register(&self, starting: &Arc<Starting>, process: &Arc<Process>) {
        let mut tables = lock(&self.tables);
        tables.starting.retain(|other| !Arc::ptr_eq(other, starting));
        match lock(&starting.exit).take() {
            None => drop(tables.live.insert(process.pid, process.clone())),
            Some(ended) => tables.end(process.clone(), ended),
        }
    }

    /// Forgets a process that was not started, or that nobody waits for.
    pub fn withdraw(&self, starting: &Arc<Starting>) {
        lock(&self.tables).starting.retain(|other| !Arc::ptr_eq(other, starting));
    }

    /// Kills a process that is being started, or that was started after it had been given up.
    pub fn give_up(&self, starting: &Starting) {
        starting.given_up.store(true, Ordering::Relaxed);
        // While the tables are locked it is not reaped, so that its pid is no other's.
        let _tables = lock(&self.tables);
        if lock(&starting.exit).is_none()
            && let Some(pid) = Pid::from_raw(starting.pid.load(Ordering::Acquire).cast_signed())
        {
            // It may have ended.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Reaps all children that have ended and notifies those who wait for them.
    pub fn reap(&self) {
        loop {
            let mut tables = lock(&self.tables);
            match reap_any() {
                Ok(Some((pid, ended))) => {
                    if let Some(process) = tables.live.remove(&pid) {
                        tables.end(process, ended);
                    } else if let Some(starting) = tables.starting_as(pid) {
                        *lock(&starting.exit) = Some(ended);
                    }
                    // Any other is an orphan.
                }
                Ok(None) => return,
                Err(error) => {
                    eprintln!("envd: cannot reap: {error}");
                    return;
                }
            }
        }
    }

    /// Returns running processes, ordered by pid.
    pub fn live(&self) -> Vec<Arc<Process>> {
        let mut list: Vec<_> = lock(&self.tables).live.values().cloned().collect();
        list.sort_unstable_by_key(|p| p.pid);
        list
    }

    /// Finds a process, preferring running ones.
    pub fn find(&self, selector: &Selector) -> Option<Found> {
        let tables = lock(&self.tables);
        tables.find(selector)
    }

    /// Finds a process and calls `action` while it cannot be reaped.
    pub fn with<T>(&self, selector: &Selector, action: impl FnOnce(Found) -> T) -> Option<T> {
        let tables = lock(&self.tables);
        tables.find(selector).map(action)
    }

    /// Removes an ended process: some time after its result was read, or when an unread result has expired.
    /// Called after its last event was sent.
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
    fn end(&mut self, process: Arc<Process>, ended: Ended) {
        lock(&process.config).take();
        if let Some(exit) = lock(&process.exit).take() {
            // The pump may be gone with the runtime; then nobody waits.
            let _ = exit.send(ended);
        }
        self.ended.push_back(process);
    }

    /// Returns the process that is being started with this pid, unless it has ended: its pid may have been reused.
    fn starting_as(&self, pid: u32) -> Option<&Arc<Starting>> {
        self.starting.iter().find(|s| s.pid.load(Ordering::Acquire) == pid && lock(&s.exit).is_none())
    }

    fn find(&self, selector: &Selector) -> Option<Found> {
        let live = match selector {
            Selector::Pid(pid) => self.live.get(pid),
            Selector::Tag(_) => self.live.values().filter(|p| p.matches(selector)).max_by_key(|p| p.pid),
        };
        let ended = || self.ended.iter().rev().find(|p| p.matches(selector));
        live.cloned().map(Found::Live).or_else(|| ended().cloned().map(Found::Ended))
    }

    /// Drops the oldest unread results if there are too many or they are too long: they may take half of the
    /// memory for output, so that running processes have enough for theirs.
    fn bound_unread(&mut self) {
        let unread = || self.ended.iter().filter(|p| p.is_unread());
        let mut count = unread().count();
        let mut bytes: u64 = unread().map(|p| p.followers.buffered_bytes()).sum();
        let most_bytes = history::bound() as u64 / 2;
        self.ended.retain(|process| {
            let stays = !process.is_unread() || (count <= MAX_UNREAD_RESULTS && (bytes <= most_bytes || count <= 1));
            if !stays {
                count -= 1;
                bytes -= process.followers.buffered_bytes();
                // The task that will remove it still refers to it, with its output.
                process.displaced.notify_one();
            }
            stays
        });
    }
}
