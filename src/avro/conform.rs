//! Makes columns of one type columns of another, and tells which values are lost on the way.
//!
//! Both ways: what arrow-avro decodes becomes what is declared, and what a query computes becomes what a schema asks
//! for. Records are matched by the names of their fields. Guards that the result has exactly the type that was asked
//! for, and that a value does not vanish untold: one that does not fit is NULL, and named as a [`Misfit`] of its row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_avro::schema::AVRO_ENUM_SYMBOLS_METADATA_KEY;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, Int32Array, Int64Array, ListArray, MapArray, StringArray,
    StructArray, new_null_array,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::{can_cast_types, cast, filter};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Fields, Int32Type, Int64Type, TimeUnit};
use datafusion::arrow::util::display::array_value_to_string;

use super::union::conform_union;
use crate::error::{Error, Result};

/// How many characters of a value that does not fit are shown.
const SHOWN: usize = 60;

/// Why a value is lost.
#[derive(Debug, Clone)]
pub(super) struct Misfit {
    /// Where in the value, as names with dots between them.
    path: String,
    what: String,
}

impl Misfit {
    fn new(what: impl Into<String>) -> Self {
        Self { path: String::new(), what: what.into() }
    }

    /// Returns the same loss as one of the part `name` of a value.
    pub(super) fn within(mut self, name: &str) -> Self {
        self.path = if self.path.is_empty() { name.to_string() } else { format!("{name}.{}", self.path) };
        self
    }

    /// Tells the loss as one of a column.
    pub(super) fn of_column(self, name: &str) -> String {
        let Self { path, what } = self.within(name);
        format!("column '{path}': {what}")
    }
}

/// Losses by row, one a row.
pub(super) type Misfits = BTreeMap<usize, Misfit>;

/// A column of the type that was asked for.
#[derive(Debug)]
pub(super) struct Conformed {
    pub(super) array: ArrayRef,
    pub(super) misfits: Misfits,
}

impl Conformed {
    /// Nothing was lost.
    pub(super) fn whole(array: ArrayRef) -> Self {
        Self { array, misfits: Misfits::new() }
    }

    /// What is NULL in `array` and was not in `source` was lost.
    fn compared(source: &ArrayRef, array: ArrayRef) -> Self {
        let mut misfits = Misfits::new();
        if array.null_count() > source.null_count() {
            for at in (0..array.len()).filter(|at| array.is_null(*at) && source.is_valid(*at)) {
                let value: String = array_value_to_string(source, at).unwrap_or_default().chars().take(SHOWN).collect();
                misfits.insert(at, Misfit::new(format!("'{value}' is no {}", array.data_type())));
            }
        }
        Self { array, misfits }
    }

    /// Where `field` wants a value, NULL is a loss too.
    fn require(&mut self, field: &Field, counts: impl Fn(usize) -> bool) {
        if field.is_nullable() || self.array.null_count() == 0 {
            return;
        }
        for at in (0..self.array.len()).filter(|at| self.array.is_null(*at) && counts(*at)) {
            self.misfits.entry(at).or_insert_with(|| Misfit::new("it is NULL, which its type does not allow"));
        }
    }
}

/// Returns the place of the field called `name`: exactly, else without case.
pub(super) fn position(fields: &Fields, name: &str) -> Option<usize> {
    let exactly = fields.iter().position(|field| field.name() == name);
    exactly.or_else(|| fields.iter().position(|field| field.name().eq_ignore_ascii_case(name)))
}

/// Makes `array` a column of `field`'s type. That `field` itself may not be NULL is for the caller to see to.
///
/// # Errors
/// `Unsupported` where values of the one type cannot be values of the other, whatever they are; also of an empty
/// column.
pub(super) fn conform(array: &ArrayRef, field: &Field) -> Result<Conformed> {
    let target = field.data_type();
    match (array.data_type(), target) {
        (DataType::Null, _) => Ok(Conformed::whole(new_null_array(target, array.len()))),
        (DataType::Union(_, _), _) => conform_union(array.as_union(), field),
        (_, DataType::Dictionary(_, _)) => conform_enum(array, field),
        (DataType::Dictionary(_, values), _) => conform(&cast(array, values)?, field),
        (DataType::LargeList(element) | DataType::FixedSizeList(element, _), DataType::List(_)) => {
            conform(&cast(array, &DataType::List(Arc::clone(element)))?, field)
        }
        (DataType::List(_), DataType::List(element)) => conform_list(array.as_list(), element),
        (DataType::Map(_, _), DataType::Map(entries, ordered)) => conform_map(array.as_map(), entries, *ordered),
        (DataType::Struct(_), DataType::Struct(fields)) => conform_struct(array.as_struct(), fields),
        (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) => conform_timestamp(array, *from, *to, target),
        _ => conform_plain(array, target),
    }
}

