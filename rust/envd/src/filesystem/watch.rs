//! Watches directories by inotify; shared by the stream and by polling.
//!
//! An inotify watch covers only one directory, so a recursive watcher adds one for each directory that it
//! discovers. Entries created in a new directory before its watch existed are found by listing it. After our
//! own changes the queues are read ([`Watchers::read_all`]) before the client gets the response, so that its next
//! change is watched. Whatever looks at a file may wait for a file system that does not answer, so it is done in
//! [`crate::threads`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use sys::rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use sys::rustix::io::Errno;
use sys::spawn::Ids;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wire::code::{Code, ConnectError};
use wire::filesystem::{EventType, FilesystemEvent};

use crate::agent::{Agent, lock};
use crate::filesystem::fault::Fault;
use crate::filesystem::{become_user, entry};
use crate::paths;

/// Concurrent watchers, streams and polled ones together. The kernel's own limit of inotify instances per
/// user (128 by default) may be reached first.
const MAX_WATCHERS: usize = 256;
/// Directories of one recursive watcher.
const MAX_DIRECTORIES: usize = 16_384;
/// Queued events for a client.
const MAX_WAITING: usize = 16_384;
/// How long the response to a change waits for watchers, of which one may wait for a file system.
const READ_ALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Names found by listing whose own event may still arrive.
const MAX_EXPECTED: usize = 4096;
/// Network file systems; the kernel does not see changes by other machines.
const NETWORK_MAGICS: [u64; 8] =
    [0x6969, 0xFF53_4D42, 0xFE53_4D42, 0x517B, 0x0102_1997, 0x00C3_6400, 0x5346_414F, 0x6573_5546];

/// The parameters of a watcher.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The directory.
    pub root: PathBuf,
    /// Include all subdirectories.
    pub recursive: bool,
    /// Include the metadata of the file in events.
    pub include_entry: bool,
    /// Watch even if changes by other machines are not seen.
    pub allow_network_mounts: bool,
    /// The acting user.
    pub ids: Ids,
}

/// A watched directory.
#[derive(Debug)]
pub struct Watcher {
    /// The kernel's queue.
    queue: AsyncFd<OwnedFd>,
    /// Its parameters.
    options: WatchOptions,
    /// What is watched. Locked by the thread that reads the queue, which may wait for a file system.
    tree: Arc<tokio::sync::Mutex<Tree>>,
    /// What the client is to be told.
    outbox: Mutex<Outbox>,
    /// Notified when events were read by somebody other than the watcher's own task.
    news: Notify,
}

#[derive(Debug, Default)]
struct Tree {
    /// Directories relative to the root, by inotify watch descriptor.
    directories: HashMap<i32, PathBuf>,
    /// Already reported by listing, in this reading of the queue; the kernel's own event is dropped.
    expected: HashSet<PathBuf>,
    /// What this reading of the queue has found.
    found: Outbox,
}

#[derive(Debug, Default)]
struct Outbox {
    /// Queued events for the client.
    waiting: VecDeque<FilesystemEvent>,
    /// Events were lost.
    overflown: bool,
}

impl Outbox {
    fn push(&mut self, event: FilesystemEvent) {
        if self.waiting.len() >= MAX_WAITING {
            self.lose();
        }
        if !self.overflown {
            self.waiting.push_back(event);
        }
    }

    /// The client has to look at everything again, so what is queued is of no use.
    fn lose(&mut self) {
        self.overflown = true;
        self.waiting = VecDeque::new();
    }
}

/// All watchers.
#[derive(Debug, Default)]
pub struct Watchers {
    /// Live watchers; a watcher is dropped with its last reference.
    all: Mutex<Vec<Weak<Watcher>>>,
    /// Watchers that are polled.
    pub polled: Mutex<HashMap<String, PolledWatcher>>,
}

/// A watcher that its client asks for events. It is not known whether the client still exists.
#[derive(Debug)]
pub struct PolledWatcher {
    /// The watcher.
    pub watcher: Arc<Watcher>,
    /// Reads the kernel's queue between polls.
    pub reader: JoinHandle<()>,
    /// When the client asked last.
    pub asked: Instant,
}

impl Watchers {
    /// Starts watching.
    pub async fn create(&self, agent: &Arc<Agent>, options: WatchOptions) -> Result<Arc<Watcher>, ConnectError> {
        let queue = self.queue(&options.root).await?;
        let worker = agent.clone();
        let root = options.root.clone();
        let made = agent.threads.files.run(move || Watcher::new(&worker, queue, &options)).await;
        let watcher = Arc::new(made.unwrap_or_else(|error| Err(Fault::new("watch", root, error).into()))?);
        lock(&self.all).push(Arc::downgrade(&watcher));
        Ok(watcher)
    }

