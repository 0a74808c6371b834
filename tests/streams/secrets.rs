//! The values of secret options are for the source or sink alone: they stand in no log, plan, error, report, output or
//! checkpoint. A canary is given as each of them, and looked for in everything that a process leaves.

// The child process prints whatever may tell.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use millstream::error::{Error, Result};
use millstream::options::REDACTED;
use millstream::query::listener::{QueryIdle, QueryStarted, QueryTerminated, StreamingQueryListener};
use millstream::query::progress::StreamingQueryProgress;
use millstream::session::Session;
use millstream::sink::file::FileSinkProvider;
use millstream::sink::{Sink, SinkProvider, SinkSpec};
use millstream::source::rate_micro_batch::RateMicroBatchSourceProvider;
use millstream::source::{Source, SourceProvider, SourceSpec};
use millstream::sql::script::split_script;
use millstream::sql::statement::parse_statement;

use crate::bad_input::Place;
use crate::disk::files_below;

const CANARY: &str = "canary-5up3r-53cr3t";

/// Names that secret options have, in sources and sinks of several kinds.
const SECRETS: &[&str] = &[
    "password",
    "kafka.sasl.jaas.config",
    "kafka.ssl.key.password",
    "Secret",
    "fs.s3a.access.key",
    "accessToken",
    "credentials",
    "PRIVATE_KEY",
    "passphrase",
];

/// The place that the child process works in.
const PLACE: &str = "SECRETS_PLACE";

/// A source and a sink that need secrets, and are otherwise what is there already.
#[derive(Debug)]
struct Guarded;

