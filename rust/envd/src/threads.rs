//! Threads for work that may block in the kernel.
//!
//! A file system that does not answer (a FUSE server that hangs, a network that is gone) holds a thread in the kernel, often even
//! after the caller has given up, and nothing can end that. So each kind of work has threads of its own, and no kind can take
//! those of another.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Semaphore;

/// How long a call waits for others of its kind.
const PLACE_TIMEOUT: Duration = Duration::from_secs(8);
/// Calls on files that are waited for at the same time.
const MAX_FILE_CALLS: usize = 16;
/// Threads of such calls, with those whose callers are gone.
const MAX_FILE_THREADS: usize = 64;
/// Programs that are started at the same time.
const MAX_STARTS: usize = 8;
/// Calls on `/proc` and the root disk at the same time. Their callers are the host, one after the other, or few programs.
const MAX_SYSTEM_CALLS: usize = 4;
/// Threads of such calls, with those whose callers are gone.
const MAX_SYSTEM_THREADS: usize = 8;

/// Threads of all kinds.
pub const MAX_THREADS: usize = MAX_FILE_THREADS + MAX_STARTS + MAX_SYSTEM_THREADS;

/// Why work could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoThread {
    /// As many calls of this kind are running as may, for longer than [`PLACE_TIMEOUT`].
    Busy,
    /// All threads of this kind wait, and nobody waits for them.
    Stuck,
    /// The work panicked.
    Died,
}

impl fmt::Display for NoThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => {
                "too many calls are running, or a file system in the sandbox does not answer: try again later"
            }
            Self::Stuck => "a file system in the sandbox does not answer, and too many calls wait for it",
            Self::Died => "the worker died",
        })
    }
}

impl std::error::Error for NoThread {}

impl NoThread {
    /// Returns the status of a plain HTTP response.
    pub fn status(self) -> StatusCode {
        if self == Self::Died { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::SERVICE_UNAVAILABLE }
    }
}

impl From<NoThread> for io::Error {
    fn from(error: NoThread) -> Self {
        let kind = if error == NoThread::Died { io::ErrorKind::Other } else { io::ErrorKind::ResourceBusy };
        Self::new(kind, error)
    }
}

/// The threads of one kind of work.
#[derive(Debug)]
pub struct Threads {
    /// Calls that are waited for.
    calls: Semaphore,
    /// Threads that work.
    threads: Arc<Semaphore>,
}

impl Threads {
    fn new(calls: usize, threads: usize) -> Self {
        Self { calls: Semaphore::new(calls), threads: Arc::new(Semaphore::new(threads)) }
    }

    /// Runs the work in a thread. If cancelled, the work goes on, but no longer counts as a call.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NoThread> {
        let place = tokio::time::timeout(PLACE_TIMEOUT, self.calls.acquire()).await;
        // Neither semaphore is ever closed.
        let Ok(Ok(_call)) = place else { return Err(NoThread::Busy) };
        let Ok(thread) = self.threads.clone().try_acquire_owned() else { return Err(NoThread::Stuck) };
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(thread);
            result
        });
        done.await.map_err(|_| NoThread::Died)
    }
}

/// The threads of all kinds of work.
#[derive(Debug)]
pub struct AllThreads {
    /// Calls on files.
    pub files: Threads,
    /// Starts of programs.
    pub starts: Threads,
    /// Calls on `/proc` and the root disk.
    pub system: Threads,
}

impl Default for AllThreads {
    fn default() -> Self {
        Self {
            files: Threads::new(MAX_FILE_CALLS, MAX_FILE_THREADS),
            starts: Threads::new(MAX_STARTS, MAX_STARTS),
            system: Threads::new(MAX_SYSTEM_CALLS, MAX_SYSTEM_THREADS),
        }
    }
}