fn conform_struct(array: &StructArray, fields: &Fields) -> Result<Conformed> {
    let mut columns = Vec::with_capacity(fields.len());
    let mut misfits = Misfits::new();
    let mut lost = BTreeSet::new();
    for field in fields {
        let mut child = match position(array.fields(), field.name()) {
            Some(at) => conform(array.column(at), field)?,
            None => Conformed::whole(new_null_array(field.data_type(), array.len())),
        };
        child.require(field, |row| array.is_valid(row));
        for (row, misfit) in child.misfits {
            // below a NULL there are only values that stand for nothing
            if array.is_valid(row) {
                misfits.entry(row).or_insert_with(|| misfit.within(field.name()));
                if !field.is_nullable() && child.array.is_null(row) {
                    lost.insert(row);
                }
            }
        }
        columns.push(child.array);
    }
    let nulls = without(array.nulls(), array.len(), &lost);
    let array = StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len())?;
    Ok(Conformed { array: Arc::new(array), misfits })
}

fn conform_list(array: &ListArray, element: &FieldRef) -> Result<Conformed> {
    let mut lists = Lists::of(array.offsets(), array.nulls(), &[("element", array.values(), element)])?;
    let values = lists.children.remove(0);
    let array = ListArray::try_new(Arc::clone(element), lists.offsets, values, lists.nulls)?;
    Ok(Conformed { array: Arc::new(array), misfits: lists.misfits })
}

fn conform_map(array: &MapArray, entries: &FieldRef, ordered: bool) -> Result<Conformed> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err(Error::internal("the entries of a map are no structs"));
    };
    let [key, value] = &pair[..] else {
        return Err(Error::internal("the entries of a map are no pairs"));
    };
    let children = [("key", array.keys(), key), ("value", array.values(), value)];
    let lists = Lists::of(array.offsets(), array.nulls(), &children)?;
    let flat = StructArray::try_new(pair.clone(), lists.children, None)?;
    let array = MapArray::try_new(Arc::clone(entries), lists.offsets, flat, lists.nulls, ordered)?;
    Ok(Conformed { array: Arc::new(array), misfits: lists.misfits })
}

/// The parts of a column of lists or of maps whose elements have been conformed.
struct Lists {
    offsets: OffsetBuffer<i32>,
    nulls: Option<NullBuffer>,
    children: Vec<ArrayRef>,
    misfits: Misfits,
}

impl Lists {
    /// Conforms `children`, each with its name and the field it becomes. A list that would have NULL where none is
    /// allowed becomes NULL as a whole.
    fn of(
        offsets: &OffsetBuffer<i32>,
        nulls: Option<&NullBuffer>,
        children: &[(&str, &ArrayRef, &FieldRef)],
    ) -> Result<Self> {
        let rows = offsets.len() - 1;
        let (first, last) = (offsets[0] as usize, offsets[rows] as usize);
        let row_of = |at: usize| offsets.partition_point(|offset| *offset as usize <= first + at) - 1;
        let mut misfits = Misfits::new();
        let mut lost = BTreeSet::new();
        let mut arrays = Vec::with_capacity(children.len());
        for (name, child, field) in children {
            let mut child = conform(&child.slice(first, last - first), field)?;
            child.require(field, |_| true);
            for (at, misfit) in child.misfits {
                let row = row_of(at);
                if !field.is_nullable() && child.array.is_null(at) {
                    lost.insert(row);
                }
                if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                    misfits.entry(row).or_insert_with(|| misfit.within(name));
                }
            }
            arrays.push(child.array);
        }
        let mut lengths: Vec<usize> = offsets.lengths().collect();
        if !lost.is_empty() {
            let kept: Vec<bool> = (0..last - first).map(|at| !lost.contains(&row_of(at))).collect();
            let kept = BooleanArray::from(kept);
            arrays = arrays.iter().map(|array| filter(array, &kept)).collect::<std::result::Result<_, _>>()?;
            lost.iter().for_each(|row| lengths[*row] = 0);
        }
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(Self { offsets, nulls: without(nulls, rows, &lost), children: arrays, misfits })
    }
}

/// Returns which rows are not NULL once `lost` are.
fn without(nulls: Option<&NullBuffer>, rows: usize, lost: &BTreeSet<usize>) -> Option<NullBuffer> {
    if lost.is_empty() {
        return nulls.cloned();
    }
    let is_valid = |row| nulls.is_none_or(|nulls| nulls.is_valid(row)) && !lost.contains(&row);
    Some((0..rows).map(is_valid).collect::<Vec<bool>>().into())
}

