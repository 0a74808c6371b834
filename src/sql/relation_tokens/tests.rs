//! Tests of `relation_tokens`.

use datafusion::sql::sqlparser::parser::Parser;

use super::super::script::{DIALECT, Piece};
use super::*;

fn rewritten(sql: &str) -> String {
    let tokens = rewrite_relations(Piece::new(sql).tokens().unwrap()).unwrap();
    let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens);
    let query = parser.parse_query().unwrap();
    assert_eq!(parser.peek_token_ref().token, Token::EOF, "{sql}");
    query.to_string()
}

#[test]
fn stream_relations_become_calls() {
    for (from, call) in [
        ("STREAM tt", "('tt', '{}', '', NULL, '', '', true) AS tt"),
        ("STREAM(tt)", "('tt', '{}', '', NULL, '', '', true) AS tt"),
        ("stream(cat.tt) AS x", "('cat.tt', '{}', '', NULL, '', '', true) AS x"),
        ("STREAM cat.`T t`", "('cat.\"T t\"', '{}', '', NULL, '', '', true) AS `T t`"),
        ("STREAM stream", "('stream', '{}', '', NULL, '', '', true) AS stream"),
        ("STREAM range(10)", "((SELECT * FROM range(10)), '{}', '', NULL, '', '', true)"),
        ("STREAM tt WITH ('k'='1')", "('tt', '{\"k\":\"1\"}', '', NULL, '', '', true) AS tt"),
        ("STREAM tt IDENTIFIED BY src1", "('tt', '{}', 'src1', NULL, '', '', true) AS tt"),
        ("STREAM(tt) IDENTIFIED BY a AS b", "('tt', '{}', 'a', NULL, '', '', true) AS b"),
        ("STREAM tt WATERMARK ts DELAY OF INTERVAL 10 SECONDS", "('tt', '{}', '', ts, '', '10 SECONDS', true) AS tt"),
        (
            "STREAM tt WITH ('a'='1') WATERMARK ts DELAY OF INTERVAL '10' SECOND AS x",
            "('tt', '{\"a\":\"1\"}', '', ts, '', '10 SECOND', true) AS x",
        ),
        ("s WATERMARK ts DELAY OF INTERVAL '10 seconds'", "('s', '{}', '', ts, '', '10 seconds', false) AS s"),
        (
            "s WATERMARK timestamp_seconds(v) AS et DELAY OF INTERVAL 1 HOUR 30 MINUTES",
            "('s', '{}', '', timestamp_seconds(v), 'et', '1 HOUR 30 MINUTES', false) AS s",
        ),
        (
            "(SELECT * FROM STREAM s) WATERMARK ts DELAY OF INTERVAL 10 SECONDS AS y",
            "((SELECT * FROM __millstream_stream('s', '{}', '', NULL, '', '', true) AS s), \
             '{}', '', ts, '', '10 SECONDS', false) AS y",
        ),
    ] {
        let sql = format!("SELECT * FROM {from}");
        assert_eq!(rewritten(&sql), format!("SELECT * FROM __millstream_stream{call}"), "{sql}");
    }
}

#[test]
fn stream_relations_are_found_wherever_a_relation_stands() {
    let sql = "WITH c AS (SELECT k FROM a, STREAM b WHERE k > 1) \
               SELECT * FROM (c JOIN STREAM d AS e ON c.k = e.k) LEFT ANTI JOIN STREAM f ON e.k = f.k \
               WHERE k IN (SELECT k FROM STREAM g GROUP BY k) UNION ALL (SELECT * FROM STREAM h LIMIT 1)";
    let text = rewritten(sql);
    for name in ["b", "d", "f", "g", "h"] {
        assert!(text.contains(&format!("__millstream_stream('{name}'")), "{name}: {text}");
    }
    assert_eq!(text.matches("__millstream_stream").count(), 5, "{text}");
}

#[test]
fn names_that_look_like_words_of_a_relation_stay() {
    for sql in [
        "SELECT * FROM stream",
        "SELECT stream.a FROM stream WHERE a > 1",
        "SELECT * FROM stream AS s, t",
        "SELECT * FROM stream.t JOIN \"stream\" ON a = b",
        "SELECT * FROM a stream JOIN b watermark ON stream.k = watermark.k",
        "SELECT EXTRACT(HOUR FROM stream) FROM t",
        "SELECT a IS DISTINCT FROM stream, b FROM t",
        "SELECT stream x, watermark y FROM t watermark WHERE delay = 1",
        "SELECT * FROM t WITH (NOLOCK)",
        "SELECT max(interval) FROM t WHERE x = INTERVAL '1-2' YEAR TO DAY",
        "SELECT tumble(ts, '10 seconds') FROM s LEFT SEMI JOIN u ON s.k = u.k",
    ] {
        let tokens = Piece::new(sql).tokens().unwrap();
        assert_eq!(rewrite_relations(tokens.clone()).unwrap(), tokens, "{sql}");
    }
}

