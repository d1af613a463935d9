//! What a document says of its own plan, recomputed claim by claim.

use super::reading::{Sizes, read};
use super::{Facts, Finding, Reading, Verdict, gigabytes, percent, shape, verdict};
use crate::claim::{Claims, Formula, Said};
use crate::framework::Framework;
use crate::mesh::Convention;
use crate::plan::{Draft, PlanError, Value};

/// The plan of a document in the names of a convention.
///
/// # Errors
/// When a degree is larger than any that is meant: the key, the value and what is allowed.
pub fn draft_of(claims: &Claims, convention: Convention) -> Result<Draft, PlanError> {
    // Megatron's names take every size a document can state.
    let mut draft = Draft { convention: Convention::Megatron, ..Draft::default() };
    let sizes = [
        ("tp", &claims.tp),
        ("ep", &claims.ep),
        ("pp", &claims.pp),
        ("dp", &claims.dp),
        ("cp", &claims.cp),
        ("etp", &claims.etp),
        ("vpp", &claims.vpp),
        ("micro_batch", &claims.micro_batch),
    ];
    for (key, said) in sizes {
        if let Some(said) = said {
            draft.set(key, &Value::Number(said.value as f64)).map_err(|error| PlanError {
                key: if said.line > 0 { format!("line {}: {key}", said.line) } else { key.to_owned() },
                ..error
            })?;
        }
    }
    Ok(shape::said_in(convention, &draft))
}

/// The verdict on a document: its plan, and everything it says about it.
#[must_use]
pub fn check_claims(claims: &Claims, draft: &Draft, facts: &Facts<'_>) -> Verdict {
    let own = read(facts.convention, draft, facts.available, facts.spare);
    let mut findings = Vec::new();
    said_twice(claims, facts, &mut findings);
    formula(claims, facts, draft, &own, &mut findings);
    for said in &claims.formulas {
        arithmetic(claims, said, &mut findings);
    }
    gpus(claims, facts, &own, &mut findings);
    utilization(claims, facts, &mut findings);
    experts(claims, facts, draft, &mut findings);
    unknown_keys(claims, &mut findings);
    estimate(claims, facts, draft, &mut findings);
    notes(claims, facts, draft, &own, &mut findings);
    let mut verdict = verdict(draft, facts, findings);
    place(claims, &mut verdict.findings);
    verdict
}

/// Findings about the numbers point at the line that states the number they turn on.
fn place(claims: &Claims, findings: &mut [Finding]) {
    let line = |said: &Option<Said<u64>>| said.as_ref().map_or(0, |s| s.line);
    let degrees = [&claims.ep, &claims.tp, &claims.pp, &claims.dp];
    let first = degrees.iter().map(|s| line(s)).filter(|l| *l > 0).min().unwrap_or(0);
    for finding in findings.iter_mut().filter(|f| f.line == 0) {
        finding.line = match finding.rule {
            "world" | "idle" | "dense-grid" => first,
            "experts" | "expert-grid" | "expert-fold" | "not-expressible" | "expert-split" | "no-experts" => {
                line(&claims.ep)
            }
            "heads" | "kv-heads" | "kv-heads-whole" | "ffn" | "shared-ffn" | "quant-block" => line(&claims.tp),
            "layers" | "stages" => line(&claims.pp),
            _ => 0,
        };
    }
}

