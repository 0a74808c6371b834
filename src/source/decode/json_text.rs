//! Writes a JSON value that is being read back as text, fields in their order: what a STRING column gets for an
//! object or an array.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Reads one value and appends it to a text.
pub(in crate::source) struct JsonText<'a>(pub(in crate::source) &'a mut String);

impl JsonText<'_> {
    fn append<E>(self, value: impl Into<Value>) -> Result<(), E> {
        self.0.push_str(&value.into().to_string());
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for JsonText<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonText<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.append(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.append(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.append(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.append(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.append(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.append(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut separator = '[';
        loop {
            let length = self.0.len();
            self.0.push(separator);
            if seq.next_element_seed(JsonText(&mut *self.0))?.is_none() {
                self.0.truncate(length);
                break;
            }
            separator = ',';
        }
        if separator == '[' {
            self.0.push('[');
        }
        self.0.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut separator = '{';
        while let Some(key) = map.next_key::<String>()? {
            self.0.push(separator);
            JsonText(&mut *self.0).append::<A::Error>(key)?;
            self.0.push(':');
            map.next_value_seed(JsonText(&mut *self.0))?;
            separator = ',';
        }
        if separator == '{' {
            self.0.push('{');
        }
        self.0.push('}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order() {
        for json in [r#"{"b":1,"a":[true,null,{"x":"\"y"}],"c":{}}"#, "[]", "[1,2.5]"] {
            let mut text = String::new();
            let mut reader = serde_json::Deserializer::from_str(json);
            JsonText(&mut text).deserialize(&mut reader).unwrap();
            assert_eq!(text, json);
        }
    }
}
