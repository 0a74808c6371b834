//! Every script of `sql/` gives one answer: run whole, cut off and started again after every batch, and with another
//! number of lanes.
//!
//! The answer is what each console printed batch by batch, the rows of each table of files (as its manifest lists them
//! and as they lie in the directory), how many rows each batch read and wrote, and what the script's own SELECTs
//! showed. How a run is cut off is said in [`super::cut_off`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream::options::Options;
use millstream::sql::script::{Piece, split_script};
use millstream::sql::statement::{FlowClauses, Statement, TableDefinition, parse_statement};
use serde_json::Value;
use tempfile::TempDir;

use crate::answer::{Answer, Bag, answer, difference, first_difference};
use crate::case::literal;
use crate::cut_off::{self, CutOff, Run, runtime};
use crate::disk::Table;
use crate::watched::Watched;

/// More runs than any script has batches.
const MOST_RUNS: usize = 200;

const ENDS_BY_ITSELF: &str = "TRIGGER AVAILABLE NOW";

/// A script of `sql/`, made ready to run in a directory of its own.
struct Script {
    name: String,
    folder: TempDir,
    /// The statements, without comments.
    pieces: Vec<String>,
    tables: BTreeMap<String, TableDefinition>,
    /// The flows, and the tables that they write.
    flows: BTreeMap<String, String>,
    /// The tables that they write their late rows to.
    late_tables: BTreeSet<String>,
    /// The flows whose checkpoint outlives the process.
    durable: BTreeSet<String>,
}

