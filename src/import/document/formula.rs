//! Products of axes: "Total GPUs required = PP x TP x DP = 2 x 2 x 2 = 8", in any order of its parts.
//!
//! This runs before names are matched with numbers, so that neither "PP x" nor "2 x 2 x 2" is taken for a degree.

use super::DocumentError;
use super::ledger::whole;
use super::lexer::Kind;
use super::passage::Passage;
use super::vocabulary::{self, Field};
use crate::claim::Formula;

/// One factor of a product: an axis, a number, or an axis with its number.
#[derive(Debug, Clone, Copy)]
struct Term {
    axis: Option<(Field, usize)>,
    number: Option<usize>,
}

/// Factors joined by multiplication signs, and the token after them.
struct Product {
    terms: Vec<Term>,
    end: usize,
}

impl Product {
    fn axes(&self) -> usize {
        self.terms.iter().filter(|t| t.axis.is_some()).count()
    }

    fn numbers(&self) -> usize {
        self.terms.iter().filter(|t| t.number.is_some()).count()
    }
}

impl Passage<'_> {
    /// Finds every product and writes down what it says.
    pub(super) fn formulas(&mut self) -> Result<(), DocumentError> {
        let mut at = 0;
        while at < self.tokens.len() {
            at = match self.product(at) {
                Some(product) if product.terms.len() >= 2 => self.equation(at, &product)?,
                _ => at + 1,
            };
        }
        Ok(())
    }

    fn equation(&mut self, start: usize, product: &Product) -> Result<usize, DocumentError> {
        if start > 0 && self.is(start - 1, '/') || start > 1 && self.is(start - 1, '(') && self.is(start - 2, '/') {
            // "DP = 16 / (TP x PP)": a divisor, not a number of GPUs.
            self.take(start, product.end);
            return Ok(product.end);
        }
        let after = product.end + usize::from(self.is(product.end, ')'));
        let equals_after = self.is(after, '=') || self.is(after, '→') || self.is(after, ':');
        let equals_before = start > 0 && (self.is(start - 1, '=') || self.is(start - 1, ':'));
        let names_only = product.axes() >= 2 && product.numbers() < product.terms.len();
        let label = self.gpu_label(start);
        // "folded into DP x TP" and "TP2 x EP4" are no equations.
        let is_formula =
            (equals_after || equals_before) && (names_only || product.axes() >= 2 && equals_after || label.is_some());
        if !is_formula {
            if names_only {
                self.take(start, product.end); // the last axis must not claim what follows the product
            }
            return Ok(product.end);
        }
        let mut formula = Formula::default();
        self.absorb(product, &mut formula);
        let mut end = self.chain(after, &mut formula);
        self.result_before(start, &mut formula);
        // "= 8 GPUs" says what the number is even without a label in front.
        let counted = self.word(end, &["gpu"]);
        end += usize::from(counted);
        let labelled = label.is_some() || counted;
        self.own_degrees(product)?;
        self.take(start, end);
        if let Some(label) = label {
            self.take(label, start);
        }
        if let (true, Some(result)) = (labelled, formula.result) {
            self.ledger.whole(Field::RequiredGpus, result, self.place(start));
        }
        let place = self.place(start);
        self.ledger.formula(formula, labelled, place);
        Ok(end)
    }

    /// "TP2 x PP4 = 8" and "2 (TP) x 4 (PP) = 8" give degrees as well as a formula.
    fn own_degrees(&mut self, product: &Product) -> Result<(), DocumentError> {
        for term in &product.terms {
            if let (Some((field, _)), Some(number)) = (term.axis, term.number) {
                let written = self.text(number).to_owned();
                self.ledger.count(field, &written, self.place(number))?;
            }
        }
        Ok(())
    }

    fn absorb(&self, product: &Product, formula: &mut Formula) {
        let numbers: Vec<u64> = product.terms.iter().filter_map(|t| whole(self.text(t.number?)).ok()).collect();
        if formula.axes.is_empty() {
            formula.axes = product.terms.iter().filter_map(|t| Some(t.axis?.0.key().to_owned())).collect();
        }
        if formula.factors.is_empty() && numbers.len() == product.terms.len() {
            formula.factors = numbers;
        }
    }

    /// Follows "= 2 x 2 x 2 = 8" to its end.
    fn chain(&self, mut at: usize, formula: &mut Formula) -> usize {
        while self.is(at, '=') || self.is(at, '→') || self.is(at, ':') {
            let mut next = at + 1;
            next += usize::from(self.is(next, '('));
            let Some(product) = self.product(next) else { break };
            match product.terms.as_slice() {
                [Term { axis: None, number: Some(n) }] => formula.result = whole(self.text(*n)).ok(),
                [_] => break,
                _ => self.absorb(&product, formula),
            }
            at = product.end + usize::from(self.is(product.end, ')'));
        }
        at
    }

    /// "16 = TP x PP x DP" and "16 GPUs = ...".
    fn result_before(&self, start: usize, formula: &mut Formula) {
        if formula.result.is_some() || start < 2 || !self.is(start - 1, '=') {
            return;
        }
        let noun = usize::from(self.word(start - 2, &["gpu"]));
        let number = start.checked_sub(2 + noun).filter(|n| self.kind(*n) == Some(Kind::Number));
        formula.result = number.and_then(|n| whole(self.text(n)).ok());
    }

    /// The name for a number of GPUs that stands before a product in the same clause.
    fn gpu_label(&self, start: usize) -> Option<usize> {
        let first = start.saturating_sub(16);
        (first..start)
            .rev()
            .take_while(|at| !self.ends_clause(*at))
            .filter(|at| {
                let name = vocabulary::name_at(&self.tokens, *at);
                name.is_some_and(|(field, len)| {
                    matches!(field, Field::RequiredGpus | Field::AvailableGpus) && *at + len <= start
                })
            })
            .last()
    }

    /// Reads factors from a token on.
    fn product(&self, start: usize) -> Option<Product> {
        let (term, mut end) = self.term(start, true)?;
        let valued = term.axis.is_some() && term.number.is_some();
        let mut terms = vec![term];
        while self.is(end, '×') {
            let Some((term, next)) = self.term(end + 1, valued) else { break };
            terms.push(term);
            end = next;
        }
        Some(Product { terms, end })
    }

    /// One factor. `own_equals` says whether an equals sign may belong to it, as in "TP=2 x PP=2"; after "TP x PP" it
    /// belongs to the whole.
    fn term(&self, at: usize, own_equals: bool) -> Option<(Term, usize)> {
        if let Some((field, len)) = vocabulary::name_at(&self.tokens, at).filter(|(f, _)| f.is_degree()) {
            let axis = Some((field, at));
            let mut next = at + len;
            while self.tokens.get(next).is_some_and(|t| t.kind == Kind::Word && vocabulary::is_filler(&t.text)) {
                next += 1; // "tp_size * pp_size"
            }
            let open = usize::from(self.is(next, '('));
            if self.plain_number(next + open) && (open == 0 || self.is(next + 2, ')')) {
                return Some((Term { axis, number: Some(next + open) }, next + 1 + 2 * open));
            }
            let first = !(at > 0 && self.is(at - 1, '×'));
            let inside = own_equals && (!first || self.is(next + 2, '×'));
            if inside && self.is(next, '=') && self.plain_number(next + 1) {
                return Some((Term { axis, number: Some(next + 1) }, next + 2));
            }
            return Some((Term { axis, number: None }, next));
        }
        if !self.plain_number(at) {
            return None;
        }
        let number = Some(at);
        if self.is(at + 1, '(')
            && let Some((field, len)) = vocabulary::name_at(&self.tokens, at + 2).filter(|(f, _)| f.is_degree())
            && self.is(at + 2 + len, ')')
        {
            return Some((Term { axis: Some((field, at + 2)), number }, at + 3 + len));
        }
        Some((Term { axis: None, number }, at + 1))
    }

    /// A whole number that is not part of something else, such as `7B` or `16-bit`.
    fn plain_number(&self, at: usize) -> bool {
        self.kind(at) == Some(Kind::Number) && whole(self.text(at)).is_ok() && !self.has_glued_word(at)
    }
}
