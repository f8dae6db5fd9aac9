//! Connections in, answers out.
//!
//! - this file: listening, and the bounds on connections;
//! - [`access`]: who may ask;
//! - [`route`]: which part answers.

pub mod access;
pub mod reply;
pub mod route;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::agent::{Agent, Mode};
use crate::reaper;

/// Connections served at once.
const MAX_CONNECTIONS: usize = 512;
/// Of these, how many may come from inside the guest: programs there cannot shut the host out.
const MAX_LOCAL_CONNECTIONS: usize = 256;
/// Longest head of a request; file paths and metadata travel in it.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Time for a head to come, counted from the answer before: longer than clients keep idle connections (300 s), so
/// that no request meets a connection that is just being closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(330);
/// Time without any sign of life from a peer that owes us acknowledgements.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);
/// Threads for disk work; they end when idle.
const MAX_DISK_THREADS: usize = 16;
/// How long an idle thread waits for more.
const DISK_THREAD_IDLE: Duration = Duration::from_secs(5);
/// Deepest disk work is a directory walk with its state on the heap.
const DISK_THREAD_STACK: usize = 256 * 1024;
/// Pause after the kernel has refused a connection, so that a full descriptor table is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a connection comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The other side.
    pub peer: SocketAddr,
    /// Our side.
    pub local: SocketAddr,
}

impl Ends {
    /// Whether the other side is in this machine.
    pub fn is_local(&self) -> bool {
        self.peer.ip().is_loopback() || self.peer.ip() == self.local.ip()
    }
}

/// One thread for everything that waits: a guest mostly has one processor.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_DISK_THREADS)
        .thread_keep_alive(DISK_THREAD_IDLE)
        .thread_stack_size(DISK_THREAD_STACK)
        .build()
}

/// Serves for ever. `ready` is told the address once connections are taken.
pub fn run(mode: Mode, address: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    // Calls borrow across waits in ways that only one thread allows, and there is only one.
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime()?, async move {
        let agent = Agent::new(mode);
        let ends = reaper::listen()?;
        tokio::spawn(reaper::run(agent.clone(), ends));
        if mode == Mode::Pid1 {
            tokio::spawn(crate::pid1::power_off_when_told()?);
        }
        let listener = TcpListener::bind(address).await?;
        ready(listener.local_addr()?);
        accept(agent, listener).await;
        Ok(())
    })
}

async fn accept(agent: Arc<Agent>, listener: TcpListener) {
    let all = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let local = Arc::new(Semaphore::new(MAX_LOCAL_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("envd: cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (Ok(peer), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else { continue };
        let ends = Ends { peer, local: own };
        // Full: the connection is closed at once, which a client sees as a failed connection and may try again.
        let Ok(place) = all.clone().try_acquire_owned() else { continue };
        let local_place = match ends.is_local().then(|| local.clone().try_acquire_owned()) {
            None => None,
            Some(Ok(place)) => Some(place),
            Some(Err(_)) if agent.mode == Mode::Process => None,
            Some(Err(_)) => continue,
        };
        let agent = agent.clone();
        tokio::task::spawn_local(async move {
            serve_connection(agent, stream, ends).await;
            drop((place, local_place));
        });
    }
}

async fn serve_connection(agent: Arc<Agent>, stream: TcpStream, ends: Ends) {
    // Both are a matter of speed and of tidiness; a connection without them works.
    let _ = stream.set_nodelay(true);
    let _ = sys::socket::set_user_timeout(&stream, PEER_TIMEOUT);
    let service = service_fn(|request| {
        let agent = agent.clone();
        async move { Ok::<_, Infallible>(route::answer(agent, request, ends).await) }
    });
    // A broken connection is the client's affair; what it began lives on by its own rules.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES.max(8 * 1024))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}
