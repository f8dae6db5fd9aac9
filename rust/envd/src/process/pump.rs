//! Forwards output from a process's pipes or terminal to its readers, until the end.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sys::rustix;
use sys::wait::Ended;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wire::code::{Code, ConnectError};
use wire::process::process_event::data_event::Output;
use wire::process::process_event::{DataEvent, Event};

use crate::agent::{Agent, lock};
use crate::process::ending::end_event;
use crate::process::process_cgroup::ProcessCgroup;
use crate::process::registry::{Process, Registry};

/// Longest chunk from a pipe.
const PIPE_CHUNK: usize = 32 * 1024;
/// Longest chunk from a terminal.
const TERMINAL_CHUNK: usize = 16 * 1024;
/// Chunks that are still read after the end from a pipe that another process has open.
const MAX_LAST_CHUNKS: usize = 64;
/// Outputs that are read after the end of their process on behalf of its children; further ones are closed.
const MAX_ABANDONED: usize = 4096;

/// The current number of these.
static ABANDONED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// One buffer for all processes: a chunk is copied to its actual size before any wait.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; PIPE_CHUNK]);
}

/// The kind of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A terminal: both in one.
    Terminal,
}

/// The reading end of an output.
#[derive(Debug)]
pub struct Source {
    /// Its kind.
    pub kind: Kind,
    /// The descriptor, non-blocking; shared with the writer for a terminal.
    pub end: Arc<AsyncFd<OwnedFd>>,
}

impl Source {
    /// Reads one chunk if there is one. Empty: the end.
    fn take_now(&self) -> io::Result<Vec<u8>> {
        let longest = if matches!(self.kind, Kind::Terminal) { TERMINAL_CHUNK } else { PIPE_CHUNK };
        SCRATCH.with_borrow_mut(|buffer| {
            match rustix::io::retry_on_intr(|| rustix::io::read(self.end.get_ref(), &mut buffer[..longest])) {
                Ok(length) => Ok(buffer[..length].to_vec()),
                // A terminal whose other side was closed by all processes.
                Err(rustix::io::Errno::IO) => Ok(Vec::new()),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Waits for the next chunk; empty at the end, and if the descriptor fails.
    async fn take(&self) -> Vec<u8> {
        loop {
            let Ok(mut ready) = self.end.readable().await else { return Vec::new() };
            match ready.try_io(|_| self.take_now()) {
                Ok(outcome) => return outcome.unwrap_or_default(),
                Err(_would_block) => {}
            }
        }
    }
}

impl Kind {
    /// Creates the event for output of this kind.
    pub fn event(self, bytes: Vec<u8>) -> Event {
        let output = match self {
            Self::Stdout => Output::Stdout(bytes),
            Self::Stderr => Output::Stderr(bytes),
            Self::Terminal => Output::Pty(bytes),
        };
        Event::Data(DataEvent { output: Some(output) })
    }
}

async fn take_from(source: Option<&Source>) -> Vec<u8> {
    match source {
        Some(source) => source.take().await,
        None => pending().await,
    }
}

/// Options of a process besides its program.
#[derive(Debug)]
pub struct PumpOptions {
    /// Set when the starter's time limit is exceeded.
    pub overdue: Arc<AtomicBool>,
    /// How long to wait for output after the end of the process; `None`: until the end of the output. See
    /// `StartRequest.drain_ms`.
    pub drain: Option<Duration>,
}

/// Forwards output until the process has ended and its outputs have ended or were drained, then sends the
/// end.
pub async fn run(
    agent: Arc<Agent>,
    process: Arc<Process>,
    sources: [Option<Source>; 2],
    mut exit: oneshot::Receiver<Ended>,
    options: PumpOptions,
) {
    let [mut first, mut second] = sources;
    let mut ended = None;
    let mut released = false;
    let mut drained_at: Option<Instant> = None;
    while ended.is_none() || (!released && (first.is_some() || second.is_some())) {
        tokio::select! {
            chunk = take_from(first.as_ref()) => carry(&process, &mut first, chunk).await,
            chunk = take_from(second.as_ref()) => carry(&process, &mut second, chunk).await,
            outcome = &mut exit, if ended.is_none() => {
                // The sender is in the registry as long as the process runs.
                ended = Some(outcome.unwrap_or(Ended::Exited(-1)));
                drained_at = options.drain.map(|drain| Instant::now() + drain);
            }
            () = process.released.notified(), if !released => released = true,
            () = sleep_until(drained_at), if drained_at.is_some() => released = true,
        }
    }
    for source in [&first, &second].into_iter().flatten() {
        carry_rest(&process, source).await;
    }
    if options.drain.is_some() {
        // A pipe without a reader would kill the children that write to it.
        [first, second].into_iter().flatten().for_each(discard_rest);
    } else {
        drop((first, second));
    }
    process.close_input();
    let process_cgroup = lock(&process.cgroup).take();
    let out_of_memory = process_cgroup.as_ref().is_some_and(ProcessCgroup::ran_out_of_memory);
    let end = end_event(ended.unwrap_or(Ended::Exited(-1)), out_of_memory);
    let late = ConnectError::new(Code::DeadlineExceeded, "the process did not end in time and was killed");
    if let Some(process_cgroup) = process_cgroup {
        agent.process_cgroups.give_back(process_cgroup);
    }
    process.followers.finish(end, options.overdue.load(Ordering::Relaxed).then_some(&late)).await;
    Registry::forget_later(&agent, &process);
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// Reads an output to its end and discards it.
fn discard_rest(source: Source) {
    if ABANDONED.fetch_add(1, Ordering::Relaxed) >= MAX_ABANDONED {
        ABANDONED.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    tokio::spawn(async move {
        while !source.take().await.is_empty() {}
        ABANDONED.fetch_sub(1, Ordering::Relaxed);
    });
}

async fn carry(process: &Process, source: &mut Option<Source>, chunk: Vec<u8>) {
    match source {
        Some(open) if !chunk.is_empty() => process.followers.send_output(open.kind, chunk).await,
        _ => *source = None,
    }
}

/// Forwards what is left in a pipe that another process still has open.
async fn carry_rest(process: &Process, source: &Source) {
    for _ in 0..MAX_LAST_CHUNKS {
        match source.take_now() {
            Ok(chunk) if !chunk.is_empty() => process.followers.send_output(source.kind, chunk).await,
            _ => return,
        }
    }
}
