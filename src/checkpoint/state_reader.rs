//! What a query remembers, read from its checkpoint, without the query: after any batch that is retained.
//!
//! It takes no run and writes nothing, so that it can look at a query that runs. Only what commits list is read; a batch
//! that is purged meanwhile is an error.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::commit_log::{CommitEntry, CommitLog};
use super::layout::{self, COMMITS, STATE};
use super::metadata;
use crate::error::{Error, Result};
use crate::state::{
    DEFAULT_STORE, StateChanges, StateFile, StateRows, StateShape, StoredRows, Tables, codec, read_verified,
};
use crate::storage::DurableStore;

/// Reads the state of one checkpoint.
#[derive(Debug, Clone)]
pub struct StateReader {
    store: Arc<dyn DurableStore>,
}

/// A store of an operator, and how its rows look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorStore {
    /// The operator's number.
    pub operator: usize,
    /// The store's name.
    pub store: String,
    /// How its rows look.
    pub shape: StateShape,
}

/// What a checkpoint says of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSummary {
    /// The operator's number.
    pub operator: usize,
    /// What the operator does.
    pub name: String,
    /// The store's name.
    pub store: String,
    /// In how many lanes it lies.
    pub lanes: usize,
    /// The first batch whose state can be read.
    pub min_batch_id: i64,
    /// The last one.
    pub max_batch_id: i64,
    /// What the operator's state means, as JSON.
    pub fingerprint: String,
}

impl StateReader {
    /// Looks for the checkpoint in `store`.
    ///
    /// # Errors
    /// `Unavailable` where there is none; `CheckpointCorrupt` and `CheckpointIncompatible` as for a query that opens it.
    pub async fn open(store: Arc<dyn DurableStore>) -> Result<Self> {
        metadata::existing(store.as_ref()).await?;
        Ok(Self { store })
    }

    /// Tells which stores there are.
    ///
    /// # Errors
    /// `Unavailable` where no batch is committed yet; `CheckpointCorrupt`.
    pub async fn stores(&self) -> Result<Vec<StoreSummary>> {
        let Retained { commits, newest } = self.retained().await?;
        let mut stores = Vec::new();
        for (operator, name) in operators(&newest).into_iter().enumerate() {
            let mut names = store_names(&commits, operator);
            if names.is_empty() {
                names.push(DEFAULT_STORE.to_string());
            }
            stores.extend(names.into_iter().map(|store| StoreSummary {
                operator,
                name: name.clone(),
                store,
                lanes: newest.lanes,
                min_batch_id: commits.first().map_or(newest.batch_id, |first| first.batch_id),
                max_batch_id: newest.batch_id,
                fingerprint: newest.fingerprint[operator].to_string(),
            }));
        }
        Ok(stores)
    }

    /// Finds a store: the one that is named, or the only one.
    ///
    /// # Errors
    /// `InvalidOption` where there are several or it is not there, naming those there are; `InvalidQuery` where the
    /// query remembers nothing; `Unavailable` where nothing is remembered yet; `CheckpointCorrupt`.
    pub async fn find(&self, operator: Option<usize>, store: Option<&str>) -> Result<OperatorStore> {
        let Retained { commits, newest } = self.retained().await?;
        let operator = self.choose_operator(&operators(&newest), operator)?;
        let store = self.choose_store(operator, store_names(&commits, operator), store)?;
        // Of the newest file there is: a store whose last row is gone may have none in the last commit.
        let file = commits.iter().rev().find_map(|commit| files_of(commit, operator, &store).pop());
        let file = file.ok_or_else(|| Error::internal(format!("store '{store}' has no file")))?;
        let state = self.store.below(STATE);
        let location = format!("{}/{}", state.location(), file.name);
        let (schema, _) = codec::read(read_verified(state.as_ref(), &file).await?, &location)?;
        Ok(OperatorStore { operator, store, shape: StateShape::of(&schema, &location)? })
    }

    /// Checks that the state after `batch_id` can be read.
    ///
    /// # Errors
    /// `InvalidOption` where it cannot, naming the batches whose state can; `CheckpointCorrupt`.
    pub async fn check_retained(&self, batch_id: i64) -> Result<()> {
        self.commit(Some(batch_id)).await?;
        Ok(())
    }

