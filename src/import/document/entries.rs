//! What the keys and values of a JSON or YAML tree claim.

use super::DocumentError;
use super::ledger::{Ledger, Place};
use super::lexer::{self, Kind};
use super::lines;
use super::passage;
use super::quantity::{all_filler, fraction};
use super::tree::{Node, Value};
use super::vocabulary::{self, Field};

/// Under these keys, "tensor: 2" is a degree.
const TOPICS: &[&str] = &["parallel", "strategy", "layout", "plan", "degrees", "mesh", "topology"];

/// Reads a tree. `path` holds the words of the key above it.
pub(super) fn read(node: &Node, path: &[String], ledger: &mut Ledger) -> Result<(), DocumentError> {
    match &node.value {
        Value::Map(entries) => {
            named_degree(entries, ledger)?;
            entries.iter().try_for_each(|(key, value)| entry(key, value, path, ledger))
        }
        Value::List(items) => items.iter().try_for_each(|item| read(item, path, ledger)),
        Value::Text(text) => lines::read(text, node.line, ledger),
        Value::Bare(_) => Ok(()),
    }
}

/// `{"axis": "TP", "degree": 2}`.
fn named_degree(entries: &[(String, Node)], ledger: &mut Ledger) -> Result<(), DocumentError> {
    let find = |keys: &[&str]| entries.iter().find(|(key, _)| keys.contains(&key.to_lowercase().as_str()));
    let axis = find(&["axis", "name", "dim", "dimension", "type", "parallelism"]);
    let size = find(&["degree", "size", "value"]);
    if let (Some((_, Node { value: Value::Text(name), .. })), Some((_, Node { value: Value::Bare(size), line }))) =
        (axis, size)
        && let Some(field) = field_of(&words(name)).filter(|f| f.is_degree())
    {
        ledger.count(field, size, Place { line: *line, text: format!("{name}: {size}") })?;
    }
    Ok(())
}

fn entry(key: &str, node: &Node, path: &[String], ledger: &mut Ledger) -> Result<(), DocumentError> {
    let last = key.rsplit(['.', '/']).next().unwrap_or(key);
    let own = words(last);
    let unit = unit_of(&own);
    let bare: Vec<String> = own.iter().filter(|w| !is_unit_word(w)).cloned().collect();
    let below: Vec<String> = path.iter().chain(&bare).cloned().collect();
    let topical = || path.iter().any(|w| TOPICS.contains(&vocabulary::normal(w)));
    let stem = || match bare.as_slice() {
        [word, rest @ ..] if topical() && all_filler(&strs(rest)) => vocabulary::stem(word),
        _ => None,
    };
    // `experts: {per_gpu: 16}` is about the pair; `experts: {tp: 2}` about the key alone.
    let together = || if path.is_empty() { None } else { field_of(&below) };
    let field = stem().or_else(|| field_of(&bare)).or_else(together);
    // `required: {gpus: 8}` and `gpu: {memory: 80 GB}`: the key above says which GPUs, which memory.
    let field = match (field, together()) {
        (Some(Field::MemoryPerGpu | Field::AvailableGpus), Some(better)) => Some(better),
        (field, _) => field,
    };
    match (&node.value, field) {
        (Value::Map(_) | Value::List(_), _) => {
            let said_in_list = matches!(&node.value, Value::List(_)).then_some(field).flatten();
            if said_in_list.is_some_and(Field::is_count) {
                return Ok(()); // a list of candidates claims nothing
            }
            read(node, &own, ledger)
        }
        (Value::Bare(written), Some(field)) => bare_value(field, key, written, unit.as_deref(), node.line, ledger),
        (Value::Bare(written), None) => {
            if written.parse::<f64>().is_ok() {
                unknown(key, &own, node.line, ledger);
            }
            Ok(())
        }
        (Value::Text(text), Some(field)) => text_value(field, key, text, unit.as_deref(), node.line, ledger),
        (Value::Text(text), None) if text.contains('\n') => lines::read(text, node.line.saturating_add(1), ledger),
        (Value::Text(text), None) => {
            if text.trim().parse::<f64>().is_ok() {
                unknown(key, &own, node.line, ledger);
            }
            let topic = own.iter().any(|w| TOPICS.contains(&vocabulary::normal(w)));
            passage::read(&format!("{last}: {text}"), node.line, topic, ledger)
        }
    }
}

