//! Power cuts: what was not synced is gone, or some of it is.
//!
//! The command notes what every fsync made durable (`src/storage/power_cut.rs`). After it died, [`cut`] puts in the place
//! of the disk what a power cut at that moment leaves: of every folder the names that were synced, of every file the bytes
//! that were. In the lenient kind a coin decides for each name and each file whether what was not synced has survived
//! all the same, or half of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::dice::Dice;
use crate::trial::Trial;

/// The variable that says where the command notes what is durable.
pub const VARIABLE: &str = "MILLSTREAM_DURABLE";

/// What survives beside what was synced.
pub enum Kind {
    Nothing,
    Some(Dice),
}

impl Kind {
    fn survives(&mut self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Some(dice) => dice.coin(),
        }
    }
}

/// Where the trial's command notes what is durable.
pub fn notes(trial: &Trial) -> PathBuf {
    trial.folder.join("durable")
}

/// Takes all that is on the trial's disk for durable.
pub fn everything_is_durable(trial: &Trial) {
    let notes = notes(trial);
    let _ = fs::remove_dir_all(&notes);
    fs::create_dir(&notes).unwrap();
    let mut folders = vec![trial.disk()];
    while let Some(folder) = folders.pop() {
        let mut entries = String::new();
        for (name, inode) in live(&folder) {
            entries.push_str(&format!("{inode} {name}\n"));
            let path = folder.join(&name);
            if path.is_dir() {
                folders.push(path);
            } else {
                fs::copy(&path, notes.join(format!("file-{inode}"))).unwrap();
            }
        }
        fs::write(notes.join(format!("folder-{}", inode(&folder))), entries).unwrap();
    }
}

/// Cuts the power of the trial, whose command is dead. Returns how many files lost a name or bytes.
pub fn cut(trial: &Trial, mut kind: Kind) -> usize {
    let (disk, after) = (trial.disk(), trial.folder.join("after"));
    let mut files = BTreeMap::new();
    collect_files(&disk, &mut files);
    let mut changed = 0;
    rebuild(&disk, &after, &notes(trial), &files, &mut kind, &mut changed);
    fs::remove_dir_all(&disk).unwrap();
    fs::rename(&after, &disk).unwrap();
    everything_is_durable(trial);
    changed
}

/// The inode and the time of its birth, as the command notes them.
fn identity(metadata: &fs::Metadata) -> String {
    let born = metadata.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{}.{}", metadata.ino(), born.as_nanos())
}

fn inode(path: &Path) -> String {
    identity(&fs::symlink_metadata(path).unwrap())
}

fn live(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let named = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), identity(&entry.metadata().unwrap()));
    entries.map(|entry| named(entry.unwrap())).collect()
}

/// Where each inode lies now: a durable name may have been taken away or given anew since.
fn collect_files(folder: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for (name, inode) in live(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            collect_files(&path, files);
        }
        files.insert(inode, path);
    }
}

fn rebuild(
    folder: &Path,
    after: &Path,
    notes: &Path,
    files: &BTreeMap<String, PathBuf>,
    kind: &mut Kind,
    changed: &mut usize,
) {
    fs::create_dir_all(after).unwrap();
    let synced = fs::read_to_string(notes.join(format!("folder-{}", inode(folder)))).unwrap_or_default();
    let synced = synced.lines().map(|line| line.split_once(' ').unwrap());
    let synced: BTreeMap<String, String> = synced.map(|(i, name)| (name.to_string(), i.to_string())).collect();
    let live = live(folder);
    let mut names: Vec<&String> = synced.keys().chain(live.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (durable, now) = (synced.get(name), live.get(name));
        // A name that is only in one of the two was given or taken away since the last sync.
        let inode = match (durable, now) {
            (Some(durable), Some(now)) if durable == now => durable.clone(),
            (durable, now) => {
                *changed += 1;
                match if kind.survives() { now } else { durable } {
                    Some(inode) => inode.clone(),
                    None => continue,
                }
            }
        };
        let path = files.get(&inode);
        match path.filter(|path| path.is_dir()) {
            Some(folder) => rebuild(folder, &after.join(name), notes, files, kind, changed),
            None => {
                let durable = fs::read(notes.join(format!("file-{inode}"))).ok();
                let written = path.map(|path| fs::read(path).unwrap());
                fs::write(after.join(name), bytes(durable, written, kind, changed)).unwrap();
            }
        }
    }
}

fn bytes(durable: Option<Vec<u8>>, written: Option<Vec<u8>>, kind: &mut Kind, changed: &mut usize) -> Vec<u8> {
    let durable = durable.unwrap_or_default();
    // What was deleted and comes back is as it was synced: nobody wrote to it since.
    let Some(written) = written.filter(|written| *written != durable) else {
        return durable;
    };
    *changed += 1;
    match (kind.survives(), kind.survives()) {
        (true, true) => written,
        (true, false) => written[..written.len() / 2].to_vec(),
        (false, _) => durable,
    }
}