    /// Reads the rows of a store as they were after a batch, or after the last one.
    ///
    /// # Errors
    /// As [`StateReader::check_retained`]; `CheckpointCorrupt` where a file is missing or altered.
    pub async fn rows(&self, store: &OperatorStore, batch_id: Option<i64>) -> Result<StateRows> {
        let commit = self.commit(batch_id).await?;
        let mut image = Image::new(store.clone());
        image.advance(self.store.below(STATE).as_ref(), &commit).await?;
        image.rows()?.shown()
    }

    /// Tells what each of these batches changed in a store. Batches that changed nothing are left out.
    ///
    /// # Errors
    /// `InvalidOption` where one of them, or the one before the first, is not retained; `CheckpointCorrupt`.
    pub async fn changes(
        &self,
        store: &OperatorStore,
        batches: RangeInclusive<i64>,
    ) -> Result<Vec<(i64, StateChanges)>> {
        let state = self.store.below(STATE);
        let mut image = Image::new(store.clone());
        if let Some(earlier) = self.check_range(&batches).await? {
            image.advance(state.as_ref(), &earlier).await?;
        }
        let mut before = image.rows()?;
        let mut all = Vec::new();
        for batch_id in batches {
            let commit = self.commit(Some(batch_id)).await?;
            if !image.advance(state.as_ref(), &commit).await? {
                continue;
            }
            let now = image.rows()?;
            let changes = now.changes_since(&before)?;
            if !changes.kinds.is_empty() {
                all.push((batch_id, changes));
            }
            before = now;
        }
        Ok(all)
    }

    /// Checks that the changes of these batches can be told, and returns the batch before the first, where there is one.
    ///
    /// # Errors
    /// As [`StateReader::changes`].
    pub async fn check_range(&self, batches: &RangeInclusive<i64>) -> Result<Option<CommitEntry>> {
        let (first, last) = (*batches.start(), *batches.end());
        if first > last {
            return Err(Error::invalid_option(format!(
                "the changes of batches {first} to {last}: the first batch comes after the last"
            )));
        }
        for batch_id in [first, last] {
            self.check_retained(batch_id).await?;
        }
        if first == 0 {
            return Ok(None);
        }
        match self.commit_log().get(first - 1).await? {
            Some(earlier) => Ok(Some(earlier)),
            None => Err(Error::invalid_option(format!(
                "the changes of batch {first} cannot be told, since batch {} is not retained in {}: begin with batch {}",
                first - 1,
                self.store.location(),
                first + 1
            ))),
        }
    }

    fn commit_log(&self) -> CommitLog {
        CommitLog::new(Arc::clone(&self.store))
    }

    async fn commit(&self, batch_id: Option<i64>) -> Result<CommitEntry> {
        let log = self.commit_log();
        let found = match batch_id {
            Some(batch_id) => log.get(batch_id).await?,
            None => log.latest().await?,
        };
        match found {
            Some(commit) => Ok(commit),
            None => {
                let ids = log.batch_ids().await?;
                layout::check_gaps(&self.store.location(), COMMITS, &ids)?;
                Err(self.not_retained(batch_id, &ids))
            }
        }
    }

    fn not_retained(&self, batch_id: Option<i64>, retained: &[i64]) -> Error {
        let location = self.store.location();
        match (batch_id, retained.first(), retained.last()) {
            (Some(batch_id), Some(first), Some(last)) => Error::invalid_option(format!(
                "batch {batch_id} is not retained in {location}: batches {first} to {last} are"
            )),
            _ => Error::unavailable(format!("{location}: no batch is committed yet, so nothing is remembered")),
        }
    }

    /// Reads all commits. A running query may purge the first of them meanwhile.
    async fn retained(&self) -> Result<Retained> {
        let log = self.commit_log();
        let ids = log.batch_ids().await?;
        layout::check_gaps(&self.store.location(), COMMITS, &ids)?;
        let mut commits = Vec::with_capacity(ids.len());
        for id in ids {
            commits.extend(log.get(id).await?);
        }
        match commits.last().cloned() {
            Some(newest) => Ok(Retained { commits, newest }),
            None => Err(self.not_retained(None, &[])),
        }
    }