fn said_twice(claims: &Claims, facts: &Facts<'_>, out: &mut Vec<Finding>) {
    for c in &claims.contradictions {
        let (key, first, second) = (c.key, &c.first, &c.second);
        let words = |said: &Said<u64>| format!("{} in line {}", said.value, said.line);
        let message = format!("{key} is {} and {}; the first is checked", words(first), words(second));
        let harmless = matches!(key, "global_batch" | "seq_len" | "micro_batch");
        let finding = if harmless {
            Finding::note("contradiction", message)
        } else {
            Finding::violation("contradiction", message)
        };
        out.push(finding.with(first.value, second.value).at(second.line));
    }
    if let (Some(all), Some(nodes), Some(each)) = (&claims.available_gpus, &claims.nodes, &claims.gpus_per_node) {
        let product = nodes.value.saturating_mul(each.value);
        if product != all.value {
            let (n, e) = (nodes.value, each.value);
            let message = format!("{n} nodes of {e} GPUs are {product}, and the document says {}", all.value);
            out.push(Finding::violation("contradiction", message).with(all.value, product).at(all.line));
        }
    }
    if let (Some(said), Some(available)) = (&claims.available_gpus, facts.available)
        && said.value != available
    {
        let message = format!("the document is for {} GPUs, and was checked against {available} as asked", said.value);
        out.push(Finding::note("gpus-available", message).with(said.value, available).at(said.line));
    }
}

/// Degrees that must be factors of the world, by name; `None` for one whose size nobody states.
fn factors(convention: Convention, draft: &Draft, own: &Reading) -> Vec<(&'static str, u64)> {
    let s = Sizes::of(draft);
    let dp = s.dp.or(own.dp).unwrap_or(1);
    let mut out = vec![("tp", s.tp), ("cp", s.cp), ("pp", s.pp), ("dp", dp)];
    if convention == Convention::Product {
        out.insert(2, ("ep", s.ep));
    }
    out
}

/// The formula for the GPUs against the one of the convention in force.
fn formula(claims: &Claims, facts: &Facts<'_>, draft: &Draft, own: &Reading, out: &mut Vec<Finding>) {
    let Some(said) = claims.formula.as_ref().filter(|f| f.value.axes.len() >= 2) else { return };
    let axes = &said.value.axes;
    let names = |key: &str| axes.iter().any(|axis| axis == key);
    if names("etp") || names("edp") {
        return; // the expert side has its own identity, whose result is compared
    }
    let convention = facts.convention;
    let factors = factors(convention, draft, own);
    let written = axes.join("*").to_uppercase();
    let title = Framework::of(convention).map_or("the product convention", Framework::title);
    let right = format!("{} GPUs", own.formula);
    let left_out: Vec<String> = factors
        .iter()
        .filter(|(key, degree)| *degree > 1 && !names(key))
        .map(|(key, degree)| format!("{} = {degree}", key.to_uppercase()))
        .collect();
    let claimed = said.value.result.or_else(|| product_of(claims, &said.value));
    let not = claimed.map_or_else(String::new, |c| format!(", not {c}"));
    let finding = if !left_out.is_empty() {
        let names: Vec<&str> = left_out.iter().map(|l| l.split(' ').next().unwrap_or_default()).collect();
        let message =
            format!("the formula {written} leaves {} out ({}): {right}{not}", names.join(" and "), left_out.join(", "));
        Finding::violation("formula", message)
    } else if names("ep") && !factors.iter().any(|(key, _)| *key == "ep") && Sizes::of(draft).ep > 1 {
        let message =
            format!("the formula {written} counts EP, which is no factor of the world in {title}: {right}{not}");
        Finding::violation("formula", message)
    } else {
        return;
    };
    let finding = match claimed {
        Some(claimed) => finding.with(claimed, own.needed),
        None => Finding { actual: Some(own.needed as f64), ..finding },
    };
    out.push(finding.at(said.line).fixed_by(format!("Total GPUs = {}", own.formula)));
}

/// A degree by the name that a formula uses.
fn degree(claims: &Claims, axis: &str) -> Option<u64> {
    let said = match axis {
        "tp" => &claims.tp,
        "ep" => &claims.ep,
        "pp" => &claims.pp,
        "dp" => &claims.dp,
        "cp" => &claims.cp,
        "etp" => &claims.etp,
        "edp" => &claims.edp,
        _ => return None,
    };
    said.as_ref().map(|s| s.value)
}