impl Script {
    /// Reads a script; what it writes to `out/` goes to a directory of its own.
    fn read(path: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let text = text.replace("'out/", &format!("'{}/out/", literal(folder.path())));
        let mut script = Self {
            name: path.display().to_string(),
            folder,
            pieces: Vec::new(),
            tables: BTreeMap::new(),
            flows: BTreeMap::new(),
            late_tables: BTreeSet::new(),
            durable: BTreeSet::new(),
        };
        for piece in split_script(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())) {
            script.note(&piece);
            script.pieces.push(piece.text);
        }
        script
    }

    /// Remembers what a statement declares.
    fn note(&mut self, piece: &Piece) {
        match parse_statement(piece).unwrap_or_else(|e| panic!("{}: {e}", self.name)) {
            Statement::CreateTable(create) => self.note_table(create.table),
            Statement::CreateStreamingTable(create) => {
                let name = create.table.name.table().to_string();
                self.note_table(create.table);
                self.note_flow(&name, &name, &create.clauses);
            }
            Statement::CreateFlow(create) => {
                self.note_flow(&create.name, create.insert.target.table(), &create.clauses);
            }
            Statement::Insert(insert) => {
                self.note_flow(insert.target.table(), insert.target.table(), &FlowClauses::default());
            }
            // It is kept in memory, under its own name.
            Statement::CreateMaterializedView(create) => {
                self.flows.insert(create.table.name.table().to_string(), String::new());
            }
            _ => {}
        }
    }

    fn note_table(&mut self, table: TableDefinition) {
        self.tables.insert(table.name.table().to_string(), table);
    }

    fn note_flow(&mut self, name: &str, target: &str, clauses: &FlowClauses) {
        self.flows.insert(name.to_string(), target.to_string());
        let late_table = clauses.late_rows_into.as_ref().map(|table| table.table().to_string());
        let on_disk = |table: &str| self.tables[table].location.is_some();
        // A table of files has the checkpoint beside its files where nothing else is said.
        if clauses.checkpoint.is_some() || on_disk(target) || late_table.as_deref().is_some_and(on_disk) {
            self.durable.insert(name.to_string());
        }
        self.late_tables.extend(late_table);
    }

    /// Gives a checkpoint to the flows that would have none on disk: those that print, and those that write nowhere. A
    /// table in memory is gone with its process, so its flow begins again each time.
    fn with_checkpoints(mut self) -> Self {
        for piece in &mut self.pieces {
            let Statement::CreateFlow(create) = parse_statement(&Piece::new(piece.clone())).unwrap() else { continue };
            let format = self.tables[create.insert.target.table()].format.clone().unwrap_or_default();
            if create.clauses.checkpoint.is_none() && ["console", "noop"].contains(&format.as_str()) {
                assert!(piece.contains(ENDS_BY_ITSELF), "{}: flow {} does not end by itself", self.name, create.name);
                let place = literal(&self.folder.path().join("checkpoints").join(&create.name));
                *piece = piece.replacen(ENDS_BY_ITSELF, &format!("{ENDS_BY_ITSELF} CHECKPOINT '{place}'"), 1);
                self.durable.insert(create.name);
            }
        }
        self
    }

    fn with_lanes(mut self, lanes: usize) -> Self {
        self.pieces.insert(0, format!("SET lanes = {lanes}"));
        self
    }

    fn text(&self) -> String {
        self.pieces.iter().map(|piece| format!("{piece};\n")).collect()
    }

    /// Returns the tables of files that flows write, by their names.
    fn written(&self) -> BTreeMap<String, Table> {
        let targets: BTreeSet<&String> = self.flows.values().chain(&self.late_tables).collect();
        let tables = self.tables.iter().filter(|(name, _)| targets.contains(name));
        let written = |(name, table): (&String, &TableDefinition)| {
            let location = PathBuf::from(table.location.clone()?);
            let (format, options) = (table.format.clone()?, spelled(&table.options));
            Some((name.clone(), Table { format, location, options }))
        };
        tables.filter_map(written).collect()
    }

    /// Runs the script to its end.
    fn run(&self) -> Result<Outputs, String> {
        let mut outputs = Outputs::default();
        self.run_once(None, &mut outputs)?;
        self.read_tables(&mut outputs)?;
        Ok(outputs)
    }

    /// Runs the script again and again, each time cutting it off after a batch, until it ends by itself.
    fn run_in_pieces(&self) -> Result<Outputs, String> {
        let mut outputs = Outputs::default();
        for run in 0..MOST_RUNS {
            if self.run_once(Some(&self.cut_off(run + 1)), &mut outputs).map_err(|why| format!("run {run}: {why}"))? {
                if run == 0 {
                    return Err("it was never cut off".to_string());
                }
                self.read_tables(&mut outputs)?;
                return Ok(outputs);
            }
        }
        Err(format!("it has not ended after {MOST_RUNS} runs"))
    }

    /// Runs the script until it ends (then true) or is cut off.
    fn run_once(&self, cut: Option<&Arc<CutOff>>, outputs: &mut Outputs) -> Result<bool, String> {
        let Run { watched, ended } = cut_off::run(&self.text(), cut)?;
        outputs.add(&watched)?;
        if ended {
            outputs.text = watched.text();
        }
        Ok(ended)
    }

    /// Says when a run is to be cut off: after the first batch of a flow that goes on from its checkpoint; after `most`
    /// where a flow begins again, which would never get past its first batch otherwise.
    fn cut_off(&self, most: usize) -> Arc<CutOff> {
        let durable = self.durable.clone();
        let mut seen = BTreeMap::<String, usize>::new();
        CutOff::after(move |progress| {
            let flow = progress.name.clone().unwrap_or_default();
            let most = if durable.contains(&flow) { 1 } else { most };
            let count = seen.entry(flow).or_default();
            *count += 1;
            *count >= most
        })
    }

    fn read_tables(&self, outputs: &mut Outputs) -> Result<(), String> {
        let runtime = runtime();
        for (name, table) in self.written() {
            outputs.tables.insert(name, runtime.block_on(table.rows())?);
        }
        Ok(())
    }
}

/// Spells options as they stand in SQL.
fn spelled(options: &Options) -> String {
    let pairs: Vec<String> = options.iter().map(|(name, value)| format!("'{name}' '{value}'")).collect();
    pairs.join(", ")
}

/// What a script gave.
#[derive(Debug, Default)]
struct Outputs {
    /// Flow and batch → the line that its console printed. A later run of a batch counts instead of an earlier one.
    printed: BTreeMap<(String, i64), Value>,
    /// The rows of tables of files.
    tables: BTreeMap<String, Bag>,
    /// What the SELECTs of the script showed, in the run that ended by itself.
    text: String,
    /// Flow and batch → the rows that it read and wrote.
    counts: BTreeMap<(String, i64), (u64, i64)>,
}

