//! One batch's groups of one partition, aggregated before they travel: a table a pane, or a bucket of time.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, UInt64Array, new_null_array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::Result as PlanResult;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::intake::Arguments;
use super::{Accumulators, AggregateSpec, grouping_id};

/// The tables.
pub(super) struct FreshTables {
    spec: Arc<AggregateSpec>,
    tables: BTreeMap<i64, FreshTable>,
}

/// The groups of one table and their states.
pub(super) struct FreshGroups {
    pub(super) keys: Vec<ArrayRef>,
    pub(super) states: Vec<ArrayRef>,
    pub(super) rows: usize,
}

struct FreshTable {
    index: Option<Box<dyn GroupValues>>,
    accumulators: Accumulators,
    groups: Vec<usize>,
}

impl FreshTables {
    pub(super) fn new(spec: Arc<AggregateSpec>) -> Self {
        Self { spec, tables: BTreeMap::new() }
    }

    /// Adds rows of one table.
    pub(super) fn update(
        &mut self,
        table: i64,
        keys: &[ArrayRef],
        arguments: &Arguments,
        rows: usize,
    ) -> PlanResult<()> {
        let spec = Arc::clone(&self.spec);
        let table = match self.tables.entry(table) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(FreshTable::new(&spec)?),
        };
        let Some((sets, id_field)) = &spec.grouping_sets else {
            return table.update(keys, arguments, rows);
        };
        for set in sets {
            let mut keys: Vec<ArrayRef> = spec
                .key_indexes()
                .zip(keys)
                .map(|(i, k)| if set[i] { new_null_array(k.data_type(), rows) } else { Arc::clone(k) })
                .collect();
            let id: ArrayRef = Arc::new(UInt64Array::from_value(grouping_id(set), rows));
            keys.push(cast(&id, id_field.data_type())?);
            table.update(&keys, arguments, rows)?;
        }
        Ok(())
    }

    pub(super) fn group_count(&self) -> usize {
        self.tables.values().map(|table| table.index.as_ref().map_or(1, |index| index.len())).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let of = |t: &FreshTable| t.index.as_ref().map_or(0, |index| index.size()) + t.accumulators.size();
        self.tables.values().map(of).sum()
    }

    /// Takes the groups of every table, in the order of the tables.
    pub(super) fn take(&mut self) -> PlanResult<Vec<(i64, FreshGroups)>> {
        let tables = std::mem::take(&mut self.tables);
        tables.into_iter().map(|(id, table)| Ok((id, table.finish()?))).collect()
    }
}

impl FreshTable {
    fn new(spec: &AggregateSpec) -> PlanResult<Self> {
        let schema = Arc::new(Schema::new(spec.key_fields()));
        let index =
            if schema.fields().is_empty() { None } else { Some(new_group_values(schema, &GroupOrdering::None)?) };
        Ok(Self { index, accumulators: spec.accumulators()?, groups: Vec::new() })
    }

    fn update(&mut self, keys: &[ArrayRef], arguments: &Arguments, rows: usize) -> PlanResult<()> {
        let total = match &mut self.index {
            Some(index) => {
                index.intern(keys, &mut self.groups)?;
                index.len()
            }
            None => {
                self.groups.clear();
                self.groups.resize(rows, 0);
                1
            }
        };
        self.accumulators.update(arguments, &self.groups, total)
    }

    fn finish(mut self) -> PlanResult<FreshGroups> {
        let (keys, rows) = match &mut self.index {
            Some(index) => {
                let rows = index.len();
                (index.emit(EmitTo::All)?, rows)
            }
            None => (Vec::new(), 1),
        };
        Ok(FreshGroups { keys, states: self.accumulators.state()?, rows })
    }
}