#[test]
fn the_table_of_a_window_function_becomes_a_query() {
    let watermark = "__millstream_stream('t', '{}', '', ts, '', '5 SECONDS', true) AS t";
    for (from, expected) in [
        (
            "TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' MINUTES)) AS x",
            "TABLE(TUMBLE((SELECT * FROM t), DESCRIPTOR(ts), INTERVAL '10 minutes')) AS x".to_string(),
        ),
        (
            "hop(cat.t, ts, INTERVAL 5 MINUTES, INTERVAL '10 minutes')",
            "hop((SELECT * FROM cat.t), ts, INTERVAL '5 minutes', INTERVAL '10 minutes')".to_string(),
        ),
        (
            "TUMBLE(DATA => TABLE t, TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL 1 HOUR)",
            "TUMBLE(DATA => (SELECT * FROM t), TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '1 hours')".to_string(),
        ),
        (
            "TUMBLE(STREAM t WATERMARK ts DELAY OF INTERVAL 5 SECONDS, ts, INTERVAL 1 HOUR)",
            format!("TUMBLE((SELECT * FROM {watermark}), ts, INTERVAL '1 hours')"),
        ),
        (
            "CUMULATE(t, ts, INTERVAL 1 MINUTE, INTERVAL 1 HOUR)",
            "CUMULATE((SELECT * FROM t), ts, INTERVAL '1 minutes', INTERVAL '1 hours')".to_string(),
        ),
        (
            "SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '5' SECOND) AS s",
            "SESSION((SELECT * FROM t), __millstream_partition(k), DESCRIPTOR(ts), INTERVAL '5 seconds') AS s"
                .to_string(),
        ),
        (
            "SESSION(STREAM t PARTITION BY k, t.j, DESCRIPTOR(ts), INTERVAL 5 SECONDS)",
            "SESSION((SELECT * FROM __millstream_stream('t', '{}', '', NULL, '', '', true) AS t), \
             __millstream_partition(k, t.j), DESCRIPTOR(ts), INTERVAL '5 seconds')"
                .to_string(),
        ),
        (
            "SESSION(t PARTITION BY (k, j), ts, INTERVAL 5 SECONDS)",
            "SESSION((SELECT * FROM t), __millstream_partition(k, j), ts, INTERVAL '5 seconds')".to_string(),
        ),
        (
            "SESSION(DATA => TABLE t PARTITION BY k, TIMECOL => DESCRIPTOR(ts), GAP => INTERVAL 5 SECONDS)",
            "SESSION(DATA => (SELECT * FROM t), __millstream_partition(k), TIMECOL => DESCRIPTOR(ts), \
             GAP => INTERVAL '5 seconds')"
                .to_string(),
        ),
        (
            "SESSION(t PARTITION BY k, ts, INTERVAL 5 SECONDS)",
            "SESSION((SELECT * FROM t), __millstream_partition(k), ts, INTERVAL '5 seconds')".to_string(),
        ),
        ("drop_duplicates(TABLE cat.t, a, b) AS x", "drop_duplicates((SELECT * FROM cat.t), a, b) AS x".to_string()),
        ("DROP_DUPLICATES(t)", "DROP_DUPLICATES((SELECT * FROM t))".to_string()),
        (
            "TUMBLE((SELECT * FROM t WHERE f(a, b)), ts, INTERVAL 1 HOUR)",
            "TUMBLE((SELECT * FROM t WHERE f(a, b)), ts, INTERVAL '1 hours')".to_string(),
        ),
    ] {
        let sql = format!("SELECT * FROM {from}");
        assert_eq!(rewritten(&sql), format!("SELECT * FROM {expected}"), "{sql}");
    }
}

#[test]
fn asof_joins_have_one_spelling() {
    for (join, expected) in [
        ("ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts", "b MATCH_CONDITION (F(false)) ON a.k = b.k AND a.ts >= b.ts"),
        ("ASOF LEFT JOIN b AS y ON a.ts > y.ts", "b AS y MATCH_CONDITION (F(true)) ON a.ts > y.ts"),
        ("LEFT OUTER ASOF JOIN b ON x", "b MATCH_CONDITION (F(true)) ON x"),
        ("ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) ON x", "b MATCH_CONDITION (F(false, a.ts >= b.ts)) ON x"),
        ("LEFT ASOF JOIN b MATCH_CONDITION (f(a.ts) > b.ts)", "b MATCH_CONDITION (F(true, f(a.ts) > b.ts))"),
        (
            "ASOF JOIN STREAM b WATERMARK ts DELAY OF INTERVAL 1 HOUR AS y ON x",
            "__millstream_stream('b', '{}', '', ts, '', '1 HOUR', true) AS y MATCH_CONDITION (F(false)) ON x",
        ),
    ] {
        let sql = format!("SELECT * FROM a {join} JOIN c ON z WHERE v");
        let expected = format!("SELECT * FROM a ASOF JOIN {expected} JOIN c ON z WHERE v");
        assert_eq!(rewritten(&sql), expected.replace("F(", "__millstream_asof("), "{sql}");
    }
}

