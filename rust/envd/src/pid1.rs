//! What only process 1 does: kernel limits, shutdown and power-off.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use sys::rustix;
use sys::rustix::process::{Resource, Rlimit, Signal};
use sys::rustix::system::RebootCommand;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::Mode;
use crate::server;

/// How long processes may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to check whether they have ended.
const END_POLL: Duration = Duration::from_millis(20);
/// Limit on open files of the agent: four descriptors for each of
/// [`crate::process::registry::MAX_PROCESSES`].
const OPEN_FILES: u64 = 524_288;

/// inotify watches of one user: the kernel's default, 8192 in a small guest, is less than one recursive watch
/// may need ([`crate::filesystem::watch`]), and less than development servers need. Each watch in use takes 1
/// KiB.
const INOTIFY_WATCHES: u64 = 262_144;
/// inotify instances of one user: the agent's own ([`crate::filesystem::watch`]) belong to root, as do those
/// of root's programs.
const INOTIFY_INSTANCES: u64 = 1024;

/// Serves until power-off. Never returns: the kernel panics when process 1 ends.
pub fn run(address: SocketAddr) -> ! {
    prepare();
    let outcome = server::run(Mode::Pid1, address, |_| eprintln!("envd: ready"));
    if let Err(error) = outcome {
        eprintln!("envd: server: {error}");
    }
    power_off()
}

/// Sets limits. None is essential, so failures are only reported.
fn prepare() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let limit = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        eprintln!("envd: cannot raise the bound of open files: {error}");
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("envd: cannot be kept from being killed for memory: {error}");
    }
    for (name, wanted) in [("max_user_watches", INOTIFY_WATCHES), ("max_user_instances", INOTIFY_INSTANCES)] {
        if let Err(error) = raise(&format!("/proc/sys/fs/inotify/{name}"), wanted) {
            eprintln!("envd: cannot raise fs.inotify.{name}: {error}");
        }
    }
    if let Err(error) = sys::interface::bring_up("lo") {
        eprintln!("envd: cannot bring up lo: {error}");
    }
}

/// Raises a limit of the kernel if it is lower.
fn raise(path: &str, wanted: u64) -> io::Result<()> {
    let now = fs::read_to_string(path)?.trim().parse().unwrap_or(0);
    if now < wanted { fs::write(path, wanted.to_string()) } else { Ok(()) }
}

/// Shuts down on SIGTERM.
pub fn power_off_on_sigterm() -> io::Result<impl Future<Output = ()>> {
    let mut told = signal(SignalKind::terminate())?;
    Ok(async move {
        if told.recv().await.is_none() {
            return;
        }
        eprintln!("envd: powering off");
        signal_all(Signal::TERM);
        let deadline = tokio::time::Instant::now() + END_TIMEOUT;
        while tokio::time::Instant::now() < deadline && others_live() {
            tokio::time::sleep(END_POLL).await;
        }
        signal_all(Signal::KILL);
        power_off()
    })
}

/// Sends a signal to every process but this one.
fn signal_all(signal: Signal) {
    for pid in other_processes() {
        // It may have ended.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn others_live() -> bool {
    !other_processes().is_empty()
}

/// Returns user processes, not kernel threads, which have no executable.
fn other_processes() -> Vec<rustix::process::Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()).filter(|p| *p > 1);
    let programs = pids.filter(|p| fs::read_link(format!("/proc/{p}/exe")).is_ok());
    programs.filter_map(rustix::process::Pid::from_raw).collect()
}

/// Syncs the disks and powers the machine off.
pub fn power_off() -> ! {
    rustix::fs::sync();
    let error = rustix::system::reboot(RebootCommand::PowerOff);
    eprintln!("envd: cannot power off: {error:?}");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
