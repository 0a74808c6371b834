//! Decodes datums of one schema, and finds the bad ones among them.
//!
//! arrow-avro's decoder is left with half a row by a datum that does not decode, and finds text that is not UTF-8 or a
//! symbol that an enum does not have only when it builds the columns of all rows. So a decoder that has failed is
//! thrown away: the good datums before the bad one are decoded again, and those behind it go on. Guards that a bad
//! datum costs no other its row, and that a good one is decoded twice at most (thrice, where a batch is bad in both
//! ways).

use std::collections::BTreeMap;

use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::schema::RecordSchema;
use crate::error::{Error, Result};

/// What stands before each datum, since the decoder wants a header: an id that no datum is likely to end with.
const ID: u64 = 0x9d4c_7a31_e85b_02f6;

/// The header: a zero byte and [`ID`].
pub(super) const HEADER: [u8; 9] = [0, 0x9d, 0x4c, 0x7a, 0x31, 0xe8, 0x5b, 0x02, 0xf6];

/// One value without its header, and the row it is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datum<'a> {
    pub(super) row: usize,
    pub(super) bytes: &'a [u8],
}

/// Rows that were decoded together.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) rows: Vec<usize>,
    pub(super) batch: RecordBatch,
}

/// A decoder of datums of one schema.
#[derive(Debug)]
pub(super) struct DatumDecoder {
    store: SchemaStore,
    decoder: Decoder,
    segment_rows: usize,
    /// The header, and behind it the datum that is being decoded.
    frame: Vec<u8>,
}

