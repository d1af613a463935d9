//! Plain text and Markdown: tables are taken apart, everything else is read as it stands.

use super::DocumentError;
use super::ledger::Ledger;
use super::lexer::{self, Kind};
use super::passage;
use super::vocabulary::{self, Field};

/// Reads a text that starts on a line of the document.
pub(super) fn read(text: &str, first_line: u32, ledger: &mut Ledger) -> Result<(), DocumentError> {
    let mut reader = Lines { ledger, prose: String::new(), prose_line: first_line, topic: false };
    let mut table: Vec<(u32, Vec<&str>)> = Vec::new();
    let mut number = first_line;
    for line in text.lines() {
        if let Some(cells) = cells(line) {
            reader.flush()?;
            table.push((number, cells));
        } else {
            reader.table(&std::mem::take(&mut table))?;
            reader.line(line, number)?;
        }
        number = number.saturating_add(1);
    }
    reader.table(&table)?;
    reader.flush()
}

/// The cells of a table's row, if the line is one.
fn cells(line: &str) -> Option<Vec<&str>> {
    let line = line.trim();
    let framed = line.starts_with('|');
    if !(framed || line.matches(" | ").count() >= 2) {
        return None;
    }
    let inner = line.trim_start_matches('|').trim_end_matches('|');
    let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
    (cells.len() >= 2).then_some(cells)
}

struct Lines<'a> {
    ledger: &'a mut Ledger,
    prose: String,
    prose_line: u32,
    /// The last heading was about parallelism.
    topic: bool,
}

impl Lines<'_> {
    fn line(&mut self, line: &str, number: u32) -> Result<(), DocumentError> {
        let trimmed = line.trim();
        let heading = trimmed.starts_with('#') || trimmed.trim_end_matches('*').ends_with(':');
        if heading {
            self.flush()?;
            let lower = trimmed.to_lowercase();
            self.topic = lower.contains("parallel") || lower.contains("strategy") || lower.contains("degrees");
        }
        if self.prose.is_empty() {
            self.prose_line = number;
        }
        self.prose.push_str(line);
        self.prose.push('\n');
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DocumentError> {
        let prose = std::mem::take(&mut self.prose);
        passage::read(&prose, self.prose_line, self.topic, self.ledger)
    }

    fn table(&mut self, rows: &[(u32, Vec<&str>)]) -> Result<(), DocumentError> {
        let Some((_, head)) = rows.first() else { return Ok(()) };
        let topic = self.topic || head.iter().any(|c| c.to_lowercase().contains("parallel"));
        let columns: Vec<Option<Field>> = head.iter().map(|cell| label(cell, topic)).collect();
        let has_header = columns.iter().flatten().count() >= 2;
        for (n, (line, row)) in rows.iter().enumerate() {
            let rule = row.iter().all(|c| c.chars().all(|c| matches!(c, '-' | ':' | '=' | ' ')));
            if rule || has_header && n == 0 {
                continue;
            }
            if has_header {
                for (cell, title) in row.iter().zip(head) {
                    passage::read(&format!("{title}: {cell}"), *line, topic, self.ledger)?;
                }
            } else {
                self.row(row, *line, topic)?;
            }
        }
        Ok(())
    }

    /// A row that starts with a name: the first cell with a number is its value, the rest are remarks.
    fn row(&mut self, row: &[&str], line: u32, topic: bool) -> Result<(), DocumentError> {
        // "Expert | EP | 4": the cell that names a degree says more than the one that names experts.
        let place =
            |wanted: fn(Field) -> bool| row.iter().take(3).position(|cell| label(cell, topic).is_some_and(wanted));
        let named = place(Field::is_degree).or_else(|| place(|_| true));
        let Some(name) = named else {
            let joined = row.join(": ");
            if row.len() == 2 {
                return passage::read(&joined, line, topic, self.ledger);
            }
            return row.iter().try_for_each(|cell| passage::read(cell, line, topic, self.ledger));
        };
        let title = row.get(name).copied().unwrap_or_default();
        let numeric = row.iter().skip(name + 1).position(|cell| starts_with_number(cell));
        let value = Some(name + 1 + numeric.unwrap_or(0));
        for (n, cell) in row.iter().enumerate() {
            if Some(n) == value {
                passage::read(&format!("{title}: {cell}"), line, topic, self.ledger)?;
            } else if n != name {
                passage::read(cell, line, topic, self.ledger)?;
            }
        }
        Ok(())
    }
}

fn starts_with_number(cell: &str) -> bool {
    cell.trim_start_matches(['*', '`', ' ', '~']).starts_with(|c: char| c.is_ascii_digit())
}

/// The field that a cell names, if it is a name and nothing else: "Tensor Parallelism (TP)".
fn label(cell: &str, topic: bool) -> Option<Field> {
    let short: String = cell.chars().take(80).collect();
    let tokens = lexer::lex(&short, 1);
    if tokens.iter().any(|t| !matches!(t.kind, Kind::Word | Kind::Symbol('(' | ')' | '-' | '/' | ':'))) {
        return None;
    }
    let outside = tokens.iter().take_while(|t| !t.is('('));
    let words: Vec<&str> = outside.filter(|t| t.kind == Kind::Word).map(|t| t.text.as_str()).collect();
    vocabulary::name_of(&words)
        .or_else(|| match words.as_slice() {
            [word] if topic => vocabulary::stem(word),
            _ => None,
        })
        .filter(|field| *field != Field::Ignored)
}
