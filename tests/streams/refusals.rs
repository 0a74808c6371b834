//! What each output mode accepts and refuses, shape by shape, as `tests/fixtures/refusals.json` lists it.
//!
//! Accepted means that the flow runs over two small files and ends; refused means that it does not start, prints
//! nothing, and says which mode or operator is the matter.

use std::collections::BTreeMap;

use millstream::error::ErrorKind;
use millstream::session::Session;
use serde::Deserialize;
use serde_json::json;

use crate::case::{Case, Home, Outcome, fixture, run_script};

/// A shape of query and what each mode makes of it.
#[derive(Debug, Deserialize)]
struct Shape {
    shape: String,
    sql: String,
    append: Verdict,
    update: Verdict,
    complete: Verdict,
    /// Words of which a refusal uses one, unless it names the mode.
    operator: Vec<String>,
}

/// Whether a mode takes a shape.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Refused,
}

/// Two files of two rows for each stream, and a static table.
fn case(sql: &str, mode: &str) -> Case {
    let row = |id: i64, second: i64, k: &str| {
        let ts = format!("2026-01-01T00:00:{second:02}.000");
        json!({"id": id, "ts": ts, "k": k, "v": id, "d": 0.5})
    };
    let files = |from: i64| {
        vec![vec![row(from, 1, "a"), row(from + 1, 12, "b")], vec![row(from + 2, 40, "a"), row(from + 3, 41, "c")]]
    };
    let dim = |k: &str, name: &str, rate: i64| json!({"k": k, "name": name, "rate": rate});
    Case {
        id: sql.to_string(),
        sql: sql.to_string(),
        mode: mode.to_string(),
        schema: "id BIGINT, ts TIMESTAMP, k STRING, v BIGINT, d DOUBLE".to_string(),
        streams: BTreeMap::from([("ev".to_string(), files(0)), ("ev2".to_string(), files(10))]),
        statics: BTreeMap::from([("dim".to_string(), vec![dim("a", "alpha", 2), dim("b", "beta", 3)])]),
        ..Case::default()
    }
}

/// Starts a shape in a mode and says what is wrong with the outcome, or nothing.
async fn judge(shape: &Shape, mode: &str, verdict: Verdict) -> Option<String> {
    let case = case(&shape.sql, mode);
    let mut home = Home::new(&case);
    home.add_files(&case.streams);
    let Outcome { lines, end, .. } = run_script(&home.script(&case)).await;
    let error = match (verdict, end) {
        (Verdict::Ok, Ok(())) if lines.is_empty() => {
            return Some("accepted, but printed no batch".to_string());
        }
        (Verdict::Ok, Ok(())) => return None,
        (Verdict::Ok, Err(error)) => return Some(format!("should be accepted: {error}")),
        (Verdict::Refused, Ok(())) => return Some("should be refused".to_string()),
        (Verdict::Refused, Err(error)) => error,
    };
    let text = error.to_string().to_lowercase();
    let named = shape.operator.iter().map(String::as_str).chain([mode]).any(|word| text.contains(word));
    if !lines.is_empty() {
        Some(format!("refused too late, after {} batches: {error}", lines.len()))
    } else if !matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::InvalidQuery) {
        Some(format!("refused with the wrong kind of error: {error}"))
    } else if !named {
        Some(format!("the refusal names neither the mode nor one of {:?}: {error}", shape.operator))
    } else {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_is_taken_or_refused_as_listed() {
    let text = std::fs::read_to_string(fixture("refusals.json")).unwrap();
    let shapes: Vec<Shape> = serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    for shape in &shapes {
        for (mode, verdict) in [("append", shape.append), ("update", shape.update), ("complete", shape.complete)] {
            if let Some(why) = judge(shape, mode, verdict).await {
                wrong.push(format!("{} [{mode}] {why}\n    {}", shape.shape, shape.sql));
            }
        }
    }
    assert!(wrong.is_empty(), "{} verdicts differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// A stream has no end: collecting it as if it were a table is refused rather than waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_cannot_be_collected() {
    let case = case("SELECT k FROM STREAM ev", "append");
    let mut home = Home::new(&case);
    home.add_files(&case.streams);
    let script = home.script(&case);
    let table = script.lines().find(|line| line.contains("TABLE ev ")).unwrap();
    let session = Session::builder().build();
    session.run_script(table).await.unwrap();
    let refused = match session.sql(&case.sql).await {
        Err(_) => true,
        Ok(frame) => frame.collect().await.is_err(),
    };
    assert!(refused, "a stream was collected as if it were a table");
}
