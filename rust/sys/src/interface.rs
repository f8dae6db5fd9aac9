//! Configures link, address and route of a network device, by the classic ioctls: four calls, no netlink
//! parser.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::check;

/// The error for a name that the kernel does not accept.
fn bad_name(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a network device"))
}

/// Opens a socket for the ioctls.
fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(bad_name(name));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain 16-byte structures, made to be seen as each other.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
}

fn control<T>(socket: &OwnedFd, call: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: every caller passes the structure that belongs to `call`.
    check(unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), call, std::ptr::from_mut(argument)) }).map(drop)
}

/// Whether the device exists.
pub fn exists(name: &str) -> bool {
    control_socket().and_then(|s| control(&s, libc::SIOCGIFFLAGS, &mut request(name)?)).is_ok()
}

/// Sets the device up.
pub fn bring_up(name: &str) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = request(name)?;
    control(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the call above filled this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    control(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// Sets the device's address and prefix length.
pub fn set_address(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let socket = control_socket()?;
    let mut order = request(name)?;
    order.ifr_ifru.ifru_addr = socket_address(address);
    control(&socket, libc::SIOCSIFADDR, &mut order)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    order.ifr_ifru.ifru_netmask = socket_address(Ipv4Addr::from(mask));
    control(&socket, libc::SIOCSIFNETMASK, &mut order)
}

/// Adds a default route to this gateway.
pub fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: all-zero is a valid rtentry.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    match control(&socket, libc::SIOCADDRT, &mut route) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_exists_and_nonsense_does_not() {
        assert!(exists("lo"));
        assert!(!exists("no-such-dev0"));
        assert!(!exists("a-name-far-too-long-for-the-kernel"));
    }
}
