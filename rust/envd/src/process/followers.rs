//! Those who read what a process says.
//!
//! Nobody reads: the output is thrown away, so that the process never stops at a full pipe. Somebody reads slowly:
//! the process waits for him, for at most [`STALL_LIMIT`]; then he is cut off. Somebody is gone: he is forgotten.
//! Who comes later may ask for what was said last: see [`History`].

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

/// Events that may wait for one reader: half a megabyte at the longest chunk.
const MAX_WAITING_EVENTS: usize = 16;
/// How long a reader may hold a process up.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// One reader.
#[derive(Clone, Debug)]
struct Follower {
    /// To his connection.
    parts: mpsc::Sender<Part>,
    /// How he reads.
    codec: Codec,
    /// Whether he gets an error in place of the end when the time is over: the one who set the time.
    starter: bool,
}

/// The readers of one process.
#[derive(Debug, Default)]
pub struct Followers {
    /// Those of now, and the end once it is known.
    state: Mutex<State>,
    /// Told when somebody is given the end.
    collected: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Those who read now.
    list: Vec<Follower>,
    /// How the process ended; from then on `list` is empty.
    end: Option<EndEvent>,
    /// What was said last.
    history: History,
    /// Whether somebody was given the end.
    is_collected: bool,
}

/// Events of `Start` and `Connect` look alike, so one type writes both.
fn frame(codec: Codec, event: Event) -> Vec<u8> {
    message_frame(codec, &StartResponse { event: Some(ProcessEvent { event: Some(event) }) })
}

/// The last bytes of a stream: the end of the process and the end of the stream.
fn last_frames(codec: Codec, end: &EndEvent) -> Bytes {
    let mut bytes = frame(codec, Event::End(end.clone()));
    bytes.extend(end_frame(None));
    bytes.into()
}

impl Followers {
    /// A stream that begins with `start` and with `replay` goes on with what was kept; after the end of the process it
    /// holds only these and the end.
    pub fn follow(&self, pid: u32, caller: &Caller, starter: bool, replay: bool) -> (Body, mpsc::Sender<Part>) {
        let (parts, receiver) = mpsc::channel(MAX_WAITING_EVENTS);
        let codec = caller.codec;
        // Held until the follower is in the list: what is said meanwhile is either in the history or comes to him.
        let mut state = lock(&self.state);
        let (missed, replayed) = if replay { (state.history.missed(), state.history.length()) } else { (0, 0) };
        let mut first = frame(codec, Event::Start(StartEvent { pid, missed, replayed }));
        if replay {
            for (kind, bytes) in state.history.chunks() {
                first.extend(frame(codec, kind.event(bytes.to_vec())));
            }
        }
        // The channel is new and has room for both.
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

    /// Waits until somebody is given the end. For one task.
    pub async fn wait_collected(&self) {
        while !self.is_collected() {
            self.collected.notified().await;
        }
    }

    /// Whether somebody was given the end.
    pub fn is_collected(&self) -> bool {
        lock(&self.state).is_collected
    }

    /// Bytes of output that are kept.
    pub fn kept_bytes(&self) -> u64 {
        lock(&self.state).history.length()
    }

    /// Whether the end is known.
    pub fn is_finished(&self) -> bool {
        lock(&self.state).end.is_some()
    }

    fn remove(&self, follower: &Follower) {
        lock(&self.state).list.retain(|f| !f.parts.same_channel(&follower.parts));
    }

    /// Ends one stream, the process lives on.
    pub fn dismiss(&self, parts: &mpsc::Sender<Part>, error: &ConnectError) {
        lock(&self.state).list.retain(|f| !f.parts.same_channel(parts));
        // A full channel means that nobody reads: closing it cuts the connection.
        let _ = parts.try_send(Part::Last(end_frame(Some(error)).into()));
    }

    /// Gives output to all who read.
    pub async fn say(&self, kind: Kind, bytes: Vec<u8>) {
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

    /// Gives the end to all who read and to all who come later. `overdue` is what the starter gets instead.
    pub async fn finish(&self, end: EndEvent, overdue: Option<&ConnectError>) {
        let followers = {
            let mut state = lock(&self.state);
            state.end = Some(end.clone());
            let followers = std::mem::take(&mut state.list);
            // Its starter has read all of it: of commands that run one after the other, none is kept.
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

/// Whether the reader is still there.
async fn deliver(follower: &Follower, part: Part) -> bool {
    match follower.parts.try_send(part) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Closed(_)) => false,
        Err(mpsc::error::TrySendError::Full(part)) => {
            matches!(tokio::time::timeout(STALL_LIMIT, follower.parts.send(part)).await, Ok(Ok(())))
        }
    }
}
