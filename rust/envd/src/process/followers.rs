//! The readers of a process's output.
//!
//! Without readers the output is discarded, so that the process never blocks on a full pipe. A slow reader
//! blocks the process for at most [`STALL_LIMIT`]; then the reader is disconnected. A reader that has
//! disconnected is removed. Later readers may request the last output: see [`History`].

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use wire::code::ConnectError;
use wire::codec::Codec;
use wire::process::process_event::{EndEvent, Event, KeepAlive, StartEvent};
use wire::process::{ProcessEvent, StartResponse};

use crate::agent::lock;
use crate::body::{Body, Part};
use crate::process::history::History;
use crate::process::pump::Kind;
use crate::rpc::{Caller, end_frame, message_frame};

/// Events queued for one reader: half a megabyte at the greatest chunk size.
const MAX_WAITING_EVENTS: usize = 16;
/// How long a reader may block a process.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// One reader.
#[derive(Clone, Debug)]
struct Follower {
    /// The channel to its connection.
    parts: mpsc::Sender<Part>,
    /// Its encoding.
    codec: Codec,
    /// Whether it gets an error instead of the end if the time limit is exceeded: the reader that set the
    /// limit.
    starter: bool,
}

/// The readers of one process.
#[derive(Debug, Default)]
pub struct Followers {
    /// Current readers, and the end once it is known.
    state: Mutex<State>,
    /// Notified when a reader gets the end.
    collected: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Current readers.
    list: Vec<Follower>,
    /// The end of the process; from then on `list` is empty.
    end: Option<EndEvent>,
    /// The last output.
    history: History,
    /// Whether a reader got the end.
    is_collected: bool,
}

/// Encodes an event; those of `Start` and `Connect` have the same encoding.
fn frame(codec: Codec, event: Event) -> Vec<u8> {
    message_frame(codec, &StartResponse { event: Some(ProcessEvent { event: Some(event) }) })
}

/// Encodes the last bytes of a stream: the end of the process and the end of the stream.
fn last_frames(codec: Codec, end: &EndEvent) -> Bytes {
    let mut bytes = frame(codec, Event::End(end.clone()));
    bytes.extend(end_frame(None));
    bytes.into()
}

impl Followers {
    /// Creates a stream that begins with `start` and, with `replay`, the buffered output; after the end of
    /// the process it contains only these and the end.
    pub fn follow(&self, pid: u32, caller: &Caller, starter: bool, replay: bool) -> (Body, mpsc::Sender<Part>) {
        let (parts, receiver) = mpsc::channel(MAX_WAITING_EVENTS);
        let codec = caller.codec;
        // Locked until the follower is in the list: output meanwhile is either in the history or sent to it.
        let mut state = lock(&self.state);
        let (missed, replayed) = if replay { (state.history.missed(), state.history.length()) } else { (0, 0) };
        let mut first = frame(codec, Event::Start(StartEvent { pid, missed, replayed }));
        if replay {
            for (kind, bytes) in state.history.chunks() {
                first.extend(frame(codec, kind.event(bytes.to_vec())));
            }
        }
        // The channel is new and large enough for both.
        let _ = parts.try_send(Part::More(first.into()));
        match &state.end {
            Some(end) => {
                let last = Part::Last(last_frames(codec, end));
                let _ = parts.try_send(last);
                self.collect(&mut state);
            }
            None => state.list.push(Follower { parts: parts.clone(), codec, starter }),
        }
        let keepalive = frame(codec, Event::Keepalive(KeepAlive {}));
        (Body::events(receiver, caller.keepalive, keepalive.into()), parts)
    }

    fn collect(&self, state: &mut State) {
        state.is_collected = true;
        self.collected.notify_one();
    }

    /// Waits until a reader gets the end. Only one task may wait.
    pub async fn wait_collected(&self) {
        while !self.is_collected() {
            self.collected.notified().await;
        }
    }

    /// Whether a reader got the end.
    pub fn is_collected(&self) -> bool {
        lock(&self.state).is_collected
    }

    /// Bytes of buffered output.
    pub fn buffered_bytes(&self) -> u64 {
        lock(&self.state).history.length()
    }

    /// Whether the end is known.
    pub fn is_finished(&self) -> bool {
        lock(&self.state).end.is_some()
    }

    fn remove(&self, follower: &Follower) {
        lock(&self.state).list.retain(|f| !f.parts.same_channel(&follower.parts));
    }

    /// Ends one stream; the process keeps running.
    pub fn disconnect(&self, parts: &mpsc::Sender<Part>, error: &ConnectError) {
        lock(&self.state).list.retain(|f| !f.parts.same_channel(parts));
        // A full channel means that nobody reads: dropping it closes the connection.
        let _ = parts.try_send(Part::Last(end_frame(Some(error)).into()));
    }

    /// Sends output to all readers.
    pub async fn send_output(&self, kind: Kind, bytes: Vec<u8>) {
        let followers = {
            let mut state = lock(&self.state);
            state.history.push(kind, &bytes);
            state.list.clone()
        };
        let event = kind.event(bytes);
        let mut written: [Option<Bytes>; 2] = [None, None];
        for follower in followers {
            let place = usize::from(follower.codec == Codec::Proto);
            let bytes = written[place].get_or_insert_with(|| frame(follower.codec, event.clone()).into()).clone();
            if !deliver(&follower, Part::More(bytes)).await {
                self.remove(&follower);
            }
        }
    }

    /// Sends the end to all current and later readers. `overdue` is sent to the starter instead.
    pub async fn finish(&self, end: EndEvent, overdue: Option<&ConnectError>) {
        let followers = {
            let mut state = lock(&self.state);
            state.end = Some(end.clone());
            let followers = std::mem::take(&mut state.list);
            // The starter has read everything: nothing is buffered for commands that run one after another.
            if followers.iter().any(|f| f.starter) {
                state.history = History::default();
            }
            followers
        };
        for follower in followers {
            let bytes = match overdue {
                Some(error) if follower.starter => end_frame(Some(error)).into(),
                _ => last_frames(follower.codec, &end),
            };
            if deliver(&follower, Part::Last(bytes)).await {
                self.collect(&mut lock(&self.state));
            }
        }
    }
}

/// Sends a part; returns whether the reader is still connected.
async fn deliver(follower: &Follower, part: Part) -> bool {
    match follower.parts.try_send(part) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Closed(_)) => false,
        Err(mpsc::error::TrySendError::Full(part)) => {
            matches!(tokio::time::timeout(STALL_LIMIT, follower.parts.send(part)).await, Ok(Ok(())))
        }
    }
}
