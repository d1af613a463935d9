//! Where claims are written down: the first statement stands, a later one that differs is a contradiction.

use super::DocumentError;
use super::vocabulary::Field;
use crate::claim::{Claims, Contradiction, Formula, Said};

/// The largest count that can be meant; beyond it somebody mixed up units.
pub(super) const MOST: u64 = 1 << 40;

/// Enough to show; a document of megabytes could otherwise list hundreds of thousands.
const MOST_LISTED: usize = 64;

/// No plan has more numeric keys that are none of ours; a dump of a data set may have any number.
const MOST_COMPARED: usize = 4096;

/// Line and words of a statement.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub line: u32,
    pub text: String,
}

impl Place {
    fn of<T>(self, value: T) -> Said<T> {
        Said::new(value, self.line, self.text)
    }
}

/// The claims found so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    claims: Claims,
    /// torchtitan's two halves of DP.
    shard: Option<Said<u64>>,
    replicate: Option<Said<u64>>,
    /// Keys compared with the vocabulary so far.
    compared: usize,
    /// "EP 0" and "EP 2.5", which may name a rank or a version; a mistake when nothing else says what EP is.
    doubtful: Vec<(Field, String, Place)>,
    /// Whether the formula kept is one that a label calls the number of GPUs.
    formula_is_labelled: bool,
}

impl Ledger {
    /// Writes down a count as it was written.
    pub(super) fn count(&mut self, field: Field, written: &str, place: Place) -> Result<(), DocumentError> {
        let refuse = |place: &Place, message: String| DocumentError {
            line: place.line,
            key: field.key().to_owned(),
            value: written.chars().take(40).collect(),
            allowed: format!("a whole number from {} to 2^40", u8::from(field.is_degree())),
            message,
            no_plan: false,
        };
        match whole(written) {
            Err(NotACount::TooLarge) => {
                Err(refuse(&place, format!("{} is too large to be a {}", short(written), noun(field))))
            }
            Err(NotACount::NotWhole) => Err(refuse(&place, format!("{} is not a whole number", short(written)))),
            Ok(0) if field.is_degree() => {
                Err(refuse(&place, "a parallel degree cannot be 0; 1 means that the axis is not used".to_owned()))
            }
            Ok(value) => {
                self.whole(field, value, place);
                Ok(())
            }
        }
    }

    /// Keeps a number that is no degree until it is known whether anything else is.
    pub(super) fn doubtful(&mut self, field: Field, written: &str, place: Place) {
        if self.doubtful.len() < MOST_LISTED {
            self.doubtful.push((field, written.to_owned(), place));
        }
    }

    /// Refuses doubtful numbers of degrees that nothing else states.
    pub(super) fn settle(&mut self) -> Result<(), DocumentError> {
        for (field, written, place) in std::mem::take(&mut self.doubtful) {
            if !self.has(field) {
                self.count(field, &written, place)?;
            }
        }
        Ok(())
    }

    /// Writes down a count already checked.
    pub(super) fn whole(&mut self, field: Field, value: u64, place: Place) {
        let Some(slot) = self.slot(field) else { return };
        let later = place.of(value);
        let Some(first) = slot.clone() else {
            *slot = Some(later);
            return;
        };
        let list = &mut self.claims.contradictions;
        let known = list.iter().any(|c| c.key == field.key() && c.second.value == value);
        if first.value != value && !known && list.len() < MOST_LISTED {
            list.push(Contradiction { key: field.key(), first, second: later });
        }
    }

    fn slot(&mut self, field: Field) -> Option<&mut Option<Said<u64>>> {
        let claims = &mut self.claims;
        Some(match field {
            Field::Tp => &mut claims.tp,
            Field::Ep => &mut claims.ep,
            Field::Pp => &mut claims.pp,
            Field::Dp => &mut claims.dp,
            Field::DpShard => &mut self.shard,
            Field::DpReplicate => &mut self.replicate,
            Field::Cp => &mut claims.cp,
            Field::Etp => &mut claims.etp,
            Field::Edp => &mut claims.edp,
            Field::Vpp => &mut claims.vpp,
            Field::MicroBatch => &mut claims.micro_batch,
            Field::GlobalBatch => &mut claims.global_batch,
            Field::SeqLen => &mut claims.seq_len,
            Field::AvailableGpus => &mut claims.available_gpus,
            Field::RequiredGpus => &mut claims.required_gpus,
            Field::Nodes => &mut claims.nodes,
            Field::GpusPerNode => &mut claims.gpus_per_node,
            Field::Experts => &mut claims.experts,
            _ => return None,
        })
    }