#[test]
fn a_table_as_of_now_is_looked_up() {
    for (table, expected) in [
        ("dim FOR SYSTEM_TIME AS OF PROCTIME() AS d", "'dim') AS d"),
        ("cat.dim FOR SYSTEM_TIME AS OF s.proc_time", "'cat.dim') AS dim"),
        ("(SELECT * FROM dim) for system_time as of proctime() d", "(SELECT * FROM dim)) d"),
    ] {
        let sql = format!("SELECT * FROM s LEFT JOIN {table} ON s.k = d.k");
        let expected = format!("SELECT * FROM s LEFT JOIN __millstream_lookup({expected} ON s.k = d.k");
        assert_eq!(rewritten(&sql), expected, "{sql}");
    }
}

#[test]
fn intervals_become_one_text() {
    for (interval, text) in [
        ("10 SECONDS", "10 seconds"),
        ("0 SECONDS", "0 seconds"),
        ("'1 hour 30 minutes'", "1 hours 30 minutes"),
        ("'3' HOUR", "3 hours"),
        ("3 HOURS", "3 hours"),
        ("1 HOUR 30 MINUTES", "1 hours 30 minutes"),
        ("-5 DAYS", "-5 days"),
        ("'10'", "10"),
        ("'1-2' YEAR TO MONTH", "1 years 2 months"),
        ("'1 12:30:00' DAY TO SECOND", "1 days 12 hours 30 minutes 0 seconds"),
    ] {
        let sql = format!("SELECT ts - INTERVAL {interval} AS x FROM t");
        assert_eq!(rewritten(&sql), format!("SELECT ts - INTERVAL '{text}' AS x FROM t"), "{sql}");
    }
}

#[test]
fn errors_stand_at_their_place() {
    for (rest, column, part) in [
        ("STREAM tt AS x WATERMARK ts DELAY OF INTERVAL 10 SECONDS", 30, "WATERMARK comes before the alias"),
        ("s x WATERMARK ts DELAY OF INTERVAL 10 SECONDS", 19, "WATERMARK comes before the alias"),
        ("s WATERMARK ts DELAY OF '10 seconds'", 39, "write DELAY OF INTERVAL '10 seconds'"),
        ("s WATERMARK ts DELAY OF INTERVAL 10 SECNDS", 48, "did you mean 'seconds'?"),
        ("s WATERMARK ts DELAY OF INTERVAL -10 SECONDS", 39, "is negative"),
        ("s WATERMARK ts WHERE k = 1", 30, "WATERMARK has no DELAY OF"),
        ("s WATERMARK ts DELAY INTERVAL 10 SECONDS", 55, "WATERMARK has no DELAY OF"),
        ("s WATERMARK f(v) DELAY OF INTERVAL 10 SECONDS", 27, "needs a name"),
        ("s IDENTIFIED BY src1", 17, "write STREAM before the table"),
        ("STREAM(SELECT * FROM tt)", 22, "followed by the name of a table"),
        ("STREAM t IDENTIFIED BY a IDENTIFIED BY b", 40, "written twice"),
        ("STREAM t CHANGES FROM VERSION 1", 24, "CHANGES FROM is not supported"),
        ("a ASOF RIGHT JOIN b ON x", 17, "an ASOF join is inner or LEFT"),
        ("a JOIN STREAM b FOR SYSTEM_TIME AS OF PROCTIME() ON x", 31, "leave STREAM away"),
        ("a JOIN b FOR SYSTEM_TIME AS OF a.ts ON x", 46, "takes the processing time"),
        ("a JOIN b AS c FOR SYSTEM_TIME AS OF PROCTIME() ON x", 29, "comes before the alias"),
        ("TUMBLE(t PARTITION BY k, ts, INTERVAL 1 HOUR)", 24, "PARTITION BY has no place here"),
        ("SESSION(t PARTITION BY upper(k), ts, INTERVAL 1 HOUR)", 43, "PARTITION BY takes columns"),
    ] {
        let piece = Piece::new(format!("SELECT * FROM {rest}"));
        let tokens = piece.tokens().unwrap();
        let error = piece.error(rewrite_relations(tokens.clone()).unwrap_err(), &tokens).to_string();
        assert!(error.contains(&format!("line 1, column {column}:")) && error.contains(part), "{rest}: {error}");
    }
    let deep = Piece::new("(".repeat(100_000));
    assert!(rewrite_relations(deep.tokens().unwrap()).is_err());
}
