//! What a piece of work takes of this process: processor time, wall time, memory.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

/// Does the work and returns what came of it, and what it took: `cpu_s`, `wall_s` and `peak_rss_mb`.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Value) {
    let (cpu_s, started) = (cpu_seconds(), Instant::now());
    let outcome = work();
    let (cpu_s, wall_s) = (cpu_seconds() - cpu_s, started.elapsed().as_secs_f64());
    (outcome, json!({"cpu_s": cpu_s, "wall_s": wall_s, "peak_rss_mb": peak_rss_mb()}))
}

/// The greatest memory that this process has held so far.
fn peak_rss_mb() -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// The processor time of this process in seconds, as the system counts it: in hundredths.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
