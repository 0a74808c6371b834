//! Nexmark: what each script of `sql/nexmark/` gives is what the same question gives over all its rows as one batch.
//!
//! The batch has no watermarks, windows or state. It is asked by hand over the same files as plain tables, in other
//! words than the script's where there are any, and says itself until when the watermark has closed what it closes. Of
//! a flow in update mode the last row of each key counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use millstream::session::Session;
use serde_json::Value;

use crate::answer::{Bag, bag, difference};
use crate::case::literal;
use crate::cut_off::{self, Run, runtime};
use crate::disk::{Table, json_rows};
use crate::scenario::{Query, settled};

const FOLDER: &str = "sql/nexmark";

/// The tables, how far the watermark comes in a flow over one or two of them, and what several questions ask for.
const TABLES: &str = "
CREATE EXTERNAL TABLE person (id BIGINT, name STRING, email_address STRING, credit_card STRING, city STRING,
  state STRING, date_time TIMESTAMP, extra STRING) STORED AS JSON LOCATION 'sql/data/nexmark/person/';
CREATE EXTERNAL TABLE auction (id BIGINT, item_name STRING, description STRING, initial_bid BIGINT, reserve BIGINT,
  date_time TIMESTAMP, expires TIMESTAMP, seller BIGINT, category BIGINT, extra STRING)
  STORED AS JSON LOCATION 'sql/data/nexmark/auction/';
CREATE EXTERNAL TABLE bid (auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING,
  date_time TIMESTAMP, extra STRING) STORED AS JSON LOCATION 'sql/data/nexmark/bid/';

CREATE VIEW ends AS SELECT * FROM
  (SELECT max(date_time) - INTERVAL '4 seconds' AS of_bids FROM bid) AS b
  CROSS JOIN (SELECT max(date_time) - INTERVAL '4 seconds' AS of_auctions FROM auction) AS a
  CROSS JOIN (SELECT max(date_time) - INTERVAL '4 seconds' AS of_people FROM person) AS p;

CREATE VIEW won AS SELECT * FROM (
  SELECT a.*, b.bidder, b.price, b.date_time AS bid_date_time, b.extra AS bid_extra,
         row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS nth
  FROM auction AS a CROSS JOIN ends JOIN bid AS b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires
    AND a.date_time + INTERVAL '1 minute' < of_auctions AND a.date_time + INTERVAL '1 minute' < of_bids
) AS numbered WHERE nth = 1;

CREATE VIEW leveled AS SELECT *,
  date_trunc('day', date_time) AS midnight, date_trunc('minute', date_time) AS full_minute,
  CASE WHEN price < 10000 THEN 1 WHEN price < 1000000 THEN 2 ELSE 3 END AS level FROM bid;
";

/// Where a script leaves its answer.
enum Answer {
    /// In `out/nexmark/<name>/`, in this format, to be read with these options.
    Files(&'static str, &'static str),
    /// On the console, where a row replaces the one before it with the same values in these columns.
    Updates(&'static [&'static str]),
}

/// What a script asks, as a batch.
struct Question {
    name: &'static str,
    answer: Answer,
    batch: String,
}

fn files(name: &'static str, batch: &str) -> Question {
    Question { name, answer: Answer::Files("parquet", ""), batch: batch.to_string() }
}

