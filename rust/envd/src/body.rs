//! Bodies of requests and responses.

use std::convert::Infallible;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

/// A response that cannot be completed. The connection is closed, so that the client does not take it for
/// complete.
#[derive(Clone, Copy, Debug)]
pub struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer was cut off")
    }
}

impl std::error::Error for CutOff {}

impl From<Infallible> for CutOff {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A part of a streamed response.
#[derive(Debug)]
pub enum Part {
    /// Bytes that are not the last.
    More(Bytes),
    /// The last bytes.
    Last(Bytes),
}

/// The body of a response.
#[derive(Debug)]
pub enum Body {
    /// Complete from the start.
    Whole(Option<Bytes>),
    /// Streamed. A channel that closes without [`Part::Last`] closes the connection.
    Streamed(Streamed),
}

/// A body streamed over a channel.
#[derive(Debug)]
pub struct Streamed {
    /// The source of its parts.
    parts: mpsc::Receiver<Part>,
    /// Remaining bytes, if known.
    length: Option<u64>,
    /// What to send during silence.
    keepalive: Option<Keepalive>,
    /// Whether the last part was sent.
    done: bool,
}

#[derive(Debug)]
struct Keepalive {
    /// Longest silence.
    interval: Duration,
    /// The keep-alive frame.
    frame: Bytes,
    /// The timer.
    alarm: Pin<Box<Sleep>>,
}

impl Body {
    /// A body with these bytes.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    /// An empty body.
    pub fn empty() -> Self {
        Self::Whole(None)
    }

    /// A body of known length.
    pub fn sized(parts: mpsc::Receiver<Part>, length: Option<u64>) -> Self {
        Self::Streamed(Streamed { parts, length, keepalive: None, done: false })
    }

    /// A body that sends `frame` after every `interval` of silence.
    pub fn events(parts: mpsc::Receiver<Part>, interval: Duration, frame: Bytes) -> Self {
        let keepalive = Keepalive { interval, frame, alarm: Box::pin(tokio::time::sleep(interval)) };
        Self::Streamed(Streamed { parts, length: None, keepalive: Some(keepalive), done: false })
    }
}

impl Streamed {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let bytes = match self.parts.poll_recv(context) {
            Poll::Ready(Some(Part::More(bytes))) => bytes,
            Poll::Ready(Some(Part::Last(bytes))) => {
                self.done = true;
                bytes
            }
            Poll::Ready(None) => {
                self.done = true;
                return Poll::Ready(Some(Err(CutOff)));
            }
            Poll::Pending => {
                let Some(keepalive) = &mut self.keepalive else { return Poll::Pending };
                ready!(keepalive.alarm.as_mut().poll(context));
                keepalive.alarm.as_mut().reset(Instant::now() + keepalive.interval);
                return Poll::Ready(Some(Ok(keepalive.frame.clone())));
            }
        };
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.alarm.as_mut().reset(Instant::now() + keepalive.interval);
        }
        if let Some(length) = &mut self.length {
            *length = length.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(Some(Ok(bytes)))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Streamed(stream) => stream.poll(context).map(|p| p.map(|r| r.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Streamed(stream) => stream.done,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Streamed(stream) => stream.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// Why a request's body could not be read.
#[derive(Debug)]
pub enum BodyError {
    /// It exceeds the limit.
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection broke, or the bytes are not valid HTTP.
    Broken(hyper::Error),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { limit } => write!(f, "the request is longer than the limit of {limit} bytes"),
            Self::Broken(error) => write!(f, "the request broke off: {error}"),
        }
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TooLong { .. } => None,
            Self::Broken(error) => Some(error),
        }
    }
}

/// Returns the next bytes of a body; `None` at its end.
pub async fn next_bytes(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(BodyError::Broken)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Reads a whole body of at most `limit` bytes.
pub async fn read_whole(mut body: Incoming, limit: usize) -> Result<Bytes, BodyError> {
    let Some(first) = next_bytes(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(BodyError::TooLong { limit });
    }
    let Some(second) = next_bytes(&mut body).await? else { return Ok(first) };
    let mut all = Vec::from(first);
    let mut next = Some(second);
    while let Some(bytes) = next {
        if all.len() + bytes.len() > limit {
            return Err(BodyError::TooLong { limit });
        }
        all.extend_from_slice(&bytes);
        next = next_bytes(&mut body).await?;
    }
    Ok(all.into())
}
