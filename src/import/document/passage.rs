//! One passage of text and the names in it that have a value: "Tensor Parallelism (TP): 2", "tp2", "--pp-size 2".

use super::DocumentError;
use super::ledger::{Ledger, Place};
use super::lexer::{self, Kind, Token};
use super::vocabulary::{self, Field, is_filler, name_at, unit_bytes};

/// Words that may stand between a name and its value.
const CONNECTORS: &[&str] = &[
    "is",
    "was",
    "be",
    "at",
    "with",
    "to",
    "set",
    "equals",
    "equal",
    "has",
    "have",
    "uses",
    "a",
    "an",
    "about",
    "around",
    "approximately",
    "roughly",
    "approx",
    "ca",
    "usage",
    "used",
    "use",
    "footprint",
    "needed",
    "required",
    "estimate",
    "estimated",
    "each",
    "total",
    "currently",
];

/// "TP across 8 GPUs" gives TP, not the cluster.
const ACROSS: &[&str] = &["across", "over"];

/// Nouns that own the number before them, whatever name came earlier.
const OWNERS: &[&str] =
    &["expert", "layers", "layer", "heads", "head", "bit", "bits", "percent", "params", "parameters"];

/// How far a value may be from its name, in tokens.
const REACH: usize = 8;

/// How far to look for the end of a clause.
pub(super) const CLAUSE: usize = 24;

/// A text being read, with a mark on every token already understood.
pub(super) struct Passage<'a> {
    pub source: &'a str,
    pub tokens: Vec<Token>,
    pub taken: Vec<bool>,
    pub ledger: &'a mut Ledger,
    /// Whether parallelism is the topic, so that "Tensor: 2" is a degree.
    pub topic: bool,
}

/// Reads a text that starts on a line of the document.
pub(super) fn read(source: &str, first_line: u32, topic: bool, ledger: &mut Ledger) -> Result<(), DocumentError> {
    let tokens = lexer::lex(source, first_line);
    let taken = vec![false; tokens.len()];
    let mut passage = Passage { source, tokens, taken, ledger, topic };
    passage.formulas()?;
    passage.parallel_lists()?;
    passage.labels()?;
    passage.quantities()?;
    passage.names();
    Ok(())
}

