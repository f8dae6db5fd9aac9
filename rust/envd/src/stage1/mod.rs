//! `/init` of the initramfs: from a bare kernel to the agent as process 1 of the root disk.
//!
//! - [`cmdline`]: options; [`modules`]; [`root`]: the disk and what is mounted on it; [`network`];
//!   [`switch`]: leaving the initramfs.

mod cmdline;
mod modules;
mod network;
mod root;
mod switch;

use std::convert::Infallible;
use std::fmt;
use std::io;

use crate::pid1;

/// A step that failed.
#[derive(Debug)]
pub struct Stage1Error {
    /// Name of the step.
    pub step: String,
    /// The cause.
    pub source: io::Error,
}

impl fmt::Display for Stage1Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

impl std::error::Error for Stage1Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Adds the name of the step to an error.
pub trait AtStep<T> {
    /// Returns the error with its step.
    fn at(self, step: impl Into<String>) -> Result<T, Stage1Error>;
}

impl<T, E: Into<io::Error>> AtStep<T> for Result<T, E> {
    fn at(self, step: impl Into<String>) -> Result<T, Stage1Error> {
        self.map_err(|e| Stage1Error { step: step.into(), source: e.into() })
    }
}

/// Boots the guest up to the second stage, or powers the machine off.
pub fn run() -> ! {
    let Err(error) = bring_up();
    eprintln!("envd: stage1: {error}");
    pid1::power_off()
}

fn bring_up() -> Result<Infallible, Stage1Error> {
    root::mount_kernel_views()?;
    root::open_console();
    let options = cmdline::read()?;
    modules::load_all()?;
    root::mount_root(&options.root)?;
    network::set_up(&options)?;
    root::mount_tmpfs_and_agent()?;
    modules::offer_to_new_root();
    root::write_resolv_conf(&options.dns)?;
    switch::into_new_root()
}
