//! The verdict on written plans in the forms that code review and CI read.

use crate::import::verify::{Checked, VerifyOutcome};
use crate::verify::Severity;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One result of a file: rule, level, message, line.
struct Entry<'a> {
    rule: &'a str,
    level: &'static str,
    message: String,
    line: u32,
}

fn entries(checked: &Checked) -> Vec<Entry<'_>> {
    match &checked.result {
        Err(error) => vec![Entry { rule: "unreadable", level: "error", message: error.to_string(), line: 0 }],
        Ok(verdict) => verdict
            .findings
            .iter()
            .map(|f| {
                let level = match f.severity {
                    Severity::Violation => "error",
                    Severity::Note => "note",
                };
                let fix = f.fix.as_ref().map(|fix| format!("; write: {fix}")).unwrap_or_default();
                Entry { rule: f.rule, level, message: format!("{}{fix}", f.message), line: f.line }
            })
            .collect(),
    }
}

/// SARIF 2.1.0.
#[must_use]
pub fn sarif(outcome: &VerifyOutcome) -> Value {
    let mut rules: BTreeSet<&str> = BTreeSet::new();
    let mut results = Vec::new();
    for checked in &outcome.files {
        for entry in entries(checked) {
            rules.insert(entry.rule);
            let uri = if checked.file == "-" { "stdin".to_owned() } else { uri(&checked.file) };
            results.push(json!({
                "ruleId": entry.rule,
                "level": entry.level,
                "message": {"text": entry.message},
                "locations": [{"physicalLocation": {
                    "artifactLocation": {"uri": uri}, "region": {"startLine": entry.line.max(1)},
                }}],
            }));
        }
    }
    let rules: Vec<Value> = rules.iter().map(|id| json!({"id": id})).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "meshwright", "version": env!("CARGO_PKG_VERSION"), "rules": rules,
            }},
            "results": results,
        }],
    })
}

/// A path as a relative URI: what RFC 3986 does not allow in a path is escaped.
fn uri(path: &str) -> String {
    let mut out = String::new();
    for byte in path.replace('\\', "/").bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@!$&'()*+,;=".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// JUnit XML: a test case a file, one failure for all its violations.
#[must_use]
pub fn junit(outcome: &VerifyOutcome) -> String {
    let failures = outcome.files.iter().filter(|f| !f.holds()).count();
    let (tests, skipped) = (outcome.files.len() + outcome.skipped.len(), outcome.skipped.len());
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\"");
    out.push_str(&format!("<testsuites name=\"meshwright verify\" {counts}>\n"));
    out.push_str(&format!("  <testsuite name=\"meshwright verify\" {counts} errors=\"0\" skipped=\"{skipped}\">\n"));
    for checked in &outcome.files {
        let name = escape(&checked.file);
        if checked.holds() {
            out.push_str(&format!("    <testcase classname=\"plan\" name=\"{name}\"/>\n"));
            continue;
        }
        let errors: Vec<Entry<'_>> = entries(checked).into_iter().filter(|e| e.level == "error").collect();
        let first = errors.first().map(|e| escape(&format!("{}: {}", e.rule, e.message))).unwrap_or_default();
        let all: Vec<String> = errors
            .iter()
            .map(|e| {
                let at = if e.line > 0 { format!("line {}: ", e.line) } else { String::new() };
                escape(&format!("{at}{}: {}", e.rule, e.message))
            })
            .collect();
        out.push_str(&format!("    <testcase classname=\"plan\" name=\"{name}\">\n"));
        out.push_str(&format!("      <failure message=\"{first}\">{}</failure>\n    </testcase>\n", all.join("\n")));
    }
    for (name, why) in &outcome.skipped {
        let (name, why) = (escape(name), escape(why));
        out.push_str(&format!(
            "    <testcase classname=\"plan\" name=\"{name}\"><skipped message=\"{why}\"/></testcase>\n"
        ));
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

/// Text for XML 1.0, which has no words for most control characters.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
