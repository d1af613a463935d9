//! Command lines as data: arguments in order, quoted for a shell, one group of them a line.

use std::fmt::{Display, Write};

/// A command line under construction.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    lines: Vec<String>,
}

impl Args {
    /// Starts with a line that is written as it stands (a program, environment before it, our own `$VARIABLES`).
    pub(super) fn start(line: impl Into<String>) -> Self {
        Self { lines: vec![line.into()] }
    }

    /// A switch.
    pub(super) fn flag(&mut self, flag: &str) {
        self.lines.push(flag.to_owned());
    }

    /// A switch, if it holds.
    pub(super) fn flag_if(&mut self, holds: bool, flag: &str) {
        if holds {
            self.flag(flag);
        }
    }

    /// A flag and its value.
    pub(super) fn set(&mut self, flag: &str, value: impl Display) {
        self.lines.push(format!("{flag} {}", quote(&value.to_string())));
    }

    /// A flag and its value, if it holds.
    pub(super) fn set_if(&mut self, holds: bool, flag: &str, value: impl Display) {
        if holds {
            self.set(flag, value);
        }
    }

    /// Text that is written as it stands: several flags that belong together, or a value with a variable of ours.
    pub(super) fn raw(&mut self, text: impl Into<String>) {
        self.lines.push(text.into());
    }

    /// An override as Bridge takes them: `key=value`.
    pub(super) fn key(&mut self, key: &str, value: impl Display) {
        self.lines.push(quote(&format!("{key}={value}")));
    }

    /// An override, if it holds.
    pub(super) fn key_if(&mut self, holds: bool, key: &str, value: impl Display) {
        if holds {
            self.key(key, value);
        }
    }

    /// Everything of another after this.
    pub(super) fn extend(&mut self, other: &Self) {
        self.lines.extend(other.lines.iter().cloned());
    }

    /// The text: short pieces share a line, lines end in a backslash.
    pub(super) fn render(&self) -> String {
        const WIDTH: usize = 110;
        let mut out = String::new();
        let mut width = 0;
        for (i, line) in self.lines.iter().enumerate() {
            if i == 0 {
                out.push_str(line);
                width = WIDTH;
            } else if width + 1 + line.len() > WIDTH {
                // Writing to a string cannot fail.
                let _ = write!(out, " \\\n  {line}");
                width = 2 + line.len();
            } else {
                let _ = write!(out, " {line}");
                width += 1 + line.len();
            }
        }
        out
    }
}

/// A word a shell reads back as it is. Names of models come from outside, so nothing in them may reach the shell.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:,=+-@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A share with as few digits as it needs.
pub(super) fn share(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0');
    if text.ends_with('.') { format!("{text}0") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_from_outside_stay_words() {
        assert_eq!(quote("Qwen/Qwen3-30B-A3B"), "Qwen/Qwen3-30B-A3B");
        assert_eq!(quote("a b; rm $(x)"), "'a b; rm $(x)'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn shares_are_short() {
        assert_eq!((share(0.9), share(1.0), share(0.125)), ("0.9".into(), "1.0".into(), "0.125".into()));
    }
}
