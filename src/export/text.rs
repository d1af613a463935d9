//! Plain tables: Markdown, CSV, and the cells of the terminal's.

use super::{Column, Ranking, columns};
use crate::job::Load;

/// The cells of a ranking for people: a heading row, then one row a plan.
#[must_use]
pub fn cells(r: &Ranking<'_>) -> (Vec<&'static str>, Vec<Vec<String>>) {
    // Requests in flight say nothing where the job gave them.
    let given = r.job.serve().is_some_and(|s| s.load == Load::InFlight) && !r.every_load;
    let columns: Vec<&Column> = columns(r.job)
        .iter()
        .filter(|c| !(c.title.is_empty() || given && matches!(c.key, "concurrency" | "requests_per_s")))
        .collect();
    let rows = r.outcome.rows.iter().enumerate().map(|(i, row)| columns.iter().map(|c| (c.show)(r, i, row)).collect());
    (columns.iter().map(|c| c.title).collect(), rows.collect())
}

/// A Markdown table.
#[must_use]
pub fn markdown_table(head: &[&str], rows: &[Vec<String>]) -> String {
    let escape = |cell: &str| cell.replace('|', "\\|").replace('\n', " ");
    let mut out = String::new();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    out.push_str(&line(head.iter().map(|h| escape(h)).collect()));
    out.push_str(&line(head.iter().map(|_| "---".to_owned()).collect()));
    for row in rows {
        out.push_str(&line(row.iter().map(|c| escape(c)).collect()));
    }
    out
}

/// A ranking as Markdown.
#[must_use]
pub fn markdown(r: &Ranking<'_>) -> String {
    let (head, rows) = cells(r);
    markdown_table(&head, &rows)
}

/// A ranking as CSV (RFC 4180), keys as heading, base units.
#[must_use]
pub fn csv(r: &Ranking<'_>) -> String {
    let columns = columns(r.job);
    let mut out = String::new();
    let head: Vec<String> = columns.iter().map(|c| c.key.to_owned()).collect();
    push_record(&mut out, &head);
    for (i, row) in r.outcome.rows.iter().enumerate() {
        let cells: Vec<String> = columns.iter().map(|c| (c.value)(r, i, row)).collect();
        push_record(&mut out, &cells);
    }
    out
}

/// Adds one record, quoting what needs it.
pub fn push_record(out: &mut String, cells: &[String]) {
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(cell);
        }
    }
    out.push_str("\r\n");
}
