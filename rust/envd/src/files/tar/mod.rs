//! `GET` and `POST /files/tar`: reads a directory as a tar archive, unpacks an archive into a directory. With
//! `entry_name` a file is read as an archive of one entry.
//!
//! - [`header`], [`archive`]: the format; [`pack`], [`unpack`]: the file system's side; [`pipe`]: between
//!   disk and connection.
//!
//! Each transfer has its own thread, which acts as the user during its whole life; so a slow client does not
//! block others who wait for the shared disk threads.

pub mod archive;
pub mod header;
pub mod pack;
pub mod pipe;
pub mod unpack;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header as names};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

use crate::agent::Agent;
use crate::body::Body;
use crate::files::FilesError;
use crate::files::inflate::Upload;
use crate::files::owner;
use crate::files::query::Query;
use crate::filesystem::become_user;
use crate::filesystem::fault::Fault;
use crate::paths;
use crate::server::reply;
use crate::users::User;

/// Concurrent transfers; each has a thread and about 2 MiB.
const MAX_AT_ONCE: usize = 8;
static PLACES: Semaphore = Semaphore::const_new(MAX_AT_ONCE);
/// How long a client may still send after the response is known.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(30);
/// Small, because the deepest work keeps its state on the heap.
const STACK: usize = 256 * 1024;

/// Handles `GET`.
pub async fn read(agent: &Arc<Agent>, request: &Request<Incoming>) -> Response<Body> {
    give(agent, request).await.unwrap_or_else(|error| error.answer())
}

/// Handles `POST`.
pub async fn write(agent: &Arc<Agent>, request: Request<Incoming>) -> Response<Body> {
    match take(agent, request).await {
        Ok(()) => reply::empty(StatusCode::NO_CONTENT),
        Err(error) => error.answer(),
    }
}

/// Returns the user and the directory of a request. The token was checked before; signatures are not accepted
/// here.
fn authorize(agent: &Agent, query: &Query) -> Result<(User, PathBuf), FilesError> {
    let user = agent.user(query.username.as_deref())?;
    let name = query.name()?.ok_or_else(|| FilesError::Invalid("the path is missing".into()))?;
    let path = paths::resolve(&name, &user.home);
    Ok((user, path))
}

fn place() -> Result<SemaphorePermit<'static>, FilesError> {
    PLACES.try_acquire().map_err(|_| FilesError::Busy)
}

/// Runs `work` as the user in its own thread.
fn spawn(user: &User, work: impl FnOnce(Result<(), Fault>) + Send + 'static) -> Result<(), FilesError> {
    let ids = user.ids.clone();
    let run = move || match become_user(&ids) {
        Ok(_acting) => work(Ok(())),
        Err(error) => work(Err(Fault::new("act as the user on", "/", error))),
    };
    let thread = std::thread::Builder::new().name("tar".into()).stack_size(STACK).spawn(run);
    // The thread ends by itself: with its work, or when the connection drops its end of the channel.
    thread.map(drop).map_err(|e| Fault::new("begin a transfer of", "/", e).into())
}

fn died<E>(_: E) -> FilesError {
    Fault::new("finish the work on", "/", std::io::Error::other("the worker died")).into()
}

async fn give(agent: &Arc<Agent>, request: &Request<Incoming>) -> Result<Response<Body>, FilesError> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (user, path) = authorize(agent, &query)?;
    let place = place()?;
    let (entry, one_file_system) = (query.entry()?, query.is_one_file_system()?);
    let (parts, receiver) = mpsc::channel(pipe::MAX_AHEAD);
    let (opened, is_open) = oneshot::channel();
    let worker = agent.clone();
    spawn(&user, move |acting| {
        let _place = place;
        let source = match acting.and_then(|()| pack::open(&path, entry, one_file_system)) {
            Ok(source) => source,
            // The receiver may be gone.
            Err(fault) => return drop(opened.send(Err(fault))),
        };
        if opened.send(Ok(())).is_err() {
            return;
        }
        let mut output = pipe::Outflow::new(parts);
        match pack::pack(&worker, source, &mut output) {
            Ok(()) => drop(output.finish()),
            // Dropping the channel closes the connection; the reason can only be logged here.
            Err(fault) if !fault.is_cut_off() => eprintln!("envd: a download broke off: {fault}"),
            Err(_) => {}
        }
    })?;
    is_open.await.map_err(died)??;
    let mut response = Response::new(Body::sized(receiver, None));
    response.headers_mut().insert(names::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

async fn take(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<(), FilesError> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (user, path) = authorize(agent, &query)?;
    let options = unpack::Options {
        owner: query.owner.as_deref().map(|text| owner::parse(agent, text)).transpose()?,
        keep_owners: query.keeps_owners()?,
        mode: query.mode_bits()?,
    };
    let encoding = request.headers().get(names::CONTENT_ENCODING).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut upload = Upload::new(request.into_body(), encoding.as_deref())?;
    let outcome = feed(agent, &mut upload, &user, path, options).await;
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, upload.discard()).await;
    agent.watchers.read_all(agent).await;
    outcome
}

async fn feed(
    agent: &Arc<Agent>,
    upload: &mut Upload,
    user: &User,
    path: PathBuf,
    options: unpack::Options,
) -> Result<(), FilesError> {
    let place = place()?;
    let (chunks, receiver) = mpsc::channel(pipe::MAX_AHEAD);
    let (done, outcome) = oneshot::channel();
    let (worker, acting_ids) = (agent.clone(), user.ids.clone());
    spawn(user, move |acting| {
        let _place = place;
        let input = pipe::Inflow::new(receiver);
        let unpacked =
            acting.map_err(FilesError::from).and_then(|()| unpack::unpack(&worker, &acting_ids, input, &path, options));
        // The receiver may be gone.
        drop(done.send(unpacked));
    })?;
    let mut broken = None;
    loop {
        match upload.next().await {
            Ok(Some(bytes)) => {
                // The worker has already ended.
                if chunks.send(pipe::Chunk::Bytes(bytes)).await.is_err() {
                    break;
                }
            }
            Ok(None) => {
                let _ = chunks.send(pipe::Chunk::End).await;
                break;
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    drop(chunks);
    let unpacked = outcome.await.map_err(died)?;
    broken.map_or(unpacked, Err)
}
