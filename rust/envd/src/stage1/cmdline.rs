//! What the kernel's command line says to the agent.

use std::fs;
use std::net::Ipv4Addr;

use super::{AtStep as _, Stage1Error};

/// Everything with its usual value when it is not said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// `wrenn.root`: the disk.
    pub root: String,
    /// `wrenn.ip`: address and length of the prefix; `None` for `none`.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Whether `wrenn.ip` was said: then a guest without network is a failure.
    pub needs_network: bool,
    /// `wrenn.gw`: where all else is sent.
    pub gateway: Option<Ipv4Addr>,
    /// `wrenn.hostname`: the name until `/init` gives another.
    pub hostname: String,
    /// `wrenn.dns`: name servers.
    pub dns: Vec<Ipv4Addr>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            root: "/dev/vda".into(),
            address: Some((Ipv4Addr::new(169, 254, 0, 21), 30)),
            needs_network: false,
            gateway: Some(Ipv4Addr::new(169, 254, 0, 22)),
            hostname: "wrenn".into(),
            dns: vec![Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)],
        }
    }
}

/// Reads `/proc/cmdline`.
pub fn read() -> Result<Told, Stage1Error> {
    let text = fs::read_to_string("/proc/cmdline").at("read the kernel command line")?;
    Ok(parse(&text))
}

/// A value that cannot be read leaves the usual one, and is told.
fn parse(text: &str) -> Told {
    let mut told = Told::default();
    for (name, value) in text.split_whitespace().filter_map(|w| w.strip_prefix("wrenn.")?.split_once('=')) {
        let understood = match name {
            "root" => {
                value.clone_into(&mut told.root);
                true
            }
            "hostname" => {
                value.clone_into(&mut told.hostname);
                true
            }
            "ip" => parse_address(value).map(|a| (told.address, told.needs_network) = (a, a.is_some())).is_some(),
            "gw" if value == "none" => {
                told.gateway = None;
                true
            }
            "gw" => value.parse().map(|g| told.gateway = Some(g)).is_ok(),
            "dns" => parse_dns(value).map(|d| told.dns = d).is_some(),
            // Later versions may say more.
            _ => true,
        };
        if !understood {
            eprintln!("envd: stage1: cannot read wrenn.{name}={value} on the kernel command line");
        }
    }
    told
}

/// `Some(None)`: no network is wanted.
#[allow(clippy::option_option)] // Not understood, nothing wanted, an address: three answers.
fn parse_address(value: &str) -> Option<Option<(Ipv4Addr, u8)>> {
    if value == "none" {
        return Some(None);
    }
    let (address, prefix) = value.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|p| (1..=32).contains(p))?;
    Some(Some((address.parse().ok()?, prefix)))
}

fn parse_dns(value: &str) -> Option<Vec<Ipv4Addr>> {
    value.split(',').filter(|s| !s.is_empty()).map(|s| s.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let told = parse(
            "console=ttyS0 wrenn.root=/dev/vdb wrenn.ip=10.0.0.2/24 wrenn.gw=10.0.0.1 wrenn.hostname=x wrenn.dns=1.1.1.1 quiet\n",
        );
        assert_eq!(told.root, "/dev/vdb");
        assert_eq!(told.address, Some((Ipv4Addr::new(10, 0, 0, 2), 24)));
        assert!(told.needs_network);
        assert_eq!(told.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(told.hostname, "x");
        assert_eq!(told.dns, [Ipv4Addr::new(1, 1, 1, 1)]);
    }

    #[test]
    fn what_is_not_said_or_not_understood_is_as_usual() {
        assert_eq!(parse("console=ttyS0"), Told::default());
        assert_eq!(parse("wrenn.ip=bad wrenn.gw=bad wrenn.dns=bad wrenn.later=1"), Told::default());
        assert_eq!(parse("wrenn.ip=none").address, None);
    }
}
