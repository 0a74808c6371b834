//! What lies on disk after a run: a table as each kind of reader finds it, and the entries of a checkpoint's logs.
//!
//! Tests of recovery compare tables through here. A table is read twice: by its manifest, as Millstream reads it, and
//! as a plain directory, as anything else does. The second view takes every file with the right ending, in hidden
//! folders too, and fails where such a file lies where it should not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::json::writer::{LineDelimited, WriterBuilder};
use arrow::record_batch::RecordBatch;
use millstream::session::Session;
use serde_json::Value;
use tempfile::TempDir;

use crate::answer::{Bag, bag, difference};

/// A table that flows write.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Its format, which is the ending of its files as well.
    pub(crate) format: String,
    pub(crate) location: PathBuf,
    /// Options that its readers need, as they stand in SQL; empty where they need none.
    pub(crate) options: String,
}

impl Table {
    /// Names a table of Parquet files.
    pub(crate) fn parquet(location: PathBuf) -> Self {
        Self { format: "parquet".to_string(), location, options: String::new() }
    }

    /// Reads the rows that the manifest lists.
    pub(crate) async fn by_manifest(&self) -> Bag {
        let manifest = self.location.join("_millstream/manifest");
        assert!(manifest.is_dir(), "{} is missing", manifest.display());
        self.rows_below(&self.location).await
    }

    /// Reads the rows that lie in the directory, whatever the manifest says.
    pub(crate) async fn as_directory(&self) -> Bag {
        let copy = self.plain_copy();
        self.rows_below(copy.path()).await
    }

    /// Reads the table both ways, which must give the same.
    ///
    /// Fails where they do not.
    pub(crate) async fn rows(&self) -> Result<Bag, String> {
        let (listed, lying) = (self.by_manifest().await, self.as_directory().await);
        match difference(&listed, &lying) {
            None => Ok(listed),
            Some(why) => {
                Err(format!("{}: the directory is not what the manifest lists: {why}", self.location.display()))
            }
        }
    }

    /// Copies the files that a reader of the plain directory takes.
    fn plain_copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        let ending = format!(".{}", self.format);
        for file in files_below(&self.location).keys().filter(|file| file.ends_with(&ending)) {
            assert!(
                !is_hidden(file),
                "{file}: a reader that looks into hidden folders takes it for a part of the table"
            );
            let target = copy.path().join(file);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(self.location.join(file), target).unwrap();
        }
        copy
    }

    async fn rows_below(&self, location: &Path) -> Bag {
        let Self { format, options, .. } = self;
        let options = if options.is_empty() { String::new() } else { format!(" OPTIONS ({options})") };
        let location = literal(location);
        let session = Session::builder().build();
        let declaration = format!("CREATE EXTERNAL TABLE t STORED AS {format} LOCATION '{location}/'{options}");
        session.run_script(&declaration).await.unwrap();
        let batches = session.sql("SELECT * FROM t").await.unwrap().collect().await.unwrap();
        bag(&json_rows(&batches))
    }
}

/// Returns record batches as rows of JSON, NULLs written out.
pub(crate) fn json_rows(batches: &[RecordBatch]) -> Vec<Value> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<Vec<u8>, LineDelimited>(Vec::new());
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns all files below `folder` with their contents, by their paths below it; none where there is no folder.
pub(crate) fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Returns the files below `folder` that a reader of the plain directory sees.
pub(crate) fn visible_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = files_below(folder);
    files.retain(|file, _| !is_hidden(file));
    files
}

fn is_hidden(file: &str) -> bool {
    file.split('/').any(|part| part.starts_with('.') || (part.starts_with('_') && !part.contains('=')))
}

/// Returns the path of the newest entry of a checkpoint's log.
pub(crate) fn newest_entry(checkpoint: &Path, log: &str) -> PathBuf {
    let folder = checkpoint.join(log);
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let newest = names.filter_map(|name| name.parse::<i64>().ok()).max();
    folder.join(newest.unwrap_or_else(|| panic!("{} is empty", folder.display())).to_string())
}

/// Reads an entry of a log: JSON below a line with the checksum.
pub(crate) fn read_entry(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    let (_, payload) = text.split_once('\n').unwrap();
    serde_json::from_str(payload).unwrap()
}

/// Writes rows as a line of JSON each.
pub(crate) fn write_rows(path: &Path, rows: &[Value]) -> File {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut file = File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// A path as it stands between quotes in SQL.
pub(crate) fn literal(path: &Path) -> String {
    path.display().to_string().replace('\'', "''")
}

/// A view that cannot tell a bad table from a good one proves nothing.
mod checks {
    use super::*;

    /// A table of two rows in two files, written by a flow in two batches.
    async fn written(folder: &Path) -> Table {
        fs::create_dir(folder.join("in")).unwrap();
        for id in 0..2 {
            fs::write(folder.join(format!("in/{id}.json")), format!("{{\"id\": {id}}}\n")).unwrap();
        }
        let script = format!(
            "CREATE UNBOUNDED EXTERNAL TABLE ev (id BIGINT) STORED AS JSON LOCATION '{0}/in/' \
             OPTIONS ('maxFilesPerTrigger' '1');\n\
             CREATE EXTERNAL TABLE result STORED AS PARQUET LOCATION '{0}/out/';\n\
             CREATE FLOW f TRIGGER AVAILABLE NOW AS INSERT INTO result SELECT id FROM STREAM ev;",
            literal(folder)
        );
        Session::builder().build().run_script(&script).await.unwrap();
        Table::parquet(folder.join("out"))
    }

    fn first_part(table: &Table) -> PathBuf {
        table.location.join(visible_files(&table.location).keys().next().unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_whole_table_is_the_same_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(written(folder.path()).await.rows().await.unwrap().len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_lies_there_twice_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let table = written(folder.path()).await;
        fs::copy(first_part(&table), table.location.join("part-again.parquet")).unwrap();
        assert!(table.rows().await.unwrap_err().contains("extra [{"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_is_gone_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let table = written(folder.path()).await;
        let listed = table.by_manifest().await;
        fs::remove_file(first_part(&table)).unwrap();
        assert!(difference(&listed, &table.as_directory().await).unwrap().starts_with("missing [{"));
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "hidden folders")]
    async fn a_staged_file_with_the_ending_of_the_table_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let table = written(folder.path()).await;
        fs::copy(first_part(&table), table.location.join("_millstream/staged.parquet")).unwrap();
        let _ = table.as_directory().await;
    }
}