/// What a formula's axes multiply to with the document's own degrees.
fn product_of(claims: &Claims, formula: &Formula) -> Option<u64> {
    formula.axes.iter().try_fold(1_u64, |product, axis| Some(product.saturating_mul(degree(claims, axis)?)))
}

/// Whether a formula multiplies out, and with the degrees of the plan.
fn arithmetic(claims: &Claims, said: &Said<Formula>, out: &mut Vec<Finding>) {
    let f = &said.value;
    if f.axes.len() == f.factors.len() {
        for (axis, factor) in f.axes.iter().zip(&f.factors) {
            if let Some(stated) = degree(claims, axis).filter(|stated| stated != factor) {
                let axis = axis.to_uppercase();
                let message = format!("the formula takes {axis} = {factor}, and the plan says {axis} = {stated}");
                out.push(Finding::violation("formula-arithmetic", message).with(*factor, stated).at(said.line));
            }
        }
    }
    let product = if f.factors.is_empty() {
        product_of(claims, f)
    } else {
        Some(f.factors.iter().fold(1_u64, |p, n| p.saturating_mul(*n)))
    };
    if let (Some(product), Some(result)) = (product, f.result)
        && product != result
    {
        let shown: Vec<String> = if f.factors.is_empty() {
            f.axes.iter().map(|a| a.to_uppercase()).collect()
        } else {
            f.factors.iter().map(u64::to_string).collect()
        };
        let message = format!("{} = {product}, and the document says {result}", shown.join("*"));
        out.push(Finding::violation("formula-arithmetic", message).with(result, product).at(said.line));
    }
}

/// Numbers of GPUs and ranks that the document states.
fn gpus(claims: &Claims, facts: &Facts<'_>, own: &Reading, out: &mut Vec<Finding>) {
    if let Some(said) = &claims.required_gpus
        && said.value != own.needed
    {
        let (value, formula) = (said.value, &own.formula);
        let message = format!("the document says that {value} GPUs are needed: {formula}, so {} are", own.needed);
        out.push(Finding::violation("gpus-claimed", message).with(value, own.needed).at(said.line));
    }
    let s = claims.edp.as_ref();
    if let (Some(said), Some(dp)) = (s, claims.dp.as_ref().map(|d| d.value).or(own.dp)) {
        let ep = claims.ep.as_ref().map_or(1, |e| e.value);
        let tp = claims.tp.as_ref().map_or(1, |t| t.value);
        let cp = claims.cp.as_ref().map_or(1, |c| c.value);
        let actual = match facts.convention {
            Convention::Product => Some(dp),
            Convention::Megatron | Convention::Bridge | Convention::Torchtitan | Convention::Deepspeed => {
                let unset = match facts.convention {
                    Convention::Bridge | Convention::Torchtitan => 1,
                    Convention::Product
                    | Convention::Megatron
                    | Convention::Deepspeed
                    | Convention::Vllm
                    | Convention::Sglang
                    | Convention::Trtllm => tp,
                };
                let etp = claims.etp.as_ref().map_or(unset, |e| e.value);
                let (stage, cut) = (tp.saturating_mul(cp).saturating_mul(dp), etp.saturating_mul(ep));
                (cut > 0 && stage.is_multiple_of(cut)).then(|| stage / cut)
            }
            Convention::Vllm | Convention::Sglang | Convention::Trtllm => None,
        };
        if let Some(actual) = actual.filter(|actual| *actual != said.value) {
            let message =
                format!("the experts are replicated {actual} times, and the document says EDP = {}", said.value);
            out.push(Finding::violation("edp", message).with(said.value, actual).at(said.line));
        }
    }
}

/// Slips of units that turn a share of memory into an absurd percentage: up to which share, its scale, and in words.
const SLIPS: [(f64, f64, &str); 4] = [
    (100.0, 100.0, "a percentage taken as a share and multiplied by 100 again"),
    (1e3, 1e3, "megabytes divided by gigabytes"),
    (1e6, 1e6, "kilobytes divided by gigabytes"),
    (1e9, 1e9, "bytes divided by gigabytes"),
];

