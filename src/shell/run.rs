//! `millstream run FILE` and `millstream sql TEXT`: runs statements until every flow has ended, or until Ctrl-C.
//!
//! Ctrl-C and SIGTERM let each flow finish the batch at hand; a second one leaves at once, which is as safe as a
//! crash: the checkpoint tells the next run where to go on.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{RunOptions, tell};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::query::listener::{QueryStarted, QueryTerminated, StreamingQueryListener};
use crate::query::progress::{SourceProgress, StreamingQueryProgress, iso_ms};
use crate::session::Session;

/// The exit code of a run that a signal stopped, as shells have it for Ctrl-C.
const STOPPED: u8 = 130;

/// Runs the statements of a file.
pub(super) async fn run_file(file: &Path, options: &RunOptions) -> Result<ExitCode> {
    let text = tokio::fs::read_to_string(file).await.map_err(|error| unreadable(file, error))?;
    run_text(&text, options).await.map_err(|error| error.context(file.display().to_string()))
}

/// Runs the statements of `text`.
pub(super) async fn run_text(text: &str, options: &RunOptions) -> Result<ExitCode> {
    // Before anything starts: from here on a signal asks, and does not kill.
    let mut signals = StopSignals::listen()?;
    let directory = std::env::current_dir().unwrap_or_default();
    let stderr = Arc::new(Mutex::new(std::io::stderr()));
    let printer = Arc::new(ProgressPrinter::new(stderr, Arc::new(SystemClock), directory));

    let mut builder = Session::builder()
        .console_output(Arc::new(Mutex::new(std::io::stdout())))
        .listener(Arc::clone(&printer) as Arc<dyn StreamingQueryListener>);
    if let Some(lanes) = options.lanes {
        builder = builder.lanes(lanes.get());
    }
    if let Some(bytes) = options.memory_limit {
        builder = builder.memory_limit(bytes);
    }
    let session = builder.build();

    let running = session.run_script(text);
    tokio::pin!(running);
    tokio::select! {
        outcome = &mut running => return outcome.map(|()| ExitCode::SUCCESS),
        () = signals.next() => printer.stopping(),
    }

    // The script goes on beside the stopping: it may hold what a flow waits for. Once all flows have stopped, what is
    // left of it is not run.
    let stopping = session.stop_all();
    tokio::pin!(stopping);
    let mut ended = false;
    loop {
        tokio::select! {
            _ = &mut stopping => break,
            outcome = &mut running, if !ended => {
                ended = true;
                outcome?;
            }
            () = signals.next() => {
                tell("stopped at once: batches at hand were not finished, the next run does them again");
                break;
            }
        }
    }
    Ok(ExitCode::from(STOPPED))
}

/// Says why a script cannot be read, and what to do.
fn unreadable(file: &Path, error: std::io::Error) -> Error {
    let shown = file.display();
    let message = match error.kind() {
        std::io::ErrorKind::NotFound => {
            let directory = std::env::current_dir().unwrap_or_default();
            format!("there is no file '{shown}' (looked from {})", directory.display())
        }
        std::io::ErrorKind::IsADirectory => {
            format!("'{shown}' is a directory; name a SQL file in it")
        }
        std::io::ErrorKind::InvalidData => format!("'{shown}' is not UTF-8 text; save it as UTF-8"),
        _ => format!("cannot read '{shown}': {error}"),
    };
    Error::unavailable(message).with_source(error)
}

/// Ctrl-C and, where there is such a thing, SIGTERM.
struct StopSignals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    #[cfg(unix)]
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    #[cfg(not(unix))]
    fn listen() -> Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next signal.
    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for the next signal.
    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Tells a person what flows do: a line for each batch that had rows, and a line when a flow has ended.
struct ProgressPrinter {
    output: Arc<Mutex<dyn Write + Send>>,
    clock: Arc<dyn Clock>,
    /// The working directory: places below it are shown relative to it.
    directory: PathBuf,
    stopping: AtomicBool,
    /// By run id.
    flows: Mutex<HashMap<String, FlowTotals>>,
}

