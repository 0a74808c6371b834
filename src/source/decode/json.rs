//! Reads JSON, one object a line, straight into columns: no tree in between.
//!
//! Types are as strict as Spark's: a number in quotes is no number, 1.0 is no INT; any value can be a STRING. Guards
//! that a line is either a row, or leaves nothing in the columns ([`super::malformed::Rows`] cuts back what a line
//! that breaks off had begun).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::LineDecoder;
use super::column::{Cells, Column};
use super::json_text::JsonText;
use super::malformed::{Rows, Verdict};

/// Decodes lines of JSON.
pub(in crate::source) struct JsonDecoder {
    /// The names of the decoded columns, in their order.
    names: Vec<String>,
    /// Whether reasons are wanted: putting them into words costs more than the row.
    explain: bool,
}

impl JsonDecoder {
    /// Makes a decoder of the columns `names`.
    pub(in crate::source) fn new(names: Vec<String>, explain: bool) -> Self {
        Self { names, explain }
    }
}

impl LineDecoder for JsonDecoder {
    fn decode(&mut self, line: &str, rows: &mut Rows) -> Verdict {
        if self.names.is_empty() && !self.explain {
            return Verdict::Row;
        }
        let length = rows.len();
        let mut misfits = Misfits { explain: self.explain, any: false, reason: None };
        let mut json = serde_json::Deserializer::from_str(line);
        let row = Row { names: &self.names, columns: &mut rows.columns, length, misfits: &mut misfits };
        match json.deserialize_map(row).and_then(|()| json.end()) {
            Ok(()) if misfits.any => Verdict::Misfit(misfits.reason),
            Ok(()) => Verdict::Row,
            Err(e) => Verdict::Broken(format!("not a JSON object: {e}")),
        }
    }
}

/// The values of a line that did not fit their columns.
struct Misfits {
    explain: bool,
    any: bool,
    reason: Option<String>,
}

impl Misfits {
    fn note(&mut self, column: &Column, found: impl FnOnce() -> String) {
        self.any = true;
        if self.explain && self.reason.is_none() {
            let declared = column.data_type();
            self.reason = Some(format!("field '{}' is declared {declared} but holds {}", column.name, found()));
        }
    }
}

/// Reads the object of a line into the columns.
struct Row<'a> {
    names: &'a [String],
    columns: &'a mut [Column],
    length: usize,
    misfits: &'a mut Misfits,
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut expected = 0;
        while let Some(index) = map.next_key_seed(Key { names: self.names, expected })? {
            let Some(index) = index else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let column = &mut self.columns[index];
            // the last of two fields of one name wins
            if column.len() > self.length {
                column.truncate(self.length);
            }
            map.next_value_seed(Slot { column, misfits: &mut *self.misfits })?;
            expected = index + 1;
        }
        Ok(())
    }
}

/// Finds the column that a field's name means. Fields mostly come in the order of the columns.
struct Key<'a> {
    names: &'a [String],
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        if self.names.get(self.expected).is_some_and(|expected| expected == name) {
            return Ok(Some(self.expected));
        }
        Ok(self.names.iter().position(|other| other == name))
    }
}

/// Reads one value into a column.
struct Slot<'a> {
    column: &'a mut Column,
    misfits: &'a mut Misfits,
}

impl Slot<'_> {
    fn settle<E>(self, fits: bool, found: impl FnOnce() -> String) -> Result<(), E> {
        if !fits {
            self.misfits.note(self.column, found);
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.column.push_null();
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        let fits = self.column.push_bool(value);
        self.settle(fits, || value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        let fits = self.column.push_integer(value.into());
        self.settle(fits, || value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        let fits = self.column.push_integer(value.into());
        self.settle(fits, || value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        let fits = self.column.push_float(value);
        self.settle(fits, || value.to_string())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        let fits = self.column.push_json_text(value);
        self.settle(fits, || format!("the text {value:?}"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        match &mut self.column.cells {
            Cells::List { child, .. } => {
                while seq.next_element_seed(Slot { column: child, misfits: &mut *self.misfits })?.is_some() {}
                self.column.end_nested();
                Ok(())
            }
            Cells::Text { .. } => {
                let mut text = String::new();
                JsonText(&mut text).visit_seq(seq)?;
                self.column.push_json_text(&text);
                Ok(())
            }
            _ => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                let fits = self.column.push_misfit();
                self.settle(fits, || "an array".to_string())
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let row = self.column.len();
        match &mut self.column.cells {
            Cells::Struct { children, .. } => {
                while let Some(index) = map.next_key_seed(Child(&children[..]))? {
                    let Some(child) = index.and_then(|index| children.get_mut(index)) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if child.len() > row {
                        child.truncate(row);
                    }
                    map.next_value_seed(Slot { column: child, misfits: &mut *self.misfits })?;
                }
                self.column.end_nested();
                Ok(())
            }
            Cells::Map { keys, values, .. } => {
                while let Some(key) = map.next_key::<String>()? {
                    keys.push_json_text(&key);
                    map.next_value_seed(Slot { column: values, misfits: &mut *self.misfits })?;
                }
                self.column.end_nested();
                Ok(())
            }
            Cells::Text { .. } => {
                let mut text = String::new();
                JsonText(&mut text).visit_map(map)?;
                self.column.push_json_text(&text);
                Ok(())
            }
            _ => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                let fits = self.column.push_misfit();
                self.settle(fits, || "an object".to_string())
            }
        }
    }
}

/// Finds the field of a struct that a name means.
struct Child<'a>(&'a [Column]);

impl<'de> DeserializeSeed<'de> for Child<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Child<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|child| child.name == name))
    }
}
