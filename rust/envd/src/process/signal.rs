//! `SendSignal`, and killing a process with all its descendants.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use sys::rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::time::{Instant, sleep};
use wire::code::{Code, ConnectError};
use wire::process::process_selector::Selector;
use wire::process::{SendSignalRequest, SendSignalResponse, Signal as Wanted};

use crate::agent::{Agent, lock};
use crate::process::registry::{Found, Process};
use crate::process::{not_found, selector};

/// Rounds of looking for new descendants, because a process may create children meanwhile.
const KILL_ROUNDS: usize = 3;

/// Longest time that the response to a kill waits for the end: a process in an uninterruptible wait ends
/// later.
const KILL_WAIT: Duration = Duration::from_secs(1);
const KILL_POLL: Duration = Duration::from_millis(2);

/// Returns the kernel's signal, and whether it is meant to end the process.
fn meaning(wanted: i32) -> Option<(Signal, bool)> {
    Some(match Wanted::try_from(wanted).ok()? {
        Wanted::Unspecified => return None,
        Wanted::Sighup => (Signal::HUP, true),
        Wanted::Sigint => (Signal::INT, true),
        Wanted::Sigquit => (Signal::QUIT, true),
        Wanted::Sigkill => (Signal::KILL, true),
        Wanted::Sigterm => (Signal::TERM, true),
        Wanted::Sigusr1 => (Signal::USR1, false),
        Wanted::Sigusr2 => (Signal::USR2, false),
        Wanted::Sigcont => (Signal::CONT, false),
        Wanted::Sigstop => (Signal::STOP, false),
    })
}

/// Sends a signal to the process group. After a signal that is meant to end the process, its end does not
/// wait for pipes that others have open.
///
/// The response to a kill is sent after the process has ended, so that the process is not in a subsequent
/// list.
pub async fn send_signal(agent: &Arc<Agent>, request: SendSignalRequest) -> Result<SendSignalResponse, ConnectError> {
    let kills = request.signal == Wanted::Sigkill as i32;
    let process = deliver(agent, request)?;
    if kills {
        let deadline = Instant::now() + KILL_WAIT;
        while !process.followers.is_finished() && Instant::now() < deadline {
            sleep(KILL_POLL).await;
        }
    }
    Ok(SendSignalResponse {})
}

/// Sends the signal; returns the process that received it.
fn deliver(agent: &Arc<Agent>, request: SendSignalRequest) -> Result<Arc<Process>, ConnectError> {
    let Some((signal, ends)) = meaning(request.signal) else {
        let text = format!("signal {} is not supported", request.signal);
        return Err(ConnectError::new(Code::Unimplemented, text));
    };
    let selector = selector(request.process)?;
    if request.descendants && signal == Signal::KILL {
        return kill_descendants(agent, &selector);
    }
    let outcome = agent.processes.with(&selector, |found| match found {
        Found::Live(process) => {
            if ends {
                process.released.notify_one();
            }
            send_to_group(process.pid, signal);
            Ok(process)
        }
        Found::Ended(process) if !process.followers.is_finished() => {
            // Its pid may have been reused by now, but not its session while any process is in it.
            if ends {
                process.released.notify_one();
            }
            for pid in family(process.pid) {
                send_to_process(pid, signal);
            }
            Ok(process)
        }
        Found::Ended(_) => Err(()),
    });
    match outcome {
        Some(Ok(process)) => Ok(process),
        _ => Err(not_found(&selector)),
    }
}

fn kill_descendants(agent: &Arc<Agent>, selector: &Selector) -> Result<Arc<Process>, ConnectError> {
    match agent.processes.find(selector) {
        Some(Found::Live(process) | Found::Ended(process)) if !process.followers.is_finished() => {
            process.released.notify_one();
            kill_all_of(agent, &process);
            Ok(process)
        }
        _ => Err(not_found(selector)),
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn send_to_group(pid: u32, signal: Signal) {
    // It may have ended meanwhile; then there is nothing to signal.
    if let Some(pid) = pid_of(pid)
        && kill_process_group(pid, signal).is_err()
    {
        let _ = kill_process(pid, signal);
    }
}

fn send_to_process(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills a process, its group, its session, its descendants, and everything else in its cgroup.
pub fn kill_all_of(agent: &Agent, process: &Arc<Process>) {
    if let Some(process_cgroup) = lock(&process.cgroup).as_ref() {
        match process_cgroup.kill() {
            Ok(()) => return,
            Err(error) => eprintln!("envd: cannot kill a cgroup, going by sessions: {error}"),
        }
    }
    for _ in 0..KILL_ROUNDS {
        // Collected before the kill: afterwards orphans no longer refer to their parent.
        let family = family(process.pid);
        // The pid is valid only as long as the process is not reaped.
        let lives = agent.processes.with(&Selector::Pid(process.pid), |found| {
            if let Found::Live(found) = found
                && Arc::ptr_eq(&found, process)
            {
                send_to_group(process.pid, Signal::KILL);
                return true;
            }
            false
        });
        for member in &family {
            send_to_process(*member, Signal::KILL);
        }
        if family.is_empty() || lives == Some(false) {
            return;
        }
    }
}

/// Returns the members of a session, and their descendants in any session.
fn family(session: u32) -> Vec<u32> {
    let all = all_processes();
    let mut known: HashSet<u32> = all.iter().filter(|p| p.session == session).map(|p| p.pid).collect();
    loop {
        let before = known.len();
        for process in &all {
            if known.contains(&process.parent) {
                known.insert(process.pid);
            }
        }
        if known.len() == before {
            return known.into_iter().collect();
        }
    }
}

/// The used fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Its id.
    pid: u32,
    /// Its parent.
    parent: u32,
    /// Its session.
    session: u32,
}

fn all_processes() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// Parses a stat line. The command name in parentheses may contain anything, so fields are counted from the
/// last parenthesis. Zombies are skipped.
fn parse_stat(pid: u32, text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Stat { pid, parent, session })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let stat = parse_stat(5, "5 (a) b (c) S 3 4 2 0 -1").expect("good line");
        assert_eq!(stat, Stat { pid: 5, parent: 3, session: 2 });
        assert_eq!(parse_stat(5, "5 (a) Z 3 4 2 0 -1"), None);
    }
}
