//! What the files of a table have in common: format, columns, partition columns.
//!
//! The token of every batch says it, so that a query that was changed does not put files of another shape beside those
//! that are there: readers take the columns of a table from any of its files.

use datafusion::arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use super::format::Settings;

/// The shape of a table's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    format: String,
    /// Name and type of each.
    columns: Vec<String>,
    #[serde(default)]
    partitioned_by: Vec<String>,
}

impl Shape {
    /// Returns what a sink for rows of `schema` writes.
    pub(super) fn of(settings: &Settings, schema: &Schema) -> Self {
        let column = |field: &std::sync::Arc<datafusion::arrow::datatypes::Field>| {
            format!("{} {}", field.name(), field.data_type())
        };
        Self {
            format: settings.format.extension().to_string(),
            columns: schema.fields().iter().map(column).collect(),
            partitioned_by: settings.partition_by.clone(),
        }
    }

    /// Says in words how `now` differs, or nothing where it does not.
    pub(super) fn change_to(&self, now: &Self) -> Option<String> {
        let list = |names: &[String]| if names.is_empty() { "nothing".to_string() } else { names.join(", ") };
        if self.format != now.format {
            return Some(format!("its format changed from {} to {}", self.format, now.format));
        }
        if self.columns != now.columns {
            return Some(format!("its columns changed from ({}) to ({})", list(&self.columns), list(&now.columns)));
        }
        (self.partitioned_by != now.partitioned_by).then(|| {
            let (before, now) = (list(&self.partitioned_by), list(&now.partitioned_by));
            format!("its partition columns changed from ({before}) to ({now})")
        })
    }
}