fn updates(name: &'static str, keys: &'static [&'static str], batch: &str) -> Question {
    Question { name, answer: Answer::Updates(keys), batch: batch.to_string() }
}

/// Counts rows and distinct values at each level of price.
fn levels(distinct: &[(&str, &str)]) -> String {
    let mut columns = vec!["count(*) AS bids".to_string()];
    columns.extend((1..=3).map(|level| format!("sum(CASE level WHEN {level} THEN 1 ELSE 0 END) AS rank{level}_bids")));
    for (column, name) in distinct {
        columns.push(format!("count(DISTINCT {column}) AS {name}"));
        let at =
            |level: i32| format!("count(DISTINCT CASE level WHEN {level} THEN {column} END) AS rank{level}_{name}");
        columns.extend((1..=3).map(at));
    }
    columns.join(", ")
}

/// All questions but that about the clock.
fn questions() -> Vec<Question> {
    let all_levels = levels(&[("bidder", "bidders"), ("auction", "auctions")]);
    let bid_levels = levels(&[]);
    vec![
        files("q0", "SELECT auction, bidder, price, date_time, extra FROM bid"),
        files(
            "q1",
            "SELECT auction, bidder, CAST(CAST(price * 908 AS DECIMAL(23, 3)) / 1000 AS DECIMAL(23, 3)) AS price, \
             date_time, extra FROM bid",
        ),
        files("q2", "SELECT auction, price FROM bid WHERE auction / 123 * 123 = auction"),
        files(
            "q3",
            "SELECT name, city, state, a.id FROM person AS p, auction AS a \
             WHERE p.id = seller AND category = 10 AND (state = 'or' OR state = 'id' OR state = 'ca')",
        ),
        updates("q4", &["category"], "SELECT category, avg(price) AS average_price FROM won GROUP BY category"),
        files(
            "q5",
            "SELECT window_start, window_start + INTERVAL '10 seconds' AS window_end, auction, bids FROM ( \
               SELECT *, rank() OVER (PARTITION BY window_start ORDER BY bids DESC) AS place FROM ( \
                 SELECT window_start, auction, count(*) AS bids FROM ( \
                   SELECT auction, date_bin(INTERVAL '2 seconds', date_time) - back AS window_start FROM bid \
                   CROSS JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'), (INTERVAL '4 seconds'), \
                     (INTERVAL '6 seconds'), (INTERVAL '8 seconds')) AS steps(back) \
                 ) AS dealt GROUP BY window_start, auction \
               ) AS counted \
             ) AS ranked CROSS JOIN ends WHERE place = 1 AND window_start + INTERVAL '10 seconds' <= of_bids",
        ),
        updates(
            "q6",
            &["seller"],
            "SELECT seller, avg(price) AS average_price FROM ( \
               SELECT seller, price, row_number() OVER (PARTITION BY seller ORDER BY expires DESC, id DESC) AS back \
               FROM won \
             ) AS numbered WHERE back <= 10 GROUP BY seller",
        ),
        files(
            "q7",
            "SELECT auction, price, bidder, date_time, extra FROM ( \
               SELECT *, date_bin(INTERVAL '10 seconds', date_time) AS start, \
                 max(price) OVER (PARTITION BY date_bin(INTERVAL '10 seconds', date_time)) AS highest FROM bid \
             ) AS b CROSS JOIN ends WHERE price = highest AND start + INTERVAL '10 seconds' <= of_bids",
        ),
        files(
            "q8",
            "SELECT DISTINCT p.id, p.name, date_bin(INTERVAL '10 seconds', p.date_time) AS window_start \
             FROM person AS p JOIN auction AS a ON p.id = a.seller CROSS JOIN ends \
             WHERE date_bin(INTERVAL '10 seconds', p.date_time) = date_bin(INTERVAL '10 seconds', a.date_time) \
               AND date_bin(INTERVAL '10 seconds', p.date_time) + INTERVAL '10 seconds' <= of_people \
               AND date_bin(INTERVAL '10 seconds', p.date_time) + INTERVAL '10 seconds' <= of_auctions",
        ),
        files(
            "q9",
            "SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra, \
             bidder, price, bid_date_time, bid_extra FROM won",
        ),
        // What is read from CSV is text.
        Question {
            name: "q10",
            answer: Answer::Files("csv", "'format.has_header' 'true'"),
            batch: "SELECT CAST(auction AS STRING) AS auction, CAST(bidder AS STRING) AS bidder, \
                    CAST(price AS STRING) AS price, date_time, extra, CAST(CAST(date_time AS DATE) AS STRING) AS dt, \
                    substring(CAST(date_trunc('minute', date_time) AS STRING), 12, 5) AS hm FROM bid"
                .to_string(),
        },
        files(
            "q11",
            "SELECT bidder, bids, start_time, end_time FROM ( \
               SELECT bidder, count(*) AS bids, min(date_time) AS start_time, \
                 max(date_time) + INTERVAL '10 seconds' AS end_time FROM ( \
                 SELECT *, sum(begins) OVER (PARTITION BY bidder ORDER BY date_time) AS session FROM ( \
                   SELECT bidder, date_time, CASE WHEN date_time <= lag(date_time) OVER \
                     (PARTITION BY bidder ORDER BY date_time) + INTERVAL '10 seconds' THEN 0 ELSE 1 END AS begins \
                   FROM bid \
                 ) AS marked \
               ) AS numbered GROUP BY bidder, session \
             ) AS sessions CROSS JOIN ends WHERE end_time <= of_bids",
        ),
        files(
            "q13",
            "SELECT auction, bidder, price, date_time, concat('value-', CAST(auction % 1000 AS STRING)) AS value \
             FROM bid",
        ),
        files(
            "q14",
            "SELECT auction, bidder, CAST(CAST(price * 908 AS DECIMAL(23, 3)) / 1000 AS DECIMAL(23, 3)) AS price, \
               CASE WHEN hour(date_time) IN (7, 19) THEN 'otherTime' \
                 WHEN hour(date_time) BETWEEN 8 AND 18 THEN 'dayTime' ELSE 'nightTime' END AS bid_time_type, \
               date_time, extra, length(replace(extra, 'c', 'cc')) - length(extra) AS c_count \
             FROM bid WHERE price * 908 > 1000000000 AND price * 908 < 50000000000",
        ),
        updates(
            "q15",
            &["day"],
            &format!("SELECT date_format(midnight, 'yyyy-MM-dd') AS day, {all_levels} FROM leveled GROUP BY midnight"),
        ),
        updates(
            "q16",
            &["channel", "day"],
            &format!(
                "SELECT channel, date_format(midnight, 'yyyy-MM-dd') AS day, \
                 date_format(max(full_minute), 'HH:mm') AS minute, {all_levels} FROM leveled GROUP BY channel, midnight"
            ),
        ),
        updates(
            "q17",
            &["auction", "day"],
            &format!(
                "SELECT auction, date_format(midnight, 'yyyy-MM-dd') AS day, {bid_levels}, min(price) AS min_price, \
                 max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price \
                 FROM leveled GROUP BY auction, midnight"
            ),
        ),
        updates(
            "q18",
            &["bidder", "auction"],
            "SELECT auction, bidder, price, channel, url, date_time, extra FROM ( \
               SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS back FROM bid \
             ) AS numbered WHERE back = 1",
        ),
        files(
            "q20",
            "SELECT auction, bidder, price, channel, url, b.date_time AS bid_date_time, b.extra AS bid_extra, \
               item_name, description, initial_bid, reserve, a.date_time AS auction_date_time, expires, seller, \
               category, a.extra AS auction_extra \
             FROM auction AS a, bid AS b WHERE id = auction AND category = 10",
        ),
        files(
            "q21",
            "SELECT auction, bidder, price, channel, \
             coalesce(known.id, split_part(url, '&channel_id=', 2)) AS channel_id \
             FROM bid LEFT JOIN (VALUES ('Apple', '0'), ('Google', '1'), ('Facebook', '2'), ('Baidu', '3')) \
               AS known(name, id) ON channel = known.name \
             WHERE known.id IS NOT NULL OR url LIKE '%&channel_id=%'",
        ),
        files(
            "q22",
            "SELECT auction, bidder, price, channel, regexp_extract(url, '^https://[^/]+/([^/]*)/', 1) AS dir1, \
               regexp_extract(url, '^https://[^/]+/[^/]*/([^/]*)/', 1) AS dir2, \
               regexp_extract(url, '^https://[^/]+/[^/]*/[^/]*/([^/]*)/', 1) AS dir3 FROM bid",
        ),
    ]
}

/// Runs a script to its end; what it writes to `out/` goes below `folder`.
fn run(name: &str, folder: &Path) -> Result<Run, String> {
    let path = format!("{FOLDER}/{name}.sql");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    cut_off::run(&text.replace("'out/", &format!("'{}/out/", literal(folder))), None)
}

/// Returns the rows that a query gives over the tables.
async fn batch_rows(sql: &str) -> Result<Vec<Value>, String> {
    let session = Session::builder().build();
    session.run_script(TABLES).await.map_err(|error| format!("the batch's tables failed: {error}"))?;
    let frame = session.sql(sql).await.map_err(|error| format!("the batch failed: {error}\n{sql}"))?;
    let batches = frame.collect().await.map_err(|error| format!("the batch failed: {error}\n{sql}"))?;
    Ok(json_rows(&batches))
}

/// Returns what the lines of a console in update mode amount to.
fn last_rows(keys: &'static [&'static str], lines: &[Value]) -> Result<Bag, String> {
    settled(&Query::grouped("", "update", keys, None), lines)
}

