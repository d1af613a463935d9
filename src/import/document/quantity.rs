//! Amounts that carry their own noun or unit: "16x H100", "64 experts", "41.25 GB of 80 GB", "51.6% utilised", "8-way EP".

use super::DocumentError;
use super::lexer::Kind;
use super::passage::Passage;
use super::vocabulary::{Field, is_filler, name_at};

/// Parts of memory: an amount beside one of these is not the whole of a GPU.
const COMPONENTS: &[&str] = &[
    "weights",
    "weight",
    "gradient",
    "gradients",
    "grad",
    "grads",
    "optimizer",
    "optimiser",
    "activation",
    "activations",
    "kv",
    "cache",
    "buffer",
    "buffers",
    "params",
    "parameters",
    "overhead",
    "headroom",
    "free",
    "spare",
    "reserved",
    "fragmentation",
    "logits",
    "workspace",
    "bandwidth",
    "nvlink",
    "network",
    "disk",
    "storage",
    "cpu",
    "host",
    "ram",
    "checkpoint",
    "message",
    "download",
    "remaining",
    "left",
    "dram",
];

/// Words by which an amount of memory is what the plan uses.
const USES: &[&str] = &[
    "memory",
    "uses",
    "use",
    "using",
    "used",
    "needs",
    "requires",
    "occupies",
    "peak",
    "footprint",
    "estimated",
    "consumes",
];

/// Words that say the memory is the GPU's own.
const OWN: &[&str] = &["hbm", "hbm2", "hbm3", "hbm3e", "vram", "capacity", "available"];

/// Words before a number of GPUs by which it is some of them only.
const SOME: &[&str] = &["every", "each", "first", "last", "another", "other", "idle", "only", "per", "extra"];

/// Words after a number of GPUs by which they do no work for the plan.
const IDLE: &[&str] =
    &["idle", "unused", "left", "spare", "remaining", "free", "wasted", "short", "sit", "sits", "remain"];

/// A bound is not a claim: "keep utilisation below 90%".
const BOUNDS: &[&str] =
    &["below", "under", "target", "threshold", "max", "maximum", "limit", "than", "above", "over", "cap"];

