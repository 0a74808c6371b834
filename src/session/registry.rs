//! The one place that names implementors: formats, and who makes their sources and sinks.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::options::nearest;
use crate::sink::SinkProvider;
use crate::sink::console::{ConsoleSinkProvider, SharedWriter};
use crate::sink::file::FileSinkProvider;
use crate::sink::noop::NoopSinkProvider;
use crate::source::SourceProvider;
use crate::source::file::{FILE_FORMATS, FileSourceProvider};
use crate::source::rate::RateSourceProvider;
use crate::source::rate_micro_batch::RateMicroBatchSourceProvider;
use crate::source::socket::SocketSourceProvider;

/// Who makes sources and sinks, by format.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    sources: BTreeMap<String, Arc<dyn SourceProvider>>,
    sinks: BTreeMap<String, Arc<dyn SinkProvider>>,
}

impl Registry {
    /// Makes the registry of what Millstream brings along; console sinks write to `console`.
    pub(super) fn new(console: SharedWriter, people: SharedWriter) -> Self {
        let mut registry = Self { sources: BTreeMap::new(), sinks: BTreeMap::new() };
        for format in FILE_FORMATS {
            registry.add_source(format, Arc::new(FileSourceProvider));
        }
        registry.add_source("rate", Arc::new(RateSourceProvider));
        registry.add_source("rate-micro-batch", Arc::new(RateMicroBatchSourceProvider));
        registry.add_source("socket", Arc::new(SocketSourceProvider));
        #[cfg(feature = "kafka")]
        registry.add_source("kafka", Arc::new(crate::source::kafka::KafkaSourceProvider));
        #[cfg(feature = "kafka")]
        registry.add_sink("kafka", Arc::new(crate::sink::kafka::KafkaSinkProvider));
        for format in ["parquet", "json", "csv"] {
            registry.add_sink(format, Arc::new(FileSinkProvider));
        }
        registry.add_sink("console", Arc::new(ConsoleSinkProvider::new(console, people)));
        registry.add_sink("noop", Arc::new(NoopSinkProvider));
        registry
    }

    /// Adds a source format, replacing one of the same name.
    pub(super) fn add_source(&mut self, format: &str, provider: Arc<dyn SourceProvider>) {
        self.sources.insert(format.to_lowercase(), provider);
    }

    /// Adds a sink format, replacing one of the same name.
    pub(super) fn add_sink(&mut self, format: &str, provider: Arc<dyn SinkProvider>) {
        self.sinks.insert(format.to_lowercase(), provider);
    }

    /// Returns who makes sources of `format`.
    ///
    /// # Errors
    /// `InvalidOption` that names the near miss, or all formats there are.
    pub(super) fn source(&self, format: &str) -> Result<Arc<dyn SourceProvider>> {
        find(&self.sources, format, "source")
    }

    /// Returns who makes sinks of `format`.
    ///
    /// # Errors
    /// As [`Registry::source`].
    pub(super) fn sink(&self, format: &str) -> Result<Arc<dyn SinkProvider>> {
        find(&self.sinks, format, "sink")
    }

    /// Returns whether there is a source of `format`.
    pub(super) fn has_source(&self, format: &str) -> bool {
        self.sources.contains_key(&format.to_lowercase())
    }

    /// Returns whether there is a sink of `format`.
    pub(super) fn has_sink(&self, format: &str) -> bool {
        self.sinks.contains_key(&format.to_lowercase())
    }
}

fn find<T: ?Sized>(all: &BTreeMap<String, Arc<T>>, format: &str, what: &str) -> Result<Arc<T>> {
    if let Some(provider) = all.get(&format.to_lowercase()) {
        return Ok(Arc::clone(provider));
    }
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    let hint = match nearest(format, &names) {
        _ if cfg!(not(feature = "kafka")) && format.eq_ignore_ascii_case("kafka") => {
            "this build has none: build it with the feature kafka (cargo build --features kafka)".to_string()
        }
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("there are: {}", names.join(", ")),
    };
    Err(Error::invalid_option(format!("there is no {what} of format '{format}'; {hint}")))
}
