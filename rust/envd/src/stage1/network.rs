//! Configures the guest's network: one device, one address, one route, one host name.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sys::interface;
use sys::rustix;

use super::cmdline::BootOptions;
use super::{AtStep as _, Stage1Error};

/// The guest's only device.
const DEVICE: &str = "eth0";
/// How long it may take to appear once its driver is loaded.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of checks.
const POLL: Duration = Duration::from_millis(2);

/// Configures everything. A guest without a network option may have no device.
pub fn set_up(options: &BootOptions) -> Result<(), Stage1Error> {
    rustix::system::sethostname(options.hostname.as_bytes()).at("set the host name")?;
    interface::bring_up("lo").at("bring up lo")?;
    let Some((address, prefix)) = options.address else { return Ok(()) };
    if !wait_for_device(options.needs_network) {
        if options.needs_network {
            return Err(io::Error::from(io::ErrorKind::NotFound)).at(format!("find the network device {DEVICE}"));
        }
        return Ok(());
    }
    interface::set_address(DEVICE, address, prefix).at(format!("give {DEVICE} the address {address}/{prefix}"))?;
    interface::bring_up(DEVICE).at(format!("bring up {DEVICE}"))?;
    if let Some(gateway) = options.gateway {
        interface::add_default_route(gateway).at(format!("set the route to {gateway}"))?;
    }
    Ok(())
}

fn wait_for_device(required: bool) -> bool {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    while !interface::exists(DEVICE) {
        if !required || Instant::now() > deadline {
            return false;
        }
        sleep(POLL);
    }
    true
}
