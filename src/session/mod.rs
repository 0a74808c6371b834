//! The embedder's entry: a [`Session`] wraps DataFusion's `SessionContext` and adds streams to it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool, UnboundedMemoryPool};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion_spark::SessionStateBuilderSpark;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::plan::text_of_bytes::CastBytesAsText;
use crate::plan::time_difference::TimeDifference;
use crate::plan::window_batch::WindowInBatch;
use crate::plan::window_function;
use crate::query::StreamingQueryManager;
use crate::query::listener::{ListenerId, StreamingQueryListener};
use crate::sink::SinkProvider;
use crate::sink::console::SharedWriter;
use crate::source::SourceProvider;
use crate::sql::binder::SparkTypes;
use crate::sql::functions::{aggregate_functions, scalar_functions};
use crate::sql::relation::StreamRelations;
use crate::sql::struct_call::StructOfAll;

mod catalog;
pub mod dataframe;
mod declare;
mod flow;
mod late_rows;
pub mod reader;
mod registry;
mod script;
mod settings;
mod start;
mod state_table;
pub mod writer;

use catalog::Tables;
use flow::Flow;
pub use reader::DataStreamReader;
use registry::Registry;
use settings::Settings;
pub use writer::DataStreamWriter;

/// A session: tables, functions, flows and the queries it started. Clones are handles on the same session.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use millstream::session::Session;
///
/// let session = Session::new();
/// let rows = session.sql("SELECT 1 + 1 AS two").await?.collect().await?;
/// assert_eq!(rows[0].num_rows(), 1);
/// # Ok::<(), millstream::error::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("queries", &self.inner.queries).finish_non_exhaustive()
    }
}

/// What handles on a session share.
pub(crate) struct Inner {
    context: SessionContext,
    registry: RwLock<Registry>,
    tables: Mutex<Tables>,
    flows: Mutex<Vec<Flow>>,
    settings: Mutex<Settings>,
    queries: StreamingQueryManager,
    clock: Arc<dyn Clock>,
    console: SharedWriter,
    stopping: tokio::sync::watch::Sender<bool>,
}

/// How a DataFrame finds the session that it came from: an extension of DataFusion's configuration.
#[derive(Default)]
struct SessionLink(Mutex<Weak<Inner>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Makes a session with a lane a processor, the machine's clock, and consoles on standard output.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Begins a session with settings of its own.
    pub fn builder() -> SessionBuilder {
        SessionBuilder::default()
    }

    /// Returns the `SessionContext` below: everything DataFusion can do works on it.
    pub fn context(&self) -> &SessionContext {
        &self.inner.context
    }

    /// Begins reading a stream.
    pub fn read_stream(&self) -> DataStreamReader {
        DataStreamReader::new(Arc::clone(&self.inner))
    }

    /// Runs one SQL statement. A query is planned and returned, to be collected where it is a batch or started with
    /// `write_stream()` where it is a stream; every other statement is carried out, and a flow starts.
    ///
    /// # Errors
    /// `InvalidQuery` with line, column and a caret; and whatever carrying it out meets.
    pub async fn sql(&self, text: &str) -> Result<DataFrame> {
        self.inner.run_one(text).await
    }

    /// Runs a script: its statements in order, then its flows side by side, those that feed others first. Batch
    /// queries print their rows to the console output. Returns when every flow has ended.
    ///
    /// # Errors
    /// The first error of a statement, before which nothing was started; or the first that ended a flow.
    pub async fn run_script(&self, text: &str) -> Result<()> {
        self.inner.run_script(text).await
    }

    /// Returns the queries of this session.
    pub fn queries(&self) -> &StreamingQueryManager {
        &self.inner.queries
    }

    /// Adds a listener to this session's queries.
    pub fn add_listener(&self, listener: Arc<dyn StreamingQueryListener>) -> ListenerId {
        self.inner.queries.add_listener(listener)
    }

    /// Registers a source format of the application's own.
    pub fn register_source(&self, format: &str, provider: Arc<dyn SourceProvider>) {
        self.inner.registry.write().unwrap_or_else(PoisonError::into_inner).add_source(format, provider);
    }

    /// Registers a sink format of the application's own.
    pub fn register_sink(&self, format: &str, provider: Arc<dyn SinkProvider>) {
        self.inner.registry.write().unwrap_or_else(PoisonError::into_inner).add_sink(format, provider);
    }

    /// Stops every query, after the batch it is in, and waits until all have ended.
    ///
    /// # Errors
    /// What ended a query meanwhile.
    pub async fn stop_all(&self) -> Result<()> {
        self.inner.stopping.send_replace(true);
        self.inner.queries.stop_all().await
    }
}

impl Inner {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        locked(&self.tables)
    }

    fn registry(&self) -> Registry {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn settings(&self) -> Settings {
        locked(&self.settings).clone()
    }

    /// Returns the session that made `config`.
    fn of(config: &SessionConfig) -> Result<Arc<Inner>> {
        let link = config.get_extension::<SessionLink>();
        link.and_then(|link| locked(&link.0).upgrade()).ok_or_else(|| {
            Error::invalid_query("this DataFrame is of no Millstream session, or its session is gone: make it with session.read_stream() or session.sql()")
        })
    }
}

