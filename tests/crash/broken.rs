//! The harness proves itself: a broken sink, a sync that is skipped, a row twice, a row less and a flipped bit must be
//! seen, or a clean table shows nothing.

use std::fs;
use std::path::PathBuf;

use crate::disk::visible_files;
use crate::power::Kind;
use crate::query::Place;
use crate::suites::cut_at;
use crate::trial::Trial;
use crate::verdict::Verdict;

/// Fails where the harness is blind.
pub fn must_be_seen(place: &Place) {
    let seen = |what: &str, expected: fn(&Verdict) -> bool, harm: fn(&Trial)| {
        let whole = place.query("windows");
        let trial = whole.trial("broken");
        harm(&trial);
        let mut verdict = Verdict::default();
        match trial.finish() {
            Ok(()) => verdict.compare(&trial, &whole.end),
            Err(why) => verdict.note(why),
        }
        let Verdict { lost, duplicated, wrong, .. } = verdict;
        let why = verdict.why.join("\n");
        assert!(expected(&verdict), "{what} is not seen: {lost} lost, {duplicated} duplicated, {wrong} wrong\n{why}");
        println!("{what} is seen: {lost} lost, {duplicated} duplicated, {wrong} wrong");
    };
    seen("nothing broken", Verdict::is_clean, |_| {});
    seen(
        "a sink whose names change",
        |verdict| verdict.duplicated > 0,
        |trial| {
            let broken = ("FAILPOINTS", "broken.names_change=return");
            let died = trial.run(&[broken, ("MILLSTREAM_SIGNAL", "sink.mid_publish:1:KILL")]).code().is_none();
            assert!(died, "{}", trial.log());
        },
    );
    seen(
        "a sync that is skipped",
        |verdict| !verdict.is_clean(),
        |trial| {
            let skip = ("FAILPOINTS", "broken.skip_sync=return");
            assert_eq!(cut_at(trial, "manifest.written", 6, &[skip], Kind::Nothing), 1, "{}", trial.log());
        },
    );
    seen(
        "a row that is there twice",
        |verdict| verdict.duplicated > 0,
        |trial| {
            let part = part(trial);
            fs::copy(&part, part.with_file_name("part-again.parquet")).unwrap();
        },
    );
    seen(
        "a row that is gone",
        |verdict| verdict.lost > 0,
        |trial| {
            let (part, other) = (part(trial), other_part(trial));
            // Both have the same columns; the manifest's reader wants a file there.
            fs::copy(other, part).unwrap();
        },
    );
    seen(
        "a bit that is flipped",
        |verdict| !verdict.is_clean(),
        |trial| {
            let part = part(trial);
            let mut bytes = fs::read(&part).unwrap();
            let middle = bytes.len() / 3;
            bytes[middle] ^= 1;
            fs::write(&part, bytes).unwrap();
        },
    );
}

/// A file of the table after a run of its own.
fn part(trial: &Trial) -> PathBuf {
    trial.finish().unwrap();
    parts(trial).remove(0)
}

fn other_part(trial: &Trial) -> PathBuf {
    parts(trial).remove(1)
}

fn parts(trial: &Trial) -> Vec<PathBuf> {
    visible_files(&trial.table()).into_keys().map(|file| trial.table().join(file)).collect()
}