impl Outputs {
    /// Takes in what one run printed and reported.
    fn add(&mut self, watched: &Watched) -> Result<(), String> {
        let mut printed = BTreeMap::new();
        for line in watched.batches() {
            let key = (line["flow"].as_str().unwrap_or_default().to_string(), line["batch_id"].as_i64().unwrap_or(-1));
            if printed.insert(key.clone(), line).is_some() {
                return Err(format!("flow {} printed batch {} twice in one run", key.0, key.1));
            }
        }
        self.printed.append(&mut printed);
        for progress in watched.reports.all() {
            let key = (progress.name.clone().unwrap_or_default(), progress.batch_id);
            self.counts.insert(key, (progress.num_input_rows, progress.sink.num_output_rows));
        }
        Ok(())
    }

    fn answers(&self) -> BTreeMap<&str, Answer> {
        let mut lines: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for ((flow, _), line) in &self.printed {
            lines.entry(flow).or_default().push(line.clone());
        }
        lines.into_iter().map(|(flow, lines)| (flow, answer(&lines))).collect()
    }

    /// Says how `other` differs, or nothing where it does not. With `all_counts` it must have reported every batch;
    /// a run that was cut off between decision and report has not.
    fn difference(&self, other: &Self, all_counts: bool) -> Option<String> {
        let (want, have) = (self.answers(), other.answers());
        if want.keys().ne(have.keys()) {
            return Some(format!("the flows {:?} printed, not {:?}", have.keys(), want.keys()));
        }
        for (flow, answer) in &want {
            if let Some(why) = first_difference(answer, &have[flow]) {
                return Some(format!("flow {flow}: {why}"));
            }
        }
        for (table, rows) in &self.tables {
            let nothing = Bag::new();
            if let Some(why) = difference(rows, other.tables.get(table).unwrap_or(&nothing)) {
                return Some(format!("table {table}: {why}"));
            }
        }
        for key in self.counts.keys().chain(other.counts.keys()) {
            let (want, have) = (self.counts.get(key), other.counts.get(key));
            if want != have && (have.is_some() || all_counts) {
                return Some(format!("flow {} batch {}: rows in and out {have:?}, not {want:?}", key.0, key.1));
            }
        }
        (self.text != other.text).then(|| format!("it showed\n{}not\n{}", other.text, self.text))
    }
}

/// Runs a script in all ways and says how its answers differ, or nothing where they do not.
fn judge(path: &Path) -> Result<(), String> {
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    let other_lanes = if lanes == 4 { 3 } else { 4 };

    let whole = Script::read(path).run().map_err(|why| format!("whole: {why}"))?;
    if whole.counts.is_empty() {
        return Err("whole: no batch was reported".to_string());
    }
    if whole.tables.values().any(Bag::is_empty) {
        return Err("whole: a table of files is empty, so that there is nothing to compare".to_string());
    }
    let pieces = Script::read(path).with_checkpoints().run_in_pieces().map_err(|why| format!("in pieces: {why}"))?;
    let other =
        Script::read(path).with_lanes(other_lanes).run().map_err(|why| format!("{other_lanes} lanes: {why}"))?;
    let hide_plans = |mut outputs: Outputs| {
        // A plan shows how many lanes there are.
        if outputs.text.contains("physical_plan") {
            outputs.text.clear();
        }
        outputs
    };
    let (whole, pieces, other) = (hide_plans(whole), hide_plans(pieces), hide_plans(other));
    if let Some(why) = whole.difference(&pieces, false) {
        return Err(format!("cut off after every batch: {why}"));
    }
    match whole.difference(&other, true) {
        Some(why) => Err(format!("{other_lanes} lanes: {why}")),
        None => Ok(()),
    }
}

/// Runs all scripts of a folder and fails with a list of those that differ.
/// Scripts whose rows tell the time at which they ran; [`super::nexmark`] runs them.
const BY_THE_CLOCK: [&str; 1] = ["sql/nexmark/q12.sql"];

