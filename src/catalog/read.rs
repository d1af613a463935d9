//! Files and JSON text, read with limits and with errors that name the place.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Most bytes that are read of a file people write by hand or a publisher ships.
pub const MOST_BYTES: u64 = 32 << 20;

/// Reads a text file of at most [`MOST_BYTES`]; a byte-order mark is dropped.
///
/// # Errors
/// When it cannot be read, is larger, or is not UTF-8.
pub fn text(path: &Path) -> Result<String> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| Error::read(&name, &e))?;
    let mut bytes = Vec::new();
    // The limit holds for pipes and devices too, which have no length to ask for.
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::read(&name, &e))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::TooLarge { path: name, limit: MOST_BYTES });
    }
    let text =
        String::from_utf8(bytes).map_err(|e| Error::NotUtf8 { path: name, offset: e.utf8_error().valid_up_to() })?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
}

/// Parses JSON into a type, naming the key that does not fit.
///
/// # Errors
/// When it is not JSON or not of the type.
pub fn typed<T: DeserializeOwned>(origin: &str, text: &str) -> Result<T> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|e| located(origin, &e))?;
    parser.end().map_err(|e| Error::parse(origin, "", e))?;
    Ok(value)
}

/// As [`typed`], from a value already parsed.
///
/// # Errors
/// When it is not of the type.
pub fn typed_value<T: DeserializeOwned>(origin: &str, value: &Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| located(origin, &e))
}

/// Parses JSON into a value.
///
/// # Errors
/// When it is not JSON.
pub fn value(origin: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::parse(origin, "", e))
}

fn located(origin: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> Error {
    let key = error.path().to_string();
    Error::parse(origin, if key == "." { "" } else { &key }, error.inner())
}
