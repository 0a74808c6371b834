//! What is shown is run: the SQL blocks of the README and of `sql/REFERENCE.md` whose first line is `-- run`.

use std::fs;

use crate::case::literal;
use crate::disk::visible_files;
use crate::watched::Watched;

/// A block of SQL, and where it begins.
#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    sql: String,
}

/// Returns the blocks of a text that are to be run.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            None if line.trim() == "```sql" => open = Some(Block { line: index + 1, sql: String::new() }),
            None => {}
            Some(_) if line.trim() == "```" => found.extend(open.take()),
            Some(block) => {
                block.sql.push_str(line);
                block.sql.push('\n');
            }
        }
    }
    found.retain(|block| block.sql.starts_with("-- run\n"));
    found
}

/// Runs all blocks of a file, each in a session of its own, and fails with a list of those that do not run or of which
/// nothing comes.
async fn all_run(file: &str) {
    let blocks = blocks(&fs::read_to_string(file).unwrap());
    assert!(!blocks.is_empty(), "{file} has no block that begins with -- run");
    let mut wrong = Vec::new();
    for Block { line, sql } in blocks {
        let folder = tempfile::tempdir().unwrap();
        let sql = sql.replace("'out/", &format!("'{}/out/", literal(folder.path())));
        let watched = Watched::new();
        let end = watched.session.run_script(&sql).await;
        if let Err(error) = end {
            wrong.push(format!("{file}, line {line}: {error}"));
        } else if watched.printed().is_empty() && visible_files(folder.path()).is_empty() {
            wrong.push(format!("{file}, line {line}: it neither prints nor writes anything"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_runs() {
    all_run("README.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_runs() {
    all_run("sql/REFERENCE.md").await;
}

#[test]
fn only_blocks_that_say_so_are_run() {
    let text = "a\n```sql\n-- run\nSELECT 1;\n```\n```sql\nSELECT 2;\n```\n```text\n-- run\n```\n```sql\n-- run\n```\n";
    let block = |line: usize, sql: &str| Block { line, sql: sql.to_string() };
    assert_eq!(blocks(text), [block(2, "-- run\nSELECT 1;\n"), block(12, "-- run\n")]);
}