    fn choose_operator(&self, operators: &[String], wanted: Option<usize>) -> Result<usize> {
        let location = self.store.location();
        let named = || {
            let named = operators.iter().enumerate().map(|(operator, name)| format!("{operator} ({name})"));
            named.collect::<Vec<_>>().join(", ")
        };
        match (wanted, operators.len()) {
            (_, 0) => Err(Error::invalid_query(format!(
                "{location}: the query remembers nothing between batches, so there is no state to read"
            ))),
            (Some(wanted), count) if wanted < count => Ok(wanted),
            (None, 1) => Ok(0),
            (Some(wanted), _) => {
                Err(Error::invalid_option(format!("{location} has no operator {wanted}; operators: {}", named())))
            }
            (None, _) => Err(Error::invalid_option(format!(
                "{location} has several operators, say which: operator => n, one of {}",
                named()
            ))),
        }
    }

    fn choose_store(&self, operator: usize, stores: Vec<String>, wanted: Option<&str>) -> Result<String> {
        let location = self.store.location();
        match (wanted, stores.as_slice()) {
            (_, []) => Err(Error::unavailable(format!(
                "{location}: operator {operator} remembers nothing yet, so its columns are not known"
            ))),
            (Some(wanted), _) if stores.iter().any(|store| store == wanted) => Ok(wanted.to_string()),
            (None, [only]) => Ok(only.clone()),
            (Some(wanted), _) => Err(Error::invalid_option(format!(
                "{location}: operator {operator} has no store '{wanted}' with rows; stores: {}",
                stores.join(", ")
            ))),
            (None, _) => Err(Error::invalid_option(format!(
                "{location}: operator {operator} has several stores, say which: store => 'name', one of {}",
                stores.join(", ")
            ))),
        }
    }
}

/// The commits of a checkpoint, oldest first.
struct Retained {
    commits: Vec<CommitEntry>,
    newest: CommitEntry,
}

/// What each operator does, by its number.
fn operators(commit: &CommitEntry) -> Vec<String> {
    let name = |operator: usize| commit.fingerprint[operator]["operator"].as_str().unwrap_or("?").to_string();
    (0..commit.state.len()).map(name).collect()
}