fn all_agree(folder: &str) {
    let mut scripts = scripts_below(Path::new(folder));
    scripts.retain(|path| BY_THE_CLOCK.iter().all(|name| path != Path::new(name)));
    assert!(!scripts.is_empty(), "no scripts in {folder}");
    let wrong: Vec<String> =
        scripts.iter().filter_map(|path| Some(format!("{}: {}", path.display(), judge(path).err()?))).collect();
    assert!(wrong.is_empty(), "{} of {} scripts differ:\n{}", wrong.len(), scripts.len(), wrong.join("\n"));
}

/// Returns all scripts below a folder, in order.
fn scripts_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(scripts_below(&path));
        } else if path.extension().is_some_and(|ending| ending == "sql") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn basics() {
    all_agree("sql/basics");
}

#[test]
fn chains() {
    all_agree("sql/chains");
}

#[test]
fn deduplication() {
    all_agree("sql/deduplication");
}

#[test]
fn joins() {
    all_agree("sql/joins");
}

#[test]
fn nexmark() {
    all_agree("sql/nexmark");
}

#[test]
fn outputs() {
    all_agree("sql/outputs");
}

#[test]
fn windows() {
    all_agree("sql/windows");
}

#[test]
fn quickstart() {
    if let Err(why) = judge(Path::new("sql/quickstart.sql")) {
        panic!("sql/quickstart.sql: {why}");
    }
}

#[test]
fn no_script_is_forgotten() {
    let folders = ["basics", "chains", "deduplication", "joins", "nexmark", "outputs", "windows"];
    let mut scripts = scripts_below(Path::new("sql"));
    // These need a real Kafka: `.ci/run` starts one and runs them.
    scripts.retain(|script| !script.starts_with("sql/kafka"));
    for script in scripts {
        let name = script.display().to_string();
        let is_run =
            name == "sql/quickstart.sql" || folders.iter().any(|folder| name.starts_with(&format!("sql/{folder}/")));
        assert!(is_run, "{name} is run by no test of this file");
    }
}

/// A comparison that cannot fail proves nothing.
mod checks {
    use serde_json::json;

    use super::*;

    fn outputs() -> Outputs {
        let line = |batch_id: i64| json!({"flow": "f", "batch_id": batch_id, "rows": [{"n": batch_id}]});
        Outputs {
            printed: (0..2).map(|id| (("f".to_string(), id), line(id))).collect(),
            tables: BTreeMap::from([("t".to_string(), Bag::from([("{\"n\":1.0}".to_string(), 2)]))]),
            text: "1 row\n".to_string(),
            counts: (0..2).map(|id| (("f".to_string(), id), (10, 1))).collect(),
        }
    }

    #[test]
    fn each_kind_of_difference_is_seen() {
        assert_eq!(outputs().difference(&outputs(), true), None);
        let mut other = outputs();
        other.printed.pop_last();
        assert!(outputs().difference(&other, true).unwrap().contains("absent"));
        let mut other = outputs();
        other.printed.clear();
        assert!(outputs().difference(&other, true).is_some());
        let mut other = outputs();
        *other.tables.get_mut("t").unwrap() = Bag::from([("{\"n\":1.0}".to_string(), 3)]);
        assert!(outputs().difference(&other, true).unwrap().contains("extra [{"));
        let mut other = outputs();
        other.tables.clear();
        assert!(outputs().difference(&other, true).is_some());
        let mut other = outputs();
        other.text.clear();
        assert!(outputs().difference(&other, true).is_some());
    }

    #[test]
    fn a_report_may_be_cut_off_but_not_differ() {
        let mut other = outputs();
        other.counts.pop_last();
        assert_eq!(outputs().difference(&other, false), None);
        assert!(outputs().difference(&other, true).is_some());
        other.counts.insert(("f".to_string(), 1), (10, 2));
        assert!(outputs().difference(&other, false).is_some());
        other = outputs();
        other.counts.insert(("f".to_string(), 2), (0, 0));
        assert!(outputs().difference(&other, false).unwrap().contains("batch 2"));
    }
}
