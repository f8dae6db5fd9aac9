//! Resets TCP connections of other processes, by the kernel's `sock_diag`: lists those of an address and
//! destroys each.
//!
//! Both messages are laid out manually in native byte order; addresses and ports are in network byte order,
//! as in `struct inet_diag_sockid`. Needs `CAP_NET_ADMIN`, `inet_diag` and `tcp_diag`, and
//! `CONFIG_INET_DIAG_DESTROY`.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// `SOCK_DIAG_BY_FAMILY`: list sockets.
const LIST: u16 = 20;
/// `SOCK_DESTROY`: reset one.
const DESTROY: u16 = 21;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`: acknowledge the request.
const ACK: u16 = 4;
/// `NLM_F_DUMP`: all matching sockets.
const DUMP: u16 = 0x300;
/// `NLMSG_ERROR`: an errno, or 0 as an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a list.
const DONE: u16 = 3;
/// `struct nlmsghdr`.
const HEAD_BYTES: usize = 16;
/// `struct inet_diag_msg`, of which `struct inet_diag_sockid` begins at byte 4.
const ENTRY_BYTES: usize = 72;
/// `struct inet_diag_sockid`: two ports, two addresses of 16 bytes, device, cookie.
const ID_BYTES: usize = 48;
/// The states, `TCP_*` counted from 1: established, being accepted, and all that one side has closed. Not
/// those that are connecting: their SYN is sent again and may succeed.
const STATES: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// The kernel fills at most 32 KiB at a time.
const ANSWER_BYTES: usize = 32 * 1024;
/// The kernel responds within the call; the timeout is only a safeguard.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection as the kernel identifies it.
#[derive(Clone, Copy, Debug)]
struct Connection {
    /// `AF_INET` or `AF_INET6`.
    family: u8,
    /// `struct inet_diag_sockid`.
    id: [u8; ID_BYTES],
}

impl Connection {
    /// Returns the address at this position of the id: 0 ours, 1 the peer's.
    fn end(&self, which: usize) -> SocketAddr {
        let port = u16::from_be_bytes([self.id[2 * which], self.id[2 * which + 1]]);
        let mut address = [0_u8; 16];
        address.copy_from_slice(&self.id[4 + 16 * which..20 + 16 * which]);
        let ip = if i32::from(self.family) == libc::AF_INET {
            IpAddr::from([address[0], address[1], address[2], address[3]])
        } else {
            Ipv6Addr::from(address).to_canonical()
        };
        SocketAddr::new(ip, port)
    }
}

/// The result for the connections.
#[derive(Debug, Default)]
pub struct Reset {
    /// The number of connections that were reset.
    pub ended: usize,
    /// Why a connection could not be reset, if any: the kernel does not support it at all, or not in its
    /// state.
    pub refused: Option<io::Error>,
}

/// Resets every TCP connection between this address and the outside, except that with the peer `spared`:
/// processes that wait on one get `ECONNABORTED`. Connections within the machine and listening sockets are
/// not affected. An error: connections cannot be listed.
pub fn reset_all(address: IpAddr, spared: SocketAddr) -> io::Result<Reset> {
    let (address, spared) = (address.to_canonical(), SocketAddr::new(spared.ip().to_canonical(), spared.port()));
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    let mut doomed = Vec::new();
    // An IPv6 socket may have an IPv4 connection.
    for family in [libc::AF_INET, libc::AF_INET6] {
        list(&socket, family as u8, |connection| {
            let (own, peer) = (connection.end(0), connection.end(1));
            if own.ip() == address && peer.ip() != address && peer != spared {
                doomed.push(connection);
            }
        })?;
    }
    let mut reset = Reset::default();
    for connection in &doomed {
        match destroy(&socket, connection) {
            Ok(()) => reset.ended += 1,
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => reset.refused = Some(error),
        }
    }
    Ok(reset)
}

/// Encodes a message with `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let length = HEAD_BYTES + 8 + ID_BYTES;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&(length as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend_from_slice(&STATES.to_ne_bytes());
    bytes.extend_from_slice(id);
    bytes
}

