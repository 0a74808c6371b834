//! What is left of a trial, compared with what must be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use millstream::session::Session;
use serde_json::Value;

use crate::answer::{Bag, bag, difference};
use crate::disk::{Table, files_below, json_rows, newest_entry, read_entry, visible_files};
use crate::trial::Trial;

/// How many batches before the last state is compared as well: then windows are open and rows wait for partners.
const BATCHES_BEFORE: i64 = 5;

/// How often what happened, summed over trials.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub kills: usize,
    pub lost: usize,
    pub duplicated: usize,
    pub wrong: usize,
    pub why: Vec<String>,
    /// A run that slept and wrote state when the query was done: it stays until its batch is purged.
    pub overtaken: Option<u64>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.wrong == 0
    }

    pub fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.wrong += other.wrong;
        self.why.extend(other.why.iter().cloned());
    }

    /// Notes something wrong that is no row.
    pub fn note(&mut self, why: String) {
        self.wrong += 1;
        self.why.push(why);
    }

    /// Sorts the rows that differ: a known row too often is doubled, an unknown one is wrong, and takes the place of a
    /// missing one; what is still missing is lost.
    fn rows(&mut self, reader: &str, want: &Bag, have: &Bag) {
        let Some(why) = difference(want, have) else { return };
        let more = |left: &Bag, right: &Bag, row: &str| {
            left.get(row).unwrap_or(&0).saturating_sub(*right.get(row).unwrap_or(&0))
        };
        let missing: usize = want.keys().map(|row| more(want, have, row)).sum();
        let (mut doubled, mut strange) = (0, 0);
        for row in have.keys() {
            *(if want.contains_key(row) { &mut doubled } else { &mut strange }) += more(have, want, row);
        }
        self.duplicated += doubled;
        self.wrong += strange;
        self.lost += missing.saturating_sub(strange);
        self.why.push(format!("{reader}: {why}"));
    }

    /// Compares how a trial ended with a run that nobody killed.
    pub fn compare(&mut self, trial: &Trial, want: &End) {
        let have = match std::panic::catch_unwind(|| End::of(trial)) {
            Ok(Ok(have)) => have,
            Ok(Err(why)) => return self.note(why),
            Err(_) => return self.note(format!("{}: it cannot be read", trial.folder.display())),
        };
        self.rows("by the manifest", &want.rows, &have.rows);
        self.rows("as a plain directory", &want.rows, &have.lying);
        self.rows("late rows", &want.late, &have.late);
        if want.watermark != have.watermark {
            self.note(format!("watermark {} expected, {} found", want.watermark, have.watermark));
        }
        // What a purge that died was to remove stays until the next.
        let purged =
            |file: &String| number(file, "commits/").or(number(file, "offsets/")).is_some_and(|n| n < want.oldest);
        let missing: Vec<&String> = want.files.difference(&have.files).collect();
        let extra: Vec<&String> = have.files.difference(&want.files).filter(|file| !purged(file)).collect();
        if !(missing.is_empty() && extra.is_empty()) {
            self.note(format!("the checkpoint lacks {missing:?} and has {extra:?} too much"));
        }
        let of_overtaken = |file: &str| self.overtaken.is_some_and(|run| file.contains(&format!("-{run}.")));
        let left = have.strays.iter().filter(|(file, version)| *version > want.oldest && !of_overtaken(file));
        let strays: Vec<&String> = left.map(|(file, _)| file).collect();
        if !strays.is_empty() {
            self.note(format!("{strays:?} are in no commit"));
        }
        for (what, rows) in &want.state {
            match have.state.get(what) {
                None => self.note(format!("state {what} is missing")),
                Some(found) => {
                    if let Some(why) = difference(rows, found) {
                        self.note(format!("state {what}: {why}"));
                    }
                }
            }
        }
    }
}

