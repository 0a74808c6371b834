//! Every kind of file that a checkpoint and a table's manifest hold, damaged in every way, one file at a time.
//!
//! What must hold: when the query is started again with new input waiting, damage is found before anything is written to
//! the table, nothing in the checkpoint changes but `runs/`, and the error names the file's full path, what is wrong and
//! what to do. All that it says to do is done, and must lead to the rows of a run that nothing was damaged for. Where
//! nothing needs a file, the matrix says why, and the query must go on to the same rows.
//!
//! The messages are tables below `tests/fixtures/corruption/`, compared whole. To write them anew:
//! `REWRITE_FIXTURES=1 cargo test --test streams corruption::`.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream::checkpoint::inspect;
use millstream::error::{Error, ErrorKind};
use millstream::session::Session;
use millstream::source::journal::Journal;
use millstream::source::memory::MemoryStream;
use millstream::storage::LocalStore;
use regex::Regex;
use serde_json::{Value, json};

use crate::answer::{Bag, difference};
use crate::bad_input::{COLUMNS, Place};
use crate::case::fixture;
use crate::damage::{Damage, Picture, make_state_newer, write_entry};
use crate::disk::{Table, files_below, newest_entry, read_entry};

/// How many files are read before the damage: a batch each. More than sources look back over, and past a page of the
/// manifest that repeats others.
const FILES: i64 = 63;

/// A query with input, a checkpoint and a table.
struct Site {
    place: Place,
    script: String,
    /// What the session's source `pushed` gives.
    pushed: Vec<i64>,
}

impl Site {
    fn checkpoint(&self) -> PathBuf {
        self.place.path("checkpoints/f")
    }

    fn table(&self) -> PathBuf {
        self.place.path("out/result")
    }

    fn folders(&self) -> [PathBuf; 2] {
        [self.checkpoint(), self.table()]
    }

    /// Runs the script in a session of its own, until all that is there is read.
    async fn run(&self) -> Result<(), Error> {
        let stream = MemoryStream::journaled(row_schema());
        for v in &self.pushed {
            stream.push(row(*v))?;
        }
        let session = Session::builder().lanes(2).build();
        session.register_source("pushed", Arc::new(stream));
        session.run_script(&self.script).await
    }

    async fn rows(&self) -> Bag {
        Table::parquet(self.table()).rows().await.unwrap()
    }

    /// Sets the last batch back to where it is decided and nobody has published it.
    fn unpublish(&self) {
        let token = read_entry(&newest_entry(&self.checkpoint(), "commits"))["sink"].clone();
        let files = token["files"].as_array().unwrap();
        assert!(!files.is_empty(), "the last batch has no rows, so this shows nothing");
        for file in files {
            let path = |name: &str| self.table().join(file[name].as_str().unwrap());
            fs::rename(path("path"), path("staged")).unwrap();
        }
        fs::remove_file(newest_entry(&self.table().join("_millstream"), "manifest")).unwrap();
    }

    /// Sets the last batch back to where it is planned and nobody has decided it.
    fn undecide(&self) {
        self.unpublish();
        fs::remove_file(newest_entry(&self.checkpoint(), "commits")).unwrap();
    }

    /// Files of state with this ending that the newest commit lists, or does not list.
    fn state_file(&self, ending: &str, listed: bool) -> PathBuf {
        let commit = read_entry(&newest_entry(&self.checkpoint(), "commits"));
        let files = commit["state"].as_array().unwrap().iter().flat_map(|o| o["files"].as_array().unwrap());
        let names: Vec<&str> = files.map(|file| file["name"].as_str().unwrap()).collect();
        let all = files_below(&self.checkpoint().join("state"));
        let mut found = all.keys().filter(|name| name.ends_with(ending) && names.contains(&name.as_str()) == listed);
        let name = found.next_back().unwrap_or_else(|| panic!("no {ending} with listed = {listed}: {:?}", all.keys()));
        self.checkpoint().join("state").join(name)
    }
}

fn row_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]))
}

fn row(v: i64) -> RecordBatch {
    RecordBatch::try_new(row_schema(), vec![Arc::new(Int64Array::from(vec![v]))]).unwrap()
}

/// A kind of file, and what its damage may do.
struct Kind {
    name: &'static str,
    path: PathBuf,
    /// Another of its kind.
    other: Option<PathBuf>,
    /// With which damage the query goes on all the same, and why that is right.
    harmless: Option<(&'static [Damage], &'static str)>,
}

impl Kind {
    fn new(name: &'static str, path: PathBuf) -> Self {
        Self { name, path, other: None, harmless: None }
    }

