//! Sockets that accept TCP connections, and the processes that have them.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::proc;

/// Sockets in the response.
const MAX_LISTENERS: usize = 256;
/// Bytes of each table of sockets; a line has some 150.
const MAX_TABLE_BYTES: u64 = 8 * 1024 * 1024;
/// Open files of all processes that are looked at for the owners of sockets.
const MAX_FILES: usize = 65_536;
/// Characters of a program's name.
const MAX_NAME: usize = 64;
/// The state of a socket that accepts connections, as the kernel prints it.
const LISTEN: &str = "0A";

/// The response.
#[derive(Debug, Serialize)]
pub struct Listeners {
    /// In the order of ports and addresses.
    listeners: Vec<Listener>,
}

/// A socket that accepts connections.
#[derive(Debug, Serialize)]
struct Listener {
    /// Its port.
    port: u16,
    /// The address that it is bound to; `0.0.0.0` and `::` are all of this machine.
    address: IpAddr,
    /// A process that has it; absent if none was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// The name of that process.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// A socket as the kernel's table has it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Socket {
    port: u16,
    address: IpAddr,
    inode: u64,
}

/// Reads the tables of sockets.
pub fn read() -> Listeners {
    let mut sockets: Vec<Socket> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|path| parse_table(&String::from_utf8_lossy(&proc::read(path, MAX_TABLE_BYTES))))
        .collect();
    sockets.sort_unstable();
    sockets.truncate(MAX_LISTENERS);
    let owners = owners(&sockets);
    let listeners = sockets.into_iter().map(|socket| {
        let pid = owners.get(&socket.inode).copied();
        let name = pid.map(|pid| proc::shown(proc::read(format!("/proc/{pid}/comm"), 64).trim_ascii_end(), MAX_NAME));
        Listener { port: socket.port, address: socket.address, pid, name }
    });
    Listeners { listeners: listeners.collect() }
}

fn parse_table(table: &str) -> Vec<Socket> {
    table.lines().skip(1).filter_map(parse_line).collect()
}

/// Parses `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`.
fn parse_line(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Socket { port: u16::from_str_radix(port, 16).ok()?, address: parse_address(address)?, inode })
}

/// Parses an address: words of 32 bits, each as a number of this machine whose bytes are in the order of the network.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (index, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Returns a process for each of these sockets, as far as one is found.
fn owners(sockets: &[Socket]) -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    let mut files = 0;
    for pid in proc::pids() {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in entries.flatten() {
            files += 1;
            if files > MAX_FILES || owners.len() == sockets.len() {
                return owners;
            }
            let inode = fs::read_link(entry.path())
                .ok()
                .and_then(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode
                && sockets.iter().any(|socket| socket.inode == inode)
            {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn only_listening_sockets_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0 100 0 0 10 0\n\
            1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4243 1 0 100 0 0 10 0\n\
            2: nonsense\n\
            3: 0100007F:XX 00000000:0000 0A 0 0 0 0 0 1\n";
        if cfg!(target_endian = "little") {
            let address = IpAddr::from([127, 0, 0, 1]);
            assert_eq!(parse_table(table), vec![Socket { port: 8080, address, inode: 4242 }]);
        }
    }

    #[test]
    fn addresses_of_both_kinds_are_read() {
        if cfg!(target_endian = "little") {
            assert_eq!(parse_address("00000000"), Some(Ipv4Addr::UNSPECIFIED.into()));
            assert_eq!(parse_address("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        }
        for text in ["", "0", "0000000g", "ä00000", "000000000000000000000000010000zz"] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }

    #[test]
    fn a_socket_of_this_process_is_found_with_it() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = socket.local_addr().expect("bound").port();
        let found = read().listeners;
        let listener = found.iter().find(|l| l.port == port).expect("it listens");
        assert_eq!(listener.address, IpAddr::from([127, 0, 0, 1]));
        assert_eq!(listener.pid, Some(std::process::id()));
        assert!(listener.name.as_ref().is_some_and(|name| !name.is_empty()));
    }
}
