//! How values behave: the rows of ARCHITECTURE's table «Where values differ from Spark», each held to what it says.
//!
//! CSV has a file of its own ([`super::csv_values`]).

use datafusion::arrow::util::display::array_value_to_string;
use millstream::session::Session;

/// The rows of a query, as text.
async fn rows(sql: &str) -> Result<Vec<Vec<String>>, millstream::error::Error> {
    let session = Session::new();
    let batches = session.sql(sql).await?.collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|c| array_value_to_string(c, row).unwrap()).collect());
        }
    }
    Ok(rows)
}

async fn one(sql: &str) -> String {
    rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))[0][0].clone()
}

#[tokio::test]
async fn integers() {
    assert_eq!(one("SELECT 7 / 2").await, "3");
    assert!(rows("SELECT 7 / (v - v) FROM (VALUES (1)) AS t(v)").await.is_err());
    assert_eq!(one("SELECT arrow_typeof(1)").await, "Int64");
    assert_eq!(one("SELECT v + 1 FROM (VALUES (9223372036854775807)) AS t(v)").await, "-9223372036854775808");
}

#[tokio::test]
async fn nulls_are_least() {
    let order = |clause: &str| {
        format!("SELECT coalesce(CAST(v AS STRING), 'null') FROM (VALUES (2), (NULL), (1)) AS t(v) ORDER BY v {clause}")
    };
    let flat = |rows: Vec<Vec<String>>| rows.into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(flat(rows(&order("")).await.unwrap()), ["null", "1", "2"]);
    assert_eq!(flat(rows(&order("DESC")).await.unwrap()), ["2", "1", "null"]);
}

#[tokio::test]
async fn names_become_lower_case_unless_quoted() {
    assert_eq!(one("SELECT ABC FROM (SELECT 1 AS abc)").await, "1");
    assert!(rows("SELECT \"ABC\" FROM (SELECT 1 AS abc)").await.is_err());
}

#[tokio::test]
async fn text_and_time() {
    assert_eq!(one("SELECT arrow_typeof(CAST(1 AS STRING))").await, "Utf8");
    assert_eq!(one("SELECT CAST('abcdef' AS VARCHAR(3))").await, "abcdef");
    assert!(one("SELECT arrow_typeof(CAST('2026-01-01' AS TIMESTAMP))").await.starts_with("Timestamp(µs"));
    assert!(rows("SET TIME ZONE 'Europe/Zurich'").await.is_err());
    assert!(rows("SET TIME ZONE 'UTC'").await.is_ok());
}

/// Arrow holds intervals against each other field by field, in which 25 hours are less than a day.
#[tokio::test]
async fn a_difference_of_times_is_as_long_as_it_is() {
    for (later, within) in [("2026-01-02 01:00:00", "false"), ("2026-01-01 23:00:00", "true")] {
        let times = format!("(VALUES (TIMESTAMP '2026-01-01 00:00:00', TIMESTAMP '{later}')) AS t(a, b)");
        assert_eq!(one(&format!("SELECT b - a <= INTERVAL '1' DAY FROM {times}")).await, within);
        assert_eq!(one(&format!("SELECT INTERVAL '1' DAY >= b - a FROM {times}")).await, within);
        let between = format!("SELECT b - a BETWEEN INTERVAL '0' DAY AND INTERVAL '1' DAY FROM {times}");
        assert_eq!(one(&between).await, within);
    }
}

#[tokio::test]
async fn on_a_clash_of_names_sparks_function_wins() {
    assert_eq!(one("SELECT coalesce(concat('a', NULL), 'null')").await, "null");
    assert_eq!(one("SELECT substring('Spark', 0, 2)").await, "Sp");
}

