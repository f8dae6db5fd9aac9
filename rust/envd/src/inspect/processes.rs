//! All programs that run, with what they use.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::proc;
use crate::agent::Agent;

/// Processes in the response: those that use most memory.
const MAX_LISTED: usize = 1024;
/// Characters of a command line.
const MAX_COMMAND: usize = 512;
/// Bytes of a command line that are read.
const MAX_COMMAND_BYTES: u64 = 4096;
/// Bytes of `stat`; the name in it has at most 16.
const MAX_STAT_BYTES: u64 = 1024;
/// The kernel's own processes are children of this one.
const KERNEL_THREADS: u32 = 2;
/// Milliseconds in a second.
const MS: u64 = 1000;

/// The response.
#[derive(Debug, Serialize)]
pub struct Processes {
    /// When it was read, in Unix milliseconds: the CPU usage of a process is computed from two readings.
    at_ms: u64,
    /// In the order of pids.
    processes: Vec<Process>,
}

/// A program that runs.
#[derive(Debug, Serialize)]
struct Process {
    /// Its id.
    pid: u32,
    /// The id of its parent.
    ppid: u32,
    /// The user that it runs as, or the number if that has no name.
    user: String,
    /// The letter that the kernel prints for its state.
    state: char,
    /// Its command line, or its name if it has none.
    command: String,
    /// CPU time that it has used, in milliseconds.
    cpu_ms: u64,
    /// Bytes of its memory that are resident; shared ones count for each process.
    memory_bytes: u64,
    /// Its threads.
    threads: u32,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    ppid: u32,
    cpu_ticks: u64,
    threads: u32,
    resident_pages: u64,
}

/// Reads all processes but the kernel's own.
pub fn read(agent: &Agent) -> Processes {
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_millis() as u64).unwrap_or_default();
    let mut processes: Vec<Process> = proc::pids().into_iter().filter_map(|pid| read_one(agent, pid)).collect();
    if processes.len() > MAX_LISTED {
        processes.sort_unstable_by_key(|p| std::cmp::Reverse(p.memory_bytes));
        processes.truncate(MAX_LISTED);
        processes.sort_unstable_by_key(|p| p.pid);
    }
    Processes { at_ms, processes }
}

/// Returns one process; `None` if it has ended or is the kernel's.
fn read_one(agent: &Agent, pid: u32) -> Option<Process> {
    let folder = format!("/proc/{pid}");
    let stat = parse_stat(&String::from_utf8_lossy(&proc::read(format!("{folder}/stat"), MAX_STAT_BYTES)))?;
    if pid == KERNEL_THREADS || stat.ppid == KERNEL_THREADS {
        return None;
    }
    let uid = fs::metadata(&folder).ok()?.uid();
    let line = proc::read(format!("{folder}/cmdline"), MAX_COMMAND_BYTES);
    let command = proc::shown(line.strip_suffix(&[0]).unwrap_or(&line), MAX_COMMAND);
    let page_size = sys::rustix::param::page_size() as u64;
    Some(Process {
        pid,
        ppid: stat.ppid,
        user: proc::shown(agent.users.user_name(uid).as_bytes(), MAX_COMMAND),
        state: stat.state,
        command: if command.is_empty() { stat.name } else { command },
        cpu_ms: stat.cpu_ticks.saturating_mul(MS) / sys::rustix::param::clock_ticks_per_second().max(1),
        memory_bytes: stat.resident_pages.saturating_mul(page_size),
        threads: stat.threads,
    })
}

/// Parses `pid (name) state ppid …`. The name may contain anything, also parentheses.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (head, tail) = stat.rsplit_once(')')?;
    let name = proc::shown(head.split_once('(')?.1.as_bytes(), MAX_COMMAND);
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // Numbers of proc(5), of which the first two are before the parenthesis.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        name,
        state: fields.first()?.chars().next()?,
        ppid: number(4)? as u32,
        cpu_ticks: number(14)?.saturating_add(number(15)?),
        threads: number(20)? as u32,
        resident_pages: number(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_what_separates_fields() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194560 1 2 3 4 50 25 0 0 20 0 3 0 100 1000 42 18446744073709551615 0";
        let found = parse_stat(stat).expect("good line");
        let expected =
            Stat { name: "a) R (b".into(), state: 'S', ppid: 1, cpu_ticks: 75, threads: 3, resident_pages: 42 };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_line_that_is_cut_off_is_no_process() {
        for stat in ["", "7", "7 (a", "7 (a)", "7 (a) S", "7 (a) S 1 7 7"] {
            assert_eq!(parse_stat(stat), None, "{stat}");
        }
    }
}