    fn or(mut self, other: PathBuf) -> Self {
        self.other = Some(other);
        self
    }

    fn harmless(mut self, damages: &'static [Damage], why: &'static str) -> Self {
        self.harmless = Some((damages, why));
        self
    }
}

/// Damages each kind in each way, checks what comes of it, and compares the messages with the fixture.
async fn judge(site: &Site, kinds: &[Kind], truth: &Bag, table: &str) {
    let picture = Picture::of(&site.folders());
    let (mut text, mut count, mut begun_anew) = (String::new(), 0, false);
    for kind in kinds {
        // What comes of it, and of which damages.
        let mut outcomes: Vec<(String, Vec<&str>)> = Vec::new();
        for damage in Damage::ALL {
            let trial = Trial { site, kind, damage, picture: &picture, truth };
            if !trial.damage() {
                continue;
            }
            count += 1;
            let outcome = trial.outcome(&mut begun_anew).await;
            match outcomes.iter_mut().find(|(known, _)| *known == outcome) {
                Some((_, damages)) => damages.push(damage.name()),
                None => outcomes.push((outcome, vec![damage.name()])),
            }
        }
        writeln!(text, "{}", kind.name).unwrap();
        for (outcome, damages) in outcomes {
            writeln!(text, "    {}\n{outcome}", damages.join(", ")).unwrap();
        }
    }
    picture.restore();
    assert!(count >= 8, "only {count} cases");
    compare(table, &text);
}

/// One file damaged in one way.
struct Trial<'a> {
    site: &'a Site,
    kind: &'a Kind,
    damage: Damage,
    picture: &'a Picture,
    truth: &'a Bag,
}

impl Trial<'_> {
    /// Puts everything back, and does the damage. False where it makes no sense.
    fn damage(&self) -> bool {
        self.picture.restore();
        let (path, checkpoint) = (&self.kind.path, self.site.checkpoint());
        if self.damage == Damage::Newer && path.starts_with(checkpoint.join("state")) {
            make_state_newer(&checkpoint, path);
            return true;
        }
        let other = self.kind.other.as_ref().map(|path| fs::read(path).unwrap());
        self.damage.apply(path, other.as_deref())
    }

    /// Starts the query, checks what comes of it, and says that.
    async fn outcome(&self, begun_anew: &mut bool) -> String {
        if let Some((_, why)) = self.kind.harmless.filter(|(damages, _)| damages.contains(&self.damage)) {
            self.amounts_to_truth("as it is").await;
            return format!("        goes on: {why}");
        }
        let error = self.refused().await;
        let done = self.remedies(&error, begun_anew).await;
        format!("        {}\n        done: {}", placeless(self.site, &error.to_string()), done.join("; "))
    }

    fn what(&self) -> String {
        format!("{}, {}", self.kind.name, self.damage.name())
    }

    /// Runs to the end and compares the table with the one of a run that nothing was damaged for.
    async fn amounts_to_truth(&self, how: &str) {
        self.site.run().await.unwrap_or_else(|error| panic!("{}, {how}: {error}", self.what()));
        if let Some(why) = difference(self.truth, &self.site.rows().await) {
            panic!("{}, {how}: {why}", self.what());
        }
    }

    /// Starts the query, which must be refused with nothing changed.
    async fn refused(&self) -> Error {
        let (site, path, what) = (self.site, &self.kind.path, self.what());
        let decisions = || {
            let mut files = files_below(&site.checkpoint());
            files.retain(|file, _| !file.starts_with("runs/"));
            files
        };
        let (table, decided) = (files_below(&site.table()), decisions());
        let Err(error) = site.run().await else { panic!("{what}: not noticed") };
        let text = error.to_string();
        let kinds = [ErrorKind::CheckpointCorrupt, ErrorKind::CheckpointIncompatible];
        assert!(kinds.contains(&error.kind()), "{what}: {text}");
        assert!(files_below(&site.table()) == table, "{what}: the table was changed: {text}");
        assert!(decisions() == decided, "{what}: the checkpoint was changed: {text}");
        let root = if path.starts_with(site.checkpoint()) { site.checkpoint() } else { site.table() };
        // Which page held a batch, and whose metadata it was, is not known once it is gone.
        let below = path.strip_prefix(&root).unwrap().to_str().unwrap();
        let folder = below.rsplit_once('/').map_or("", |(folder, _)| folder);
        let lacks = text.contains(&format!("{folder}/ lacks batch")) || text.contains("holds files of query");
        let of_root = text.contains(root.to_str().unwrap()) && (text.contains(below) || lacks);
        assert!(text.contains(path.to_str().unwrap()) || of_root || lacks, "{what}: no path in: {text}");
        let is_entry = ["offsets/", "commits/", "state/"].iter().any(|folder| below.starts_with(folder));
        if is_entry && text.contains(path.to_str().unwrap()) && !text.contains("state format") {
            let seen = inspect(Arc::new(LocalStore::new(site.checkpoint()))).await.unwrap();
            let named = seen.damage.iter().any(|found| found.contains(path.to_str().unwrap()));
            assert!(named, "{what}: `checkpoint inspect` does not see it: {seen}");
        }
        error
    }

    /// Does everything that the error says would help, each time from the damage on, and says what was done.
    async fn remedies(&self, error: &Error, begun_anew: &mut bool) -> Vec<&'static str> {
        let (site, text) = (self.site, error.to_string());
        let mut done = Vec::new();
        if text.contains("delete this file") {
            self.damage();
            fs::remove_file(&self.kind.path).unwrap();
            self.amounts_to_truth("deleted").await;
            done.push("deleted");
        }
        if let Some((_, rest)) = text.split_once("delete the files of ") {
            self.damage();
            let (folder, rest) = rest.split_once("/ up to and with ").unwrap();
            let newest: i64 = rest.split([':', '/']).nth(1).unwrap().parse().unwrap();
            for id in 0..=newest {
                let _ = fs::remove_file(site.checkpoint().join(format!("{folder}/{id}")));
            }
            self.amounts_to_truth("older ones deleted").await;
            done.push("older ones deleted");
        }
        if text.contains("checkpoint rewind") {
            self.damage();
            match rewind(site, &text) {
                Ok(()) => {
                    self.amounts_to_truth("rewound").await;
                    done.push("rewound");
                }
                Err(said) => {
                    assert!(said.contains("the sink holds batch"), "{}: cannot rewind: {said}", self.what());
                    done.push("not rewound, since the table holds a later batch");
                }
            }
        }
        if text.contains("restore") || text.contains("go on with the checkpoint of") {
            self.picture.restore();
            self.amounts_to_truth("restored").await;
            done.push("restored");
        }
        // Once is enough: nothing of the damage is left. A source that cannot be asked again has its rows in the old
        // checkpoint alone.
        let is_replayable = site.script.contains("AS JSON");
        if !*begun_anew && is_replayable && text.contains("new checkpoint") {
            site.folders().iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
            self.amounts_to_truth("begun anew").await;
            *begun_anew = true;
        }
        if is_replayable && text.contains("new checkpoint") {
            done.push("begun anew");
        }
        if done.is_empty() && text.contains("new checkpoint") {
            done.push("nothing, since the rows are in the old checkpoint alone");
        }
        assert!(!done.is_empty(), "{}: no remedy in: {text}", self.what());
        done
    }
}

