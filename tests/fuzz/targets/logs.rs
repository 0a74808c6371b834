//! Bytes as the logs of a checkpoint: metadata, offsets and commits, as they are and within an envelope that fits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream::checkpoint::{Checkpoint, CommitLog, OffsetLog, inspect};
use millstream::storage::encode_checked;
use millstream_fuzz::{block_on, enveloped, not_internal, store_of};

const METADATA: &[u8] = br#"{"id":"8a3c5d0e-52a4-4a0e-9a6e-0d5b3f6c7e11","format":1}"#;
const OFFSETS: &[u8] = br#"{"batch_id":0,"run":1,"watermark_ms":0,"late_watermark_ms":0,"batch_timestamp_ms":7,
    "lanes":2,"conf":{},"sources":[{"name":"t","start":null,"end":{"v":1,"log_offset":0}}]}"#;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let bytes = enveloped(data);
    let mut files = vec![
        ("metadata", encode_checked(METADATA)),
        ("offsets/0", encode_checked(OFFSETS)),
        ("offsets/1", encode_checked(OFFSETS)),
        ("runs/1", encode_checked(b"{}")),
    ];
    let name = ["metadata", "offsets/0", "commits/0", "runs/1"][usize::from(which % 4)];
    files.retain(|(other, _)| *other != name && *other != "offsets/1");
    files.push((name, bytes));
    let store = store_of(&files);
    block_on(async {
        for error in [
            OffsetLog::new(store.clone()).latest().await.err(),
            OffsetLog::new(store.clone()).entries_up_to(0).await.err(),
            CommitLog::new(store.clone()).latest().await.err(),
            inspect(store.clone()).await.map(|inspection| inspection.to_string()).err(),
            Checkpoint::open(store.clone()).await.err(),
        ] {
            error.iter().for_each(not_internal);
        }
    });
});