/// What a flow has done so far in this run.
struct FlowTotals {
    name: String,
    started_ms: i64,
    batches: u64,
    rows_in: u64,
    /// `None` as long as the sink has not counted any.
    rows_out: Option<u64>,
    /// What its state waits for, operator by operator.
    waiting: Vec<String>,
    sink: String,
}

impl ProgressPrinter {
    fn new(output: Arc<Mutex<dyn Write + Send>>, clock: Arc<dyn Clock>, directory: PathBuf) -> Self {
        Self { output, clock, directory, stopping: AtomicBool::new(false), flows: Mutex::default() }
    }

    /// Says from now on that flows were stopped, not that they are done.
    fn stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<String, FlowTotals>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, name: Option<&str>, id: &str) -> FlowTotals {
        let name = name.unwrap_or_else(|| id.get(..8).unwrap_or(id)).to_string();
        let started_ms = self.clock.now_ms();
        FlowTotals {
            name,
            started_ms,
            batches: 0,
            rows_in: 0,
            rows_out: None,
            waiting: Vec::new(),
            sink: String::new(),
        }
    }

    fn print(&self, line: &str) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody reads stderr any more: that is no reason to end a flow.
        let _ = writeln!(output, "{line}");
    }
}

impl StreamingQueryListener for ProgressPrinter {
    fn on_query_started(&self, event: &QueryStarted) {
        let fresh = self.fresh(event.name.as_deref(), &event.id);
        self.flows().insert(event.run_id.clone(), fresh);
    }

    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        if !progress.ran_batch() {
            return;
        }
        let rows_out = u64::try_from(progress.sink.num_output_rows).ok();
        let line = {
            let mut flows = self.flows();
            let flow = flows
                .entry(progress.run_id.clone())
                .or_insert_with(|| self.fresh(progress.name.as_deref(), &progress.id));
            flow.batches += 1;
            flow.rows_in += progress.num_input_rows;
            flow.sink.clone_from(&progress.sink.description);
            flow.waiting = progress.waiting().into_iter().map(str::to_string).collect();
            if let Some(rows) = rows_out {
                *flow.rows_out.get_or_insert(0) += rows;
            }
            batch_line(&flow.name, progress, rows_out)
        };
        if progress.num_input_rows > 0 || rows_out.is_some_and(|rows| rows > 0) {
            self.print(&line);
        }
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        let known = self.flows().remove(&event.run_id);
        let flow = known.unwrap_or_else(|| self.fresh(None, &event.id));
        let stopped = self.stopping.load(Ordering::SeqCst);
        let took_ms = self.clock.now_ms().saturating_sub(flow.started_ms);
        // Who sees no rows asks why.
        if event.exception.is_none() && flow.rows_out == Some(0) {
            flow.waiting.iter().for_each(|reason| self.print(&format!("{}  {reason}", flow.name)));
        }
        self.print(&end_line(&flow, event.exception.as_deref(), stopped, took_ms, &self.directory));
    }
}

/// `hourly_delays  batch 3  1 204 rows in  38 rows out  watermark 2013-01-02 03:00:00  12 ms`
fn batch_line(name: &str, progress: &StreamingQueryProgress, rows_out: Option<u64>) -> String {
    let mut parts = vec![name.to_string(), format!("batch {}", progress.batch_id)];
    parts.push(format!("{} in", counted(progress.num_input_rows, "row")));
    parts.extend(rows_out.map(|rows| format!("{} out", counted(rows, "row"))));
    let late: u64 = progress.state_operators.iter().map(|operator| operator.num_rows_dropped_by_watermark).sum();
    if late > 0 {
        parts.push(format!("{} late", counted(late, "row")));
    }
    let malformed: u64 = progress
        .sources
        .iter()
        .filter_map(|source| source.metrics.get(SourceProgress::MALFORMED_ROWS)?.parse::<u64>().ok())
        .sum();
    if malformed > 0 {
        parts.push(format!("{} malformed", counted(malformed, "row")));
    }
    // The epoch is where every watermark starts: it says nothing yet.
    if let Some(watermark) = progress.event_time.get("watermark").filter(|w| **w != iso_ms(0)) {
        let readable = watermark.trim_end_matches('Z').trim_end_matches(".000").replace('T', " ");
        parts.push(format!("watermark {readable}"));
    }
    parts.push(span(progress.batch_duration_ms));
    parts.join("  ")
}