fn utilization(claims: &Claims, facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let used = claims.memory_per_gpu.as_ref();
    let capacity = claims.memory_capacity.as_ref().map(|c| c.value).or(facts.gpu_bytes).filter(|c| *c > 0.0);
    if let (Some(used), Some(capacity)) = (used, capacity)
        && used.value > capacity * 1.000_001
    {
        let (u, c) = (gigabytes(used.value), gigabytes(capacity));
        let message = format!("{u} do not fit in the {c} of a GPU ({})", percent(used.value / capacity));
        out.push(Finding::violation("memory", message).amounts(used.value, capacity, "B").at(used.line));
    }
    if let (Some(said), Some(gpu)) = (&claims.memory_capacity, facts.gpu_bytes)
        && said.value > gpu * 1.1
    {
        let message = format!("the document gives a GPU {}, and it has {}", gigabytes(said.value), gigabytes(gpu));
        out.push(Finding::violation("memory-capacity", message).amounts(said.value, gpu, "B").at(said.line));
    }
    let Some(said) = &claims.utilization else { return };
    let share = said.value;
    let actual = used.zip(capacity).map(|(used, capacity)| used.value / capacity);
    let report = |rule, message: String, actual: Option<f64>| {
        let finding = Finding { claimed: Some(share * 100.0), unit: "%", ..Finding::violation(rule, message) };
        let finding = finding.at(said.line);
        match actual {
            Some(a) => Finding { actual: Some(a * 100.0), ..finding }.fixed_by(percent(a)),
            None => finding,
        }
    };
    let shown = percent(share);
    if share < 0.0 {
        out.push(report("utilization", format!("a share of memory cannot be {shown}"), actual));
    } else if share > 2.0 {
        let slip = SLIPS.iter().find(|(most, ..)| share <= *most);
        let (meant, why) = match (actual, slip) {
            (Some(actual), _) => (Some(actual), slip.map(|s| s.2)),
            (None, Some((_, scale, why))) => (Some(share / scale), Some(*why)),
            (None, None) => (None, None),
        };
        let mut message = format!("{shown} cannot be a share of memory, which is 100% at most");
        if let Some(why) = why {
            message.push_str(&format!(": it is {why}"));
        }
        if let (Some(meant), Some(capacity)) = (meant, capacity) {
            let (used, all) = (gigabytes(meant * capacity), gigabytes(capacity));
            message.push_str(&format!("; {used} of {all} is {}", percent(meant)));
        } else if let Some(meant) = meant {
            message.push_str(&format!("; {} is meant", percent(meant)));
        }
        out.push(report("utilization-unit", message, meant));
    } else if share > 1.0 {
        let message = format!("{shown} of the memory does not fit: 100% is all of it");
        out.push(report("utilization", message, actual));
    } else if let (Some(actual), Some(used), Some(capacity)) = (actual, used, capacity)
        && (share - actual).abs() > f64::max(0.006, actual * 0.01)
    {
        let (u, c) = (gigabytes(used.value), gigabytes(capacity));
        let mixed = [1.024 * 1.024 * 1.024, 1.0 / (1.024 * 1.024 * 1.024)];
        let gib = mixed.iter().any(|f| (share - actual * f).abs() < 0.002);
        let hint = if gib { ": GB and GiB are mixed" } else { "" };
        let message = format!("{u} of {c} is {}, and the document says {shown}{hint}", percent(actual));
        out.push(report("utilization", message, Some(actual)));
    }
}