    /// Returns a queue of the kernel. At the limit the polled watcher that was not asked for longest ends.
    async fn queue(&self, root: &Path) -> Result<OwnedFd, ConnectError> {
        loop {
            let is_full = {
                let mut all = lock(&self.all);
                all.retain(|w| w.strong_count() > 0);
                all.len() >= MAX_WATCHERS
            };
            let text = if is_full {
                format!("{MAX_WATCHERS} watchers exist already")
            } else {
                match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
                    Ok(queue) => return Ok(queue),
                    Err(Errno::MFILE) => "too many watches are open in the sandbox: close one first".to_owned(),
                    Err(other) => return Err(Fault::errno("watch", root, other).into()),
                }
            };
            if !self.end_oldest_polled().await {
                return Err(ConnectError::new(Code::ResourceExhausted, text));
            }
        }
    }

    /// Ends the polled watcher that was not asked for longest. Returns whether there was one.
    async fn end_oldest_polled(&self) -> bool {
        let oldest = {
            let mut polled = lock(&self.polled);
            let id = polled.iter().min_by_key(|(_, p)| p.asked).map(|(id, _)| id.clone());
            id.and_then(|id| polled.remove(&id))
        };
        let Some(PolledWatcher { watcher, reader, .. }) = oldest else { return false };
        lock(&self.all).retain(|w| !std::ptr::eq(w.as_ptr(), Arc::as_ptr(&watcher)));
        reader.abort();
        // It also refers to the queue.
        let _ = reader.await;
        true
    }

    /// Reads the kernel's events for every watcher, as far as that does not take longer than [`READ_ALL_TIMEOUT`].
    pub async fn read_all(&self, agent: &Arc<Agent>) {
        let all: Vec<_> = lock(&self.all).iter().filter_map(Weak::upgrade).collect();
        let reading = async {
            for watcher in all {
                watcher.read(agent).await;
                watcher.news.notify_one();
            }
        };
        let _ = tokio::time::timeout(READ_ALL_TIMEOUT, reading).await;
    }
}

impl Watcher {
    fn new(agent: &Agent, queue: OwnedFd, options: &WatchOptions) -> Result<Self, ConnectError> {
        let fault = |e: io::Error| Fault::new("watch", &options.root, e);
        let _acting = become_user(&options.ids).map_err(fault)?;
        let about = fs::metadata(&options.root).map_err(fault)?;
        if !about.is_dir() {
            return Err(Fault::errno("watch", &options.root, Errno::NOTDIR).into());
        }
        let kind = sys::rustix::fs::statfs(&options.root).map_err(|e| fault(e.into()))?.f_type as u64;
        if NETWORK_MAGICS.contains(&kind) && !options.allow_network_mounts {
            let path = paths::to_text(&options.root);
            let text = format!("cannot watch '{path}': it is on a network mount, where changes may go unseen");
            return Err(ConnectError::new(Code::InvalidArgument, text));
        }
        let queue = sys::ready::register(queue, Interest::READABLE).map_err(fault)?;
        let mut tree = Tree::default();
        let (outbox, news) = (Mutex::default(), Notify::new());
        let mut watcher = Self { queue, options: options.clone(), tree: Arc::default(), outbox, news };
        watcher.add(agent, &mut tree, PathBuf::new(), false)?;
        watcher.tree = Arc::new(tokio::sync::Mutex::new(tree));
        Ok(watcher)
    }

    /// Waits until there may be events, and reads them.
    pub async fn wait(self: &Arc<Self>, agent: &Arc<Agent>) {
        tokio::select! {
            ready = self.queue.readable() => {
                self.read(agent).await;
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
            }
            () = self.news.notified() => {}
        }
    }

    /// Takes the queued events.
    pub fn take(&self) -> Result<Vec<FilesystemEvent>, ConnectError> {
        let mut outbox = lock(&self.outbox);
        if std::mem::take(&mut outbox.overflown) {
            return Err(ConnectError::new(Code::ResourceExhausted, "events were lost: too many changes at once"));
        }
        Ok(outbox.waiting.drain(..).collect())
    }

    /// Reads the kernel's queue to its end. If cancelled, it is read nevertheless.
    pub async fn read(self: &Arc<Self>, agent: &Arc<Agent>) {
        let mut tree = self.tree.clone().lock_owned().await;
        if !self.options.recursive && !self.options.include_entry {
            return self.read_queue(agent, &mut tree);
        }
        let (watcher, worker) = (self.clone(), agent.clone());
        let read = agent.threads.files.run(move || watcher.read_queue(&worker, &mut tree)).await;
        if read.is_err() {
            lock(&self.outbox).lose();
        }
    }