fn bare_value(
    field: Field,
    key: &str,
    written: &str,
    unit: Option<&str>,
    line: u32,
    ledger: &mut Ledger,
) -> Result<(), DocumentError> {
    let Ok(number) = written.parse::<f64>() else {
        return Ok(()); // null and true claim no number
    };
    let place = Place { line, text: format!("{key}: {written}").chars().take(120).collect() };
    if field.is_count() {
        if written.trim_end_matches(".0") == "-1" {
            return Ok(()); // "work it out yourself" in torchtitan and SGLang
        }
        return ledger.count(field, written, place);
    }
    match field {
        Field::MemoryPerGpu | Field::MemoryCapacity => {
            // Without a unit, nobody means 80 bytes.
            let assumed = if number < 1e5 { 1e9 } else { 1.0 };
            let scale = unit.and_then(vocabulary::unit_bytes).unwrap_or(assumed);
            ledger.amount(field, number * scale, place);
        }
        Field::MemoryBudget if number <= 1.0 && unit != Some("percent") => {}
        Field::Utilization | Field::MemoryBudget => {
            ledger.amount(Field::Utilization, fraction(number, unit == Some("percent")), place);
        }
        _ => ledger.amount(field, number, place),
    }
    Ok(())
}

fn text_value(
    field: Field,
    key: &str,
    text: &str,
    unit: Option<&str>,
    line: u32,
    ledger: &mut Ledger,
) -> Result<(), DocumentError> {
    let trimmed = text.trim();
    if trimmed.parse::<f64>().is_ok() {
        return bare_value(field, key, trimmed, unit, line, ledger);
    }
    let place = Place { line, text: format!("{key}: {trimmed}").chars().take(120).collect() };
    match field {
        Field::Model | Field::Gpu => {
            let reads_as_prose = trimmed.contains('\n') || trimmed.len() > 120;
            if !reads_as_prose {
                ledger.name(field, trimmed, place);
                return Ok(());
            }
        }
        Field::Framework | Field::Convention => {
            let lower = trimmed.to_lowercase();
            let known = vocabulary::framework_at(&lower).map(|(_, short)| short.to_owned());
            let first = lower.split_whitespace().next().unwrap_or_default().to_owned();
            ledger.name(field, &known.unwrap_or(first), place);
            return Ok(());
        }
        Field::Ignored => return Ok(()),
        _ => {}
    }
    // In the field's own words, so that `tpSize: "2 (per node)"` reads like `tp: 2 (per node)`.
    let name = field.key().replace('_', " ");
    passage::read(&format!("{name}: {text}"), line, false, ledger)
}

/// The words of a key.
fn words(key: &str) -> Vec<String> {
    let short: String = key.chars().take(80).collect();
    let tokens = lexer::lex(&short, 1);
    tokens.into_iter().filter(|t| matches!(t.kind, Kind::Word | Kind::Symbol('%'))).map(|t| t.text).collect()
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn field_of(words: &[String]) -> Option<Field> {
    vocabulary::name_of(&strs(words))
}

fn is_unit_word(word: &str) -> bool {
    vocabulary::unit_bytes(word).is_some() && word != "mb"
        || matches!(word, "percent" | "percentage" | "pct" | "%" | "ratio" | "fraction")
}

/// The unit that a key ends with: `memory_gb`, `utilization_percent`.
fn unit_of(words: &[String]) -> Option<String> {
    let last = words.iter().rev().find(|w| is_unit_word(w))?;
    Some(match last.as_str() {
        "percent" | "percentage" | "pct" | "%" => "percent".to_owned(),
        other => other.to_owned(),
    })
}

/// Notes a numeric key that looks like a degree or a count but is spelled like none.
fn unknown(key: &str, words: &[String], line: u32, ledger: &mut Ledger) {
    if !ledger.may_compare() {
        return;
    }
    let shown: String = key.chars().take(60).collect();
    if let Some(meant) = vocabulary::did_you_mean(&shown) {
        ledger.unknown(format!("{shown} (line {line}): did you mean {meant}?"));
    } else if words.iter().any(|w| vocabulary::normal(w) == "parallel") {
        ledger.unknown(format!("{shown} (line {line}): no known axis"));
    }
}
