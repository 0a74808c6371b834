//! What fuzzing found, one test a finding. The targets are in `tests/fuzz/`.

use millstream::error::ErrorKind;
use millstream::session::Session;

use crate::bad_input::{COLUMNS, Place, console};
use crate::case::run_script;

/// The stack that threads of an async runtime have, unless they are told otherwise.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// Plans a statement on a thread with a small stack, and says how that ended.
fn planned(sql: String) -> Result<(), millstream::error::Error> {
    let plan = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let session = Session::builder().lanes(1).build();
            session.sql("CREATE EXTERNAL TABLE rates STORED AS RATE").await?;
            session.sql(&format!("EXPLAIN {sql}")).await?.collect().await?;
            Ok(())
        })
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(plan).unwrap().join().unwrap()
}

/// Statements that go `depth` deep, each in another way.
fn deep(depth: usize) -> Vec<String> {
    let from = "FROM STREAM rates";
    vec![
        format!("SELECT value{} AS x {from}", " + 1".repeat(depth)),
        format!("SELECT value {from} WHERE value = 0{}", " OR value = 1".repeat(depth)),
        format!("SELECT 'a'{} AS x {from}", " || 'a'".repeat(depth)),
        format!("SELECT {}value{} AS x {from}", "(".repeat(depth), ")".repeat(depth)),
        format!("SELECT {}value{} AS x {from}", "abs(".repeat(depth), ")".repeat(depth)),
        format!("SELECT {}value AS x {from}", "- ".repeat(depth)),
        format!("SELECT {} true AS x {from}", "NOT ".repeat(depth)),
        format!("SELECT {}1{} AS x {from}", "CASE WHEN value = 1 THEN ".repeat(depth), " END".repeat(depth)),
        format!("SELECT value {from}{}", format!(" UNION ALL SELECT value {from}").repeat(depth)),
        format!("SELECT value FROM {}STREAM rates{}", "(SELECT value FROM ".repeat(depth), ")".repeat(depth)),
        format!("SELECT value{} AS x {from}", "::BIGINT".repeat(depth)),
        format!("SELECT {}value{} AS x {from}", "[".repeat(depth), "]".repeat(depth)),
        format!("SELECT value{} AS x {from}", " IS NULL".repeat(depth)),
        format!(
            "SELECT a0.value FROM STREAM rates AS a0{}",
            (1..=depth).map(|n| format!(" CROSS JOIN (SELECT 1) AS a{n}")).collect::<String>()
        ),
        format!(
            "WITH {} SELECT value FROM c{depth}",
            (0..=depth)
                .map(|n| match n {
                    0 => format!("c0 AS (SELECT value {from})"),
                    n => format!("c{n} AS (SELECT value FROM c{})", n - 1),
                })
                .collect::<Vec<_>>()
                .join(", ")
        ),
        format!("SELECT CAST(NULL AS {}INT{}) AS x {from}", "ARRAY<".repeat(depth), ">".repeat(depth)),
    ]
}

#[test]
fn a_deep_statement_is_refused_and_kills_nobody() {
    for depth in [5, 28, 58, 110, 290, 20_000] {
        for sql in deep(depth) {
            let head: String = sql.chars().take(60).collect();
            println!("{depth} deep: {head}");
            match planned(sql) {
                Ok(()) => assert!(depth < 20_000, "{head} is planned {depth} deep"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidQuery, "{head}: {error}");
                    assert!(depth > 5, "{head} is refused {depth} deep: {error}");
                }
            }
        }
    }
}

/// What was planned runs as well, on threads like any others.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_nearly_too_deep_runs() {
    let place = Place::new();
    let sql = format!("SELECT id FROM STREAM ev WHERE v = 0{}", " OR v = 1".repeat(140));
    let script = place.stream("ev", COLUMNS, "") + &console("answer") + &place.flow("f", "append", "answer", &sql);
    run_script(&script).await.end.unwrap();
}
