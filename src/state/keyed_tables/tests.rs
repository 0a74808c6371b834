//! Tests of `keyed_tables`.

use datafusion::arrow::array::{AsArray, StringArray};
use datafusion::arrow::datatypes::Int64Type;
use proptest::collection::vec;
use proptest::prelude::*;

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

/// The sums that are kept are what counting again gives.
fn assert_counted(tables: &KeyedTables) {
    for table in tables.tables.values() {
        assert_eq!(table.live, table.rows.iter().filter(|place| **place != NONE).count());
        assert_eq!(table.bytes, table.chunks.iter().map(Chunk::bytes).sum::<usize>());
        assert_eq!(table.chunk_rows, table.owners.iter().map(Vec::len).sum::<usize>());
        assert_eq!(table.noted, table.expiring.values().map(Vec::len).sum::<usize>());
        assert!(table.owners.iter().all(|chunk| !chunk.is_empty()), "an empty chunk");
    }
    assert_eq!(tables.row_count(), tables.tables.values().map(|t| t.live).sum::<usize>());
    assert_eq!(tables.memory_bytes(), tables.tables.values().map(Table::memory_bytes).sum::<usize>());
}

/// What one step of [`sums_are_kept`] does.
#[derive(Debug, Clone)]
enum Step {
    Put(i64, Vec<(u8, i64)>),
    Remove(i64, usize),
    Expire(i64, i64),
    FirstExpiry(i64),
    Drop(i64),
    Take,
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    let table = 0..3i64;
    prop_oneof![
        6 => (table.clone(), vec((any::<u8>(), 0..20_000_000i64), 1..60)).prop_map(|(t, rows)| Step::Put(t, rows)),
        1 => (table.clone(), 0..40usize).prop_map(|(t, n)| Step::Remove(t, n)),
        1 => (table.clone(), 0..20_000_000i64).prop_map(|(t, us)| Step::Expire(t, us)),
        1 => table.clone().prop_map(Step::FirstExpiry),
        1 => table.prop_map(Step::Drop),
        2 => Just(Step::Take),
        1 => Just(Step::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is done to tables, their sums are what counting again gives, and their rows those of a plain map.
    #[test]
    fn sums_are_kept(steps in vec(step(), 1..60)) {
        let fresh = || {
            let field = |name: &str, data_type: DataType| Arc::new(Field::new(name, data_type, true));
            KeyedTables::new(&[field("k", DataType::Utf8)], &[field("expires", DataType::Int64)]).expiring_by(0)
        };
        let (mut tables, mut model) = (fresh(), BTreeMap::<(i64, String), i64>::new());
        for step in steps {
            match step {
                Step::Put(table, given) => {
                    let unique: BTreeMap<String, i64> = given.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
                    put(&mut tables, table, &unique.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>());
                    model.extend(unique.into_iter().map(|(k, v)| ((table, k), v)));
                }
                Step::Remove(table, count) => {
                    let groups: Vec<usize> = tables.groups(table).into_iter().take(count).collect();
                    remove(&mut tables, &mut model, table, &groups);
                }
                Step::Expire(table, us) => {
                    let groups = tables.expired(table, us);
                    let expect = model.iter().filter(|((t, _), v)| *t == table && **v <= us).count();
                    prop_assert_eq!(groups.len(), expect);
                    remove(&mut tables, &mut model, table, &groups);
                }
                Step::FirstExpiry(table) => {
                    let first = model.iter().filter(|((t, _), _)| *t == table).map(|(_, v)| *v).min();
                    prop_assert_eq!(tables.first_expiry(table), first);
                }
                Step::Drop(table) => {
                    tables.drop_table(table);
                    model.retain(|(t, _), _| *t != table);
                }
                Step::Take => drop(tables.take_changes().unwrap()),
                Step::Reload => {
                    let mut loaded = fresh();
                    tables.freeze().each_piece(&mut |piece| loaded.apply(&piece, 0, &|_, n| Ok(vec![true; n]))).unwrap();
                    tables = loaded;
                }
            }
            assert_counted(&tables);
        }
        let expect: Vec<_> = model.into_iter().map(|((table, key), value)| (table, key, value)).collect();
        prop_assert_eq!(rows(&tables), expect);
    }
}

fn remove(tables: &mut KeyedTables, model: &mut BTreeMap<(i64, String), i64>, table: i64, groups: &[usize]) {
    if groups.is_empty() {
        return;
    }
    let (keys, _) = tables.rows_of(table, groups).unwrap();
    for key in keys[0].as_string::<i32>().iter().flatten() {
        model.remove(&(table, key.to_string())).unwrap();
    }
    tables.remove(table, groups).unwrap();
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