impl Passage<'_> {
    pub(super) fn kind(&self, at: usize) -> Option<Kind> {
        self.tokens.get(at).map(|t| t.kind)
    }

    pub(super) fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |t| &t.text)
    }

    pub(super) fn is(&self, at: usize, sign: char) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is(sign))
    }

    pub(super) fn word(&self, at: usize, words: &[&str]) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is_word(words))
    }

    pub(super) fn free(&self, at: usize) -> bool {
        self.taken.get(at) == Some(&false)
    }

    pub(super) fn is_number(&self, at: usize) -> bool {
        self.kind(at) == Some(Kind::Number)
    }

    pub(super) fn take(&mut self, from: usize, to: usize) {
        let to = to.min(self.taken.len());
        if let Some(range) = self.taken.get_mut(from..to) {
            range.fill(true);
        }
    }

    /// Whether a clause ends at a token.
    pub(super) fn ends_clause(&self, at: usize) -> bool {
        match self.kind(at) {
            None | Some(Kind::Break) => true,
            Some(Kind::Symbol(sign)) => matches!(sign, ',' | ';' | '|' | '.'),
            _ => false,
        }
    }

    /// The tokens of the clause around a token, at most [`CLAUSE`] to each side.
    pub(super) fn clause(&self, at: usize) -> std::ops::Range<usize> {
        let floor = at.saturating_sub(CLAUSE);
        let mut start = at;
        while start > floor && !self.ends_clause(start - 1) {
            start -= 1;
        }
        let mut end = at;
        while end < at + CLAUSE && !self.ends_clause(end) {
            end += 1;
        }
        start..end
    }

    /// A word right after a number without a space: the `B` of `7B`. `x` is a sign, not a word.
    pub(super) fn has_glued_word(&self, at: usize) -> bool {
        let glued = |at: usize| self.tokens.get(at).is_some_and(|t| t.glued);
        let next = self.kind(at + 1);
        if self.is(at + 1, '-') && glued(at + 1) && self.word(at + 2, &["bit"]) {
            return true;
        }
        glued(at + 1) && matches!(next, Some(Kind::Word | Kind::Other)) && !vocabulary::is_axis_word(self.text(at + 1))
    }

    /// Line and words around a token.
    pub(super) fn place(&self, at: usize) -> Place {
        const WINDOW: usize = 400;
        const SHOWN: usize = 120;
        let Some(token) = self.tokens.get(at) else {
            return Place { line: 0, text: String::new() };
        };
        let from = self.source.floor_char_boundary(token.start.saturating_sub(WINDOW));
        let to = self.source.ceil_char_boundary((token.end + WINDOW).min(self.source.len()));
        let before = self.source.get(from..token.start).unwrap_or_default();
        let after = self.source.get(token.start..to).unwrap_or_default();
        let head = before.rsplit('\n').next().unwrap_or_default().trim_start();
        let tail = after.split('\n').next().unwrap_or_default().trim_end();
        let whole = head.chars().count() + tail.chars().count() <= SHOWN;
        let skip = if whole { 0 } else { head.chars().count().saturating_sub(SHOWN / 3) };
        let text: String = head.chars().skip(skip).chain(tail.chars()).take(SHOWN).collect();
        Place { line: token.line, text: text.trim().to_owned() }
    }

    /// Bytes of an amount of memory whose number stands at a token. Rates ("GB/s") and bits are none.
    pub(super) fn memory(&self, at: usize) -> Option<f64> {
        let token = self.tokens.get(at).filter(|t| t.kind == Kind::Number)?;
        // "dp2 mb1" holds no megabytes: the lexer spells that name out.
        let unit = self.tokens.get(at + 1).filter(|t| t.kind == Kind::Word && t.text != "mbs")?;
        let unit_end = match self.tokens.get(at + 2) {
            // Camel case splits "GiB" in two.
            Some(next) if next.glued && next.kind == Kind::Word => next.end,
            _ => unit.end,
        };
        let written = self.source.get(unit.start..unit_end)?;
        let per_second = self.is(self.after_memory(at), '/')
            && self.word(self.after_memory(at) + 1, &["s", "sec", "second", "token"]);
        let bytes = unit_bytes(written).or_else(|| unit_bytes(self.source.get(unit.start..unit.end)?))?;
        let amount = token.text.parse::<f64>().ok()?;
        (!per_second).then_some(amount * bytes)
    }

    /// The token after an amount of memory.
    pub(super) fn after_memory(&self, at: usize) -> usize {
        let split_unit = self.tokens.get(at + 2).is_some_and(|t| t.glued && t.kind == Kind::Word)
            && matches!(self.text(at + 1), "gi" | "mi" | "ki" | "ti");
        at + 2 + usize::from(split_unit)
    }

    /// "TP/EP/PP/DP = 2/4/2/2": as many numbers as names, in the same order.
    fn parallel_lists(&mut self) -> Result<(), DocumentError> {
        let mut at = 0;
        while at < self.tokens.len() {
            let (fields, mut next) = self.axis_list(at);
            if fields.len() < 2 {
                at += 1;
                continue;
            }
            while self.is(next, ')')
                || self.is(next, ':')
                || self.is(next, '=')
                || self.is(next, '(')
                || self.is(next, '[')
                || self.is(next, ']')
                || self.word(next, &["of", "is", "are"])
            {
                next += 1;
            }
            let numbers = self.number_list(next);
            if numbers.len() == fields.len() {
                for (field, number) in fields.iter().zip(&numbers) {
                    let written = self.text(*number).to_owned();
                    self.ledger.count(*field, &written, self.place(*number))?;
                }
                let end = numbers.last().map_or(next, |n| n + 1);
                self.take(at, end);
            }
            at = next;
        }
        Ok(())
    }

    fn axis_list(&self, start: usize) -> (Vec<Field>, usize) {
        let mut fields = Vec::new();
        let mut at = start;
        while let Some((field, len)) = name_at(&self.tokens, at).filter(|(f, _)| f.is_degree()) {
            if !self.free(at) {
                break;
            }
            fields.push(field);
            at += len;
            let separated = self.is(at, '/') || self.is(at, ',');
            if separated && name_at(&self.tokens, at + 1).is_some() {
                at += 1;
            }
        }
        (fields, at)
    }

    fn number_list(&self, start: usize) -> Vec<usize> {
        let mut numbers = Vec::new();
        let mut at = start;
        while self.is_number(at) && self.free(at) {
            numbers.push(at);
            if !(self.is(at + 1, '/') || self.is(at + 1, ',') || self.is(at + 1, '-')) {
                break;
            }
            at += 2;
        }
        numbers
    }

    /// Every name with the value that belongs to it.
    fn labels(&mut self) -> Result<(), DocumentError> {
        let mut at = 0;
        while at < self.tokens.len() {
            let found = name_at(&self.tokens, at).or_else(|| self.topical(at));
            let Some((field, len)) = found.filter(|_| self.free(at)) else {
                at += 1;
                continue;
            };
            at = self.label(field, at, len)?.max(at + 1);
        }
        Ok(())
    }

    /// "Tensor: 2" under a heading about parallelism.
    fn topical(&self, at: usize) -> Option<(Field, usize)> {
        let opens = at == 0 || self.ends_clause(at - 1);
        let explicit = self.is(at + 1, ':') || self.is(at + 1, '=');
        let token = self.tokens.get(at).filter(|t| t.kind == Kind::Word)?;
        (self.topic && opens && explicit).then_some((vocabulary::stem(&token.text)?, 1))
    }

    fn label(&mut self, field: Field, at: usize, len: usize) -> Result<usize, DocumentError> {
        let after = at + len;
        match field {
            Field::Ignored => {
                if let Some((number, _)) = self.value_after(after) {
                    self.take(number, number + 1);
                }
                self.take(at, after);
            }
            Field::Utilization | Field::MemoryBudget => return Ok(self.utilization(field, at, after)),
            Field::MemoryPerGpu | Field::MemoryCapacity => return Ok(self.memory_label(field, at, after)),
            Field::Model | Field::Gpu | Field::Framework | Field::Convention => self.name_label(field, at, after),
            Field::ExpertsPerGpu => {
                if let Some((_, explicit)) = self.value_after(after).filter(|(_, explicit)| *explicit)
                    && let Some(number) = self.outcome(after, explicit)
                    && let Ok(value) = self.text(number).parse()
                {
                    let place = self.place(number);
                    self.ledger.amount(field, value, place);
                    self.take(at, number + 1);
                    return Ok(number + 1);
                }
            }
            _ => return self.count_label(field, at, after),
        }
        Ok(after)
    }

    fn count_label(&mut self, field: Field, at: usize, after: usize) -> Result<usize, DocumentError> {
        // "16 GPUs": the number before owns the noun. "512 MB" is memory, not a micro batch.
        let noun = after == at + 1 && self.word(at, &["gpu", "node", "expert", "mb"]);
        let follows_number = at > 0 && matches!(self.kind(at - 1), Some(Kind::Number | Kind::Gpu));
        if noun && follows_number {
            return Ok(after);
        }
        let Some((number, explicit)) = self.value_after(after) else {
            return Ok(after);
        };
        let glued = self.tokens.get(number).is_some_and(|t| t.glued) && number == after;
        let number = if self.is_operand(number) && !glued {
            match self.outcome(after, explicit) {
                Some(result) => result,
                None => return Ok(after),
            }
        } else {
            number
        };
        if noun && !explicit || self.belongs_elsewhere(field, number, explicit) {
            return Ok(after);
        }
        let written = self.text(number).to_owned();
        let loose = !(explicit || glued);
        // "PP ranks 0 and 1" names ranks; only a stated 0 or 2.5 is a mistake worth stopping for.
        if loose && (written.contains('.') || written.trim_matches('0').is_empty()) {
            if number == after && field.is_degree() && self.ends_clause(number + 1) {
                self.ledger.doubtful(field, &written, self.place(number));
            }
            return Ok(number);
        }
        let thousands = field == Field::SeqLen && self.word(number + 1, &["k"]);
        let place = self.place(number);
        if thousands {
            if let Ok(kilo) = written.parse::<u32>() {
                self.ledger.whole(field, u64::from(kilo) * 1024, place);
            }
        } else {
            self.ledger.count(field, &written, place)?;
        }
        let counted = usize::from(self.word(number + 1, &["gpu", "stages", "ranks", "k"]));
        self.take(at, number + 1 + counted);
        Ok(number + 1 + counted)
    }

    /// Whether the words after a number show that it is not the value of the name before it.
    fn belongs_elsewhere(&self, field: Field, number: usize, explicit: bool) -> bool {
        let next = number + 1;
        let signed = number > 0
            && self.is(number - 1, '-')
            && self.tokens.get(number).is_some_and(|t| t.glued)
            && self.tokens.get(number - 1).is_some_and(|t| !t.glued);
        let range =
            self.is(next, '-') && self.is_number(number + 2) && self.tokens.get(number + 2).is_some_and(|t| t.glued);
        let across = self.word(number.wrapping_sub(1), ACROSS);
        let gpus = self.noun(next, &["gpu"]);
        let nodes = self.noun(next, &["node"]);
        let glued = self.has_glued_word(number) && !(field == Field::SeqLen && self.word(next, &["k"]));
        let shape = matches!(field, Field::AvailableGpus | Field::RequiredGpus | Field::Nodes | Field::GpusPerNode)
            && self.is(next, '×')
            && self.is_number(number + 2);
        let foreign = match field {
            Field::AvailableGpus | Field::RequiredGpus => nodes || self.memory(number).is_some(),
            Field::Nodes => gpus,
            Field::GpusPerNode => nodes,
            Field::Experts => gpus || self.word(next, &["per"]),
            _ => nodes || gpus && !(explicit || across),
        };
        let owned = self.noun(next, OWNERS)
            && field != Field::Experts
            && field != Field::MicroBatch
            && field != Field::GlobalBatch;
        let bits = self.is(next, '-') && self.word(number + 2, &["bit"]);
        signed
            || range
            || foreign
            || owned
            || bits
            || glued
            || shape
            || self.is(next, '%')
            || self.memory(number).is_some()
    }

    /// Whether a word belongs to the number before it: not when it starts a flag or a name with its own value.
    fn noun(&self, at: usize, words: &[&str]) -> bool {
        let flag = self.tokens.get(at).and_then(|t| self.source.get(..t.start)).is_some_and(|s| s.ends_with('-'));
        let labels = self.is(at + 1, ':') || self.is(at + 1, '=');
        let degree = name_at(&self.tokens, at).is_some_and(|(field, _)| field.is_degree());
        self.word(at, words) && !flag && !labels && !degree
    }

    /// Whether a number is part of a sum: "DP = 16 / 4 = 4".
    fn is_operand(&self, number: usize) -> bool {
        let sign = |at: usize| self.is(at, '/') || self.is(at, '×') || self.is(at, '+');
        sign(number + 1) && (self.is_number(number + 2) || self.is(number + 2, '('))
    }

    /// The number after the last equals sign of the clause.
    fn outcome(&self, from: usize, explicit: bool) -> Option<usize> {
        let first = self.value_after(from).map(|(number, _)| number)?;
        if !self.is_operand(first) {
            return explicit.then_some(first).or(Some(first));
        }
        (from..from + CLAUSE)
            .take_while(|at| !self.ends_clause(*at))
            .filter(|at| self.is(*at, '=') && self.is_number(at + 1) && !self.is_operand(at + 1) && at + 1 > first)
            .map(|at| at + 1)
            .last()
    }

    /// The number that follows a name, and whether `:` or `=` stands between.
    pub(super) fn value_after(&self, from: usize) -> Option<(usize, bool)> {
        let mut explicit = false;
        let mut at = from;
        while at < from + REACH {
            let token = self.tokens.get(at)?;
            match token.kind {
                Kind::Number => return self.free(at).then_some((at, explicit)),
                Kind::Symbol(':' | '=' | '→' | '|') => explicit = true,
                Kind::Symbol('(') => at = self.past_parenthesis(at)?,
                Kind::Symbol(')' | '-' | '[') => {}
                Kind::Word => {
                    let word = token.norm();
                    if !(is_filler(word) || CONNECTORS.contains(&word) || ACROSS.contains(&word)) {
                        return None;
                    }
                }
                _ => return None,
            }
            at += 1;
        }
        None
    }

    /// "(TP)" is skipped; "(2)" is entered; "(TP=2)" is left to be read for itself.
    fn past_parenthesis(&self, open: usize) -> Option<usize> {
        if self.is_number(open + 1) {
            return Some(open);
        }
        let close = (open + 1..open + REACH).find(|at| self.is(*at, ')'))?;
        let number_inside = (open..close).any(|at| self.is_number(at));
        (!number_inside).then_some(close)
    }
}
