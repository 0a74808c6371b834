//! Any text where an option is read: spans of time, numbers, sizes, patterns, rates, and offsets as JSON.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::{Corpus, fuzz_target};
use millstream::clock::SystemClock;
use millstream::interval::{duration_us, interval_us, parse_interval};
use millstream::options::{Options, nearest};
use millstream::query::trigger::{Trigger, next_tick_ms};
use millstream::session::Session;
use millstream::source::{
    ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, WatermarkOptions, file, rate, rate_micro_batch,
};
use millstream_fuzz::{block_on, not_internal, store_of};

/// Options that take a text of their own, by the format that reads them.
const NAMES: &[(&str, &[&str])] = &[
    (
        "json",
        &[
            "maxFilesPerTrigger",
            "maxBytesPerTrigger",
            "maxFileAge",
            "pathGlobFilter",
            "orderBy",
            "cleanSource",
            "mode",
            "columnNameOfCorruptRecord",
            "timestampFormat",
            "dateFormat",
            "latestFirst",
            "multiLine",
            "idleTimeout",
        ],
    ),
    (
        "csv",
        &[
            "sep",
            "quote",
            "escape",
            "nullValue",
            "header",
            "comment",
            "timestampFormat",
            "dateFormat",
            "mode",
            "encoding",
            "lineSep",
        ],
    ),
    ("text", &["wholetext", "lineSep", "maxFileAge"]),
    ("rate", &["rowsPerSecond", "rampUpTime", "numPartitions"]),
    ("rate-micro-batch", &["rowsPerBatch", "startTimestamp", "advanceMillisPerBatch", "numPartitions"]),
];

fn provider(format: &str) -> Box<dyn SourceProvider> {
    match format {
        "rate" => Box::new(rate::RateSourceProvider),
        "rate-micro-batch" => Box::new(rate_micro_batch::RateMicroBatchSourceProvider),
        _ => Box::new(file::FileSourceProvider),
    }
}

/// Makes a source with the option, and asks it to plan, and to plan what a log says.
async fn source(format: &str, options: Options, offset: &serde_json::Value) {
    let schema = Arc::new(datafusion::arrow::datatypes::Schema::empty());
    let is_file = !format.starts_with("rate");
    let spec = SourceSpec {
        format: format.to_string(),
        schema: is_file.then_some(schema),
        path: is_file.then(|| "/tmp/millstream-fuzz".to_string()),
        options,
        clock: Arc::new(SystemClock),
    };
    let source: Arc<dyn Source> = match provider(format).create(&spec).await {
        Ok(source) => source,
        Err(error) => return not_internal(&error),
    };
    let context = SourceContext { journal: store_of(&[]), history: vec![offset.clone()] };
    if let Err(error) = source.open(context).await {
        return not_internal(&error);
    }
    for error in [
        source.plan(Some(offset), ReadLimit::All).await.err(),
        source.replay(Some(offset), offset).await.err(),
        source.replay(None, offset).await.err(),
    ] {
        error.iter().for_each(not_internal);
    }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let [which, data @ ..] = data else { return Corpus::Reject };
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    std::fs::create_dir_all("/tmp/millstream-fuzz").expect("a folder without files");
    if let Ok(interval) = parse_interval(text) {
        let _ = interval_us(&interval);
    }
    if let Ok(us) = duration_us(text) {
        let trigger = Trigger::ProcessingTime(Duration::from_micros(us.unsigned_abs()));
        let _ = (trigger.wait(us, us / 2), trigger.to_string(), next_tick_ms(us, trigger.interval_ms()));
    }
    let _ = nearest(text, &["maxFilesPerTrigger", "seconds"]);
    let mut options: Options = [("x", text)].into_iter().collect();
    let _ = (options.positive("x"), options.flag("x", true), options.parsed::<f64>("x", "a number"));
    options.set("idleTimeout", text);
    options.set("watermarkPer", text);
    let _ = WatermarkOptions::take(&mut options);

    let (format, names) = NAMES[usize::from(*which) % NAMES.len()];
    let name = names[usize::from(*which) / NAMES.len() % names.len()];
    let offset = serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
    let own: Options = if offset.is_null() { [(name, text)].into_iter().collect() } else { Options::new() };
    block_on(source(format, own, &offset));
    if *which == 255 {
        let quoted = text.replace('\'', "''");
        for key in ["trigger", "lanes", "minBatchesToRetain", "timezone"] {
            let _ = block_on(Session::new().sql(&format!("SET {key} = '{quoted}'")));
        }
    }
    Corpus::Keep
});
