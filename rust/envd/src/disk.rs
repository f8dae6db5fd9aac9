//! `POST /disk/grow`: grows the root file system after the host has enlarged its disk. The kernel is informed of
//! the new size by an interrupt, which may arrive after this request.
//!
//! `POST /disk/settle`: writes everything to the disk, before the host reads it without the memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use sys::rustix;
use sys::rustix::io::Errno;

use crate::agent::{Agent, Mode};
use crate::body::{Body, read_whole};
use crate::rpc::MAX_MESSAGE_BYTES;
use crate::server::reply;

/// How long to wait until the kernel sees the new size.
const SIZE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the size is read.
const SIZE_POLL: Duration = Duration::from_millis(1);
/// Unit of block device sizes in `/sys`, for all devices.
const SECTOR_BYTES: u64 = 512;

/// The body.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GrowRequest {
    /// The new size of the disk.
    size_bytes: u64,
}

/// Responds 204 once the file system fills a disk of this size. Idempotent.
pub async fn grow(agent: &Agent, request: Request<Incoming>) -> Response<Body> {
    let bytes = match read_whole(request.into_body(), MAX_MESSAGE_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) => return reply::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Ok(GrowRequest { size_bytes }) = serde_json::from_slice(&bytes) else {
        return reply::error(StatusCode::BAD_REQUEST, "the body must be {\"sizeBytes\": <number>}");
    };
    let done = agent.threads.system.run(move || grow_root(size_bytes)).await;
    match done.unwrap_or_else(|error| Err(error.into())) {
        Ok(()) => reply::empty(StatusCode::NO_CONTENT),
        Err(error) => {
            reply::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot grow the root file system: {error}"))
        }
    }
}

/// Writes all file systems to their disks and returns the free blocks of the root's. Responds 204. Idempotent.
///
/// As a process among others the agent has no disk of its own, and that of the machine is not its business.
pub async fn settle(agent: &Agent) -> Response<Body> {
    if agent.mode == Mode::Process {
        return reply::empty(StatusCode::NO_CONTENT);
    }
    let work = || {
        rustix::fs::sync();
        let root = File::open("/")?;
        match sys::ext4::trim(&root) {
            // A disk that takes no such hints; the image is only larger.
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
            other => other?,
        }
        // The trimmed blocks are recorded in the journal.
        rustix::fs::syncfs(&root).map_err(io::Error::from)
    };
    match agent.threads.system.run(work).await.unwrap_or_else(|error| Err(error.into())) {
        Ok(()) => reply::empty(StatusCode::NO_CONTENT),
        Err(error) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot write the disk: {error}")),
    }
}

fn grow_root(size: u64) -> io::Result<()> {
    let root = File::open("/")?;
    let device = root.metadata()?.dev();
    let device = format!("/sys/dev/block/{}:{}/size", rustix::fs::major(device), rustix::fs::minor(device));
    let deadline = Instant::now() + SIZE_TIMEOUT;
    while sectors(&device)? < size / SECTOR_BYTES {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk has not become larger"));
        }
        std::thread::sleep(SIZE_POLL);
    }
    let block = rustix::fs::fstatvfs(&root)?.f_frsize;
    sys::ext4::grow(&root, size / block.max(1))
}

fn sectors(path: &str) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}