/// Says how a script's answer differs from the batch's, or nothing where both are the same and there are rows.
fn judge(question: &Question) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(question.name, folder.path())?;
    let runtime = runtime();
    let have = match question.answer {
        Answer::Files(format, options) => {
            let location = folder.path().join("out/nexmark").join(question.name);
            let table = Table { format: format.to_string(), location, options: options.to_string() };
            runtime.block_on(table.rows())?
        }
        Answer::Updates(keys) => last_rows(keys, &ran.watched.batches())?,
    };
    let want = bag(&runtime.block_on(batch_rows(&question.batch))?);
    if want.is_empty() {
        return Err("the batch gives no rows, so that there is nothing to compare".to_string());
    }
    difference(&want, &have).map_or(Ok(()), Err)
}

#[test]
fn each_script_amounts_to_its_batch() {
    let questions = questions();
    let wrong: Vec<String> =
        questions.iter().filter_map(|asked| Some(format!("{}: {}", asked.name, judge(asked).err()?))).collect();
    assert!(wrong.is_empty(), "{} of {} scripts differ:\n{}", wrong.len(), questions.len(), wrong.join("\n"));
}

/// Which bids come within the same ten seconds nobody knows before, but each is counted in one window.
#[test]
fn windows_of_the_clock_hold_every_bid_once() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run("q12", folder.path()).unwrap();
    let lines = ran.watched.batches();
    let mut last = BTreeMap::new();
    for row in lines.iter().flat_map(|line| line["rows"].as_array().unwrap()) {
        let (start, end) = (row["start_time"].as_str().unwrap(), row["end_time"].as_str().unwrap());
        // A time is spelled `2026-01-01T00:00:10`: windows begin where its last digit is 0, and last ten seconds.
        assert!(start.ends_with('0') && end.ends_with('0') && start < end, "{row}");
        last.insert((row["bidder"].as_i64().unwrap(), start.to_string()), row["bids"].as_i64().unwrap());
    }
    let mut have = BTreeMap::<i64, i64>::new();
    for ((bidder, _), bids) in last {
        *have.entry(bidder).or_default() += bids;
    }
    let rows = runtime().block_on(batch_rows("SELECT bidder, count(*) AS bids FROM bid GROUP BY bidder")).unwrap();
    let want: BTreeMap<i64, i64> =
        rows.iter().map(|row| (row["bidder"].as_i64().unwrap(), row["bids"].as_i64().unwrap())).collect();
    assert!(!want.is_empty());
    assert_eq!(have, want);
}

#[test]
fn no_script_is_forgotten() {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap().strip_suffix(".sql").map(String::from);
    let found: BTreeSet<String> = fs::read_dir(FOLDER).unwrap().filter_map(|entry| name(entry.unwrap())).collect();
    let mut asked: BTreeSet<String> = questions().iter().map(|question| question.name.to_string()).collect();
    asked.insert("q12".to_string());
    assert_eq!(found, asked);
}

/// A comparison that cannot fail proves nothing.
mod checks {
    use super::*;

    #[test]
    fn another_question_has_another_answer() {
        assert_eq!(judge(&files("q2", "SELECT auction, price FROM bid WHERE auction % 123 = 0")), Ok(()));
        let missing = judge(&files("q2", "SELECT auction, price FROM bid WHERE auction % 122 = 0"));
        assert!(missing.unwrap_err().contains("missing [{"));
        let dear = "SELECT auction, price FROM bid WHERE auction % 123 = 0 AND price > 10000";
        assert!(judge(&files("q2", dear)).unwrap_err().contains("extra [{"));
        let nothing = judge(&files("q2", "SELECT auction, price FROM bid WHERE auction < 0"));
        assert!(nothing.unwrap_err().contains("nothing to compare"));
    }
}