fn list(socket: &OwnedFd, family: u8, mut found: impl FnMut(Connection)) -> io::Result<()> {
    rustix::net::send(socket, &request(LIST, DUMP, family, &[0; ID_BYTES]), SendFlags::empty())?;
    let mut answer = vec![0_u8; ANSWER_BYTES];
    loop {
        let (length, _) = rustix::net::recv(socket, answer.as_mut_slice(), RecvFlags::empty())?;
        for (kind, contents) in messages(&answer[..length]) {
            match kind {
                DONE => return Ok(()),
                ERROR => return errno_of(contents),
                LIST if contents.len() >= ENTRY_BYTES => {
                    let mut id = [0; ID_BYTES];
                    id.copy_from_slice(&contents[4..4 + ID_BYTES]);
                    found(Connection { family: contents[0], id });
                }
                _ => {}
            }
        }
    }
}

fn destroy(socket: &OwnedFd, connection: &Connection) -> io::Result<()> {
    rustix::net::send(socket, &request(DESTROY, ACK, connection.family, &connection.id), SendFlags::empty())?;
    let mut answer = [0_u8; 256];
    let (length, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty())?;
    messages(&answer[..length]).find(|(kind, _)| *kind == ERROR).map_or(Ok(()), |(_, contents)| errno_of(contents))
}

/// Splits a response into messages: type and contents. An invalid length ends it.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<HEAD_BYTES>()?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let message = rest.get(..length).filter(|m| m.len() >= HEAD_BYTES)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[4], head[5]]), &message[HEAD_BYTES..]))
    })
}

/// `struct nlmsgerr` begins with a negative errno.
fn errno_of(contents: &[u8]) -> io::Result<()> {
    let Some((errno, _)) = contents.split_first_chunk::<4>() else { return Err(io::ErrorKind::InvalidData.into()) };
    match i32::from_ne_bytes(*errno) {
        0 => Ok(()),
        negative => Err(io::Error::from_raw_os_error(negative.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_no_connection_has_resets_none() {
        // A kernel without the modules says so.
        match reset_all(IpAddr::from([192, 0, 2, 7]), SocketAddr::from(([192, 0, 2, 8], 1))) {
            Ok(reset) => assert_eq!(reset.ended, 0),
            Err(error) => assert!(error.raw_os_error().is_some(), "{error}"),
        }
    }

    #[test]
    fn connections_within_the_machine_stay() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("bound");
        let mut client = TcpStream::connect(address).expect("connected");
        let (held, _) = server.accept().expect("accepted");
        if let Ok(reset) = reset_all(address.ip(), SocketAddr::from(([192, 0, 2, 8], 1))) {
            assert_eq!(reset.ended, 0);
        }
        drop(held);
        assert_eq!(client.read(&mut [0]).expect("a clean end"), 0);
    }

    #[test]
    fn answers_are_taken_apart_and_torn_ones_end_them() {
        let mut bytes = request(LIST, DUMP, 2, &[7; ID_BYTES]);
        let whole = bytes.len();
        bytes.extend(request(DONE, 0, 2, &[0; ID_BYTES]));
        assert_eq!(messages(&bytes).map(|(kind, c)| (kind, c.len())).collect::<Vec<_>>(), [(LIST, 56), (DONE, 56)]);
        assert_eq!(messages(&bytes[..whole + 20]).count(), 1);
        assert_eq!(messages(&[0; 40]).count(), 0);
    }

    #[test]
    fn both_ends_are_read_and_mapped_addresses_are_those_of_ipv4() {
        let mut id = [0_u8; ID_BYTES];
        id[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
        id[4..8].copy_from_slice(&[10, 0, 0, 1]);
        let plain = Connection { family: libc::AF_INET as u8, id };
        assert_eq!(plain.end(0), SocketAddr::from(([10, 0, 0, 1], 0x1234)));
        id[4..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1]);
        let mapped = Connection { family: libc::AF_INET6 as u8, id };
        assert_eq!(mapped.end(0), SocketAddr::from(([10, 0, 0, 1], 0x1234)));
        assert_eq!(mapped.end(1).port(), 80);
    }
}
