//! Flags of a command: their values, and numbers out of them.

use super::CommandError;
use super::shell::Word;

/// A flag as written, its name in one spelling (`-` for `_`), and the words after it.
#[derive(Debug, Clone)]
pub(super) struct Flag {
    name: String,
    written: String,
    values: Vec<String>,
    line: usize,
}

/// The flags of a command, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Flags {
    list: Vec<Flag>,
}

/// What starts with a dash and a letter; `-1` is a value.
fn is_flag(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '-'))
        && word.len() > 1
        && word != "--"
}

fn spelling(name: &str) -> String {
    name.replace('_', "-")
}

impl Flags {
    /// Adds a command's flags.
    pub(super) fn add(&mut self, words: &[Word]) {
        for word in words {
            if is_flag(&word.text) {
                let (name, value) = match word.text.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (word.text.as_str(), None),
                };
                self.list.push(Flag {
                    name: spelling(name),
                    written: name.to_owned(),
                    values: value.into_iter().collect(),
                    line: word.line,
                });
            } else if let Some(last) = self.list.last_mut() {
                last.values.push(word.text.clone());
            }
        }
    }

    /// Whether one of the spellings is there.
    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.list.iter().any(|f| names.contains(&f.name.as_str()))
    }

    /// Whether any flag starts so.
    pub(super) fn has_prefix(&self, prefix: &str) -> bool {
        self.list.iter().any(|f| f.name.starts_with(prefix))
    }

    /// The value of a flag, when it is there: the same on every occurrence.
    pub(super) fn text(&self, names: &[&str]) -> Result<Option<&str>, CommandError> {
        Ok(self.find(names)?.map(|(_, value)| value))
    }

    /// Every first word after these flags.
    pub(super) fn words<'a>(&'a self, names: &[&str]) -> impl Iterator<Item = &'a str> {
        self.list
            .iter()
            .filter(|f| names.contains(&f.name.as_str()))
            .filter_map(|f| f.values.first().map(String::as_str))
    }

    /// Every flag: its name in one spelling, as written, and its line.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.list.iter().map(|f| (f.name.as_str(), f.written.as_str(), f.line))
    }

    /// All words of the last occurrence of a flag.
    pub(super) fn list(&self, names: &[&str]) -> Option<&[String]> {
        self.list.iter().rev().find(|f| names.contains(&f.name.as_str())).map(|f| f.values.as_slice())
    }

    fn find(&self, names: &[&str]) -> Result<Option<(&Flag, &str)>, CommandError> {
        let mut seen: Option<(&Flag, &str)> = None;
        for flag in self.list.iter().filter(|f| names.contains(&f.name.as_str())) {
            let Some(value) = flag.values.first() else {
                return Err(CommandError::new(flag.line, &flag.written, "", "a value after it"));
            };
            if let Some((before, first)) = seen
                && first != value
            {
                let allowed = format!("one value; line {} says {first}", before.line);
                return Err(CommandError::new(flag.line, &flag.written, value, allowed));
            }
            seen = seen.or(Some((flag, value.as_str())));
        }
        Ok(seen)
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&self, names: &[&str], least: u32, most: u32) -> Result<Option<u32>, CommandError> {
        match self.find(names)? {
            None => Ok(None),
            Some((flag, value)) => number(flag.line, &flag.written, value, least, most).map(Some),
        }
    }

    /// A degree of parallelism.
    pub(super) fn degree(&self, names: &[&str]) -> Result<Option<u32>, CommandError> {
        self.number(names, 1, MOST_DEGREE)
    }

    /// A size of a model or a batch.
    pub(super) fn size(&self, names: &[&str]) -> Result<Option<u32>, CommandError> {
        self.number(names, 1, MOST_SIZE)
    }

    /// A number that may depend on where the script runs: unknown is not wrong.
    pub(super) fn maybe(&self, names: &[&str]) -> Option<u32> {
        let (_, value) = self.find(names).ok().flatten()?;
        value.parse().ok().filter(|n| (1..=MOST_DEGREE).contains(n))
    }

    /// A share from 0 to 1.
    pub(super) fn share(&self, names: &[&str]) -> Result<Option<f64>, CommandError> {
        let Some((flag, value)) = self.find(names)? else { return Ok(None) };
        match value.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Some(share)),
            _ => Err(CommandError::new(flag.line, &flag.written, value, "a share from 0 to 1")),
        }
    }

    /// One of a list of words.
    pub(super) fn choice<T: Copy>(&self, names: &[&str], choices: &[(&str, T)]) -> Result<Option<T>, CommandError> {
        let Some((flag, value)) = self.find(names)? else { return Ok(None) };
        let found = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
        match found {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(CommandError::new(flag.line, &flag.written, value, words.join(", ")))
            }
        }
    }

    /// The line and spelling of a flag, for errors about its meaning.
    pub(super) fn place(&self, names: &[&str]) -> (usize, String) {
        let found = self.list.iter().find(|f| names.contains(&f.name.as_str()));
        found.map_or((0, names.first().copied().unwrap_or_default().to_owned()), |f| (f.line, f.written.clone()))
    }
}

/// The largest degree that is read; larger ones are typing slips.
pub(super) const MOST_DEGREE: u32 = 1 << 20;
/// The largest size that is read.
pub(super) const MOST_SIZE: u32 = 1 << 28;

/// Reads a whole number.
pub(super) fn number(line: usize, flag: &str, value: &str, least: u32, most: u32) -> Result<u32, CommandError> {
    let range = format!("a whole number from {least} to {most}");
    if value.contains('$') {
        return Err(CommandError::new(line, flag, value, format!("{range}; the script does not say what it holds")));
    }
    match value.trim().parse::<u32>() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(CommandError::new(line, flag, value, range)),
    }
}
