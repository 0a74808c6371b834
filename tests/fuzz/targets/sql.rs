//! Any text as a statement: parsed, and planned over streams and tables; nothing is run.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use millstream::session::Session;
use millstream::sql::script::split_script;
use millstream::sql::statement::{Statement, parse_statement};
use millstream_fuzz::block_on;

/// Tables with the names and columns that the scripts of `sql/` use most, so that their statements can be planned.
const TABLES: &str = "
    CREATE UNBOUNDED EXTERNAL TABLE flights (time_hour TIMESTAMP, carrier STRING, flight BIGINT, origin STRING,
        dest STRING, dep_delay DOUBLE, arr_delay DOUBLE, distance BIGINT, tags ARRAY<STRING>,
        more STRUCT<a: INT, b: MAP<STRING, DOUBLE>>, day DATE, price DECIMAL(10, 2), late BOOLEAN)
        STORED AS JSON LOCATION '/tmp/millstream-fuzz/';
    CREATE UNBOUNDED EXTERNAL TABLE t (ts TIMESTAMP, k STRING, v BIGINT) STORED AS JSON
        LOCATION '/tmp/millstream-fuzz/';
    CREATE UNBOUNDED EXTERNAL TABLE rates STORED AS RATE;
    CREATE EXTERNAL TABLE airlines (carrier STRING, name STRING) STORED AS CSV LOCATION '/tmp/millstream-fuzz/';
    CREATE EXTERNAL TABLE result STORED AS NOOP;
    CREATE VIEW numbers AS SELECT 1 AS a, 'x' AS b, TIMESTAMP '2026-01-01' AS ts;";

fn session() -> &'static Session {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| {
        std::fs::create_dir_all("/tmp/millstream-fuzz").expect("a folder without files");
        let session = Session::builder().lanes(2).build();
        for piece in split_script(TABLES).expect("the tables of the target") {
            block_on(session.sql(&piece.text)).expect("the tables of the target");
        }
        session
    })
}

/// Functions that make much of a number. A query may be as large as its author likes, so that is no finding.
const GROWING: &[&str] = &["repeat", "pad", "space", "range", "series", "sequence", "resize"];

fn asks_for_much(text: &str) -> bool {
    let lower = text.to_lowercase();
    let long_number = text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 5);
    long_number && GROWING.iter().any(|name| lower.contains(name))
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    if asks_for_much(text) {
        return Corpus::Reject;
    }
    let Ok(pieces) = split_script(text) else { return Corpus::Keep };
    for piece in pieces {
        let Ok(statement) = parse_statement(&piece) else { continue };
        // EXPLAIN plans what it is about, and runs nothing.
        if matches!(statement, Statement::Query(_) | Statement::Insert(_) | Statement::CreateFlow(_)) {
            let _ = block_on(session().sql(&format!("EXPLAIN {}", piece.text)));
        }
    }
    Corpus::Keep
});
