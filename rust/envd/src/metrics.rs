//! `GET /metrics`: resource usage of the guest.

use std::fs;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Response, StatusCode};
use serde::Serialize;

use crate::agent::{Agent, lock};
use crate::body::Body;
use crate::server::reply;

/// Bytes in a kibibyte, the unit of `/proc/meminfo`.
const KIB: u64 = 1024;
/// Bytes in a mebibyte, the unit of the API.
const MIB: u64 = 1024 * 1024;

/// CPU times at the last reading: usage is computed between two readings.
#[derive(Debug, Default)]
pub struct CpuClock {
    /// `(busy, all)` in ticks.
    last: Mutex<(u64, u64)>,
}

/// The response.
#[derive(Debug, Serialize)]
struct Metrics {
    /// Unix seconds.
    ts: u64,
    /// CPUs.
    cpu_count: usize,
    /// Usage of all CPUs since the last reading, in percent.
    cpu_used_pct: f64,
    /// Bytes of memory.
    mem_total: u64,
    /// Bytes that are in use and not reclaimable.
    mem_used: u64,
    /// Bytes of page cache.
    mem_cache: u64,
    /// As `mem_total`, in MiB.
    mem_total_mib: u64,
    /// As `mem_used`, in MiB.
    mem_used_mib: u64,
    /// Bytes used on the root file system.
    disk_used: u64,
    /// Bytes of the root file system.
    disk_total: u64,
}

impl CpuClock {
    /// Returns the usage of all CPUs since the last reading, in percent.
    #[allow(clippy::cast_precision_loss)] // The number of ticks between two readings is small.
    fn share(&self, (busy, all): (u64, u64)) -> f64 {
        let mut last = lock(&self.last);
        let (busy_before, all_before) = std::mem::replace(&mut *last, (busy, all));
        let passed = all.saturating_sub(all_before);
        if passed == 0 {
            return 0.0;
        }
        let share = busy.saturating_sub(busy_before) as f64 / passed as f64 * 100.0;
        (share * 100.0).round() / 100.0
    }
}

/// Parses `(busy, all)` from the first line of `/proc/stat`: user nice system idle iowait irq softirq steal.
fn cpu_ticks(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|f| f.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// Returns a value of `/proc/meminfo` in bytes.
fn memory(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * KIB
}

/// Responds with the current values.
pub fn answer(agent: &Agent) -> Response<Body> {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (total, available) = (memory(&meminfo, "MemTotal"), memory(&meminfo, "MemAvailable"));
    let used = total.saturating_sub(available);
    let (disk_used, disk_total) = sys::rustix::fs::statvfs("/")
        .map(|d| ((d.f_blocks.saturating_sub(d.f_bfree)) * d.f_frsize, d.f_blocks * d.f_frsize))
        .unwrap_or_default();
    let metrics = Metrics {
        ts: SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default(),
        cpu_count: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_used_pct: agent.cpu_clock.share(cpu_ticks(&stat)),
        mem_total: total,
        mem_used: used,
        mem_cache: memory(&meminfo, "Cached"),
        mem_total_mib: total / MIB,
        mem_used_mib: used / MIB,
        disk_used,
        disk_total,
    };
    reply::json(StatusCode::OK, &metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_counted_between_two_looks() {
        let clock = CpuClock::default();
        clock.share(cpu_ticks("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0"));
        assert!((clock.share(cpu_ticks("cpu  150 0 100 850 0 0 0 0 0 0")) - 50.0).abs() < 0.01);
    }

    #[test]
    fn memory_lines_are_kibibytes() {
        assert_eq!(memory("MemTotal:   2048 kB\nMemFree: 1 kB", "MemTotal"), 2 * MIB);
        assert_eq!(memory("", "MemTotal"), 0);
    }
}
