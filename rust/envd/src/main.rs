//! wrenn's guest agent: one static binary for the three stages of a guest.
//!
//! - [`stage1`]: `/init` of the initramfs: modules, root disk, network, switch of the root.
//! - [`pid1`]: what only process 1 does: console, limits, power-off.
//! - [`server`]: connections, access, dispatch to [`process`] (`process.Process`), [`filesystem`]
//!   (`filesystem.Filesystem`), [`files`] (`/files`), [`init`] (`/init`), [`snapshot`] (`/snapshot/…`),
//!   [`connect`] (`/connect`), [`metrics`], [`inspect`] (`/listeners`, `/processes`).
//! - [`agent`]: shared state; [`environment`], [`users`], [`paths`], [`regular_file`], [`body`], [`rpc`], [`reaper`],
//!   [`threads`]: shared helpers.

mod agent;
mod body;
mod connect;
mod disk;
mod environment;
mod files;
mod filesystem;
mod init;
mod inspect;
mod metrics;
mod paths;
mod pid1;
mod process;
mod reaper;
mod regular_file;
mod rpc;
mod server;
mod snapshot;
mod stage1;
mod threads;
mod users;
mod variables_file;

use std::net::SocketAddr;
use std::process::ExitCode;

use agent::Mode;

/// The address on which the guest serves.
const GUEST_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 49_983);
/// The argument with which stage 1 starts the agent as process 1.
pub const PID1_ARGUMENT: &str = "pid1-server";

const USAGE: &str = "usage: envd --version | envd serve --listen HOST:PORT [--root-is-me]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if std::process::id() == 1 && args.first() != Some(&"serve") {
        if args.first() == Some(&PID1_ARGUMENT) { pid1::run(GUEST_LISTEN) } else { stage1::run() }
    }
    match args.as_slice() {
        ["--version"] => {
            println!("envd {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["serve", rest @ ..] => match listen_address(rest) {
            Some(address) => serve(address),
            None => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// `--root-is-me` is accepted for clarity: an ordinary process never changes the machine it runs on.
fn listen_address(args: &[&str]) -> Option<SocketAddr> {
    match args {
        ["--listen", address] | ["--listen", address, "--root-is-me"] | ["--root-is-me", "--listen", address] => {
            address.parse().ok()
        }
        _ => None,
    }
}

fn serve(address: SocketAddr) -> ExitCode {
    let outcome = server::run(Mode::Process, address, |bound| println!("listening {bound}"));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("envd: cannot serve on {address}: {error}");
            ExitCode::FAILURE
        }
    }
}
