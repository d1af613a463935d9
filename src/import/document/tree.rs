//! JSON and YAML as one kind of tree that remembers lines and repeated keys.

use super::DocumentError;
use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deeper than any plan, shallow enough for the stack.
const DEEPEST: usize = 128;

/// A value and the line it starts on.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub line: u32,
    pub value: Value,
}

/// What a node holds. Keys may repeat: that is a contradiction to report, not to hide.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A number, `true` or `null`, as written.
    Bare(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

fn refused(line: u32, format: &str, message: String) -> DocumentError {
    let allowed = format!("well-formed {format}");
    DocumentError { line, key: String::new(), value: String::new(), allowed, message, no_plan: false }
}

/// Parses JSON. `serde_json` judges whether it is well-formed; the walk after it only keeps the lines.
pub(super) fn json(text: &str) -> Result<Node, DocumentError> {
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        let line = u32::try_from(error.line()).unwrap_or(0);
        return Err(refused(line, "JSON", format!("not JSON: {error}")));
    }
    let mut walk = Walk { text, at: 0, line: 1 };
    walk.value().ok_or_else(|| refused(walk.line, "JSON", "not JSON".to_owned()))
}

/// A walk over text that is known to be JSON.
struct Walk<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Walk<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Moves to the next character that carries meaning.
    fn next(&mut self) -> Option<char> {
        loop {
            let c = self.rest().chars().next()?;
            match c {
                '\n' => self.line = self.line.saturating_add(1),
                ' ' | '\t' | '\r' | ',' | ':' => {}
                _ => return Some(c),
            }
            self.at += 1;
        }
    }

    fn value(&mut self) -> Option<Node> {
        let first = self.next()?;
        let line = self.line;
        let value = match first {
            '{' => {
                self.at += 1;
                let mut entries = Vec::new();
                while self.next()? != '}' {
                    let key = self.string()?;
                    entries.push((key, self.value()?));
                }
                self.at += 1;
                Value::Map(entries)
            }
            '[' => {
                self.at += 1;
                let mut items = Vec::new();
                while self.next()? != ']' {
                    items.push(self.value()?);
                }
                self.at += 1;
                Value::List(items)
            }
            '"' => Value::Text(self.string()?),
            _ => {
                let rest = self.rest();
                let end = rest.find([',', ']', '}', ' ', '\n', '\r', '\t']).unwrap_or(rest.len());
                self.at += end;
                Value::Bare(rest.get(..end)?.to_owned())
            }
        };
        Some(Node { line, value })
    }

    fn string(&mut self) -> Option<String> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find_map(|(at, c)| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes.then_some(at + 1)
        })?;
        self.at += end;
        serde_json::from_str(rest.get(..end)?).ok()
    }
}

/// Parses YAML, every document of it.
pub(super) fn yaml(text: &str) -> Result<Vec<Node>, DocumentError> {
    let mut open: Vec<Open> = Vec::new();
    let mut documents = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let line = u32::try_from(error.marker().line()).unwrap_or(0);
            refused(line, "YAML", format!("not YAML: {}", error.info()))
        })?;
        let line = u32::try_from(span.start.line()).unwrap_or(0);
        let done = match event {
            Event::Scalar(text, style, ..) => Some(Node { line, value: scalar(&text, style) }),
            // An alias repeats what its anchor already claimed.
            Event::Alias(_) => Some(Node { line, value: Value::Bare(String::new()) }),
            Event::SequenceStart(..) => {
                open.push(Open { line, value: Value::List(Vec::new()), key: None });
                None
            }
            Event::MappingStart(..) => {
                open.push(Open { line, value: Value::Map(Vec::new()), key: None });
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|o| Node { line: o.line, value: o.value }),
            _ => None,
        };
        if open.len() > DEEPEST {
            return Err(refused(line, "YAML", format!("nested deeper than {DEEPEST} levels")));
        }
        if let Some(node) = done {
            match open.last_mut() {
                Some(parent) => parent.add(node),
                None => documents.push(node),
            }
        }
    }
    Ok(documents)
}

/// A collection whose end has not come yet.
struct Open {
    line: u32,
    value: Value,
    key: Option<String>,
}

impl Open {
    fn add(&mut self, node: Node) {
        match &mut self.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match self.key.take() {
                Some(key) => entries.push((key, node)),
                None => self.key = Some(key_text(node.value)),
            },
            Value::Bare(_) | Value::Text(_) => {}
        }
    }
}

fn key_text(value: Value) -> String {
    match value {
        Value::Bare(text) | Value::Text(text) => text,
        Value::List(_) | Value::Map(_) => String::new(),
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    let bare = plain
        && (text.parse::<f64>().is_ok() || matches!(text, "" | "~" | "null" | "true" | "false" | "True" | "False"));
    if bare { Value::Bare(text.to_owned()) } else { Value::Text(text.to_owned()) }
}