impl Guarded {
    /// Shows the spec, as providers do when they log, and takes the secrets out.
    fn check(what: &dyn std::fmt::Debug, options: &mut millstream::options::Options) -> Result<()> {
        tracing::debug!("asked for {what:?}");
        for name in SECRETS {
            match options.remove(name) {
                Some(value) if value == CANARY => {}
                other => return Err(Error::invalid_option(format!("'{name}' is set: {}", other.is_some()))),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SourceProvider for Guarded {
    async fn schema(&self, spec: &SourceSpec) -> Result<SchemaRef> {
        Ok(SourceProvider::create(self, spec).await?.schema())
    }

    async fn create(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        let mut inner = spec.clone();
        Self::check(spec, &mut inner.options)?;
        RateMicroBatchSourceProvider.create(&inner).await
    }
}

#[async_trait]
impl SinkProvider for Guarded {
    async fn create(&self, spec: &SinkSpec) -> Result<Arc<dyn Sink>> {
        let mut inner = SinkSpec { format: "json".to_string(), ..spec.clone() };
        Self::check(spec, &mut inner.options)?;
        FileSinkProvider.create(&inner).await
    }
}

/// Prints everything that it is told.
struct Telltale;

impl StreamingQueryListener for Telltale {
    fn on_query_started(&self, event: &QueryStarted) {
        println!("{event:?}");
    }

    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        println!("{progress:?}\n{progress}");
    }

    fn on_query_idle(&self, event: &QueryIdle) {
        println!("{event:?}");
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        println!("{event:?}");
    }
}

/// The options of a table, with a canary for every secret, as they stand in SQL.
fn options(others: &str) -> String {
    let secrets: Vec<String> = SECRETS.iter().map(|name| format!("'{name}' '{CANARY}'")).collect();
    format!("OPTIONS ({}{others})", secrets.join(", "))
}

/// Tables that need secrets, a flow that works and one that fails.
fn script(place: &Path) -> String {
    let place = place.display();
    format!(
        "CREATE UNBOUNDED EXTERNAL TABLE ev STORED AS GUARDED {};\n\
         CREATE EXTERNAL TABLE result STORED AS VAULT LOCATION '{place}/out/' {};\n\
         CREATE EXTERNAL TABLE failed STORED AS VAULT LOCATION '{place}/failed/' {};\n\
         CREATE FLOW good TRIGGER ONCE CHECKPOINT '{place}/good' AS INSERT INTO result SELECT value FROM STREAM ev;\n\
         CREATE FLOW bad TRIGGER ONCE CHECKPOINT '{place}/bad' AS INSERT INTO failed SELECT 1 / (value - 2) AS x FROM STREAM ev;",
        options(", 'rowsPerBatch' '5'"),
        options(""),
        options(""),
    )
}

/// Shows an error as loudly as anybody might.
fn tell(error: &Error) {
    println!("{error}\n{error:?}\n{error:#?}");
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        println!("{next}\n{next:?}");
        cause = next.source();
    }
}

/// Runs in a process of its own, since there is one log a process.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below"]
async fn everything_that_may_tell() {
    let filter = tracing_subscriber::EnvFilter::from_env("MILLSTREAM_LOG");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    tracing::trace!("the log is on");
    let place = std::path::PathBuf::from(std::env::var(PLACE).unwrap());
    let session = Session::builder().listener(Arc::new(Telltale)).build();
    session.register_source("guarded", Arc::new(Guarded));
    session.register_sink("vault", Arc::new(Guarded));
    let script = script(&place);
    for piece in split_script(&script).unwrap() {
        println!("{:?}", parse_statement(&piece).unwrap());
    }
    let error = session.run_script(&script).await.unwrap_err();
    assert!(error.to_string().contains("flow bad"), "{error}");
    tell(&error);
    for show in [
        "EXPLAIN VERBOSE SELECT * FROM STREAM ev",
        "EXPLAIN FLOW good",
        "EXPLAIN ANALYZE FLOW good",
        "DESCRIBE FLOW bad",
        "SHOW FLOWS",
        "SHOW TABLES",
        "DESCRIBE ev",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.views",
        "SELECT * FROM information_schema.df_settings",
    ] {
        match session.sql(show).await {
            Ok(rows) => rows.show().await.unwrap(),
            Err(error) => tell(&error),
        }
    }
    let bad = |secret: &str| {
        format!("CREATE UNBOUNDED EXTERNAL TABLE x (a INT) STORED AS JSON LOCATION 'x/' OPTIONS ({secret}")
    };
    for wrong in [
        bad(&format!("'password' '{CANARY}')")),
        bad(&format!("'password' '{CANARY}', 'a' 'b' 'c')")),
        bad(&format!("accessKey = '{CANARY}' oops")),
        bad(&format!("'mode' 'x', 'token' '{CANARY}")),
        format!("SET password = '{CANARY}'"),
        format!("SET datafusion.password = '{CANARY}'"),
        bad(&format!("'maxFilesPerTrigger' '1', 'key' '{CANARY}')")),
    ] {
        tell(&session.sql(&wrong).await.unwrap_err());
    }
    println!("all was told");
}

/// Fails where the canary is in what a process printed, or in a file it left.
fn assert_silent(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().find(|line| line.contains(CANARY));
    assert!(line.is_none(), "{what} tells a secret: {}", line.unwrap_or_default());
}

#[test]
fn no_secret_is_told() {
    let place = Place::new();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "secrets::everything_that_may_tell", "--ignored", "--nocapture"])
        .env("MILLSTREAM_LOG", "trace")
        .env(PLACE, place.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && stdout.contains("all was told"), "{stdout}\n{stderr}");
    // What could not tell a secret proves nothing.
    assert!(stderr.contains("the log is on") && stderr.contains(REDACTED), "{stderr}");
    assert!(stdout.contains(REDACTED) && stdout.contains("physical_plan") && stdout.contains("numInputRows"));
    assert_silent("standard output", &child.stdout);
    assert_silent("the log", &child.stderr);
    let files = files_below(&place.path(""));
    assert!(files.contains_key("good/commits/0") && files.contains_key("bad/offsets/0"), "{:?}", files.keys());
    for (file, bytes) in files {
        assert_silent(&file, &bytes);
    }
}

#[test]
fn the_command_tells_no_secret() {
    let place = Place::new();
    for secret in
        [format!("'password' '{CANARY}')"), format!("'password' '{CANARY}' 'x'"), format!("'token' '{CANARY}")]
    {
        let text =
            format!("{} OPTIONS ({secret}", "CREATE UNBOUNDED EXTERNAL TABLE x (a INT) STORED AS JSON LOCATION 'x/'");
        let told = Command::new(env!("CARGO_BIN_EXE_millstream"))
            .args(["sql", &text])
            .env("MILLSTREAM_LOG", "trace")
            .current_dir(place.path(""))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("error:"));
        assert_silent("the command", &told.stdout);
        assert_silent("the command", &told.stderr);
    }
}
