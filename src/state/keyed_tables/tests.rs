//! Tests of `keyed_tables`.

use datafusion::arrow::array::{AsArray, StringArray};
use datafusion::arrow::datatypes::Int64Type;

use super::*;

fn tables() -> KeyedTables {
    let key = Arc::new(Field::new("k", DataType::Utf8, true));
    let value = Arc::new(Field::new("n", DataType::Int64, true));
    KeyedTables::new(&[key], &[value])
}

fn put(tables: &mut KeyedTables, table: i64, rows: &[(&str, i64)]) {
    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)))];
    let values: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)))];
    let groups = tables.intern(table, &keys, rows.len()).unwrap();
    tables.put(table, &groups, keys, values).unwrap();
}

fn rows(tables: &KeyedTables) -> Vec<(i64, String, i64)> {
    let mut all = Vec::new();
    for id in tables.table_ids() {
        let (keys, values, n) = tables.scan(id).unwrap();
        let (k, v) = (keys[0].as_string::<i32>(), values[0].as_primitive::<Int64Type>());
        all.extend((0..n).map(|i| (id, k.value(i).to_string(), v.value(i))));
    }
    all.sort();
    all
}

#[test]
fn deltas_rebuild_what_many_batches_made() {
    let (mut live, mut rebuilt) = (tables(), tables());
    for batch in 0..60i64 {
        put(&mut live, batch % 3, &[("a", batch), ("b", -batch), (["c", "d"][batch as usize % 2], 7)]);
        if batch % 10 == 9 {
            live.drop_table(1);
            let first = live.groups(0)[0];
            live.remove(0, &[first]).unwrap();
        }
        if let Some(delta) = live.take_changes().unwrap() {
            rebuilt.apply(&delta, 0, &|_, n| Ok(vec![true; n])).unwrap();
        }
        assert_eq!(rows(&live), rows(&rebuilt), "after batch {batch}");
    }
    let mut from_snapshot = tables();
    from_snapshot.apply(&live.snapshot().unwrap().unwrap(), 0, &|_, n| Ok(vec![true; n])).unwrap();
    assert_eq!(rows(&live), rows(&from_snapshot));
    assert!(live.tables[&0].chunks.len() < 60, "replaced rows are swept");
}

#[test]
fn values_are_those_of_the_newest_row() {
    let mut tables = tables();
    put(&mut tables, 0, &[("a", 1), ("b", 2)]);
    put(&mut tables, 0, &[("b", 3)]);
    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["new", "b", "a"]))];
    let groups = tables.intern(0, &keys, 3).unwrap();
    let (present, values) = tables.values(0, &groups).unwrap();
    assert_eq!(present, vec![1, 2]);
    assert_eq!(values[0].as_primitive::<Int64Type>().values(), &[3, 1]);
}

#[test]
fn rows_expire_by_the_newest_row_of_their_key() {
    let key = Arc::new(Field::new("k", DataType::Utf8, true));
    let expiry = Arc::new(Field::new("expires", DataType::Int64, true));
    let mut tables = KeyedTables::new(&[key], &[expiry]).expiring_by(0);
    put(&mut tables, 0, &[("a", 1_500_000), ("b", 1_900_000), ("c", 9_000_000)]);
    put(&mut tables, 0, &[("a", 5_000_000)]);
    assert!(tables.expired(0, 1_400_000).is_empty());
    let b = tables.expired(0, 1_900_000);
    assert_eq!(tables.rows_of(0, &b).unwrap().0[0].as_string::<i32>().value(0), "b");
    tables.remove(0, &b).unwrap();
    assert_eq!(tables.first_expiry(0), Some(5_000_000), "a, by its newer row");
    assert_eq!(tables.expired(0, 8_000_000).len(), 1);
    assert!(tables.expired(0, 8_000_000).is_empty(), "what was taken is not found again");
    let names = |t: &KeyedTables| rows(t).into_iter().map(|r| r.1).collect::<Vec<_>>();
    assert_eq!(names(&tables), ["a", "c"]);
    put(&mut tables, 0, &[("b", 3)]);
    assert_eq!(names(&tables), ["a", "b", "c"], "a key may come back");
}

#[test]
fn dead_keys_do_not_pile_up() {
    let mut tables = tables();
    for batch in 0..40i64 {
        let keys: Vec<String> = (0..1000).map(|i| format!("{batch}-{i}")).collect();
        put(&mut tables, 0, &keys.iter().map(|k| (k.as_str(), batch)).collect::<Vec<_>>());
        let gone: Vec<usize> = tables.groups(0).into_iter().take(990).collect();
        tables.remove(0, &gone).unwrap();
        tables.take_changes().unwrap();
    }
    assert_eq!(tables.row_count(), 400);
    assert!(tables.tables[&0].rows.len() < 6000, "{}", tables.tables[&0].rows.len());
}

#[test]
fn keys_that_never_got_a_row_are_forgotten() {
    let mut tables = tables();
    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values((0..5000).map(|i| i.to_string())))];
    tables.intern(0, &keys, 5000).unwrap();
    assert!(tables.take_changes().unwrap().is_none());
    assert!(tables.table_ids().is_empty());
}

#[test]
fn chunks_stay_few_where_rows_are_only_added() {
    let mut tables = tables();
    for batch in 0..500i64 {
        put(&mut tables, 0, &[(&format!("a{batch}"), batch), (&format!("b{batch}"), -batch)]);
        if batch % 100 == 0 {
            put(&mut tables, 0, &[("a0", batch + 1)]);
        }
    }
    assert!(tables.tables[&0].chunks.len() < 32, "{}", tables.tables[&0].chunks.len());
    let all = rows(&tables);
    assert_eq!(all.len(), 1000);
    assert!(all.contains(&(0, "a0".to_string(), 401)) && all.contains(&(0, "b499".to_string(), -499)));
}
