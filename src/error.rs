//! What can be wrong with what the user gave: which file or flag, which key, what stood there and what is allowed.
//!
//! Every message is one line. A plan that does not work is not an error (see `rules`), and our own mistakes panic.

use crate::job::JobError;
use crate::model::ModelError;
use crate::plan::PlanError;
use crate::units::UnitError;
use std::fmt;

/// A result with [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What the user gave is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: cannot be read: {}", Line(path), Line(why))]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        why: String,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written: {}", Line(path), Line(why))]
    Write {
        /// The file.
        path: String,
        /// What the system says.
        why: String,
    },
    /// A file is larger than anything of its kind.
    #[error("{}: is larger than {limit} bytes, the most that is read", Line(path))]
    TooLarge {
        /// The file.
        path: String,
        /// Most bytes that are read.
        limit: u64,
    },
    /// A file is not text.
    #[error("{}: is not UTF-8 text: byte {offset} begins no character", Line(path))]
    NotUtf8 {
        /// The file.
        path: String,
        /// The first bad byte.
        offset: usize,
    },
    /// The text does not have the form it should have.
    #[error("{}: {}{}", Line(path), At(key), Line(&clip(why, 300)))]
    Parse {
        /// The file or flag.
        path: String,
        /// JSON path; empty for the whole text.
        key: String,
        /// What the parser says.
        why: String,
    },
    /// A value is not allowed.
    #[error("{}: {}`{}` is not allowed: {}", Line(origin), At(key), Line(&clip(value, 80)), Line(allowed))]
    Invalid {
        /// The file or flag.
        origin: String,
        /// JSON path or name; empty for the whole value.
        key: String,
        /// What stood there.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A key is needed and absent.
    #[error("{}: at `{}`: is missing: {}", Line(origin), Line(key), Line(allowed))]
    Missing {
        /// The file or flag.
        origin: String,
        /// JSON path.
        key: String,
        /// What is allowed.
        allowed: String,
    },
    /// A name that is neither built in nor a file.
    #[error("unknown {what} `{}`{} {}", Line(&clip(name, 80)), DidYouMean(suggestions), Line(hint))]
    UnknownName {
        /// `model`, `gpu`, `cluster`...
        what: &'static str,
        /// What was asked for.
        name: String,
        /// The nearest known names, best first.
        suggestions: Vec<String>,
        /// The next step.
        hint: String,
    },
}

impl Error {
    /// A value that is not allowed.
    pub fn invalid(
        origin: impl Into<String>,
        key: impl Into<String>,
        value: impl fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Invalid { origin: origin.into(), key: key.into(), value: value.to_string(), allowed: allowed.into() }
    }

    /// A key that is needed and absent.
    pub fn missing(origin: impl Into<String>, key: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self::Missing { origin: origin.into(), key: key.into(), allowed: allowed.into() }
    }

    /// A text that does not have the form it should have; an unknown key is answered with the nearest known one.
    pub fn parse(path: impl Into<String>, key: impl Into<String>, why: impl fmt::Display) -> Self {
        let why = why.to_string();
        let why = nearest_field(&why).unwrap_or(why);
        Self::Parse { path: path.into(), key: key.into(), why }
    }

    /// A file that cannot be read.
    pub fn read(path: impl Into<String>, why: &std::io::Error) -> Self {
        Self::Read { path: path.into(), why: plain(why) }
    }

    /// A file that cannot be written.
    pub fn write(path: impl Into<String>, why: &std::io::Error) -> Self {
        Self::Write { path: path.into(), why: plain(why) }
    }

    /// A name that is not known, with up to three that are near it.
    pub fn unknown<'a>(
        what: &'static str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
        hint: impl Into<String>,
    ) -> Self {
        Self::UnknownName { what, name: name.to_owned(), suggestions: nearest(name, known), hint: hint.into() }
    }
}

