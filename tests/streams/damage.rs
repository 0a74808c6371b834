//! Damage to durable files, one way at a time, and a picture of a folder by which everything is put back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use millstream::storage::{checksum, encode_checked};
use serde_json::{Value, json};

use crate::disk::{files_below, newest_entry, read_entry};

/// A way to damage a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    OneByteShort,
    HalfAsLong,
    BitInFirstLine,
    BitInTheMiddle,
    BitInLastByte,
    Empty,
    Missing,
    Swapped,
    Newer,
}

impl Damage {
    pub(crate) const ALL: [Self; 9] = [
        Self::OneByteShort,
        Self::HalfAsLong,
        Self::BitInFirstLine,
        Self::BitInTheMiddle,
        Self::BitInLastByte,
        Self::Empty,
        Self::Missing,
        Self::Swapped,
        Self::Newer,
    ];

    /// Returns what the table of messages calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OneByteShort => "one byte short",
            Self::HalfAsLong => "half as long",
            Self::BitInFirstLine => "a bit in the first line",
            Self::BitInTheMiddle => "a bit in the middle",
            Self::BitInLastByte => "a bit in the last byte",
            Self::Empty => "empty",
            Self::Missing => "missing",
            Self::Swapped => "swapped",
            Self::Newer => "from a newer version",
        }
    }

    /// Damages the file at `path`; `other` is the content of another of its kind. False where the damage makes no sense.
    pub(crate) fn apply(self, path: &Path, other: Option<&[u8]>) -> bool {
        let whole = fs::read(path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let damaged = match self {
            Self::OneByteShort => whole[..whole.len() - 1].to_vec(),
            Self::HalfAsLong => whole[..whole.len() / 2].to_vec(),
            Self::BitInFirstLine => flipped(2),
            Self::BitInTheMiddle => flipped(whole.len() / 2),
            Self::BitInLastByte => flipped(whole.len() - 1),
            Self::Empty => Vec::new(),
            Self::Missing => {
                fs::remove_file(path).unwrap();
                return true;
            }
            Self::Swapped => match other {
                Some(other) => other.to_vec(),
                None => return false,
            },
            Self::Newer => match whole.strip_prefix(b"millstream v1 ") {
                Some(rest) => [b"millstream v2 ".as_slice(), rest].concat(),
                None => return false,
            },
        };
        assert!(damaged != whole, "{}: {} changes nothing", path.display(), self.name());
        fs::write(path, damaged).unwrap();
        true
    }
}

/// Gives a file of state a newer format, and the newest commit the length and checksum that go with it.
pub(crate) fn make_state_newer(checkpoint: &Path, path: &Path) {
    let reader = StreamReader::try_new(Cursor::new(fs::read(path).unwrap()), None).unwrap();
    let mut metadata = reader.schema().metadata().clone();
    metadata.insert("millstream.state.format".to_string(), "2".to_string());
    let schema = Arc::new(Schema::new_with_metadata(reader.schema().fields().clone(), metadata));
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
    for rows in reader {
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), rows.unwrap().columns().to_vec()).unwrap()).unwrap();
    }
    let bytes = writer.into_inner().unwrap();

    let entry = newest_entry(checkpoint, "commits");
    let mut commit = read_entry(&entry);
    let name = path.strip_prefix(checkpoint.join("state")).unwrap().to_str().unwrap();
    for file in commit["state"].as_array_mut().unwrap().iter_mut().flat_map(|o| o["files"].as_array_mut().unwrap()) {
        if file["name"] == name {
            file["length"] = json!(bytes.len());
            file["crc32"] = json!(checksum(&bytes));
        }
    }
    fs::write(path, bytes).unwrap();
    write_entry(&entry, &commit);
}

/// Writes an entry of a log as Millstream would.
pub(crate) fn write_entry(path: &Path, entry: &Value) {
    fs::write(path, encode_checked(&serde_json::to_vec_pretty(entry).unwrap())).unwrap();
}

/// Every file below some folders, as it was.
pub(crate) struct Picture {
    folders: Vec<(PathBuf, BTreeMap<String, Vec<u8>>)>,
}

impl Picture {
    /// Takes one of `folders`.
    pub(crate) fn of(folders: &[PathBuf]) -> Self {
        Self { folders: folders.iter().map(|folder| (folder.clone(), files_below(folder))).collect() }
    }

    /// Puts every file back, and removes what has come since.
    pub(crate) fn restore(&self) {
        for (folder, files) in &self.folders {
            let now = files_below(folder);
            for strange in now.keys().filter(|name| !files.contains_key(*name)) {
                fs::remove_file(folder.join(strange)).unwrap();
            }
            for (name, content) in files.iter().filter(|(name, content)| now.get(*name) != Some(content)) {
                fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
                fs::write(folder.join(name), content).unwrap();
            }
        }
    }
}
