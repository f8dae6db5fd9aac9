//! The one message of the VMM: where its memory is, and the descriptor by which that is filled.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::rustix::net::{self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketFlags};
use sys::rustix::process::geteuid;
use sys::socket::peer_user;

use sys::rustix;

/// A VMM connects some milliseconds after its start; a machine may be slow.
const DEADLINE: Duration = Duration::from_secs(30);
/// A message of one mapping has 120 bytes.
const LARGEST: usize = 16 * 1024;

/// Why there is no VMM to serve.
#[derive(Debug)]
pub enum HandshakeError {
    /// Nobody connected, or nothing came.
    Late,
    /// The other end is a program of another user.
    Stranger(u32),
    /// The message is too long, or has not exactly one descriptor.
    Message,
    /// The kernel refused something.
    Io(io::Error),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => write!(f, "the VMM sent nothing within {} s", DEADLINE.as_secs()),
            Self::Stranger(uid) => write!(f, "a program of user {uid} connected"),
            Self::Message => write!(f, "the VMM's message is not one with a descriptor"),
            Self::Io(error) => write!(f, "the VMM's message was not received: {error}"),
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl<E: Into<io::Error>> From<E> for HandshakeError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

/// What the VMM sent, and the connection, which ends when the VMM does.
pub struct Message {
    /// The text of the mappings.
    pub mappings: Vec<u8>,
    /// By which the memory is filled.
    pub memory: OwnedFd,
    /// Nothing more is sent.
    pub connection: UnixStream,
}

/// Waits for the VMM and its message. Nobody can connect afterwards.
pub fn receive(listener: OwnedFd) -> Result<Message, HandshakeError> {
    wait(&listener)?;
    let connection = UnixStream::from(net::accept_with(&listener, SocketFlags::CLOEXEC)?);
    drop(listener);
    let user = peer_user(&connection)?;
    if user != geteuid().as_raw() {
        return Err(HandshakeError::Stranger(user));
    }
    wait(&connection)?;
    let mut text = vec![0; LARGEST];
    // One more than there may be, so that too many are seen.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        net::recvmsg(&connection, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    let cut = received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) || received.bytes == LARGEST;
    match descriptors.pop() {
        Some(memory) if descriptors.is_empty() && !cut => {
            text.truncate(received.bytes);
            Ok(Message { mappings: text, memory, connection })
        }
        _ => Err(HandshakeError::Message),
    }
}

fn wait(descriptor: &impl std::os::fd::AsFd) -> Result<(), HandshakeError> {
    let deadline = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&deadline))? {
        0 => Err(HandshakeError::Late),
        _ => Ok(()),
    }
}
