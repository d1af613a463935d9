//! `key = value` and `key: value` in Python, TOML and YAML, wherever they stand.

use super::CommandError;
use super::flags::{MOST_DEGREE, MOST_SIZE, number};
use super::shell::Script;

/// One setting.
#[derive(Debug, Clone)]
struct Key {
    name: String,
    value: String,
    line: usize,
}

/// Every setting of a text, by the last part of its name.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    list: Vec<Key>,
}

/// Whether a text sets a key.
pub(super) fn mentions(text: &str, key: &str) -> bool {
    Keys::scan(text, &Script::default()).list.iter().any(|k| k.name == key)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl Keys {
    /// Finds the settings; a value that is one of the script's variables is put in.
    pub(super) fn scan(text: &str, script: &Script) -> Self {
        let mut list = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut rest = line;
            while let Some(at) = rest.find(['=', ':']) {
                let (before, after) = (&rest[..at], &rest[at + 1..]);
                rest = after;
                let name: String =
                    before.trim_end().trim_end_matches(['"', '\'']).chars().rev().take_while(|c| is_name(*c)).collect();
                let name: String = name.chars().rev().collect();
                // A flag's value is the flags' business, and `==` compares.
                let flag = before.split_whitespace().last().is_some_and(|w| w.starts_with('-') && w.len() > 1);
                if name.is_empty() || flag || after.starts_with('=') {
                    continue;
                }
                let value = value(after.trim_start());
                let known = value.strip_prefix('$').map(|v| v.trim_matches(['{', '}']));
                let value = match known.and_then(|v| script.variables.get(v)).map(Vec::as_slice) {
                    Some([word]) => word.text.clone(),
                    _ => value,
                };
                if !value.is_empty() {
                    list.push(Key { name, value, line: i + 1 });
                }
            }
        }
        Self { list }
    }

    fn find(&self, name: &str) -> Result<Option<&Key>, CommandError> {
        let mut seen: Option<&Key> = None;
        let nothing = |value: &str| matches!(value, "None" | "null" | "none" | "~" | "auto");
        for key in self.list.iter().filter(|k| k.name == name && !nothing(&k.value)) {
            if let Some(first) = seen
                && first.value != key.value
            {
                let allowed = format!("one value; line {} says {}", first.line, first.value);
                return Err(CommandError::new(key.line, name, &key.value, allowed));
            }
            seen = seen.or(Some(key));
        }
        Ok(seen)
    }

    /// A word.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, CommandError> {
        Ok(self.find(name)?.map(|key| key.value.as_str()))
    }

    /// A degree of parallelism; one below zero is left open.
    pub(super) fn degree(&self, name: &str) -> Result<Option<u32>, CommandError> {
        match self.find(name)? {
            Some(key) if key.value != "-1" => number(key.line, name, &key.value, 1, MOST_DEGREE).map(Some),
            _ => Ok(None),
        }
    }

    /// A number in a range.
    pub(super) fn number(&self, name: &str, least: u32, most: u32) -> Result<Option<u32>, CommandError> {
        self.find(name)?.map(|key| number(key.line, name, &key.value, least, most)).transpose()
    }

    /// A size.
    pub(super) fn size(&self, name: &str) -> Result<Option<u32>, CommandError> {
        match self.find(name)? {
            Some(key) if key.value != "-1" => number(key.line, name, &key.value, 1, MOST_SIZE).map(Some),
            _ => Ok(None),
        }
    }

    /// A switch.
    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, CommandError> {
        let Some(key) = self.find(name)? else { return Ok(None) };
        match key.value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Some(true)),
            "false" | "0" | "no" | "off" => Ok(Some(false)),
            _ => Err(CommandError::new(key.line, name, &key.value, "true or false")),
        }
    }

    /// A share from 0 to 1.
    pub(super) fn share(&self, name: &str) -> Result<Option<f64>, CommandError> {
        let Some(key) = self.find(name)? else { return Ok(None) };
        match key.value.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Some(share)),
            _ => Err(CommandError::new(key.line, name, &key.value, "a share from 0 to 1")),
        }
    }

    /// Every setting: its name and line.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, usize)> {
        self.list.iter().map(|k| (k.name.as_str(), k.line))
    }

    /// The line of a setting.
    pub(super) fn line(&self, name: &str) -> usize {
        self.list.iter().find(|k| k.name == name).map_or(0, |k| k.line)
    }
}

/// A value up to what ends it; a list in brackets is taken whole.
fn value(text: &str) -> String {
    if let Some(inner) = text.strip_prefix('[') {
        let end = inner.find(']').unwrap_or(inner.len());
        return inner[..end].replace(['"', '\'', ' '], "");
    }
    let end = |c: char| c.is_whitespace() || matches!(c, ',' | ')' | '}' | ';' | '\\');
    let value = text.split(end).next().unwrap_or_default();
    // `${NAME}` ends with the bracket that was taken for an end.
    let value = if value.starts_with("${") { format!("{value}}}") } else { value.to_owned() };
    value.trim_matches(['"', '\'']).to_owned()
}
