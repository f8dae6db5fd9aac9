//! The agent's options on the kernel's command line.

use std::fs;
use std::net::Ipv4Addr;

use super::{AtStep as _, Stage1Error};

/// The options, with defaults for those that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootOptions {
    /// `wrenn.root`: the root disk.
    pub root: String,
    /// `wrenn.ip`: address and length of the prefix; `None` for `none`.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Whether `wrenn.ip` was given: then a guest without network is an error.
    pub needs_network: bool,
    /// `wrenn.gw`: the default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// `wrenn.hostname`: the host name until `/init` sets another.
    pub hostname: String,
    /// `wrenn.dns`: name servers.
    pub dns: Vec<Ipv4Addr>,
}

impl Default for BootOptions {
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
pub fn read() -> Result<BootOptions, Stage1Error> {
    let text = fs::read_to_string("/proc/cmdline").at("read the kernel command line")?;
    Ok(parse(&text))
}

/// Parses the command line. An invalid value is reported, and the default is used.
fn parse(text: &str) -> BootOptions {
    let mut options = BootOptions::default();
    for (name, value) in text.split_whitespace().filter_map(|w| w.strip_prefix("wrenn.")?.split_once('=')) {
        let understood = match name {
            "root" => {
                value.clone_into(&mut options.root);
                true
            }
            "hostname" => {
                value.clone_into(&mut options.hostname);
                true
            }
            "ip" => parse_address(value).map(|a| (options.address, options.needs_network) = (a, a.is_some())).is_some(),
            "gw" if value == "none" => {
                options.gateway = None;
                true
            }
            "gw" => value.parse().map(|g| options.gateway = Some(g)).is_ok(),
            "dns" => parse_dns(value).map(|d| options.dns = d).is_some(),
            // Newer hosts may pass further options.
            _ => true,
        };
        if !understood {
            eprintln!("envd: stage1: cannot read wrenn.{name}={value} on the kernel command line");
        }
    }
    options
}

/// `Some(None)`: no network.
#[allow(clippy::option_option)] // Invalid, no network, or an address: three results.
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
        let options = parse(
            "console=ttyS0 wrenn.root=/dev/vdb wrenn.ip=10.0.0.2/24 wrenn.gw=10.0.0.1 wrenn.hostname=x wrenn.dns=1.1.1.1 quiet\n",
        );
        assert_eq!(options.root, "/dev/vdb");
        assert_eq!(options.address, Some((Ipv4Addr::new(10, 0, 0, 2), 24)));
        assert!(options.needs_network);
        assert_eq!(options.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(options.hostname, "x");
        assert_eq!(options.dns, [Ipv4Addr::new(1, 1, 1, 1)]);
    }

    #[test]
    fn what_is_not_said_or_not_understood_is_as_usual() {
        assert_eq!(parse("console=ttyS0"), BootOptions::default());
        assert_eq!(parse("wrenn.ip=bad wrenn.gw=bad wrenn.dns=bad wrenn.later=1"), BootOptions::default());
        assert_eq!(parse("wrenn.ip=none").address, None);
    }
}