/// Their fields are compared in their order, whatever their names.
#[tokio::test]
async fn structs_are_compared_by_place() {
    let of = "FROM (VALUES (1, 2)) AS t(a, b) CROSS JOIN (VALUES (2, 1)) AS u(a, b)";
    for (value, is) in [
        ("struct(t.a, t.b) = struct(u.b, u.a)", "true"),
        ("struct(t.a, t.b) = struct(u.a, u.b)", "false"),
        ("struct(t.a, t.b) IS DISTINCT FROM (struct(1, 2))", "false"),
        ("struct(t.a) IN (struct(u.a), struct(u.b))", "true"),
        ("to_json(CASE WHEN t.a > 1 THEN struct(t.a) ELSE struct(u.a + 1) END)", r#"{"a":3}"#),
        ("to_json(CASE struct(t.a) WHEN struct(u.b) THEN struct(t.a) ELSE struct(t.b) END)", r#"{"a":1}"#),
        (
            "(SELECT count(*) FROM (VALUES (1, 2)) AS v(a, b) WHERE struct(a, b) IN (SELECT struct(b, a) FROM \
             (VALUES (2, 1)) AS w(a, b)))",
            "1",
        ),
        ("(SELECT max(to_json(s)) FROM (SELECT struct(1 AS a) AS s UNION ALL SELECT struct(2 AS b)))", r#"{"a":2}"#),
        ("(SELECT max(to_json(s)) FROM (VALUES (struct(1 AS a)), (struct(2 AS b))) AS w(s))", r#"{"a":2}"#),
        ("to_json(array(struct(t.a), struct(t.b)))", r#"[{"a":1},{"a":2}]"#),
        ("to_json(struct(struct(t.a) AS \"X\", struct(t.b) AS Y))", r#"{"X":{"a":1},"y":{"b":2}}"#),
    ] {
        assert_eq!(one(&format!("SELECT {value} {of}")).await, is, "{value}");
    }
}

/// The star is planned where the columns are known, and the parser takes a list's last column `offset` for a clause.
#[tokio::test]
async fn structs_have_the_names_of_their_columns() {
    let of = "FROM (VALUES (1, 'x')) AS t(a, \"B\") CROSS JOIN (VALUES (true)) AS u(c)";
    for (value, json) in [
        ("struct(a, t.\"B\", a + 1, a AS \"Z\", c AS Y)", r#"{"a":1,"B":"x","col3":2,"Z":1,"y":true}"#),
        ("struct(*)", r#"{"a":1,"B":"x","c":true}"#),
        ("STRUCT ( T.* )", r#"{"a":1,"B":"x"}"#),
        ("struct(u.*)", r#"{"c":true}"#),
        ("struct(struct(*), c)", r#"{"col1":{"a":1,"B":"x","c":true},"c":true}"#),
    ] {
        assert_eq!(one(&format!("SELECT to_json({value}) {of}")).await, json, "{value}");
    }
    assert_eq!(one(&format!("SELECT s.c FROM (SELECT struct(*) AS s {of})")).await, "true");
    let grouped = "SELECT to_json(struct(*)) FROM (SELECT a, count(*) AS n FROM (VALUES (7)) AS t(a) GROUP BY a)";
    assert_eq!(one(grouped).await, r#"{"a":7,"n":1}"#);
    for (star, words) in [("w.*", "there is no relation w"), ("*", "two fields c")] {
        let sql = format!("SELECT struct({star}) {of} CROSS JOIN (VALUES (1)) AS v(c)");
        let error = rows(&sql).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(one("SELECT to_json(struct(CAST('ab' AS BINARY) AS b))").await, r#"{"b":"YWI="}"#);
}

#[tokio::test]
async fn a_column_may_be_called_offset() {
    let of = "FROM (VALUES (1, 2), (3, 4), (5, 6)) AS t(a, \"offset\")";
    for sql in [
        format!("SELECT a, offset {of} WHERE offset > 2 AND offset < 5"),
        format!("SELECT a, OFFSET AS offset {of} ORDER BY a, offset LIMIT 1 OFFSET 1"),
        format!("SELECT a, max(offset) {of} GROUP BY a, offset ORDER BY a OFFSET 1"),
        format!("SELECT a, offset {of}, (VALUES (1)) AS u(b) ORDER BY a OFFSET 1"),
    ] {
        assert_eq!(rows(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))[0], ["3", "4"], "{sql}");
    }
}

#[tokio::test]
async fn spellings_of_spark() {
    assert_eq!(one("SELECT 'stream' RLIKE '^st' AND 'stream' NOT REGEXP '^x'").await, "true");
    let later = "TIMESTAMP '2026-01-01 00:00:00' + INTERVAL '1 12:30:00' DAY TO SECOND";
    assert_eq!(one(&format!("SELECT {later} = TIMESTAMP '2026-01-02 12:30:00'")).await, "true");
    let lists = "(SELECT k, CASE WHEN k = 1 THEN make_array(10, 20) END AS l FROM (VALUES (1), (2)) AS x(k)) AS t";
    let flat = |rows: Vec<Vec<String>>| rows.into_iter().map(|row| row.join(" ")).collect::<Vec<_>>();
    let exploded = rows(&format!("SELECT t.k, v.c FROM {lists} LATERAL VIEW explode(l) v AS c ORDER BY k, c")).await;
    assert_eq!(flat(exploded.unwrap()), ["1 10", "1 20"]);
    let outer = format!("SELECT k, coalesce(c, -1) FROM {lists} LATERAL VIEW OUTER explode(l) v AS c ORDER BY k, c");
    assert_eq!(flat(rows(&outer).await.unwrap()), ["1 10", "1 20", "2 -1"]);
    let outer = format!("SELECT k, explode_outer(l) AS c FROM {lists} ORDER BY k, c");
    assert_eq!(flat(rows(&outer).await.unwrap()), ["1 10", "1 20", "2 "]);
}