/// What a trial leaves.
#[derive(Debug, Default)]
pub struct End {
    /// The table by its manifest, as it lies in the directory, and its late rows.
    pub rows: Bag,
    pub lying: Bag,
    pub late: Bag,
    watermark: Value,
    /// The oldest batch whose commit is kept.
    oldest: i64,
    /// The files of the checkpoint, without those of runs and of state.
    files: BTreeSet<String>,
    /// State files that no commit lists, with their versions.
    strays: Vec<(String, i64)>,
    /// The rows of state, by operator and batch.
    state: BTreeMap<String, Bag>,
}

impl End {
    /// Reads it all.
    pub fn of(trial: &Trial) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(Self::read(trial))
    }

    async fn read(trial: &Trial) -> Result<Self, String> {
        let table = Table::parquet(trial.table());
        let (rows, lying) = (table.by_manifest().await, table.as_directory().await);
        let late = match visible_files(&trial.late_table()).is_empty() {
            // A table without a file has no columns to read.
            true => Bag::new(),
            false => Table::parquet(trial.late_table()).rows().await?,
        };
        for file in files_below(&trial.disk()).keys() {
            if file.contains("/.tmp-") || file.contains("_millstream/staging/") {
                return Err(format!("{file} is left lying about"));
            }
        }
        let checkpoint = trial.checkpoint();
        let commit = read_entry(&newest_entry(&checkpoint, "commits"));
        let batch_id = commit["batch_id"].as_i64().unwrap();
        let mut state = BTreeMap::new();
        for batch in [batch_id, batch_id - BATCHES_BEFORE] {
            for (what, rows) in state_after(&checkpoint, batch).await? {
                state.insert(what, rows);
            }
        }
        let (files, strays) = inventory(&checkpoint);
        let oldest = files.iter().filter_map(|file| number(file, "commits/")).min().unwrap();
        Ok(Self { rows, lying, late, watermark: commit["watermark"].clone(), oldest, files, strays, state })
    }
}

/// The number of an entry in a folder.
fn number(file: &str, folder: &str) -> Option<i64> {
    file.strip_prefix(folder)?.parse().ok()
}

/// The files of the checkpoint, without those of runs; and state files that no commit lists.
fn inventory(checkpoint: &Path) -> (BTreeSet<String>, Vec<(String, i64)>) {
    let mut listed = BTreeSet::new();
    for entry in fs::read_dir(checkpoint.join("commits")).unwrap() {
        let commit = read_entry(&entry.unwrap().path());
        let files =
            commit["state"].as_array().unwrap().iter().flat_map(|operator| operator["files"].as_array().unwrap());
        listed.extend(files.map(|file| format!("state/{}", file["name"].as_str().unwrap())));
    }
    let files = files_below(checkpoint).into_keys().filter(|file| !file.starts_with("runs/") && !listed.contains(file));
    let (state, others): (Vec<String>, Vec<String>) = files.partition(|file| file.starts_with("state/"));
    // `state/<operator>/<lane>/<version>-<run>.<kind>`
    let version = |file: &str| file.split('/').nth(3).unwrap().split('-').next().unwrap().parse().unwrap();
    (others.into_iter().collect(), state.into_iter().map(|file| (file.clone(), version(&file))).collect())
}

/// The rows of state after a batch, by operator and store.
async fn state_after(checkpoint: &Path, batch_id: i64) -> Result<BTreeMap<String, Bag>, String> {
    let place = checkpoint.display();
    let rows = |sql: String| async move {
        let session = Session::builder().build();
        let found = session.sql(&sql).await.map_err(|error| format!("{sql}: {error}"))?;
        Ok::<_, String>(json_rows(&found.collect().await.map_err(|error| format!("{sql}: {error}"))?))
    };
    let mut found = BTreeMap::new();
    for store in rows(format!("SELECT operator, store FROM state_metadata('{place}')")).await? {
        let (operator, store) = (store["operator"].as_i64().unwrap(), store["store"].as_str().unwrap());
        let of_store = format!(
            "SELECT lane, key, value FROM state('{place}', operator => {operator}, batch_id => {batch_id}, store => '{store}')"
        );
        found.insert(
            format!("of operator {operator}, store {store}, after batch {batch_id}"),
            bag(&rows(of_store).await?),
        );
    }
    Ok(found)
}
