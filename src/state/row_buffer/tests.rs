//! Tests of `row_buffer`.

use datafusion::arrow::array::StringArray;
use datafusion::arrow::datatypes::Int64Type;

use super::*;

fn buffer() -> RowBuffer {
    let key = Arc::new(Field::new("k", DataType::Utf8, true));
    let value = Arc::new(Field::new("v", DataType::Int64, true));
    RowBuffer::new(&[key], &[value])
}

fn append(buffer: &mut RowBuffer, rows: &[(Option<&str>, i64, Option<i64>)]) {
    let keys: ArrayRef = Arc::new(rows.iter().map(|r| r.0).collect::<StringArray>());
    let values: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.1)).collect::<Int64Array>());
    let matched = BooleanArray::from(vec![false; rows.len()]);
    buffer.append(vec![keys], vec![values], &rows.iter().map(|r| r.2).collect(), &matched).unwrap();
}

fn found(buffer: &RowBuffer, key: Option<&str>, null_equals_null: bool) -> Vec<i64> {
    let keys: ArrayRef = Arc::new(StringArray::from(vec![key]));
    let (_, rows) = buffer.probe(&[keys], 1, null_equals_null).unwrap();
    let mut values = buffer.values(&rows).unwrap()[0].as_primitive::<Int64Type>().values().to_vec();
    values.sort_unstable();
    values
}

/// What is alive: value and whether it is matched.
fn content(buffer: &RowBuffer) -> Vec<(i64, bool)> {
    let rows = buffer.alive_rows();
    let values = buffer.values(&rows).unwrap();
    let values = values[0].as_primitive::<Int64Type>().values().to_vec();
    let mut all: Vec<_> = rows.iter().zip(values).map(|(row, v)| (v, buffer.is_matched(*row))).collect();
    all.sort_unstable();
    all
}

#[test]
fn rows_are_found_by_key_until_they_expire() {
    let mut buffer = buffer();
    append(&mut buffer, &[(Some("a"), 1, Some(10)), (Some("b"), 2, Some(20)), (None, 3, None)]);
    append(&mut buffer, &[(Some("a"), 4, Some(2_000_000))]);
    assert_eq!(found(&buffer, Some("a"), false), [1, 4]);
    assert_eq!(found(&buffer, None, false), [] as [i64; 0]);
    assert_eq!(found(&buffer, None, true), [3]);
    assert_eq!(buffer.first_expiry(), Some(10));
    let gone = buffer.expire(15);
    assert_eq!(buffer.values(&gone).unwrap()[0].as_primitive::<Int64Type>().values(), &[1]);
    assert_eq!(found(&buffer, Some("a"), false), [4]);
    assert_eq!(buffer.first_expiry(), Some(20));
    assert_eq!(buffer.expire(i64::MAX).len(), 2, "a row without expiry stays");
    assert_eq!(buffer.row_count(), 1);
}

/// The sums that are kept are what counting again gives.
fn assert_counted(buffer: &RowBuffer) {
    assert_eq!(buffer.chunk_bytes, buffer.chunks.iter().map(Chunk::bytes).sum::<usize>());
    assert_eq!(buffer.row_count(), buffer.alive.iter().filter(|alive| **alive).count());
    assert!(buffer.memory_bytes() >= buffer.chunk_bytes + buffer.alive.len() * 38);
}

#[test]
fn deltas_rebuild_what_many_batches_made() {
    let (mut live, mut rebuilt) = (buffer(), buffer());
    let all: &Wanted<'_> = &|_, n| Ok(vec![true; n]);
    for batch in 0..50i64 {
        let keys = ["a", "b", "c"];
        let rows: Vec<_> =
            (0..400).map(|i| (Some(keys[i as usize % 3]), batch * 1000 + i, Some((batch * 400 + i) * 1000))).collect();
        append(&mut live, &rows);
        let key: ArrayRef = Arc::new(StringArray::from(vec!["b"]));
        let (_, partners) = live.probe(&[key], 1, false).unwrap();
        live.set_matched(partners.into_iter().take(3));
        live.expire((batch - 2) * 400_000);
        if let Some(delta) = live.take_changes().unwrap() {
            rebuilt.apply(&delta, 0, all).unwrap();
        }
        assert_eq!(content(&live), content(&rebuilt), "after batch {batch}");
        assert_counted(&live);
        assert_counted(&rebuilt);
    }
    assert!(live.row_count() < 1300 && live.alive.len() < 8000, "{} of {}", live.row_count(), live.alive.len());
    assert!(live.chunks.len() < 20);
    let mut from_snapshot = buffer();
    from_snapshot.apply(&live.snapshot().unwrap().unwrap(), 0, all).unwrap();
    assert_eq!(content(&live), content(&from_snapshot));
}

#[test]
fn rows_of_two_lanes_meet_in_one() {
    let all: &Wanted<'_> = &|_, n| Ok(vec![true; n]);
    let mut lanes = [buffer(), buffer()];
    let mut merged = buffer();
    for (lane, key) in ["a", "b"].into_iter().enumerate() {
        append(&mut lanes[lane], &[(Some(key), lane as i64, None), (Some(key), 10 + lane as i64, None)]);
        let rows = lanes[lane].alive_rows();
        lanes[lane].set_matched(rows.into_iter().skip(lane).take(1));
        let delta = lanes[lane].take_changes().unwrap().unwrap();
        merged.apply(&delta, lane, all).unwrap();
    }
    merged.loaded(true);
    assert_eq!(content(&merged), [(0, true), (1, false), (10, false), (11, true)]);
}

#[test]
fn ids_that_no_version_wrote_are_refused() {
    for id in [-1, i64::MIN, i64::MAX] {
        let mut buffer = buffer();
        append(&mut buffer, &[(Some("a"), 1, None)]);
        let delta = buffer.take_changes().unwrap().unwrap();
        let mut columns = delta.columns().to_vec();
        columns[1] = Arc::new(Int64Array::from(vec![id]));
        let forged = RecordBatch::try_new(delta.schema(), columns).unwrap();
        let error = buffer.apply(&forged, 0, &|_, n| Ok(vec![true; n])).unwrap_err();
        assert!(error.message().contains(&format!("the id {id}")), "{error}");
    }
}
