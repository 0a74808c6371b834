//! Where things lie in a checkpoint directory, and which sets of files belong to a whole one.

use crate::error::{Error, Result};
use crate::storage::{DurableStore, numbered};

pub(crate) const METADATA: &str = "metadata";
pub(crate) const RUNS: &str = "runs";
pub(crate) const OFFSETS: &str = "offsets";
pub(crate) const COMMITS: &str = "commits";
pub(crate) const STATE: &str = "state";

/// Sources look back over so many offsets to know what they have read.
pub(crate) const SOURCES_LOOK_BACK: i64 = 50;

/// How often the logs are listed before a set of files that does not fit is believed: an earlier run may still be
/// finishing its last step.
const ATTEMPTS: usize = 5;

/// The folder of a source's journal. It goes by the source's name, as its offsets do.
pub(crate) fn journal(source: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let encode = |c: char| if plain(c) { c.to_string() } else { format!("%{:x}", u32::from(c)) };
    format!("sources/{}", source.chars().map(encode).collect::<String>())
}

/// The batch ids that are names in `folder`, in order.
pub(crate) async fn batch_ids(store: &dyn DurableStore, folder: &str) -> Result<Vec<i64>> {
    let names = store.list(folder).await?;
    let mut ids: Vec<i64> = names.iter().filter_map(|name| i64::try_from(numbered(name)?).ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Checks that the logs are whole.
///
/// # Errors
/// `CheckpointCorrupt` that names the missing file and what to do.
pub(crate) async fn verify(store: &dyn DurableStore) -> Result<()> {
    let location = store.location();
    let mut attempt = 0;
    loop {
        attempt += 1;
        // Commits first: every commit in this list has its offsets in the next one.
        let commits = batch_ids(store, COMMITS).await?;
        let offsets = batch_ids(store, OFFSETS).await?;
        match check(location.trim_end_matches('/'), &offsets, &commits) {
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => tokio::task::yield_now().await,
            Ok(()) => return Ok(()),
        }
    }
}

/// Checks that no id is missing between the first and the last, but for those that a purge took: a power cut may bring
/// some of what it deleted back, and it never takes the newest that sources look back to.
pub(crate) fn check_gaps(location: &str, folder: &str, ids: &[i64]) -> Result<()> {
    let newest = ids.last().copied().unwrap_or_default();
    for pair in ids.windows(2) {
        let missing = pair[0] + 1;
        if pair[1] != missing && newest - pair[1] + 1 < SOURCES_LOOK_BACK {
            return Err(Error::corrupt(format!(
                "{location}/{folder}/{missing} is missing, though {folder}/{} and {folder}/{} are there; {}",
                pair[0],
                pair[1],
                restore_or_forget(folder, pair[0], ids.last().copied().unwrap_or(missing))
            )));
        }
    }
    Ok(())
}

/// What helps when a file is gone or bad that batch `to` does not need and a later one does.
pub(crate) fn restore_or_rewind(location: &str, to: i64) -> String {
    if to < 0 {
        return "restore it from a copy, or start with a new checkpoint and a new table".to_string();
    }
    format!(
        "restore it from a copy; or, where the query's table holds no batch after {to}, go back with `millstream \
         checkpoint rewind {location} --to {to}`; or start with a new checkpoint and a new table"
    )
}

/// What helps when an entry is gone or bad that is not of the newest batch: the oldest are forgotten anyway.
pub(crate) fn restore_or_forget(folder: &str, up_to: i64, newest: i64) -> String {
    if folder == OFFSETS && newest - up_to < SOURCES_LOOK_BACK {
        return "restore it from a copy, or start with a new checkpoint and a new table".to_string();
    }
    format!(
        "restore it from a copy, or delete the files of {folder}/ up to and with {folder}/{up_to}: they serve to go \
         back so far"
    )
}

fn check(location: &str, offsets: &[i64], commits: &[i64]) -> Result<()> {
    check_gaps(location, OFFSETS, offsets)?;
    check_gaps(location, COMMITS, commits)?;
    let planned = offsets.last().copied().unwrap_or(-1);
    let decided = commits.last().copied().unwrap_or(-1);
    if decided > planned {
        return Err(Error::corrupt(format!(
            "{location}/{OFFSETS}/{decided} is missing, though {COMMITS}/{decided} is there; {}",
            restore_or_rewind(location, decided - 1)
        )));
    }
    if planned - decided > 1 {
        return Err(Error::corrupt(format!(
            "{location}/{COMMITS}/{} is missing, though {OFFSETS}/{planned} is there; {}",
            planned - 1,
            restore_or_rewind(location, decided)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_a_crash_can_leave_is_whole() {
        for (offsets, commits) in [
            (vec![], vec![]),
            (vec![0], vec![]),
            (vec![0], vec![0]),
            (vec![0, 1], vec![0]),
            (vec![5, 6, 7], vec![3, 4, 5, 6]), // purged: offsets before commits, or the other way round
            (vec![3, 4, 5], vec![5]),
        ] {
            check("q", &offsets, &commits).unwrap();
        }
    }

    #[test]
    fn what_no_crash_leaves_is_corrupt() {
        for (offsets, commits, missing) in [
            (vec![0, 2], vec![0, 1], "q/offsets/1"),
            (vec![0, 1, 2], vec![0, 2], "q/commits/1"),
            (vec![0, 1, 2], vec![0, 1, 2, 3], "q/offsets/3"),
            (vec![0, 1, 2], vec![0], "q/commits/1"),
            (vec![], vec![0], "q/offsets/0"),
            (vec![7], vec![], "q/commits/6"),
        ] {
            let error = check("q", &offsets, &commits).unwrap_err();
            assert!(error.message().starts_with(missing), "{error}");
        }
    }
}
