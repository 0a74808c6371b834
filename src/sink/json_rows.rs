//! Rows as JSON, alike for every sink that writes them.
//!
//! Values are Arrow's: a row is an object, timestamps are in ISO 8601, what is not finite is null. Bytes are base64, as in
//! Spark and as the sources read them.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::arrow::array::{Array, ArrayAccessor, AsArray};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, WriterBuilder};

/// Returns what makes writers of rows.
pub(crate) fn json_rows() -> WriterBuilder {
    WriterBuilder::new().with_encoder_factory(Arc::new(BytesAsBase64))
}

#[derive(Debug)]
struct BytesAsBase64;

impl EncoderFactory for BytesAsBase64 {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => Box::new(Base64(array.as_binary::<i32>())),
            DataType::LargeBinary => Box::new(Base64(array.as_binary::<i64>())),
            DataType::BinaryView => Box::new(Base64(array.as_binary_view())),
            DataType::FixedSizeBinary(_) => Box::new(Base64(array.as_fixed_size_binary())),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// Writes bytes as a JSON string.
struct Base64<A>(A);

impl<'a, A: ArrayAccessor<Item = &'a [u8]>> Encoder for Base64<A> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode(self.0.value(row)).as_bytes());
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, LargeBinaryArray};
    use datafusion::arrow::json::writer::LineDelimited;
    use datafusion::arrow::record_batch::RecordBatch;

    use super::*;

    #[test]
    fn bytes_are_base64() {
        let bytes: Vec<Option<&[u8]>> = vec![Some(b"\x00\xffa"), None];
        let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes.clone().into_iter(), 3).unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("a", Arc::new(BinaryArray::from(bytes.clone()))),
            ("b", Arc::new(LargeBinaryArray::from(bytes.clone()))),
            ("c", Arc::new(BinaryViewArray::from_iter(bytes))),
            ("d", Arc::new(fixed)),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = json_rows().build::<Vec<u8>, LineDelimited>(Vec::new());
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        assert_eq!(text, "{\"a\":\"AP9h\",\"b\":\"AP9h\",\"c\":\"AP9h\",\"d\":\"AP9h\"}\n{}\n");
    }
}