/// `hourly_delays  done: 28 batches, 6 062 rows in, 1 234 rows out -> out/delays in 3.1 s`
fn end_line(flow: &FlowTotals, exception: Option<&str>, stopped: bool, took_ms: i64, directory: &Path) -> String {
    let name = &flow.name;
    let batches = counted(flow.batches, "batch");
    if let Some(exception) = exception {
        return format!("{name}  failed after {batches}: {exception}");
    }
    if flow.batches == 0 {
        return format!("{name}  {}", if stopped { "stopped: nothing new" } else { "nothing new" });
    }
    let end = if stopped { "stopped" } else { "done" };
    let mut line = format!("{name}  {end}: {batches}, {} in", counted(flow.rows_in, "row"));
    if let Some(rows) = flow.rows_out {
        line.push_str(&format!(", {} out", counted(rows, "row")));
    }
    if let Some(place) = place(&flow.sink, directory) {
        line.push_str(&format!(" -> {place}"));
    }
    line + " in " + &span(took_ms)
}

/// The place in a sink's description: `FileSink[file:///w/out/delays]` is `out/delays` to who works in `/w`.
fn place(description: &str, directory: &Path) -> Option<String> {
    let inside = description.split_once('[')?.1.strip_suffix(']')?;
    let path = Path::new(inside.strip_prefix("file://").unwrap_or(inside));
    let shown = path.strip_prefix(directory).unwrap_or(path).display().to_string();
    (!shown.is_empty()).then_some(shown)
}

/// `1 row`, `6 062 rows`, `28 batches`.
fn counted(count: u64, noun: &str) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    let plural = match (count, noun.ends_with("ch")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{text} {noun}{plural}")
}