/// The stores of which any commit lists a file, in order of their names.
fn store_names(commits: &[CommitEntry], operator: usize) -> Vec<String> {
    let states = commits.iter().flat_map(|commit| &commit.state).filter(|state| state.operator == operator);
    let mut names: Vec<String> = states.flat_map(|state| &state.files).map(|file| file.store.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The files that make up a store, oldest first.
fn files_of(commit: &CommitEntry, operator: usize, store: &str) -> Vec<StateFile> {
    let states = commit.state.iter().filter(|state| state.operator == operator);
    let mut files: Vec<StateFile> =
        states.flat_map(|state| &state.files).filter(|file| file.store == store).cloned().collect();
    files.sort_by_key(|file| file.version);
    files
}

/// The tables of a store as one commit has them; another commit costs what it adds.
struct Image {
    store: OperatorStore,
    lanes: Vec<LaneImage>,
}

struct LaneImage {
    tables: Box<dyn Tables>,
    /// What was read into the tables.
    files: Vec<StateFile>,
}

impl Image {
    /// Makes the image of a store without rows.
    fn new(store: OperatorStore) -> Self {
        Self { store, lanes: Vec::new() }
    }

    /// Moves on to another commit; returns whether it has other files.
    async fn advance(&mut self, state: &dyn DurableStore, commit: &CommitEntry) -> Result<bool> {
        let OperatorStore { operator, store, shape } = &self.store;
        let files = files_of(commit, *operator, store);
        let regrouped = self.lanes.len() != commit.lanes;
        if regrouped {
            self.lanes = (0..commit.lanes).map(|_| LaneImage::new(shape)).collect();
        }
        let mut moved = regrouped;
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let own: Vec<StateFile> = files.iter().filter(|file| file.lane == number).cloned().collect();
            if own != lane.files {
                lane.advance(shape, state, own).await?;
                moved = true;
            }
        }
        Ok(moved)
    }

    fn rows(&self) -> Result<StoredRows> {
        StoredRows::of(self.store.shape.clone(), self.lanes.iter().map(|lane| &*lane.tables))
    }
}

impl LaneImage {
    fn new(shape: &StateShape) -> Self {
        Self { tables: shape.tables(), files: Vec::new() }
    }

    /// Reads what `files` add to what was read; from the beginning where a snapshot has taken its place.
    async fn advance(&mut self, shape: &StateShape, state: &dyn DurableStore, files: Vec<StateFile>) -> Result<()> {
        if !files.starts_with(&self.files) {
            *self = Self::new(shape);
        }
        for file in &files[self.files.len()..] {
            let bytes = read_verified(state, file).await?;
            let location = format!("{}/{}", state.location(), file.name);
            for batch in codec::decode(bytes, self.tables.change_schema(), true, &location)? {
                self.tables.apply(&batch, file.lane, &|_, rows| Ok(vec![true; rows]))?;
            }
        }
        self.files = files;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
    use serde_json::json;

    use super::super::commit_log::{StateFiles, WatermarkState};
    use super::*;
    use crate::error::ErrorKind;
    use crate::state::{FileKind, KeyedTables, LaneStore, StateBudget};
    use crate::storage::LocalStore;

    /// The state of a query with one operator in one lane, written batch by batch as the engine writes it.
    struct Writer {
        store: Arc<dyn DurableStore>,
        lane: LaneStore,
        batch_id: i64,
    }

    impl Writer {
        async fn new(store: &Arc<dyn DurableStore>) -> Self {
            metadata::read_or_create(store.as_ref()).await.unwrap();
            let field = |name: &str, data_type| -> FieldRef { Arc::new(Field::new(name, data_type, true)) };
            let tables = KeyedTables::new(&[field("k", DataType::Utf8)], &[field("n", DataType::Int64)]);
            let lane = LaneStore::new(0, 0, DEFAULT_STORE.to_string(), Box::new(tables));
            Self { store: Arc::clone(store), lane, batch_id: 0 }
        }

        fn tables(&mut self) -> &mut KeyedTables {
            let tables: &mut dyn std::any::Any = self.lane.tables.as_mut();
            tables.downcast_mut().unwrap()
        }

        /// Puts a row for each key and commits a batch.
        async fn batch(&mut self, rows: &[(&str, i64)]) {
            if !rows.is_empty() {
                let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)))];
                let values: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)))];
                let tables = self.tables();
                let groups = tables.intern(0, &keys, rows.len()).unwrap();
                tables.put(0, &groups, keys, values).unwrap();
            }
            let state = self.store.below(STATE);
            let files = self
                .lane
                .commit(&state, self.batch_id + 1, 1, &StateBudget::unbounded().lane("aggregate", 0, 0))
                .await
                .unwrap()
                .to_vec();
            let commit = CommitEntry {
                late_rows: None,
                batch_id: self.batch_id,
                run: 1,
                lanes: 1,
                watermark: WatermarkState::default(),
                state: vec![StateFiles { operator: 0, version: self.batch_id + 1, files }],
                sink: json!(null),
                sink_description: None,
                fingerprint: json!([{ "operator": "aggregate" }]),
            };
            CommitLog::new(Arc::clone(&self.store)).add(&commit).await.unwrap();
            self.batch_id += 1;
        }
    }

    fn content(rows: &StateRows) -> BTreeMap<String, Option<i64>> {
        let (keys, values) = (rows.keys.as_struct().column(0), rows.values.as_struct().column(0));
        let (keys, numbers) = (keys.as_string::<i32>(), values.as_primitive::<Int64Type>());
        let value = |row: usize| rows.values.is_valid(row).then(|| numbers.value(row));
        (0..keys.len()).map(|row| (keys.value(row).to_string(), value(row))).collect()
    }

    #[tokio::test]
    async fn changes_lead_from_each_batch_to_the_next_over_snapshots() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn DurableStore> = Arc::new(LocalStore::new(dir.path()));
        let mut writer = Writer::new(&store).await;
        let mut snapshots = 0;
        for batch in 0..30i64 {
            let keys = ["a", "b", "c", "d"];
            match batch % 7 {
                5 => {
                    let tables = writer.tables();
                    let first = tables.groups(0)[0];
                    tables.remove(0, &[first]).unwrap();
                    writer.batch(&[]).await;
                }
                6 => writer.batch(&[]).await,
                turn => writer.batch(&[(keys[turn as usize % 4], batch), ("x", -batch / 2)]).await,
            }
            // A commit lists a snapshot that was ended before it.
            writer.lane.end_snapshot().await.unwrap();
            let first = writer.lane.files().first().unwrap();
            snapshots += usize::from(first.kind == FileKind::Snapshot && first.version == batch + 1);
        }
        assert!(snapshots > 1, "{snapshots}");

        let reader = StateReader::open(Arc::clone(&store)).await.unwrap();
        let found = reader.find(None, None).await.unwrap();
        let changes = reader.changes(&found, 0..=29).await.unwrap();
        let mut folded: BTreeMap<String, Option<i64>> = BTreeMap::new();
        for batch in 0..30 {
            for (_, change) in changes.iter().filter(|(id, _)| *id == batch) {
                folded.extend(content(&change.rows));
                folded.retain(|_, value| value.is_some());
            }
            let rows = reader.rows(&found, Some(batch)).await.unwrap();
            assert_eq!(content(&rows), folded, "after batch {batch}");
            if batch > 0 {
                let own = reader.changes(&found, batch..=batch).await.unwrap();
                let told = changes.iter().filter(|(id, _)| *id == batch).map(|(_, c)| c.kinds.clone());
                assert_eq!(own.iter().map(|(_, c)| c.kinds.clone()).collect::<Vec<_>>(), told.collect::<Vec<_>>());
            }
        }
        assert_eq!(content(&reader.rows(&found, None).await.unwrap()), folded);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn DurableStore> = Arc::new(LocalStore::new(dir.path()));
        assert_eq!(StateReader::open(Arc::clone(&store)).await.unwrap_err().kind(), ErrorKind::Unavailable);
        let mut writer = Writer::new(&store).await;
        let reader = StateReader::open(Arc::clone(&store)).await.unwrap();
        assert_eq!(reader.find(None, None).await.unwrap_err().kind(), ErrorKind::Unavailable);
        writer.batch(&[]).await;
        let error = reader.find(None, None).await.unwrap_err();
        assert!(error.message().contains("remembers nothing yet"), "{error}");
        for number in 1..6 {
            writer.batch(&[("a", number)]).await;
        }
        CommitLog::new(Arc::clone(&store)).purge_below(2).await.unwrap();

        let summary = reader.stores().await.unwrap();
        assert_eq!(summary.len(), 1);
        assert_eq!((summary[0].min_batch_id, summary[0].max_batch_id, summary[0].name.as_str()), (2, 5, "aggregate"));
        let found = reader.find(Some(0), Some(DEFAULT_STORE)).await.unwrap();
        for (error, words) in [
            (reader.find(Some(1), None).await.unwrap_err(), "operators: 0 (aggregate)"),
            (reader.find(None, Some("left")).await.unwrap_err(), "no store 'left' with rows; stores: default"),
            (reader.rows(&found, Some(1)).await.unwrap_err(), "batches 2 to 5 are"),
            (reader.check_retained(6).await.unwrap_err(), "batches 2 to 5 are"),
            (reader.changes(&found, 2..=3).await.unwrap_err(), "begin with batch 3"),
            (reader.changes(&found, 3..=9).await.unwrap_err(), "batch 9 is not retained"),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
            assert!(error.message().contains(words), "'{words}' is not in: {error}");
        }
        #[allow(clippy::reversed_empty_ranges)] // that is the mistake
        let backwards = reader.changes(&found, 4..=3).await.unwrap_err();
        assert!(backwards.message().contains("comes after the last"), "{backwards}");

        let file = found_file(&reader).await;
        std::fs::write(dir.path().join(STATE).join(&file), "nothing").unwrap();
        let error = reader.rows(&found, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt);
        assert!(error.message().contains(&file), "{error}");
    }

    async fn found_file(reader: &StateReader) -> String {
        files_of(&reader.commit(None).await.unwrap(), 0, DEFAULT_STORE).pop().unwrap().name
    }
}