    /// Writes down a quantity that need not be whole.
    pub(super) fn amount(&mut self, field: Field, value: f64, place: Place) {
        let slot = match field {
            Field::ExpertsPerGpu => &mut self.claims.experts_per_gpu,
            Field::MemoryPerGpu => &mut self.claims.memory_per_gpu,
            Field::MemoryCapacity => &mut self.claims.memory_capacity,
            Field::Utilization => &mut self.claims.utilization,
            _ => return,
        };
        if value.is_finite() && slot.is_none() {
            *slot = Some(place.of(value));
        }
    }

    /// Writes down a name.
    pub(super) fn name(&mut self, field: Field, value: &str, place: Place) {
        let slot = match field {
            Field::Model => &mut self.claims.model,
            Field::Gpu => &mut self.claims.gpu,
            Field::Framework => &mut self.claims.framework,
            Field::Convention => &mut self.claims.convention,
            _ => return,
        };
        if !value.is_empty() && slot.is_none() {
            *slot = Some(place.of(value.to_owned()));
        }
    }

    /// Writes down a formula; one that a label calls the number of GPUs is preferred.
    pub(super) fn formula(&mut self, formula: Formula, labelled: bool, place: Place) {
        let said = place.of(formula);
        if self.claims.formula.is_none() || (labelled && !self.formula_is_labelled) {
            self.claims.formula = Some(said.clone());
            self.formula_is_labelled = labelled;
        }
        if self.claims.formulas.len() < MOST_LISTED {
            self.claims.formulas.push(said);
        }
    }

    /// Writes down a key that was not understood.
    pub(super) fn unknown(&mut self, note: String) {
        if self.claims.unknown.len() < MOST_LISTED {
            self.claims.unknown.push(note);
        }
    }

    /// Whether one more unknown key is worth comparing with the vocabulary, which takes its time.
    pub(super) fn may_compare(&mut self) -> bool {
        self.compared += 1;
        self.compared <= MOST_COMPARED && self.claims.unknown.len() < MOST_LISTED
    }

    /// Whether a count has been claimed.
    pub(super) fn has(&mut self, field: Field) -> bool {
        self.slot(field).is_some_and(|slot| slot.is_some())
    }

    /// The claims, with what follows from two statements put together.
    pub(super) fn finish(mut self) -> Claims {
        let product = |a: &Said<u64>, b: &Said<u64>| {
            let text = if a.text == b.text { a.text.clone() } else { format!("{}; {}", a.text, b.text) };
            let value = a.value.checked_mul(b.value)?;
            Some(Said::new(value, a.line, text.chars().take(120).collect::<String>()))
        };
        if self.claims.dp.is_none() {
            self.claims.dp = match (self.replicate, self.shard) {
                (Some(replicate), Some(shard)) => product(&replicate, &shard),
                (one, other) => one.or(other),
            };
        }
        let claims = &mut self.claims;
        if let (None, Some(nodes), Some(each)) = (&claims.available_gpus, &claims.nodes, &claims.gpus_per_node) {
            claims.available_gpus = product(nodes, each);
        }
        self.claims
    }
}

fn noun(field: Field) -> &'static str {
    if field.is_degree() { "parallel degree" } else { "count" }
}

fn short(written: &str) -> String {
    written.chars().take(40).collect()
}

/// Why a number is no count.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotACount {
    TooLarge,
    NotWhole,
}

/// A number as written, if it is whole and can be meant: `16`, `16.0`, `1e3`.
pub(super) fn whole(written: &str) -> Result<u64, NotACount> {
    let value = if written.bytes().all(|b| b.is_ascii_digit()) {
        written.parse::<u64>().map_err(|_| NotACount::TooLarge)?
    } else {
        let value: f64 = written.parse().map_err(|_| NotACount::NotWhole)?;
        if value.is_nan() || value < 0.0 || value.fract() != 0.0 {
            return Err(NotACount::NotWhole);
        }
        if value > MOST as f64 {
            return Err(NotACount::TooLarge);
        }
        value as u64
    };
    if value > MOST { Err(NotACount::TooLarge) } else { Ok(value) }
}