/// `12 ms`, `3.1 s`, `2 min 5 s`.
fn span(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::ManualClock;
    use crate::query::progress::{Durations, SinkProgress, StateOperatorProgress};
    use crate::query::waiting::Waiting;

    struct Printed {
        printer: ProgressPrinter,
        clock: Arc<ManualClock>,
        output: Arc<Mutex<Vec<u8>>>,
    }

    impl Printed {
        /// A printer that was told that a flow has started.
        fn start() -> Self {
            let clock = Arc::new(ManualClock::new(0));
            let output: Arc<Mutex<Vec<u8>>> = Arc::default();
            let printer = ProgressPrinter::new(
                Arc::clone(&output) as Arc<Mutex<dyn Write + Send>>,
                Arc::clone(&clock) as Arc<dyn Clock>,
                PathBuf::from("/w"),
            );
            printer.on_query_started(&QueryStarted {
                id: "0123456789".into(),
                run_id: "r".into(),
                name: Some("hourly_delays".into()),
                timestamp: iso_ms(0),
                job_tags: vec![],
            });
            Self { printer, clock, output }
        }

        fn end(&self, exception: Option<&str>) -> Vec<String> {
            self.clock.advance_ms(3_140);
            self.printer.on_query_terminated(&QueryTerminated {
                id: "0123456789".into(),
                run_id: "r".into(),
                exception: exception.map(str::to_string),
                error_class_on_exception: None,
            });
            String::from_utf8(self.output.lock().unwrap().clone()).unwrap().lines().map(str::to_string).collect()
        }
    }

    fn batch(batch_id: i64, rows_in: u64, rows_out: i64, watermark_ms: i64) -> StreamingQueryProgress {
        StreamingQueryProgress {
            run_id: "r".into(),
            batch_id,
            batch_duration_ms: 12,
            num_input_rows: rows_in,
            duration_ms: BTreeMap::from([(Durations::ADD_BATCH.to_string(), 9)]),
            event_time: BTreeMap::from([("watermark".to_string(), iso_ms(watermark_ms))]),
            sink: SinkProgress {
                description: "FileSink[file:///w/out/delays]".into(),
                num_output_rows: rows_out,
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn a_batch_with_rows_has_a_line_and_the_end_has_the_sums() {
        let printed = Printed::start();
        printed.printer.on_query_progress(&batch(0, 1_204, 0, 0));
        let late = StateOperatorProgress { num_rows_dropped_by_watermark: 1, ..Default::default() };
        let second = StreamingQueryProgress { state_operators: vec![late], ..batch(1, 4_858, 38, 1_357_095_600_000) };
        printed.printer.on_query_progress(&second);
        printed.printer.on_query_progress(&batch(2, 0, 0, 1_357_095_600_000));
        let idle = StreamingQueryProgress { duration_ms: BTreeMap::new(), ..batch(3, 0, 0, 0) };
        printed.printer.on_query_progress(&idle);
        assert_eq!(
            printed.end(None),
            [
                "hourly_delays  batch 0  1 204 rows in  0 rows out  12 ms",
                "hourly_delays  batch 1  4 858 rows in  38 rows out  1 row late  watermark 2013-01-02 03:00:00  12 ms",
                "hourly_delays  done: 3 batches, 6 062 rows in, 38 rows out -> out/delays in 3.1 s",
            ]
        );
    }

    #[test]
    fn a_flow_of_which_nothing_came_says_why() {
        let reason =
            "window ending 2013-01-01 09:00:00 waits: watermark 2013-01-01 08:00:00, held back by source flights";
        let progress = |rows_out: i64| {
            let waiting =
                Waiting { until: iso_ms(0), watermark: None, held_back_by: Vec::new(), reason: reason.to_string() };
            let operator = StateOperatorProgress { waiting: Some(waiting), ..Default::default() };
            StreamingQueryProgress { state_operators: vec![operator], ..batch(0, 3, rows_out, 0) }
        };
        let printed = Printed::start();
        printed.printer.on_query_progress(&progress(0));
        assert_eq!(printed.end(None)[1], format!("hourly_delays  {reason}"));
        let printed = Printed::start();
        printed.printer.on_query_progress(&progress(1));
        assert_eq!(printed.end(None).len(), 2, "rows came out");
    }

    #[test]
    fn a_run_without_batches_found_nothing_new() {
        assert_eq!(Printed::start().end(None), ["hourly_delays  nothing new"]);
    }

    #[test]
    fn a_stopped_flow_and_a_failed_one_say_so() {
        let stopped = Printed::start();
        stopped.printer.on_query_progress(&batch(0, 1, -1, 0));
        stopped.printer.stopping();
        assert_eq!(
            stopped.end(None),
            [
                "hourly_delays  batch 0  1 row in  12 ms",
                "hourly_delays  stopped: 1 batch, 1 row in -> out/delays in 3.1 s",
            ]
        );
        let failed = Printed::start().end(Some("fenced: run 3 has taken over"));
        assert_eq!(failed, ["hourly_delays  failed after 0 batches: fenced: run 3 has taken over"]);
    }

    #[test]
    fn numbers_are_grouped_and_spans_are_short() {
        assert_eq!(counted(1_234_567, "row"), "1 234 567 rows");
        assert_eq!(counted(100, "batch"), "100 batches");
        assert_eq!([span(999), span(1_960), span(125_000)], ["999 ms", "1.9 s", "2 min 5 s"]);
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let error = run_file(Path::new("no/such.sql"), &RunOptions::default()).await.unwrap_err();
        assert!(error.to_string().starts_with("unavailable: there is no file 'no/such.sql' (looked from /"), "{error}");
    }
}