/// Settings of a new [`Session`].
#[derive(Default)]
pub struct SessionBuilder {
    console: Option<SharedWriter>,
    lanes: Option<usize>,
    clock: Option<Arc<dyn Clock>>,
    memory_limit: Option<usize>,
    listeners: Vec<Arc<dyn StreamingQueryListener>>,
}

impl SessionBuilder {
    /// Sends what console sinks and batch queries print to `writer`.
    #[must_use]
    pub fn console_output(mut self, writer: SharedWriter) -> Self {
        self.console = Some(writer);
        self
    }

    /// Uses `lanes` parallel units of stateful work, instead of one a processor. At least one, at most 128.
    #[must_use]
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = Some(lanes.clamp(1, crate::state::KEY_GROUPS));
        self
    }

    /// Uses another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Uses at most about `bytes` of memory for the state of queries and what they compute with. State that is larger leaves
    /// memory lane by lane, of which there are 32 then unless [`SessionBuilder::lanes`] says otherwise, and is read back from
    /// the checkpoint where it is needed. A query whose batch, or a single lane of it, has no room ends with
    /// `ResourcesExhausted`, which says who holds how much; its batch stays undecided, and a restart goes on with it.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Adds a listener.
    #[must_use]
    pub fn listener(mut self, listener: Arc<dyn StreamingQueryListener>) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Makes the session.
    pub fn build(self) -> Session {
        let console = self.console.unwrap_or_else(|| Arc::new(Mutex::new(std::io::stdout())));
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let lanes = match (self.lanes, self.memory_limit) {
            (Some(lanes), _) => lanes,
            (None, Some(_)) => processors().max(LIMITED_LANES),
            (None, None) => processors(),
        };
        let link = Arc::new(SessionLink::default());
        let queries = StreamingQueryManager::new();
        for listener in self.listeners {
            queries.add_listener(listener);
        }
        let inner = Arc::new(Inner {
            context: context(Arc::clone(&link), runtime(self.memory_limit)),
            registry: RwLock::new(Registry::new(Arc::clone(&console), Arc::new(Mutex::new(std::io::stderr())))),
            tables: Mutex::default(),
            flows: Mutex::default(),
            settings: Mutex::new(Settings::new(lanes)),
            queries,
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock)),
            console,
            stopping: tokio::sync::watch::channel(false).0,
        });
        *locked(&link.0) = Arc::downgrade(&inner);
        Session { inner }
    }
}

/// State leaves memory lane by lane: where memory is limited, a lane is to be a small part of it.
const LIMITED_LANES: usize = 32;
/// How many of those who hold memory an error names.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// What queries run in. State takes what it needs, up to its part; operators that can spill share the rest evenly,
/// so that none of them starves another.
fn runtime(memory_limit: Option<usize>) -> Arc<RuntimeEnv> {
    let pool: Arc<dyn MemoryPool> = match memory_limit {
        Some(bytes) => Arc::new(TrackConsumersPool::new(FairSpillPool::new(bytes), NAMED_CONSUMERS)),
        None => Arc::new(UnboundedMemoryPool::default()),
    };
    Arc::new(RuntimeEnv { memory_pool: pool, ..RuntimeEnv::default() })
}

/// DataFusion with Spark's functions, types and order of NULLs, and with streams.
fn context(link: Arc<SessionLink>, runtime: Arc<RuntimeEnv>) -> SessionContext {
    let mut config = SessionConfig::new().with_information_schema(true).with_extension(link);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.default_null_ordering = "nulls_min".to_string();
    options.execution.parquet.schema_force_view_types = false;
    let mut builder = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_spark_features()
        .with_type_planner(Arc::new(SparkTypes))
        .with_relation_planners(vec![Arc::new(StreamRelations)]);
    // Before DataFusion's own, which take every access to a field.
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(StructOfAll));
    let mut context = SessionContext::new_with_state(builder.build());
    // It is added to a list; that cannot fail.
    let _ = context.register_function_rewrite(Arc::new(CastBytesAsText));
    for function in scalar_functions().into_iter().chain(window_function::functions()) {
        context.register_udf(function);
    }
    for function in aggregate_functions() {
        context.register_udaf(function);
    }
    context.add_analyzer_rule(Arc::new(WindowInBatch));
    context.add_analyzer_rule(Arc::new(TimeDifference));
    // It makes two aggregates of one, which a stream cannot do batch by batch.
    context.remove_optimizer_rule("single_distinct_aggregation_to_group_by");
    // They name what they move after the column: over a column called window that is ambiguous.
    context.remove_optimizer_rule("extract_leaf_expressions");
    context.remove_optimizer_rule("push_down_leaf_projections");
    context
}