fn experts(claims: &Claims, facts: &Facts<'_>, draft: &Draft, out: &mut Vec<Finding>) {
    if let (Some(said), Some(experts)) = (&claims.experts, facts.experts)
        && said.value != experts
    {
        let message = format!("the document says {} experts, and the model has {experts}", said.value);
        out.push(Finding::violation("experts-claimed", message).with(said.value, experts).at(said.line));
    }
    let s = Sizes::of(draft);
    let (Some(said), Some(experts)) = (&claims.experts_per_gpu, facts.experts) else { return };
    let actual = experts as f64 / s.ep as f64;
    if (said.value - actual).abs() > 0.005 {
        let etp = s.etp.unwrap_or(1);
        let cut = if etp > 1 { " (cut by expert TP)" } else { "" };
        let message = format!(
            "{experts} experts over EP = {} are {actual} on a GPU{cut}, and the document says {}",
            s.ep, said.value
        );
        let finding = Finding {
            claimed: Some(said.value),
            actual: Some(actual),
            ..Finding::violation("experts-per-gpu", message)
        };
        out.push(finding.at(said.line));
    }
}

fn unknown_keys(claims: &Claims, out: &mut Vec<Finding>) {
    for note in &claims.unknown {
        let line = note.split("(line ").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok()).unwrap_or(0);
        let words = format!("unknown key {}", note.replacen(&format!(" (line {line})"), "", 1));
        // A mistyped degree would be left out of every product without a word.
        let finding = if note.contains("did you mean") {
            Finding::violation("unknown-key", words)
        } else {
            Finding::note("unknown-key", words)
        };
        out.push(finding.at(line));
    }
}

/// A claimed amount of memory against this program's own estimate: far off is worth a word, no more.
fn estimate(claims: &Claims, facts: &Facts<'_>, draft: &Draft, out: &mut Vec<Finding>) {
    let Some(said) = &claims.memory_per_gpu else { return };
    let Some((least, most, _)) = shape::memory_range(facts, facts.convention, draft) else { return };
    if said.value < least * 0.7 || said.value > most * 1.5 {
        let (u, e) = (gigabytes(said.value), gigabytes(most));
        let message = format!("the document says {u} a GPU, and this program's estimate is {e}");
        out.push(Finding::note("memory-estimate", message).amounts(said.value, most, "B").at(said.line));
    }
}

fn notes(claims: &Claims, facts: &Facts<'_>, draft: &Draft, own: &Reading, out: &mut Vec<Finding>) {
    if !facts.named {
        let mut message =
            "no convention or framework is named: judged by the product TP*EP*PP*DP; the other readings are beside it"
                .to_owned();
        let launchable: Vec<&str> = Framework::ALL
            .into_iter()
            .filter(|f| {
                let reading = read(f.convention(), draft, facts.available, facts.spare);
                reading.holds() && facts.available.is_some() && shape::experts(facts, f.convention(), draft).is_empty()
            })
            .map(Framework::title)
            .collect();
        if !launchable.is_empty() && !own.holds() {
            message.push_str(&format!("; launchable as written in {}", launchable.join(", ")));
        }
        out.push(Finding::note("convention", message));
    }
    let derives = !Framework::of(facts.convention).is_some_and(Framework::serves);
    if claims.dp.is_none()
        && derives
        && let (Some(dp), Some(_)) = (own.dp, facts.available)
    {
        let message = format!("DP is not stated; {dp} is what is left: {}", own.formula);
        out.push(Finding::note("dp", message));
    }
    if facts.available.is_none() {
        let message = format!("no number of GPUs is stated or given: {} cannot be compared with any", own.formula);
        out.push(Finding::note("gpus-available", message));
    }
    if facts.jobs.is_none() {
        let checked = if facts.experts.is_some() { "arithmetic and experts were" } else { "arithmetic was" };
        let message = format!("no model is known: only {checked} checked, not heads, layers and memory");
        out.push(Finding::note("model", message));
    } else if !facts.jobs.is_some_and(|jobs| jobs.memory) {
        let message =
            "memory was not estimated: that takes a GPU, and a framework or a batch that tells training from serving";
        out.push(Finding::note("memory-estimate", message));
    }
}