impl DatumDecoder {
    /// Makes a decoder that gives segments of at most `segment_rows`, or says why there can be none.
    pub(super) fn new(schema: &RecordSchema, segment_rows: usize) -> Result<Self, String> {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id64);
        let schema = AvroSchema::new(schema.json().to_string());
        store.set(Fingerprint::Id64(ID), schema).map_err(|error| error.to_string())?;
        let decoder = build(&store, segment_rows)?;
        Ok(Self { store, decoder, segment_rows, frame: HEADER.to_vec() })
    }

    /// Returns the columns that datums decode to.
    pub(super) fn schema(&self) -> SchemaRef {
        self.decoder.schema()
    }

    /// Decodes datums; what is bad is told to `bad`, with its reason.
    ///
    /// # Errors
    /// `Internal` only.
    pub(super) fn decode(&mut self, datums: &[Datum<'_>], bad: &mut BTreeMap<usize, String>) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        let mut rest = datums;
        while !rest.is_empty() {
            let segment = &rest[..rest.len().min(self.segment_rows)];
            match self.push_all(segment) {
                Ok(()) => {
                    self.finish(segment, &mut segments, bad)?;
                    rest = &rest[segment.len()..];
                }
                Err((at, reason)) => {
                    self.begin_anew()?;
                    bad.insert(rest[at].row, reason);
                    let good = &rest[..at];
                    match self.push_all(good) {
                        Ok(()) => self.finish(good, &mut segments, bad)?,
                        Err(_) => self.one_by_one(good, &mut segments, bad)?,
                    }
                    rest = &rest[at + 1..];
                }
            }
        }
        Ok(segments)
    }

    /// Takes datums up to the first bad one, and says which that is, and why.
    fn push_all(&mut self, datums: &[Datum<'_>]) -> Result<(), (usize, String)> {
        datums.iter().enumerate().try_for_each(|(at, datum)| self.push(datum.bytes).map_err(|reason| (at, reason)))
    }

    /// Takes one datum, or says why it is none. After that the decoder is good for nothing.
    fn push(&mut self, datum: &[u8]) -> Result<(), String> {
        if datum.is_empty() {
            return Err("it is empty".to_string());
        }
        // what looks like the next header would be taken for one, and the next datum read at the wrong place
        if datum.ends_with(&HEADER) {
            let mut alone = build(&self.store, 1)?;
            take(&mut alone, &mut self.frame, datum)?;
        }
        take(&mut self.decoder, &mut self.frame, datum)
    }

    /// Makes columns of what was taken.
    fn finish(
        &mut self,
        datums: &[Datum<'_>],
        segments: &mut Vec<Segment>,
        bad: &mut BTreeMap<usize, String>,
    ) -> Result<()> {
        if datums.is_empty() {
            return Ok(());
        }
        match self.decoder.flush() {
            Ok(Some(batch)) if batch.num_rows() == datums.len() => {
                segments.push(Segment { rows: datums.iter().map(|datum| datum.row).collect(), batch });
                Ok(())
            }
            _ => {
                self.begin_anew()?;
                self.one_by_one(datums, segments, bad)
            }
        }
    }

    /// Decodes each datum by itself: one of them makes no columns, and only so is it found.
    fn one_by_one(
        &mut self,
        datums: &[Datum<'_>],
        segments: &mut Vec<Segment>,
        bad: &mut BTreeMap<usize, String>,
    ) -> Result<()> {
        for datum in datums {
            let batch = self.push(datum.bytes).and_then(|()| self.decoder.flush().map_err(|error| error.to_string()));
            match batch {
                Ok(Some(batch)) if batch.num_rows() == 1 => segments.push(Segment { rows: vec![datum.row], batch }),
                Ok(_) => return Err(Error::internal("a datum of Avro was taken and gave no row")),
                Err(reason) => {
                    bad.insert(datum.row, reason);
                    self.begin_anew()?;
                }
            }
        }
        Ok(())
    }

    fn begin_anew(&mut self) -> Result<()> {
        self.decoder = build(&self.store, self.segment_rows).map_err(Error::internal)?;
        Ok(())
    }
}

fn build(store: &SchemaStore, segment_rows: usize) -> Result<Decoder, String> {
    let reader = ReaderBuilder::new().with_writer_schema_store(store.clone()).with_batch_size(segment_rows);
    reader.build_decoder().map_err(|error| error.to_string())
}

/// Gives one datum to `decoder`, which must take all of it and make one row of it.
fn take(decoder: &mut Decoder, frame: &mut Vec<u8>, datum: &[u8]) -> Result<(), String> {
    frame.truncate(HEADER.len());
    frame.extend_from_slice(datum);
    let before = decoder.capacity();
    let taken = decoder.decode(frame);
    let rows = before.saturating_sub(decoder.capacity());
    match taken {
        Ok(bytes) if rows == 1 && bytes == frame.len() => Ok(()),
        _ if rows > 0 => Err("there are bytes behind its end".to_string()),
        Ok(_) => Err("it ends too early".to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int64Type;

    use super::super::samples::{long, text};
    use super::*;

    const PAIR: &str =
        r#"{"type":"record","name":"r","fields":[{"name":"a","type":"long"},{"name":"b","type":"string"}]}"#;
    const RAW: &str =
        r#"{"type":"record","name":"r","fields":[{"name":"a","type":"long"},{"name":"b","type":"bytes"}]}"#;

    fn pair(a: i64, b: impl AsRef<[u8]>) -> Vec<u8> {
        [long(a), text(b)].concat()
    }

    /// Decodes values and returns `a` of each row that there is, with the rows that are bad.
    fn decoded(
        schema: &str,
        values: &[Vec<u8>],
        segment_rows: usize,
    ) -> (BTreeMap<usize, i64>, BTreeMap<usize, String>) {
        let mut decoder = DatumDecoder::new(&RecordSchema::parse(schema).unwrap(), segment_rows).unwrap();
        let datums: Vec<Datum<'_>> =
            values.iter().enumerate().map(|(row, bytes)| Datum { row, bytes: bytes.as_slice() }).collect();
        let mut bad = BTreeMap::new();
        let mut found = BTreeMap::new();
        for segment in decoder.decode(&datums, &mut bad).unwrap() {
            let column = segment.batch.column(0).as_primitive::<Int64Type>();
            assert_eq!(column.len(), segment.rows.len());
            found.extend(segment.rows.iter().zip(column.values()).map(|(row, a)| (*row, *a)));
        }
        (found, bad)
    }

    #[test]
    fn the_header_is_its_id() {
        assert_eq!(HEADER[1..], ID.to_be_bytes());
    }

    #[test]
    fn bad_datums_are_named_and_cost_their_own_row_alone() {
        let bad: Vec<(Vec<u8>, &str)> = vec![
            (Vec::new(), "it is empty"),
            (long(7), "Parser error: bad varint"),
            (pair(7, "long enough")[..5].to_vec(), "it ends too early"),
            ([pair(7, "x"), vec![0]].concat(), "there are bytes behind its end"),
            ([pair(7, "x"), vec![1, 2, 3]].concat(), "there are bytes behind its end"),
            ([pair(7, "x"), HEADER.to_vec()].concat(), "there are bytes behind its end"),
            ([pair(7, "x"), HEADER.to_vec(), pair(8, "y")].concat(), "there are bytes behind its end"),
            ([pair(7, "x"), HEADER.to_vec(), pair(8, "y"), HEADER.to_vec()].concat(), "there are bytes behind its end"),
            (vec![0xff; 11], "Parser error: bad varint"),
            (pair(7, [0xff_u8, 0xfe]), ""),
        ];
        for segment_rows in [1, 2, 3, 100] {
            let (mut values, mut good) = (Vec::new(), BTreeMap::new());
            for (number, (datum, _)) in bad.iter().enumerate() {
                for a in [number as i64, -1 - number as i64] {
                    good.insert(values.len(), a);
                    values.push(pair(a, format!("text of {a}")));
                }
                values.push(datum.clone());
            }
            good.insert(values.len(), i64::MAX);
            values.push(pair(i64::MAX, ""));
            let (found, told) = decoded(PAIR, &values, segment_rows);
            assert_eq!(found, good, "segments of {segment_rows}");
            let rows: Vec<usize> = told.keys().copied().collect();
            assert_eq!(rows, (0..bad.len()).map(|number| 3 * number + 2).collect::<Vec<_>>());
            for ((_, expected), (row, reason)) in bad.iter().zip(&told) {
                assert!(reason.contains(expected), "row {row}: {reason}");
            }
        }
    }

    #[test]
    fn a_datum_that_ends_as_the_header_does_is_a_datum() {
        let values = [pair(1, "a"), pair(2, HEADER), pair(3, "c")];
        for segment_rows in [1, 2, 10] {
            let (found, bad) = decoded(RAW, &values, segment_rows);
            assert_eq!(found, BTreeMap::from([(0, 1), (1, 2), (2, 3)]), "{bad:?}");
        }
    }

    #[test]
    fn whatever_becomes_of_a_datum_its_neighbours_are_whole() {
        let whole = pair(-300, "seven letters");
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xfe, 0xff] {
                let mut copy = whole.clone();
                copy[at] = value;
                damaged.push(copy);
            }
        }
        let mut values = Vec::new();
        for datum in &damaged {
            values.extend([pair(1, "before"), datum.clone(), pair(2, "behind")]);
        }
        for segment_rows in [1, 7, 10_000] {
            let (found, bad) = decoded(PAIR, &values, segment_rows);
            for (number, datum) in damaged.iter().enumerate() {
                let row = 3 * number;
                assert_eq!((found.get(&row), found.get(&(row + 2))), (Some(&1), Some(&2)), "{datum:?}");
                assert_ne!(found.contains_key(&(row + 1)), bad.contains_key(&(row + 1)), "{datum:?}");
            }
            assert!((0..whole.len()).all(|number| bad.contains_key(&(3 * number + 1))), "a cut datum passed");
        }
    }
}