    /// Blocks on the disk if the watcher is recursive or includes entries.
    fn read_queue(&self, agent: &Agent, tree: &mut Tree) {
        let Ok(_acting) = become_user(&self.options.ids) else { return };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.queue, &mut buffer);
        // Ends with EAGAIN; any other error ends it as well, since nothing else can be done.
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|n| PathBuf::from(OsStr::from_bytes(n.to_bytes())));
            self.take_in(agent, tree, event.wd(), event.events(), name);
        }
        // The queue is in order, so whatever was created before the listing of its directory has been read now.
        tree.expected.clear();
        let found = std::mem::take(&mut tree.found);
        let mut outbox = lock(&self.outbox);
        for event in found.waiting {
            outbox.push(event);
        }
        if found.overflown {
            outbox.lose();
        }
    }

    fn take_in(&self, agent: &Agent, tree: &mut Tree, wd: i32, flags: ReadFlags, name: Option<PathBuf>) {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            tree.found.lose();
            return;
        }
        if flags.contains(ReadFlags::IGNORED) {
            tree.directories.remove(&wd);
            return;
        }
        let Some(directory) = tree.directories.get(&wd) else { return };
        let is_root = directory.as_os_str().is_empty();
        let path = match name {
            Some(name) => directory.join(name),
            // About a watched directory itself: the parent's watch reports the same, except for the root.
            None if is_root => PathBuf::new(),
            None => return,
        };
        let appeared = flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        let went = flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
        let foretold = tree.expected.remove(&path) && appeared;
        if let Some(kind) = kind_of(flags).filter(|_| !foretold) {
            self.tell(agent, tree, &path, kind);
        }
        if self.options.recursive && flags.contains(ReadFlags::ISDIR) {
            if went {
                self.forget(tree, &path);
            }
            if appeared && !foretold {
                // It may have been removed, or be inaccessible to this user. At a limit the client must be
                // informed: from here on changes are not seen.
                if self.add(agent, tree, path, true).is_err_and(|e| e.code == Code::ResourceExhausted) {
                    tree.found.lose();
                }
            }
        }
    }

    fn tell(&self, agent: &Agent, tree: &mut Tree, path: &Path, kind: EventType) {
        let there = matches!(kind, EventType::Create | EventType::Write | EventType::Chmod);
        let entry =
            (self.options.include_entry && there).then(|| entry::entry(agent, &self.options.root.join(path)).ok());
        let name = if path.as_os_str().is_empty() { ".".to_owned() } else { paths::to_text(path) };
        tree.found.push(FilesystemEvent { name, r#type: kind as i32, entry: entry.flatten() });
    }

    /// Watches a directory, including subdirectories if recursive. `report`: entries found in it are new to
    /// the client.
    fn add(&self, agent: &Agent, tree: &mut Tree, start: PathBuf, report: bool) -> Result<(), ConnectError> {
        let mut flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        if !start.as_os_str().is_empty() {
            flags |= WatchFlags::DONT_FOLLOW;
        }
        let mut to_do = vec![start];
        let mut first = true;
        while let Some(below) = to_do.pop() {
            let path = self.options.root.join(&below);
            if tree.directories.len() >= MAX_DIRECTORIES {
                let text =
                    format!("'{}' holds more than {MAX_DIRECTORIES} directories", paths::to_text(&self.options.root));
                return Err(ConnectError::new(Code::ResourceExhausted, text));
            }
            match inotify::add_watch(&self.queue, &path, flags) {
                Ok(wd) => drop(tree.directories.insert(wd, below.clone())),
                // The kernel reports its limit for each user this way; it is not about the disk.
                Err(Errno::NOSPC) => return Err(too_few_watches(&self.options.root)),
                Err(error) if first => return Err(Fault::errno("watch", &path, error).into()),
                Err(_) => continue,
            }
            first = false;
            flags |= WatchFlags::DONT_FOLLOW;
            if !self.options.recursive {
                return Ok(());
            }
            let Ok(found) = fs::read_dir(&path) else { continue };
            for item in found.flatten() {
                let name = below.join(item.file_name());
                let kind = item.file_type();
                if report {
                    self.tell(agent, tree, &name, EventType::Create);
                    if item.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) {
                        self.tell(agent, tree, &name, EventType::Write);
                    }
                    if tree.expected.len() < MAX_EXPECTED {
                        tree.expected.insert(name.clone());
                    }
                }
                if kind.is_ok_and(|k| k.is_dir()) {
                    to_do.push(name);
                }
            }
        }
        Ok(())
    }

    /// Removes the watches of a directory that was moved or removed: they would report it under its old name.
    fn forget(&self, tree: &mut Tree, gone: &Path) {
        let old: Vec<i32> = tree.directories.iter().filter(|(_, d)| d.starts_with(gone)).map(|(wd, _)| *wd).collect();
        for wd in old {
            tree.directories.remove(&wd);
            // It may have been removed together with its directory.
            let _ = inotify::remove_watch(&self.queue, wd);
        }
    }
}

fn too_few_watches(root: &Path) -> ConnectError {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap_or_default();
    let text = format!(
        "cannot watch all of '{}': the sandbox's limit of {} watched files and directories is reached \
         (fs.inotify.max_user_watches)",
        paths::to_text(root),
        limit.trim(),
    );
    ConnectError::new(Code::ResourceExhausted, text)
}

fn kind_of(flags: ReadFlags) -> Option<EventType> {
    if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
        Some(EventType::Create)
    } else if flags.contains(ReadFlags::MODIFY) {
        Some(EventType::Write)
    } else if flags.intersects(ReadFlags::DELETE | ReadFlags::DELETE_SELF) {
        Some(EventType::Remove)
    } else if flags.contains(ReadFlags::MOVED_FROM) {
        Some(EventType::Rename)
    } else if flags.contains(ReadFlags::ATTRIB) {
        Some(EventType::Chmod)
    } else {
        None
    }
}
