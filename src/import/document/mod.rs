//! Reads a deployment document written by a person (text, Markdown, JSON, YAML) into [`Claims`].
//!
//! Bytes become a tree (`tree`) or lines (`lines`); both end as passages of text (`lexer`, `passage`,
//! `formula`, `quantity`) whose statements go into one `ledger`. Nothing here judges a claim.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a match here picks a few words out of a vocabulary; a new word rightly falls through"
)]

mod entries;
mod formula;
mod ledger;
mod lexer;
mod lines;
mod passage;
mod quantity;
mod tree;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::claim::Claims;
use ledger::Ledger;

/// A plan is pages, not books; beyond this somebody passed a checkpoint or a log.
pub const LARGEST: usize = 4 << 20;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentFormat {
    /// Plain text.
    Text,
    /// Markdown, by its extension.
    Markdown,
    /// JSON, by its extension or its content.
    Json,
    /// YAML, by its extension.
    Yaml,
}

/// Why a document cannot be read as a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    /// Line of the document, from 1; 0 when it is not about one line.
    pub line: u32,
    /// The claim or the file it is about; may be empty.
    pub key: String,
    /// What was found; may be empty.
    pub value: String,
    /// What would be accepted.
    pub allowed: String,
    /// The error in words.
    pub message: String,
    /// Whether it reads well and just is no plan.
    pub no_plan: bool,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        if !self.allowed.is_empty() {
            write!(f, " (allowed: {})", self.allowed)?;
        }
        Ok(())
    }
}

impl std::error::Error for DocumentError {}

/// Reads a document. The name decides the format by its extension; without a known one the content does.
///
/// # Errors
/// Bytes that are not UTF-8, more than 4 MiB, malformed JSON or YAML, a degree of 0, a count above 2^40 or not
/// whole, and a document that names no degree at all.
pub fn read(name: &str, bytes: &[u8]) -> Result<(DocumentFormat, Claims), DocumentError> {
    let refuse = |value: String, allowed: &str, message: String| DocumentError {
        line: 0,
        key: name.to_owned(),
        value,
        allowed: allowed.to_owned(),
        message,
        no_plan: false,
    };
    if bytes.len() > LARGEST {
        let message = format!("the document has {} bytes", bytes.len());
        return Err(refuse(bytes.len().to_string(), "at most 4 MiB", message));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        refuse(offset.to_string(), "UTF-8 text", format!("not UTF-8 text: bad byte at offset {offset}"))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut ledger = Ledger::default();
    let format = read_text(name, text, &mut ledger)?;
    ledger.settle()?;
    let claims = ledger.finish();
    if claims.names_a_plan() {
        Ok((format, claims))
    } else {
        let message = "no plan found: nothing in it names a degree: TP, PP, EP, DP".to_owned();
        let allowed = "at least one degree, such as \"TP 2\" or \"tensor_parallel_size: 2\"";
        Err(DocumentError { no_plan: true, ..refuse(String::new(), allowed, message) })
    }
}

fn read_text(name: &str, text: &str, ledger: &mut Ledger) -> Result<DocumentFormat, DocumentError> {
    let extension = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "json" => {
            entries::read(&tree::json(text)?, &[], ledger)?;
            return Ok(DocumentFormat::Json);
        }
        "yaml" | "yml" => {
            for document in tree::yaml(text)? {
                entries::read(&document, &[], ledger)?;
            }
            return Ok(DocumentFormat::Yaml);
        }
        "md" | "markdown" => {
            lines::read(text, 1, ledger)?;
            return Ok(DocumentFormat::Markdown);
        }
        _ => {}
    }
    if text.trim_start().starts_with(['{', '['])
        && let Ok(tree) = tree::json(text)
    {
        entries::read(&tree, &[], ledger)?;
        return Ok(DocumentFormat::Json);
    }
    lines::read(text, 1, ledger)?;
    Ok(DocumentFormat::Text)
}