impl Passage<'_> {
    /// Reads the percentage that belongs to "memory utilisation".
    pub(super) fn utilization(&mut self, field: Field, at: usize, after: usize) -> usize {
        let clause = self.clause(at);
        let numbers: Vec<usize> = (after..clause.end).filter(|n| self.is_number(*n) && self.free(*n)).collect();
        let percent = numbers.iter().rev().copied().find(|n| self.is(*n + 1, '%'));
        let plain =
            || self.value_after(after).filter(|(n, explicit)| *explicit && self.memory(*n).is_none()).map(|(n, _)| n);
        let before = || at.checked_sub(2).filter(|n| self.is_number(*n) && self.free(*n) && self.is(at - 1, '%'));
        let Some(number) = percent.or_else(plain).or_else(before) else { return after };
        let Ok(raw) = self.text(number).parse::<f64>() else { return after };
        let is_percent = self.is(number + 1, '%');
        let bound = (clause.start..number)
            .any(|n| self.word(n, BOUNDS) || self.is(n, '<') || self.is(n, '≤') || self.is(n, '>'));
        let budget = field == Field::MemoryBudget && !is_percent && raw <= 1.0;
        self.take(at, after);
        self.take(number, number + 1 + usize::from(is_percent));
        if !bound && !budget {
            let place = self.place(number);
            self.ledger.amount(Field::Utilization, fraction(raw, is_percent), place);
        }
        after.max(number)
    }

    /// Reads the amount after "memory per GPU" or "GPU memory".
    pub(super) fn memory_label(&mut self, field: Field, at: usize, after: usize) -> usize {
        let part = at > 0 && self.word(at - 1, COMPONENTS);
        let Some((number, _)) = self.value_after(after) else { return after };
        if self.is(number + 1, '%') && !part {
            return self.utilization(Field::Utilization, at, after);
        }
        let Some(bytes) = self.memory(number) else { return after };
        if part {
            self.take(number, number + 2);
            return number;
        }
        let next = self.after_memory(number);
        let field = if self.capacity_after(next).is_some() {
            Field::MemoryPerGpu
        } else if self.word(next, OWN) {
            Field::MemoryCapacity
        } else {
            field
        };
        let place = self.place(number);
        self.ledger.amount(field, bytes, place);
        self.take(at, next);
        next
    }

    /// "of 80 GB" and "/ 80 GB" after an amount: where its number stands.
    fn capacity_after(&self, at: usize) -> Option<usize> {
        let joined =
            self.word(at, &["of"]) || self.is(at, '/') || self.word(at, &["out"]) && self.word(at + 1, &["of"]);
        let number = (at + 1..at + 5).find(|n| self.is_number(*n))?;
        (joined && self.memory(number).is_some()).then_some(number)
    }

    /// Reads "Model: Mixtral 8x7B" to the end of the clause.
    pub(super) fn name_label(&mut self, field: Field, at: usize, after: usize) {
        let opens = at == 0 || self.ends_clause(at - 1) || self.is(at - 1, '#');
        let explicit = self.is(after, ':') || self.is(after, '=') || self.is(after, '|');
        let Some(first) = self.tokens.get(after + 1).filter(|_| opens && explicit) else { return };
        if matches!(first.kind, Kind::Number | Kind::Break | Kind::Symbol(_)) {
            return;
        }
        let rest = self.source.get(first.start..).unwrap_or_default();
        let end = rest.find(['\n', ',', ';', '(', '|', '"']).unwrap_or(rest.len()).min(200);
        let value = rest.get(..rest.floor_char_boundary(end)).unwrap_or_default();
        let value = value.trim().trim_matches(['*', '`', '\'', '.']).trim();
        let value = match field {
            Field::Framework if first.kind == Kind::Framework => first.text.clone(),
            Field::Convention | Field::Framework => value.split_whitespace().next().unwrap_or_default().to_lowercase(),
            _ => value.to_owned(),
        };
        let is_space = self.text(at) == "space";
        if is_space && !matches!(value.as_str(), "product" | "folded") {
            return;
        }
        let place = self.place(at);
        self.ledger.name(field, &value, place);
    }

    /// Names that need no label.
    pub(super) fn names(&mut self) {
        for at in 0..self.tokens.len() {
            let field = match self.kind(at) {
                Some(Kind::Gpu) => Field::Gpu,
                Some(Kind::Model) => Field::Model,
                Some(Kind::Framework) => Field::Framework,
                _ => continue,
            };
            let text = self.text(at).to_owned();
            let place = self.place(at);
            if field == Field::Gpu {
                self.glued_capacity(&text, at);
            }
            self.ledger.name(field, &text, place);
        }
    }

    /// "H100-80GB" names the GPU's memory too.
    fn glued_capacity(&mut self, name: &str, at: usize) {
        let size = name.split('-').skip(1).find_map(|part| {
            let part = part.to_lowercase();
            let digits = part.strip_suffix("gb").or_else(|| part.strip_suffix('g'))?;
            digits.parse::<f64>().ok()
        });
        if let Some(gigabytes) = size {
            let place = self.place(at);
            self.ledger.amount(Field::MemoryCapacity, gigabytes * 1e9, place);
        }
    }

    /// Every number that no name has claimed.
    pub(super) fn quantities(&mut self) -> Result<(), DocumentError> {
        let mut at = 0;
        while at < self.tokens.len() {
            if self.is_number(at) && self.free(at) {
                at = self.quantity(at)?.max(at + 1);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    fn quantity(&mut self, at: usize) -> Result<usize, DocumentError> {
        if let Some(bytes) = self.memory(at) {
            self.free_memory(at, bytes);
            return Ok(self.after_memory(at));
        }
        if self.is(at + 1, '%') {
            self.free_percentage(at);
            return Ok(at + 2);
        }
        if let Some(end) = self.shape(at)? {
            return Ok(end);
        }
        if let Some(end) = self.ways(at)? {
            return Ok(end);
        }
        if let Some(end) = self.expert_count(at)? {
            return Ok(end);
        }
        self.gpu_count(at)
    }

    fn free_memory(&mut self, at: usize, bytes: f64) {
        let next = self.after_memory(at);
        let clause = self.clause(at);
        let before = |back: usize| at.checked_sub(back);
        let of_amount = before(1).is_some_and(|n| self.word(n, &["of"]) || self.is(n, '/'))
            && (clause.start..at)
                .any(|n| self.is(n, '%') || self.memory(n).is_some() || self.word(n, &["utilization", "memory"]));
        let beside_gpu = before(1).is_some_and(|n| {
            self.kind(n) == Some(Kind::Gpu)
                || self.is(n, '(') && before(2).is_some_and(|g| self.kind(g) == Some(Kind::Gpu))
        });
        let gpu_label = before(1).is_some_and(|n| self.is(n, ':') || self.is(n, '='))
            && before(2).is_some_and(|n| self.word(n, &["gpu"]));
        let own = self.word(next, OWN)
            || self.word(next, &["gpu"])
            || self.kind(next) == Some(Kind::Gpu)
            || self.word(next, &["of"]) && self.word(next + 1, OWN);
        let part = clause.clone().any(|n| self.word(n, COMPONENTS));
        let each = self.word(next, &["per", "each"]) && self.word(next + 1, &["gpu", "rank"])
            || self.is(next, '/') && self.word(next + 1, &["gpu", "rank"]);
        let per_other = self.word(next, &["per"]) && !each;
        let uses = each || clause.clone().any(|n| self.word(n, USES));
        let field = if of_amount || ((own || beside_gpu || gpu_label) && !part) {
            Field::MemoryCapacity
        } else if per_other || part {
            return;
        } else if self.capacity_after(next).is_some() || uses {
            Field::MemoryPerGpu
        } else {
            return;
        };
        let place = self.place(at);
        self.ledger.amount(field, bytes, place);
        self.take(at, next);
    }

    /// "51.56% of 80 GB" and "51% of memory" without a label.
    fn free_percentage(&mut self, at: usize) {
        let clause = self.clause(at);
        let next = at + 2;
        let of_memory = self.word(next, &["of"])
            && (next + 1..next + 5).any(|n| self.memory(n).is_some() || self.word(n, &["memory", "hbm", "vram"]));
        let after_amount = at > 2
            && (self.is(at - 1, '=') || self.is(at - 1, '('))
            && clause.clone().take_while(|n| *n < at).any(|n| self.memory(n).is_some());
        let bound = clause.clone().take_while(|n| *n < at).any(|n| self.word(n, BOUNDS) || self.is(n, '<'));
        let part = clause
            .clone()
            .any(|n| self.word(n, COMPONENTS) || self.word(n, &["mfu", "speedup", "faster", "efficiency"]));
        if (of_memory || after_amount)
            && !bound
            && !part
            && let Ok(raw) = self.text(at).parse::<f64>()
        {
            let place = self.place(at);
            self.ledger.amount(Field::Utilization, fraction(raw, true), place);
            self.take(at, next);
        }
    }

    /// "2x8 H100", "2x8xH100", "18x4xGB200", "2 nodes x 8 GPUs", "2 nodes of 8 H100 each", "cluster: 2 nodes x 8".
    fn shape(&mut self, at: usize) -> Result<Option<usize>, DocumentError> {
        if self.is(at + 1, '×') && self.is_number(at + 2) && !self.has_glued_word(at + 2) {
            let (each, mut end) = (at + 2, at + 3);
            end += usize::from(self.is(end, '×'));
            let gpus =
                self.word(end, &["gpu"]) || self.kind(end) == Some(Kind::Gpu) || self.word(end, &["nvidia", "amd"]);
            let named =
                at > 1 && (self.is(at - 1, ':') || self.is(at - 1, '=')) && self.word(at - 2, &["cluster", "gpu"]);
            if gpus || named && self.ends_clause(end) {
                return self.nodes_of(at, each, end).map(Some);
            }
        }
        if self.word(at + 1, &["node"]) && !self.is(at + 1, '-') {
            let joint = |n: usize| {
                self.is(n, '×')
                    || self.is(n, '(')
                    || self.is(n, ',')
                    || self.word(n, &["with", "of", "each", "having", "and"])
            };
            let mut each = at + 2;
            while joint(each) && each < at + 5 {
                each += 1;
            }
            let multiplied = self.is(each.saturating_sub(1), '×');
            let bare_end = multiplied && self.ends_clause(each + 1);
            if each > at + 2
                && self.is_number(each)
                && self.free(each)
                && (self.gpu_noun(each + 1).is_some() || bare_end)
            {
                let end = self.gpu_noun(each + 1).unwrap_or(each + 1);
                return self.nodes_of(at, each, end).map(Some);
            }
            let written = self.text(at).to_owned();
            self.ledger.count(Field::Nodes, &written, self.place(at))?;
            self.take(at, at + 2);
            return Ok(Some(at + 2));
        }
        Ok(None)
    }

    fn nodes_of(&mut self, nodes: usize, each: usize, end: usize) -> Result<usize, DocumentError> {
        for (field, number) in [(Field::Nodes, nodes), (Field::GpusPerNode, each)] {
            let written = self.text(number).to_owned();
            self.ledger.count(field, &written, self.place(number))?;
        }
        self.take(nodes, end);
        Ok(end)
    }

    /// "8-way tensor parallelism", "2 pipeline stages", "4 DP replicas".
    fn ways(&mut self, at: usize) -> Result<Option<usize>, DocumentError> {
        let dash = usize::from(self.is(at + 1, '-'));
        let way = self.word(at + 1 + dash, &["way", "fold"]);
        let start = at + 1 + if way { dash + 1 } else { 0 };
        let Some((field, len)) = name_at(&self.tokens, start).filter(|(f, _)| f.is_degree()) else {
            return Ok(None);
        };
        let counted = self.word(start + len - 1, &["stages"])
            || self.word(start + len, &["replicas", "ranks", "groups", "ways", "shards"]);
        // "8-way tensor parallelism = 8 GPUs" must not give way to a value of its own.
        if !self.free(start) || !(way || counted) || self.has_glued_word(at) && !way {
            return Ok(None);
        }
        let written = self.text(at).to_owned();
        self.ledger.count(field, &written, self.place(at))?;
        self.take(at, start + len);
        Ok(Some(start + len))
    }

    /// "64 experts", "16 routed experts per GPU", "Experts: 64 (16 per GPU)".
    fn expert_count(&mut self, at: usize) -> Result<Option<usize>, DocumentError> {
        let noun = (at + 1..at + 4).find(|n| self.word(*n, &["expert"]));
        let adjectives =
            |end: usize| (at + 1..end).all(|n| self.word(n, &["routed", "total", "moe", "local", "different", "in"]));
        let per_gpu = |n: usize| {
            let per = self.word(n, &["per", "on", "/"]) || self.is(n, '/');
            let each = n + 1 + usize::from(self.word(n + 1, &["each", "every"]));
            per && self.word(each, &["gpu", "rank"])
        };
        let Some(noun) = noun.filter(|n| adjectives(*n)) else {
            let clause_start = at.saturating_sub(8);
            let of_experts = (clause_start..at).any(|n| self.word(n, &["expert"]));
            if of_experts
                && per_gpu(at + 1)
                && let Ok(value) = self.text(at).parse()
            {
                let place = self.place(at);
                self.ledger.amount(Field::ExpertsPerGpu, value, place);
                self.take(at, at + 3);
                return Ok(Some(at + 3));
            }
            return Ok(None);
        };
        let top =
            at > 0 && (self.word(at - 1, &["top"]) || at > 1 && self.is(at - 1, '-') && self.word(at - 2, &["top"]));
        let parallel = self.word(noun + 1, &["parallel", "tensor", "data", "model", "groups", "tp", "dp"]);
        let active = (noun + 1..noun + 3).any(|n| self.word(n, &["active", "activated", "selected", "chosen"]));
        let local = (at + 1..noun).any(|n| self.word(n, &["local"]));
        if per_gpu(noun + 1) || local {
            if let Ok(value) = self.text(at).parse() {
                let place = self.place(at);
                self.ledger.amount(Field::ExpertsPerGpu, value, place);
            }
        } else if !(top
            || parallel
            || active
            || self.word(noun + 1, &["per", "each"])
            || self.is(noun + 1, '/') && !self.is_number(noun + 2))
        {
            let written = self.text(at).to_owned();
            self.ledger.count(Field::Experts, &written, self.place(at))?;
        }
        self.take(at, noun + 1);
        Ok(Some(noun + 1))
    }

    /// Where a noun for GPUs ends: "GPUs", "x H100", "NVIDIA H100 80GB GPUs", "-GPU".
    fn gpu_noun(&self, start: usize) -> Option<usize> {
        let mut at = start;
        let mut found = false;
        while at < start + 7 {
            if self.is(at, '×')
                || self.is(at, '-')
                || self.word(at, &["nvidia", "amd", "sxm", "pcie", "tensor", "core"])
            {
                at += 1;
            } else if self.kind(at) == Some(Kind::Gpu) || self.word(at, &["gpu"]) {
                found = true;
                at += 1;
                if self.word(at - 1, &["gpu"]) {
                    break;
                }
            } else if found && self.memory(at).is_some() {
                at = self.after_memory(at);
            } else {
                break;
            }
        }
        found.then_some(at)
    }

    fn gpu_count(&mut self, at: usize) -> Result<usize, DocumentError> {
        let Some(end) = self.gpu_noun(at + 1) else { return Ok(at + 1) };
        let glued_dash = self.is(at + 1, '-') && !self.tokens.get(at + 1).is_some_and(|t| t.glued);
        if self.has_glued_word(at) && !self.is(at + 1, '-') || glued_dash {
            return Ok(at + 1);
        }
        let clause = self.clause(at);
        let near = |words: &[&str]| (clause.start.max(at.saturating_sub(3))..at).any(|n| self.word(n, words));
        let soon = |words: &[&str]| (end..clause.end.min(end + 3)).any(|n| self.word(n, words));
        let slash_node = self.is(end, '/') && self.word(end + 1, &["node"]);
        let per_node = slash_node
            || self.word(end, &["per", "in", "each", "on"])
                && (end..end + 3).any(|n| self.word(n, &["node"]))
                && !self.is_number(end + 1);
        let each = self.word(end, &["each"]) || self.word(end, &["node"]);
        let per_other = self.word(end, &["per"]) || self.is(end, '/') && !self.is_number(end + 1);
        let some = at > 0 && self.word(at - 1, SOME);
        let field = if per_node || each {
            Field::GpusPerNode
        } else if per_other || some || soon(IDLE) {
            return Ok(end);
        } else if soon(&["required", "needed"])
            || near(&["requires", "require", "required", "needs", "need", "needed", "uses", "occupies", "takes"])
        {
            Field::RequiredGpus
        } else if self.text(at) == "1" && (at > 0 && self.is(at - 1, '-') || self.ledger.has(Field::AvailableGpus)) {
            return Ok(end); // "fits on 1 GPU" beside a cluster already stated
        } else {
            Field::AvailableGpus
        };
        let written = self.text(at).to_owned();
        self.ledger.count(field, &written, self.place(at))?;
        self.take(at, at + 1);
        Ok(at + 1)
    }
}

/// A utilisation as a fraction, scaled but never corrected.
pub(super) fn fraction(raw: f64, percent: bool) -> f64 {
    if percent || raw > 1.5 { raw / 100.0 } else { raw }
}

/// Whether every word only fills space.
pub(super) fn all_filler(words: &[&str]) -> bool {
    words.iter().all(|w| is_filler(w))
}