/// Rewinds the checkpoint as the message says.
fn rewind(site: &Site, text: &str) -> Result<(), String> {
    let number = |after: &str| -> Option<String> {
        let rest = text.split_once(after)?.1;
        Some(rest.chars().take_while(char::is_ascii_digit).collect())
    };
    let to = number("--to ").or_else(|| number("checkpoint rewind` to batch ")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    let output = command.args(["checkpoint", "rewind"]).arg(site.checkpoint()).args(["--to", &to]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// The text without what differs from run to run.
fn placeless(site: &Site, text: &str) -> String {
    let place = site.place.path("").display().to_string();
    let text = text.replace(place.trim_end_matches('/'), "$PLACE");
    let replaced = [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<query>"),
        (r"/[0-9a-f]{8}-(\d{5})", "/<query>-$1"),
        (r"part-[0-9a-f]{8}-", "part-<query>-"),
        (r"\b[0-9a-f]{8}\b", "<checksum>"),
        (r"\b\d+ bytes", "<n> bytes"),
        // A snapshot is written beside the batches: of which it is the state is chance.
        (r"\b\d+(-\d+\.snapshot\b.*) batch \d+ or before", "<version>$1 batch <version> or before"),
        (r"\b\d+(-\d+\.snapshot\b)", "<version>$1"),
    ];
    replaced.iter().fold(text, |text, (pattern, by)| Regex::new(pattern).unwrap().replace_all(&text, *by).into_owned())
}

/// Compares a table of messages with the one that is kept.
fn compare(table: &str, text: &str) {
    let path = fixture(&format!("corruption/{table}.txt"));
    if std::env::var_os("REWRITE_FIXTURES").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differing = kept.lines().zip(text.lines()).find(|(kept, now)| kept != now);
    assert!(
        kept == text,
        "{} is not what is said now; first difference: {differing:?}\nto write it anew: \
         REWRITE_FIXTURES=1 cargo test --test streams corruption::",
        path.display()
    );
}

/// A query that counts by window into Parquet files, stopped after [`FILES`] batches and one without data, with a file
/// more to read; and the rows that it comes to.
async fn counting() -> (Site, Bag) {
    let place = Place::new();
    (2..FILES).for_each(|number| place.add_events("ev", number));
    let sql = "SELECT window.start AS ws, k, count(*) AS n, sum(v) AS s FROM STREAM ev \
        WATERMARK ts DELAY OF INTERVAL 5 SECONDS GROUP BY window(ts, '10 seconds'), k";
    let script = place.stream("ev", COLUMNS, ", 'maxFilesPerTrigger' '1'")
        + &place.files("result", "")
        + &place.flow("f", "append", "result", sql);
    let site = Site { place, script, pushed: Vec::new() };
    site.run().await.unwrap();
    site.place.add_events("ev", FILES);
    let picture = Picture::of(&site.folders());
    site.run().await.unwrap();
    let truth = site.rows().await;
    assert!(truth.len() > 100, "too few rows to show anything");
    picture.restore();
    (site, truth)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_checkpoint_with_a_damaged_log_is_refused() {
    let (site, truth) = counting().await;
    let at = |name: &str| site.checkpoint().join(name);
    let newest = |log: &str| newest_entry(&site.checkpoint(), log);
    let strange = site.place.path("metadata of another");
    write_entry(&strange, &json!({"id": "7a1b22cc-0000-4000-8000-000000000000", "format": 1}));
    let kinds = [
        Kind::new("metadata", at("metadata")).or(strange),
        Kind::new("runs, the newest", at("runs/1"))
            .or(at("offsets/1"))
            .harmless(&Damage::ALL, "the name is what counts, and the logs know which runs there were"),
        Kind::new("offsets, the oldest", at("offsets/0"))
            .or(at("offsets/3"))
            .harmless(&[Damage::Missing], "the oldest are purged one by one, and later ones list what was read"),
        Kind::new("offsets, so old that no source needs it", at("offsets/5"))
            .or(at("offsets/3"))
            .harmless(&[Damage::Missing], "a power cut may bring some of what a purge took back"),
        Kind::new("offsets, in the middle", at("offsets/40")).or(at("offsets/3")),
        Kind::new("offsets, the newest", newest("offsets")).or(at("offsets/3")),
        Kind::new("commits, the oldest", at("commits/0"))
            .or(at("commits/3"))
            .harmless(&[Damage::Missing], "the oldest are purged one by one; they serve to go back"),
        Kind::new("commits, in the middle", at("commits/40")).or(at("commits/3")),
        Kind::new("commits, the newest", newest("commits")).or(at("commits/3")),
    ];
    judge(&site, &kinds, &truth, "logs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_state_and_manifests_are_refused() {
    let (site, truth) = counting().await;
    let page = |number: i64| site.table().join(format!("_millstream/manifest/{number}"));
    let old = site.state_file("", false);
    let kinds = [
        Kind::new("state, a delta", site.state_file(".delta", true)).or(old.clone()),
        Kind::new("state, a snapshot", site.state_file(".snapshot", true)).or(old.clone()),
        Kind::new("state, of an older batch", old)
            .or(site.state_file(".delta", true))
            .harmless(&Damage::ALL, "the newest commit does not list it; it serves to go back"),
        Kind::new("manifest, a page that repeats others", page(59)).or(page(49)),
        Kind::new("manifest, in the middle", page(61)).or(page(60)),
        Kind::new("manifest, the newest", page(FILES))
            .or(page(60))
            .harmless(&[Damage::Missing], "its batch is the last decided one, which is published again"),
    ];
    judge(&site, &kinds, &truth, "state").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_batch_that_waits_to_be_published_is_refused() {
    let (site, truth) = counting().await;
    site.unpublish();
    let newest = |log: &str| newest_entry(&site.checkpoint(), log);
    let at = |name: &str| site.checkpoint().join(name);
    let token = read_entry(&newest("commits"))["sink"].clone();
    let staged = site.table().join(token["files"][0]["staged"].as_str().unwrap());
    let part = files_below(&site.table()).into_keys().find(|name| name.ends_with(".parquet")).unwrap();
    let kinds = [
        Kind::new("offsets, the newest", newest("offsets")).or(at("offsets/3")),
        Kind::new("commits, the newest", newest("commits"))
            .or(at("commits/3"))
            .harmless(&[Damage::Missing], "nothing of the batch is out, so that it runs again"),
        Kind::new("state, the newest", newest_state(&site)).or(site.state_file("", false)),
        Kind::new("a staged file", staged).or(site.table().join(part)),
        Kind::new("manifest, the newest", site.table().join(format!("_millstream/manifest/{}", FILES - 1)))
            .or(site.table().join("_millstream/manifest/60")),
    ];
    judge(&site, &kinds, &truth, "decided").await;
}

/// The file of state that the last batch wrote.
fn newest_state(site: &Site) -> PathBuf {
    let commit = read_entry(&newest_entry(&site.checkpoint(), "commits"));
    let files = commit["state"].as_array().unwrap().iter().flat_map(|o| o["files"].as_array().unwrap());
    let newest = files.max_by_key(|file| file["version"].as_i64()).unwrap();
    site.checkpoint().join("state").join(newest["name"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_batch_that_is_not_decided_is_refused() {
    let (site, truth) = counting().await;
    site.undecide();
    let at = |name: &str| site.checkpoint().join(name);
    let kinds = [
        Kind::new("offsets, of the batch", newest_entry(&site.checkpoint(), "offsets"))
            .or(at("offsets/3"))
            .harmless(&[Damage::Missing], "nothing of the batch counts, so that it is planned afresh"),
        Kind::new("commits, the newest", newest_entry(&site.checkpoint(), "commits")).or(at("commits/3")),
        Kind::new("runs, the newest", at("runs/1"))
            .harmless(&Damage::ALL, "the name is what counts, and the logs know which runs there were"),
    ];
    judge(&site, &kinds, &truth, "planned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_refused() {
    let place = Place::new();
    let script = "CREATE UNBOUNDED EXTERNAL TABLE pushes (v BIGINT) STORED AS PUSHED;\n".to_string()
        + &place.files("result", "")
        + &place.flow("f", "append", "result", "SELECT v FROM STREAM pushes");
    let mut site = Site { place, script, pushed: vec![1, 2, 3] };
    site.run().await.unwrap();
    site.pushed.clear();
    // What a source has received and no batch has read.
    let folder = site.checkpoint().join("sources/0");
    let journal = Journal::open(Arc::new(LocalStore::new(&folder))).await.unwrap();
    let end = journal.end();
    for v in 4..7 {
        journal.append(&[row(v)]).await.unwrap();
    }
    let picture = Picture::of(&site.folders());
    site.run().await.unwrap();
    let truth = site.rows().await;
    assert_eq!(truth.len(), 6);
    picture.restore();
    let entry = |position: u64| folder.join(format!("{position:020}.arrow"));
    let kinds = [
        Kind::new("journal, an entry that was read", entry(end - 1))
            .or(entry(end))
            .harmless(&[Damage::Missing], "its rows are in the table, and later entries say where to go on"),
        Kind::new("journal, the next entry", entry(end)).or(entry(end + 1)),
        Kind::new("journal, in the middle", entry(end + 1)).or(entry(end)),
    ];
    judge(&site, &kinds, &truth, "journal").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_list_of_files_read_is_refused() {
    let place = Place::new();
    (0..50).for_each(|number| place.add_events("ev2", number));
    let script = place.stream("ev", COLUMNS, "")
        + &place.stream("ev2", COLUMNS, ", 'maxFilesPerTrigger' '1'")
        + &place.files("result", "")
        + &place.flow("f", "append", "result", "SELECT id, k FROM STREAM ev UNION ALL SELECT id, k FROM STREAM ev2");
    let site = Site { place, script, pushed: Vec::new() };
    site.run().await.unwrap();
    site.place.add_events("ev", 7);
    site.place.add_events("ev2", 50);
    let picture = Picture::of(&site.folders());
    site.run().await.unwrap();
    let truth = site.rows().await;
    picture.restore();
    let folder = site.checkpoint().join("sources/0");
    let lists: Vec<String> = files_below(&folder).into_keys().collect();
    assert_eq!(lists, ["seen-0"], "the source that stood still has not written its list");
    let other = site.place.path("another list");
    let mut list = read_entry(&folder.join("seen-0"));
    list["log_offset"] = Value::from(3);
    write_entry(&other, &list);
    let kinds = [Kind::new("the list of files read", folder.join("seen-0"))
        .or(other)
        .harmless(&[Damage::Missing], "the retained offsets tell as well")];
    judge(&site, &kinds, &truth, "seen").await;
}
