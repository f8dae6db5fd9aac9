//! `GET /connect?port=`: forwards the caller's connection to a program that listens only on this machine's
//! loopback.
//!
//! The response is 101, after which the connection carries the program's bytes. There is no listener in the
//! program's place: it would occupy the port when the program restarts on all addresses, and would have to be
//! managed while it is unused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::Body;
use crate::server::reply;

/// Concurrent forwarded connections, in addition to the server's own limit, because calls of the host must
/// not wait for visitors.
const MAX_FORWARDED: usize = 1024;
/// How long to wait for a listener on loopback to accept; it does not if its queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The protocol of the upgrade.
const PROTOCOL: &str = "wrenn-stream";

/// Addresses of programs that are not reachable from outside.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Permits for forwarded connections.
#[derive(Debug)]
pub struct ForwardedConnections(Arc<Semaphore>);

impl Default for ForwardedConnections {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_FORWARDED)))
    }
}

/// Handles the request. `own` is the port of this server, which cannot be the target.
pub async fn answer(forwarded: &ForwardedConnections, request: Request<Incoming>, own: u16) -> Response<Body> {
    let Some(port) = port(request.uri().query()).filter(|port| *port != own) else {
        return reply::error(StatusCode::BAD_REQUEST, "port must be a number from 1 to 65535, and not this server's");
    };
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != PROTOCOL) {
        return reply::error(StatusCode::UPGRADE_REQUIRED, "this path is asked for with an upgrade to wrenn-stream");
    }
    let Ok(place) = forwarded.0.clone().try_acquire_owned() else {
        return reply::error(StatusCode::SERVICE_UNAVAILABLE, "too many connections to programs");
    };
    let program = match to_loopback(port).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return reply::error(StatusCode::NOT_FOUND, "nothing listens on this port");
        }
        Err(error) => return reply::error(StatusCode::BAD_GATEWAY, &format!("cannot connect: {error}")),
    };
    tokio::spawn(join(request, program, place));
    let mut response = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// Returns the port in a query.
fn port(query: Option<&str>) -> Option<u16> {
    let text = query?.split('&').find_map(|pair| pair.strip_prefix("port="))?;
    text.parse().ok().filter(|port| *port != 0)
}

/// Connects to the first loopback address that accepts.
async fn to_loopback(port: u16) -> io::Result<TcpStream> {
    let mut refusal = io::Error::from(io::ErrorKind::ConnectionRefused);
    for address in LOOPBACK {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) => {
                // An optimization; the connection works without it.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            // A guest without IPv6 has no such address, which does not tell anything about the program.
            Ok(Err(_)) if address.is_ipv6() => {}
            Ok(Err(error)) => refusal = error,
            Err(_) => refusal = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(refusal)
}

/// Forwards bytes in both directions until both sides have ended or one fails. Then both are closed.
async fn join(request: Request<Incoming>, mut program: TcpStream, place: OwnedSemaphorePermit) {
    if let Ok(caller) = hyper::upgrade::on(request).await {
        // An error need not be reported: each side sees the end of its connection.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(caller), &mut program).await;
    }
    drop(place);
}

#[cfg(test)]
mod tests {
    use super::port;

    #[test]
    fn only_a_number_that_is_a_port_is_one() {
        assert_eq!(port(Some("port=8000")), Some(8000));
        assert_eq!(port(Some("a=b&port=1")), Some(1));
        for bad in ["", "port=", "port=0", "port=65536", "port=-1", "port=8000x", "ports=1", "Port=1"] {
            assert_eq!(port(Some(bad)), None, "{bad}");
        }
        assert_eq!(port(None), None);
    }
}