/// Takes the moment as it is, whichever zone either type speaks of: both count from 1970-01-01 in UTC.
fn conform_timestamp(array: &ArrayRef, from: TimeUnit, to: TimeUnit, target: &DataType) -> Result<Conformed> {
    let (from, to) = (per_second(from), per_second(to));
    let counted = cast(array, &DataType::Int64)?;
    let counted = counted.as_primitive::<Int64Type>();
    let counted: Int64Array = if to >= from {
        counted.unary_opt(|value| value.checked_mul(to / from))
    } else {
        counted.unary(|value| value.div_euclid(from / to))
    };
    Ok(Conformed::compared(array, cast(&counted, target)?))
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Makes text the symbols of an enum; arrow-avro wants all of them as the dictionary, in the order of the schema.
fn conform_enum(array: &ArrayRef, field: &Field) -> Result<Conformed> {
    let is_symbol = match array.data_type() {
        DataType::Dictionary(_, values) => is_text(values),
        other => is_text(other),
    };
    let symbols = field.metadata().get(AVRO_ENUM_SYMBOLS_METADATA_KEY);
    let (true, Some(symbols)) = (is_symbol, symbols) else {
        return Err(unlike(array.data_type(), field.data_type()));
    };
    let symbols: Vec<String> = serde_json::from_str(symbols)?;
    let text = cast(array, &DataType::Utf8)?;
    let place = |text: &str| symbols.iter().position(|symbol| symbol == text).and_then(|at| i32::try_from(at).ok());
    let keys: Int32Array = text.as_string::<i32>().iter().map(|text| text.and_then(place)).collect();
    let symbols: StringArray = symbols.iter().map(Some).collect();
    let array = DictionaryArray::<Int32Type>::try_new(keys, Arc::new(symbols))?;
    Ok(Conformed::compared(&text, Arc::new(array)))
}

fn conform_plain(array: &ArrayRef, target: &DataType) -> Result<Conformed> {
    let given = array.data_type();
    if given.is_numeric() && matches!(target, DataType::Timestamp(_, _)) {
        return Err(Error::unsupported(format!(
            "{given} does not say which unit a timestamp is counted in; declare it as the number it is, and convert it \
             in the query (timestamp_millis and its like)"
        )));
    }
    let source = match given {
        DataType::Decimal128(precision, scale) => {
            // arrow-avro takes any digits, however many the schema allows
            let decimals = array.as_primitive::<Decimal128Type>().null_if_overflow_precision(*precision);
            Arc::new(decimals.with_precision_and_scale(*precision, *scale)?) as ArrayRef
        }
        DataType::FixedSizeBinary(_) if is_text(target) => cast(array, &DataType::Binary)?,
        _ => Arc::clone(array),
    };
    if source.data_type() == target {
        return Ok(Conformed::compared(array, source));
    }
    // arrow would make a list of one value, and the bytes of a number as they are in memory
    let is_reinterpreted = given.is_integer() && matches!(target, DataType::Binary | DataType::LargeBinary);
    if given.is_nested()
        || target.is_nested()
        || is_reinterpreted
        || target.is_null()
        || !can_cast_types(source.data_type(), target)
    {
        return Err(unlike(given, target));
    }
    Ok(Conformed::compared(array, cast(&source, target)?))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn unlike(given: &DataType, target: &DataType) -> Error {
    Error::unsupported(format!("{given} cannot become {target}"))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        BinaryArray, Decimal128Array, FixedSizeBinaryArray, ListBuilder, StringBuilder, TimestampMicrosecondArray,
        TimestampMillisecondArray, TimestampNanosecondArray,
    };

    use super::*;

    fn field(data_type: DataType) -> Field {
        Field::new("c", data_type, true)
    }

    fn shown(conformed: &Conformed) -> Vec<String> {
        let value = |at| match conformed.array.is_null(at) {
            true => "NULL".to_string(),
            false => array_value_to_string(&conformed.array, at).unwrap(),
        };
        (0..conformed.array.len()).map(value).collect()
    }

    fn told(conformed: Conformed) -> Vec<(usize, String)> {
        conformed.misfits.into_iter().map(|(row, misfit)| (row, misfit.of_column("c"))).collect()
    }

    fn micros() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, None)
    }

    #[test]
    fn moments_stay_whatever_zone_and_unit_they_are_told_in() {
        let millis =
            TimestampMillisecondArray::from(vec![Some(1_500), None, Some(-1), Some(i64::MAX)]).with_timezone("+00:00");
        let conformed = conform(&(Arc::new(millis) as ArrayRef), &field(micros())).unwrap();
        let expected = TimestampMicrosecondArray::from(vec![Some(1_500_000), None, Some(-1_000), None]);
        assert_eq!(conformed.array.as_ref(), &expected as &dyn Array);
        assert_eq!(conformed.misfits.keys().copied().collect::<Vec<_>>(), [3]);

        let nanos = TimestampNanosecondArray::from(vec![1_999, -1]);
        let conformed = conform(&(Arc::new(nanos) as ArrayRef), &field(micros())).unwrap();
        let expected = TimestampMicrosecondArray::from(vec![1, -1]);
        assert_eq!(conformed.array.as_ref(), &expected as &dyn Array);

        let plain = TimestampMicrosecondArray::from(vec![7]);
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        let conformed = conform(&(Arc::new(plain) as ArrayRef), &field(zoned.clone())).unwrap();
        assert_eq!(conformed.array.data_type(), &zoned);
    }

    #[test]
    fn what_does_not_fit_is_null_and_told() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("12"), Some("x"), None]));
        let conformed = conform(&texts, &field(DataType::Int32)).unwrap();
        assert_eq!(shown(&conformed), ["12", "NULL", "NULL"]);
        assert_eq!(told(conformed), [(1, "column 'c': 'x' is no Int32".to_string())]);

        let longs: ArrayRef = Arc::new(Int64Array::from(vec![7, 1 << 40]));
        assert_eq!(shown(&conform(&longs, &field(DataType::Int32)).unwrap()), ["7", "NULL"]);

        let digits = Decimal128Array::from(vec![12_345, 1_234_567]).with_precision_and_scale(5, 2).unwrap();
        let conformed = conform(&(Arc::new(digits) as ArrayRef), &field(DataType::Decimal128(5, 2))).unwrap();
        assert_eq!(shown(&conformed), ["123.45", "NULL"]);
        assert_eq!(conformed.misfits.len(), 1);

        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![b"ab".as_slice(), &[0xff]]));
        assert_eq!(shown(&conform(&bytes, &field(DataType::Utf8)).unwrap()), ["ab", "NULL"]);
        let fixed = FixedSizeBinaryArray::try_from_iter([b"ab", b"cd"].into_iter()).unwrap();
        assert_eq!(shown(&conform(&(Arc::new(fixed) as ArrayRef), &field(DataType::Utf8)).unwrap()), ["ab", "cd"]);
    }

    #[test]
    fn types_that_are_unlike_are_refused_even_without_values() {
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        let table = [
            (DataType::Int64, micros(), "which unit"),
            (DataType::Int64, DataType::Binary, "cannot become"),
            (DataType::Utf8, list.clone(), "cannot become"),
            (list, DataType::Utf8, "cannot become"),
            (DataType::Struct(Fields::empty()), DataType::Utf8, "cannot become"),
        ];
        for (given, target, expected) in table {
            let error = conform(&datafusion::arrow::array::new_empty_array(&given), &field(target)).unwrap_err();
            assert!(error.message().contains(expected), "{given}: {error}");
        }
    }

    #[test]
    fn a_list_without_an_element_it_must_have_is_null() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for list in [vec![Some("1"), Some("2")], vec![], vec![Some("3"), Some("x")], vec![None]] {
            list.into_iter().for_each(|text| lists.values().append_option(text));
            lists.append(true);
        }
        lists.append(false);
        let lists: ArrayRef = Arc::new(lists.finish());
        let of = |nullable| DataType::List(Arc::new(Field::new_list_field(DataType::Int32, nullable)));

        let conformed = conform(&lists, &field(of(true))).unwrap();
        assert_eq!(shown(&conformed), ["[1, 2]", "[]", "[3, ]", "[]", "NULL"]);
        assert_eq!(told(conformed), [(2, "column 'c.element': 'x' is no Int32".to_string())]);

        let conformed = conform(&lists.slice(1, 4), &field(of(false))).unwrap();
        assert_eq!(shown(&conformed), ["[]", "NULL", "NULL", "NULL"]);
        let rows: Vec<usize> = told(conformed).into_iter().map(|(row, _)| row).collect();
        assert_eq!(rows, [1, 2]);
    }

    #[test]
    fn what_stands_below_a_null_is_no_misfit() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["", "1", "y"]));
        let fields: Fields = vec![Field::new("A", DataType::Utf8, false)].into();
        let nulls = NullBuffer::from(vec![false, true, true]);
        let structs: ArrayRef = Arc::new(StructArray::try_new(fields, vec![texts], Some(nulls)).unwrap());
        let target: Fields =
            vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Int32, true)].into();
        let conformed = conform(&structs, &field(DataType::Struct(target))).unwrap();
        assert_eq!(shown(&conformed), ["NULL", "{a: 1, b: }", "{a: , b: }"]);
        assert_eq!(told(conformed), [(2, "column 'c.a': 'y' is no Int32".to_string())]);
    }
}
