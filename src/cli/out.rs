//! Reading files and writing results: a closed pipe is success, a half-written file never is.

use crate::error::{Error, Result};
use std::io::{ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

/// The most that is read of one file: larger ones are not jobs or plans.
const MOST_BYTES: u64 = 256 << 20;

/// A file, or stdin for `-`.
pub(crate) fn bytes(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MOST_BYTES + 1;
    if path == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(|e| Error::read("stdin", &e))?;
    } else {
        let file = std::fs::File::open(path).map_err(|e| Error::read(path, &e))?;
        file.take(limit).read_to_end(&mut bytes).map_err(|e| Error::read(path, &e))?;
    }
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), limit: MOST_BYTES });
    }
    Ok(bytes)
}

/// A text file, or stdin for `-`; a byte-order mark is dropped.
pub(crate) fn read(path: &str) -> Result<String> {
    let name = if path == "-" { "stdin" } else { path };
    let text = String::from_utf8(bytes(path)?)
        .map_err(|e| Error::NotUtf8 { path: name.to_owned(), offset: e.utf8_error().valid_up_to() })?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
}

/// A result on stdout.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::write("stdout", &e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A result where it was asked for; a file appears whole or not at all.
pub(crate) fn write(output: Option<&str>, text: &str) -> Result<()> {
    write_as("--output", output, text)
}

/// The same, for a flag of its own.
pub(crate) fn write_as(flag: &str, output: Option<&str>, text: &str) -> Result<()> {
    let Some(path) = output else { return write_stdout(text.as_bytes()) };
    let target = Path::new(path);
    let name = target.file_name().ok_or_else(|| Error::invalid(flag, "", path, "the path of a file"))?;
    let beside = target.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    std::fs::write(&beside, text).map_err(|e| Error::write(path, &e))?;
    std::fs::rename(&beside, target).map_err(|e| {
        // The old file, if any, is untouched; only the part is ours to remove.
        let _gone = std::fs::remove_file(&beside);
        Error::write(path, &e)
    })
}

/// A note on stderr, unless they are not wanted.
pub(crate) fn note(quiet: bool, text: &str) {
    if !quiet {
        let _closed_pipe = writeln!(anstream::stderr(), "{text}");
    }
}

/// Whether a person looks at stderr.
pub(crate) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Columns of the terminal that shows stdout; 80 for pipes and files, so that what is written does not depend on where.
pub(crate) fn width() -> usize {
    terminal_size::terminal_size_of(std::io::stdout()).map_or(80, |(columns, _)| usize::from(columns.0))
}

/// A terminal table; numbers to the right, `left` columns to the left.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>], left: &[usize]) -> String {
    use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|h| (*h).to_owned()).collect::<Vec<String>>());
    for row in rows {
        table.add_row(row.clone());
    }
    for i in 0..head.len() {
        let side = if left.contains(&i) { CellAlignment::Left } else { CellAlignment::Right };
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(side);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// JSON for people: indented, one trailing newline.
pub(crate) fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
