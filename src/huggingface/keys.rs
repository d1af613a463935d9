//! Typed access to a JSON object that somebody else wrote: what is asked for is checked, the rest is let be.

use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// Sizes of tensors: none real is larger.
const MOST_SIZE: u64 = 1 << 28;

/// Inner widths: none real is larger.
const MOST_WIDTH: u32 = 1 << 24;

/// A JSON object with the place it came from; `outer` is the object it was nested in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) origin: &'a str,
    pub(super) prefix: &'a str,
    pub(super) object: &'a Map<String, Value>,
    pub(super) outer: Option<&'a Map<String, Value>>,
}

impl<'a> Keys<'a> {
    /// The JSON path of a key.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// An error about a key.
    pub(super) fn refuse(&self, key: &str, value: &Value, allowed: &str) -> Error {
        Error::invalid(self.origin, self.path(key), value, allowed)
    }

    /// The first of several spellings that is present and not null.
    pub(super) fn first(&self, keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        keys.iter().find_map(|&key| self.object.get(key).filter(|v| !v.is_null()).map(|v| (key, v)))
    }

    /// As [`Self::first`], then the object around.
    pub(super) fn anywhere(&self, key: &'static str) -> Option<&'a Value> {
        let found = |map: &'a Map<String, Value>| map.get(key).filter(|v| !v.is_null());
        found(self.object).or_else(|| self.outer.and_then(found))
    }

    /// A whole number from 0.
    pub(super) fn number(&self, keys: &[&'static str]) -> Result<Option<u32>> {
        let Some((key, value)) = self.first(keys) else { return Ok(None) };
        self.whole(key, value).map(Some)
    }

    fn whole(&self, key: &str, value: &Value) -> Result<u32> {
        let most = MOST_SIZE;
        value
            .as_u64()
            .filter(|n| *n <= most)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| self.refuse(key, value, &format!("a whole number from 0 to {most}")))
    }

    /// A whole number from 1, if the key is there.
    pub(super) fn size(&self, keys: &[&'static str]) -> Result<Option<u32>> {
        let Some((key, value)) = self.first(keys) else { return Ok(None) };
        match self.whole(key, value) {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => Err(self.refuse(key, value, &format!("a whole number from 1 to {MOST_SIZE}"))),
        }
    }

    /// As [`Self::need`], for an inner width.
    pub(super) fn need_width(&self, keys: &[&'static str]) -> Result<u32> {
        let width = self.need(keys)?;
        if width <= MOST_WIDTH {
            return Ok(width);
        }
        let key = self.first(keys).map_or(keys[0], |(key, _)| key);
        Err(Error::invalid(self.origin, self.path(key), width, format!("a whole number from 1 to {MOST_WIDTH}")))
    }

    /// A whole number from 1 that must be there.
    pub(super) fn need(&self, keys: &[&'static str]) -> Result<u32> {
        self.size(keys)?.ok_or_else(|| {
            let others = if keys.len() > 1 { format!(" (or {})", keys[1..].join(", ")) } else { String::new() };
            let allowed = format!("write a whole number from 1 to {MOST_SIZE}{others}");
            Error::missing(self.origin, self.path(keys[0]), allowed)
        })
    }

    /// A switch.
    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>> {
        match self.anywhere(key) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(other) => Err(self.refuse(key, other, "true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&self, keys: &[&'static str]) -> Result<Option<&'a str>> {
        match self.first(keys) {
            None => Ok(None),
            Some((_, Value::String(text))) => Ok(Some(text)),
            Some((key, other)) => Err(self.refuse(key, other, "a text")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Result<Option<Vec<&'a str>>> {
        let Some((_, value)) = self.first(&[key]) else { return Ok(None) };
        let list = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| self.refuse(key, value, "a list of texts"))
    }

    /// A list of whole numbers.
    pub(super) fn numbers(&self, key: &'static str) -> Result<Option<Vec<u32>>> {
        let Some((_, value)) = self.first(&[key]) else { return Ok(None) };
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let list = value.as_array().and_then(|items| items.iter().map(one).collect());
        list.map(Some).ok_or_else(|| self.refuse(key, value, "a list of whole numbers"))
    }

    /// An object inside this one.
    pub(super) fn object(&self, key: &'static str) -> Result<Option<&'a Map<String, Value>>> {
        match self.anywhere(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.refuse(key, other, "an object")),
        }
    }
}
