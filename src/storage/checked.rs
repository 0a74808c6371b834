//! The envelope of every small durable file: one readable line that says which bytes must follow.
//!
//! `millstream v1 crc32=9af1c03e length=217`, a line break, then the payload. Logs, metadata and the manifest are
//! written and read through here, so that a torn, emptied, altered or newer file is noticed before it is believed.

use bytes::Bytes;

use super::DurableStore;
use crate::error::{Error, Result};

/// The version of the envelope that this Millstream writes, and the newest it reads.
const VERSION: u64 = 1;

/// No header is longer than this; what has no line break by then has no header.
const LONGEST_HEADER: usize = 80;

const REMEDY: &str = "restore this file from a copy, or start with a new checkpoint and a new table";

/// Returns the CRC-32 of `bytes`: the checksum that every durable file of Millstream carries.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Puts `payload` into the envelope.
pub fn encode_checked(payload: &[u8]) -> Bytes {
    let mut encoded = header(payload).into_bytes();
    encoded.extend_from_slice(payload);
    Bytes::from(encoded)
}

/// Takes the payload out of the envelope; `location` is the file's full path, for messages.
///
/// # Errors
/// `CheckpointCorrupt` where the bytes are not those that were written; `CheckpointIncompatible` where a newer
/// Millstream wrote them.
pub fn decode_checked(location: &str, bytes: Bytes) -> Result<Bytes> {
    decode_or_remedy(location, bytes, REMEDY)
}

/// Does what [`decode_checked`] does, with a remedy that the caller knows better.
pub(crate) fn decode_or_remedy(location: &str, bytes: Bytes, remedy: &str) -> Result<Bytes> {
    let size = bytes.len();
    let Some(end) = bytes.iter().take(LONGEST_HEADER).position(|byte| *byte == b'\n') else {
        return Err(Error::corrupt(format!(
            "{location}: a line with a checksum was expected, none found (file is {size} bytes); {remedy}"
        )));
    };
    let payload = bytes.slice(end + 1..);
    if bytes[..=end] == *header(&payload).as_bytes() {
        return Ok(payload);
    }
    let found = String::from_utf8_lossy(&bytes[..end]);
    if let Some(version) = version_of(&found).filter(|version| *version > VERSION) {
        return Err(Error::incompatible(format!(
            "{location}: written in format v{version}, and this Millstream reads up to v{VERSION}; use the newer \
             Millstream that wrote it, or a new checkpoint and a new table"
        )));
    }
    let Some(expected) = field(&found, "crc32=") else {
        return Err(Error::corrupt(format!(
            "{location}: not a file of Millstream: its first line has no checksum (file is {size} bytes); {remedy}"
        )));
    };
    let length = field(&found, "length=").unwrap_or("unknown");
    Err(Error::corrupt(format!(
        "{location}: checksum {expected} over {length} bytes expected, {:08x} over {} bytes found (file is {size} \
         bytes); {remedy}",
        checksum(&payload),
        payload.len()
    )))
}

/// Creates the file `name` with `payload` in the envelope. Durable on return; false where the name is taken.
///
/// # Errors
/// As [`DurableStore::create`].
pub async fn write_checked(store: &dyn DurableStore, name: &str, payload: impl AsRef<[u8]> + Send) -> Result<bool> {
    let encoded = encode_checked(payload.as_ref());
    store.create(name, encoded).await
}

/// Reads the payload of the file `name`, or `None` where there is no such file.
///
/// # Errors
/// As [`decode_checked`], and `Unavailable` where the place cannot be read.
pub async fn read_checked(store: &dyn DurableStore, name: &str) -> Result<Option<Bytes>> {
    match store.read(name).await? {
        Some(bytes) => decode_checked(&file_path(store, name), bytes).map(Some),
        None => Ok(None),
    }
}

/// Returns the full path of `name` in `store` as a person would name it.
pub(crate) fn file_path(store: &dyn DurableStore, name: &str) -> String {
    format!("{}/{name}", store.location().trim_end_matches('/'))
}

/// The only header that fits `payload`: comparing it whole leaves no bit of a file unchecked.
fn header(payload: &[u8]) -> String {
    format!("millstream v{VERSION} crc32={:08x} length={}\n", checksum(payload), payload.len())
}

fn version_of(header: &str) -> Option<u64> {
    header.strip_prefix("millstream v")?.split(' ').next()?.parse().ok()
}

fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.strip_prefix("millstream v")?.split(' ').find_map(|word| word.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_was_written_is_read() {
        let payloads: [&[u8]; 3] = [b"", b"{\"batch_id\":3}\n", &[0, 10, 255, 10]];
        for payload in payloads {
            assert_eq!(decode_checked("x", encode_checked(payload)).unwrap(), payload);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = encode_checked(b"{\"batch_id\":41}");
        for bit in 0..whole.len() * 8 {
            let mut altered = whole.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            let error = decode_checked("q/offsets/41", Bytes::from(altered)).unwrap_err();
            assert!(error.message().starts_with("q/offsets/41: "), "{error}");
        }
        for length in 0..whole.len() {
            let error = decode_checked("q/offsets/41", whole.slice(..length)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt);
            assert!(error.message().contains(&format!("(file is {length} bytes)")), "{error}");
        }
    }

    #[test]
    fn a_file_from_the_future_says_so() {
        let bytes = Bytes::from_static(b"millstream v2 sha256=00 length=1\nx");
        let error = decode_checked("q/metadata", bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointIncompatible);
        assert!(error.message().contains("format v2"), "{error}");
    }
}