/// The message of the system without its error number, first letter lower.
fn plain(why: &std::io::Error) -> String {
    let text = why.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Errors of the core, which know no file: key, value, what is allowed.
pub trait Blame {
    /// Key, value and what is allowed.
    fn blame(self) -> (String, String, String);
}

impl Blame for ModelError {
    fn blame(self) -> (String, String, String) {
        (self.key.to_owned(), self.value, self.allowed)
    }
}

impl Blame for JobError {
    fn blame(self) -> (String, String, String) {
        (self.key.to_owned(), self.value, self.allowed)
    }
}

impl Blame for PlanError {
    fn blame(self) -> (String, String, String) {
        (self.key, self.value, self.allowed)
    }
}

impl Blame for UnitError {
    fn blame(self) -> (String, String, String) {
        (String::new(), self.text, self.allowed)
    }
}

/// Turns an error of the core into an [`enum@Error`] by naming the file or flag.
///
/// ```
/// use meshwright::error::Locate;
/// let error = meshwright::units::Bytes::parse("80").at_key("gpu.json", "memory").expect_err("a refusal");
/// assert!(error.to_string().starts_with("gpu.json: at `memory`: `80` is not allowed: write a number and one of B,"));
/// ```
pub trait Locate<T> {
    /// Names the file or flag.
    ///
    /// # Errors
    /// The error, located.
    fn at(self, origin: &str) -> Result<T>;

    /// Names the file or flag and the key in it.
    ///
    /// # Errors
    /// The error, located.
    fn at_key(self, origin: &str, key: &str) -> Result<T>;
}

impl<T, E: Blame> Locate<T> for std::result::Result<T, E> {
    fn at(self, origin: &str) -> Result<T> {
        self.map_err(|error| {
            let (key, value, allowed) = error.blame();
            Error::Invalid { origin: origin.to_owned(), key, value, allowed }
        })
    }

    fn at_key(self, origin: &str, key: &str) -> Result<T> {
        self.map_err(|error| {
            let (_, value, allowed) = error.blame();
            Error::Invalid { origin: origin.to_owned(), key: key.to_owned(), value, allowed }
        })
    }
}

/// Up to three known names near a wrong one, best first.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let asked = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&asked, &k.to_lowercase()), k))
        .filter(|(score, _)| *score >= 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup_by_key(|(_, name)| *name);
    scored.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// serde lists every key it knows; the one that was meant says more.
fn nearest_field(why: &str) -> Option<String> {
    let rest = why.strip_prefix("unknown field `")?;
    let (field, known) = rest.split_once('`')?;
    let names: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let meant = nearest(field, names.iter().copied());
    Some(match meant.first() {
        Some(name) => format!("unknown key `{field}`; did you mean `{name}`?"),
        None => format!("unknown key `{field}`; known are {}", names.join(", ")),
    })
}

/// Cuts a value that would fill the screen.
fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let head: String = text.chars().take(most).collect();
    format!("{head}...")
}

/// A text kept on one line.
struct Line<'a>(&'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            if letter.is_control() {
                write!(f, "{}", letter.escape_default())?;
            } else {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// The place in a file, when there is one.
struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() || self.0 == "." { Ok(()) } else { write!(f, "at `{}`: ", Line(self.0)) }
    }
}

/// The nearest known names.
struct DidYouMean<'a>(&'a [String]);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|name| format!("`{name}`")).collect();
        match words.as_slice() {
            [] => write!(f, ":"),
            [one] => write!(f, ": did you mean {one}?"),
            [first @ .., last] => write!(f, ": did you mean {} or {last}?", first.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    #[test]
    fn messages_stay_on_one_line_and_short() {
        let error = Error::invalid("a\nb.json", "k", "x\ty\n".repeat(500), "z");
        let text = error.to_string();
        assert!(!text.chars().any(char::is_control), "{text}");
        assert!(text.len() < 400, "{text}");
    }

    #[test]
    fn near_names_are_offered_best_first() {
        let known = ["llama-3-70b", "llama-3-8b", "gpt2", "qwen3-8b"];
        let error = Error::unknown("model", "lama-3-70b", known, "`list models` shows all 4");
        let text = error.to_string();
        assert!(text.starts_with("unknown model `lama-3-70b`: did you mean `llama-3-70b` or"), "{text}");
        assert!(text.ends_with("? `list models` shows all 4"), "{text}");
        assert_eq!(nearest("zzzz", known), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest() {
        let error = Error::parse("f.json", "gpu", "unknown field `memry`, expected one of `memory`, `name`");
        assert_eq!(error.to_string(), "f.json: at `gpu`: unknown key `memry`; did you mean `memory`?");
    }

    #[test]
    fn a_unit_error_gains_its_place() {
        let text = Bytes::parse("80").at("--memory").expect_err("a refusal").to_string();
        assert!(text.starts_with("--memory: `80` is not allowed: write a number"), "{text}");
    }
}
