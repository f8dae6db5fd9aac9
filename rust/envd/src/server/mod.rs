//! The HTTP server.
//!
//! - this file: listening, and the limits on connections;
//! - [`access`]: authentication of requests;
//! - [`request_log`]: failed requests in the log;
//! - [`route`]: dispatch of requests by path.

pub mod access;
pub mod reply;
pub mod request_log;
pub mod route;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::agent::{Agent, Mode};
use crate::{reaper, threads};

/// Concurrent connections.
const MAX_CONNECTIONS: usize = 512;
/// Of these, how many may come from inside the guest, so that programs there cannot lock the host out.
const MAX_LOCAL_CONNECTIONS: usize = 256;
/// Longest head of a request, which includes file paths and metadata.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Time for a head to arrive, counted from the previous response: longer than clients keep idle connections
/// (300 s), so that no request races with the close of its connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(330);
/// Time without an acknowledgement from a peer that has data to acknowledge, or without room for more at that peer: longer than the
/// host lets a reader pause (600 s).
const PEER_TIMEOUT: Duration = Duration::from_secs(660);
/// How long an idle thread waits for more.
const DISK_THREAD_IDLE: Duration = Duration::from_secs(5);
/// Small, because the deepest disk work is a directory walk with its state on the heap.
const DISK_THREAD_STACK: usize = 256 * 1024;
/// Pause after a failed accept, so that a full descriptor table does not cause a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The addresses of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The peer.
    pub peer: SocketAddr,
    /// Our side.
    pub local: SocketAddr,
}

impl Ends {
    /// Whether the peer is in this machine: its address is one of this machine's, whichever the connection goes to.
    pub fn is_local(&self) -> bool {
        let (peer, local) = (self.peer.ip().to_canonical(), self.local.ip().to_canonical());
        peer.is_loopback() || local.is_loopback() || peer == local || is_own(peer)
    }
}

/// Whether this machine has the address, on any interface: only then can a socket be bound to it.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// One thread for everything that waits: a guest usually has one CPU.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(threads::MAX_THREADS)
        .thread_keep_alive(DISK_THREAD_IDLE)
        .thread_stack_size(DISK_THREAD_STACK)
        .build()
}

/// Serves forever. `ready` is called with the address once connections are accepted.
pub fn run(mode: Mode, address: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    // Calls borrow across awaits in ways that require a single thread, and there is only one.
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime()?, async move {
        let agent = Agent::new(mode);
        let ends = reaper::listen()?;
        tokio::spawn(reaper::run(agent.clone(), ends));
        if mode == Mode::Pid1 {
            tokio::spawn(crate::pid1::power_off_on_sigterm()?);
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
        // At the limit the connection is closed at once; the client sees a failed connection and may retry.
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
    // Both are optional optimizations.
    let _ = stream.set_nodelay(true);
    let _ = sys::socket::set_user_timeout(&stream, PEER_TIMEOUT);
    let service = service_fn(|request| {
        let agent = agent.clone();
        async move { Ok::<_, Infallible>(route::answer(agent, request, ends).await) }
    });
    // Errors of a connection concern only the client; what it started continues independently.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES.max(8 * 1024))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

#[cfg(test)]
mod tests {
    use super::Ends;

    fn is_local(peer: &str, local: &str) -> bool {
        let address = |text: &str| text.parse().expect("an address and a port");
        Ends { peer: address(peer), local: address(local) }.is_local()
    }

    #[test]
    fn a_peer_with_any_address_of_this_machine_is_in_it() {
        assert!(is_local("127.0.0.1:1", "127.0.0.1:2"));
        assert!(is_local("192.0.2.1:1", "192.0.2.1:2"));
        // Bound to an address of its own, and connected to another one.
        assert!(is_local("192.0.2.1:1", "127.0.0.1:2"));
        assert!(is_local("127.0.0.9:1", "192.0.2.1:2"));
        assert!(is_local("[::ffff:127.0.0.1]:1", "[::ffff:192.0.2.1]:2"));
        assert!(!is_local("203.0.113.77:1", "192.0.2.1:2"));
    }
}
