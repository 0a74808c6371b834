//! Bytes as a file of a table's manifest: as they are and within an envelope that fits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream::storage::encode_checked;
use millstream::storage::manifest::Manifest;
use millstream_fuzz::{block_on, enveloped, not_internal, store_of};

const FIRST: &[u8] = br#"{"last_batches":{"q":0},"entries":[{"sequence":0,"query_id":"q","batch_id":0,
    "files":[{"path":"part-0.parquet","size":10,"rows":1}]}]}"#;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let bytes = enveloped(data);
    let names = ["0", "1", "9", "18446744073709551615", "00"];
    let name = format!("_millstream/manifest/{}", names[usize::from(*which) % names.len()]);
    let mut files = vec![(name.as_str(), bytes)];
    if !name.ends_with("/0") {
        files.push(("_millstream/manifest/0", encode_checked(FIRST)));
    }
    let manifest = Manifest::new(store_of(&files));
    block_on(async {
        for error in [
            manifest.entries().await.err(),
            manifest.queries().await.err(),
            manifest.last_batch("q").await.err(),
            manifest.add("q", 1, Vec::new()).await.err(),
        ] {
            error.iter().for_each(not_internal);
        }
    });
});
