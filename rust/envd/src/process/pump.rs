//! From a process's pipes or terminal to its readers, until the end.

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
use crate::process::enclosure::Enclosure;
use crate::process::ending::end_event;
use crate::process::registry::{Process, Registry};

/// Longest chunk from a pipe.
const PIPE_CHUNK: usize = 32 * 1024;
/// Longest chunk from a terminal.
const TERMINAL_CHUNK: usize = 16 * 1024;
/// Chunks still taken from a pipe that is held open by somebody else after the end.
const MAX_LAST_CHUNKS: usize = 64;
/// Outputs that are read on after the end of their process, for the children that hold them; more are closed.
const MAX_ABANDONED: usize = 4096;

/// How many of these there are now.
static ABANDONED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// One buffer for all processes: a chunk is copied to its true size before anything waits.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; PIPE_CHUNK]);
}

/// Which output.
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
    /// Which.
    pub kind: Kind,
    /// The descriptor, non-blocking; shared with the writer in case of a terminal.
    pub end: Arc<AsyncFd<OwnedFd>>,
}

impl Source {
    /// One chunk if there is one now. Empty: the end.
    fn take_now(&self) -> io::Result<Vec<u8>> {
        let longest = if matches!(self.kind, Kind::Terminal) { TERMINAL_CHUNK } else { PIPE_CHUNK };
        SCRATCH.with_borrow_mut(|buffer| {
            match rustix::io::retry_on_intr(|| rustix::io::read(self.end.get_ref(), &mut buffer[..longest])) {
                Ok(length) => Ok(buffer[..length].to_vec()),
                // A terminal whose other side is closed by all.
                Err(rustix::io::Errno::IO) => Ok(Vec::new()),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// The next chunk; empty at the end, and also when the descriptor fails.
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
    /// Output of this kind as it is told.
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

/// What a process is started with besides its program.
#[derive(Debug)]
pub struct Terms {
    /// Set when the time that the starter gave is over.
    pub overdue: Arc<AtomicBool>,
    /// How long after the end of the process its output is waited for; `None`: until its end. See `StartRequest.drain_ms`.
    pub drain: Option<Duration>,
}

/// Carries output until the process has ended and its outputs are at their end or drained, then tells the end.
pub async fn run(
    agent: Arc<Agent>,
    process: Arc<Process>,
    sources: [Option<Source>; 2],
    mut exit: oneshot::Receiver<Ended>,
    terms: Terms,
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
                // The sender lives in the registry as long as the process does.
                ended = Some(outcome.unwrap_or(Ended::Exited(-1)));
                drained_at = terms.drain.map(|drain| Instant::now() + drain);
            }
            () = process.released.notified(), if !released => released = true,
            () = sleep_until(drained_at), if drained_at.is_some() => released = true,
        }
    }
    for source in [&first, &second].into_iter().flatten() {
        carry_rest(&process, source).await;
    }
    if terms.drain.is_some() {
        // A pipe whose reader is gone would kill the children that write to it.
        [first, second].into_iter().flatten().for_each(abandon);
    } else {
        drop((first, second));
    }
    process.close_input();
    let enclosure = lock(&process.enclosure).take();
    let out_of_memory = enclosure.as_ref().is_some_and(Enclosure::ran_out_of_memory);
    let end = end_event(ended.unwrap_or(Ended::Exited(-1)), out_of_memory);
    let late = ConnectError::new(Code::DeadlineExceeded, "the process did not end in time and was killed");
    if let Some(enclosure) = enclosure {
        agent.enclosures.give_back(enclosure);
    }
    process.followers.finish(end, terms.overdue.load(Ordering::Relaxed).then_some(&late)).await;
    Registry::forget_later(&agent, &process);
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// Reads an output to its end and drops what it reads.
fn abandon(source: Source) {
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
        Some(open) if !chunk.is_empty() => process.followers.say(open.kind, chunk).await,
        _ => *source = None,
    }
}

/// What is in a pipe that somebody else still holds open.
async fn carry_rest(process: &Process, source: &Source) {
    for _ in 0..MAX_LAST_CHUNKS {
        match source.take_now() {
            Ok(chunk) if !chunk.is_empty() => process.followers.say(source.kind, chunk).await,
            _ => return,
        }
    }
}
