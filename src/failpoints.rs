//! Places in the micro-batch protocol at which a test makes the process die, stop or fail: only in builds with the
//! feature `failpoints`.
//!
//! | variable | what it does |
//! |---|---|
//! | `MILLSTREAM_SIGNAL=<point>:<pass>:<KILL, STOP or TERM>` | the process sends itself the signal when it passes the point that often |
//! | `MILLSTREAM_PASSES=<file>` | each pass of a point appends its name to the file |
//! | `MILLSTREAM_DURABLE=<folder>` | what is durable is noted there (`storage/power_cut.rs`) |
//! | `FAILPOINTS=<point>=<action>;…` | as the crate `fail` says: `disk.write_fails=7*off->1*return` |

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Every point of the protocol, in the order in which a batch passes them; what a run passes rarely comes last.
pub const POINTS: &[&str] = &[
    "batch.before_plan",
    "offset_log.temp_written",
    "offset_log.written",
    "source.mid_read",
    "operator.mid_batch",
    "state.delta_partly_written",
    "state.some_deltas_written",
    "sink.mid_file",
    "sink.prepared",
    "state.all_deltas_written",
    "late_rows.prepared",
    "commit_log.temp_written",
    "commit_log.written",
    "sink.mid_publish",
    "sink.published",
    "manifest.written",
    "late_rows.published",
    "source.commit",
    "state.mid_snapshot",
    "log.mid_purge",
    "manifest.mid_compact",
    "recovery.mid",
    "stop.mid_graceful",
];

/// The points of a batch that leaves in a transaction of Kafka.
pub const KAFKA_POINTS: &[&str] = &["kafka.before_commit_transaction", "kafka.after_commit_transaction"];

/// Places where a test makes the disk fail, and promises that a test breaks to see that it would notice.
pub const FAULTS: &[&str] = &["disk.write_fails", "disk.sync_fails", "broken.skip_sync", "broken.names_change"];

/// Sets the points as the environment says.
///
/// # Panics
/// Where it says something that cannot be understood: a test that does not do what it is told shows nothing.
#[allow(clippy::panic, clippy::expect_used)]
pub fn set_from_environment() {
    if std::env::var_os("FAILPOINTS").is_some() {
        // Dropped, it would clear the points again.
        std::mem::forget(fail::FailScenario::setup());
    }
    let passes = std::env::var_os("MILLSTREAM_PASSES").map(|path| {
        let file = File::options().create(true).append(true).open(path).expect("MILLSTREAM_PASSES can be written");
        Arc::new(Mutex::new(file))
    });
    let deadly = std::env::var("MILLSTREAM_SIGNAL").ok().map(|text| Deadly::parse(&text));
    for point in POINTS.iter().chain(KAFKA_POINTS) {
        let signal = deadly.as_ref().filter(|deadly| deadly.point == *point).map(|deadly| (deadly.pass, deadly.signal));
        if passes.is_some() || signal.is_some() {
            let (passed, passes) = (AtomicU64::new(0), passes.clone());
            let pass = move || {
                if let Some(passes) = &passes {
                    let mut file = passes.lock().unwrap_or_else(PoisonError::into_inner);
                    writeln!(file, "{point}").expect("MILLSTREAM_PASSES can be written");
                }
                let count = passed.fetch_add(1, Ordering::SeqCst) + 1;
                if let Some((_, signal)) = signal.filter(|(pass, _)| *pass == count) {
                    send_to_self(signal);
                }
            };
            fail::cfg_callback(*point, pass).expect("a point takes a function");
        }
    }
}

/// Sends this process the signal; this thread goes no further before it has come.
fn send_to_self(signal: &str) {
    let process = std::process::id().to_string();
    let sent = Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &process]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the process cannot signal itself");
}

/// When the process sends itself a signal.
struct Deadly {
    point: String,
    pass: u64,
    signal: &'static str,
}

impl Deadly {
    #[allow(clippy::panic)]
    fn parse(text: &str) -> Self {
        let wrong = || panic!("MILLSTREAM_SIGNAL is <point>:<pass>:<KILL, STOP or TERM>, not '{text}'");
        let mut words = text.split(':');
        let (Some(point), Some(pass), Some(signal), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            wrong()
        };
        let signal = ["KILL", "STOP", "TERM"].into_iter().find(|name| *name == signal).unwrap_or_else(|| wrong());
        if !POINTS.contains(&point) && !KAFKA_POINTS.contains(&point) {
            wrong();
        }
        Self { point: point.to_string(), pass: pass.parse().unwrap_or_else(|_| wrong()), signal }
    }
}
