//! JSON from outside: no key twice in an object, and no file without an end.

use std::{
    collections::HashSet,
    fmt,
    path::{Component, Path, PathBuf},
};

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use crate::error::ModelError;

/// The longest configuration or tokenizer file that is read; the largest published ones have a fifth.
const LARGEST: u64 = 100 << 20;

/// Reads a whole file, unless it is longer than any honest one of its kind.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    let length = fs_err::metadata(path)?.len();
    if length > LARGEST {
        return Err(ModelError::Value {
            path: path.to_owned(),
            key: "length".to_owned(),
            value: format!("{length} bytes"),
            allowed: format!("up to {LARGEST}"),
        });
    }
    Ok(fs_err::read(path)?)
}

/// Parses JSON, `path` being for the messages.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ModelError> {
    // Some editors put a byte order mark first.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let parsed = serde_json::from_slice(bytes).and_then(|value| {
        serde_json::Deserializer::from_slice(bytes).deserialize_any(NoKeyTwice)?;
        Ok(value)
    });
    parsed.map_err(|cause| ModelError::Json {
        path: path.to_owned(),
        cause,
    })
}

/// The object in a JSON file.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, ModelError> {
    parse_object(path, &read(path)?)
}

/// The object in a JSON text; `path` is for the messages.
pub(crate) fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, ModelError> {
    parse(path, bytes)
}

/// A path in a JSON file, which has to stay in the folder that the file describes.
pub(crate) fn inner_path(file: &Path, value: &str) -> Result<PathBuf, ModelError> {
    const LONGEST: usize = 1024;
    if value.len() > LONGEST {
        return Err(ModelError::Modules {
            path: file.to_owned(),
            message: format!("the path {value:?} is longer than {LONGEST} bytes"),
        });
    }
    let path = Path::new(value);
    let inner = path
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    // A path with a backslash or a drive means a different thing on Windows.
    if !inner || value.contains(['\\', ':']) || value.chars().any(char::is_control) {
        return Err(ModelError::UnsafePath {
            path: file.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(path.to_owned())
}

/// The error for a value that is not allowed.
pub(crate) fn value_error(path: &Path, key: &str, value: &Value, allowed: &str) -> ModelError {
    let value = if value.is_null() {
        "nothing".to_owned()
    } else {
        value.to_string()
    };
    ModelError::Value {
        path: path.to_owned(),
        key: key.to_owned(),
        value,
        allowed: allowed.to_owned(),
    }
}

/// Refuses a key that comes twice in one object: readers differ in which of the two they take, so
/// that a file could be one model for a checker and another for a program.
struct NoKeyTwice;

impl<'de> DeserializeSeed<'de> for NoKeyTwice {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NoKeyTwice {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Self)?;
            if keys.contains(&key) {
                let shown: String = key.chars().take(40).collect();
                return Err(A::Error::custom(format_args!(
                    "the key {shown:?} comes twice"
                )));
            }
            keys.insert(key);
        }
        Ok(())
    }
}
