//! `compare`: named plans side by side.

use super::args::{JobArgs, OutputArgs};
use super::{Verdict, out};
use crate::cluster::Collective;
use crate::cost::network::Tier;
use crate::cost::{MemoryTerm, ServeTerm, Term, TimeTerm};
use crate::error::{Error, Locate, Result};
use crate::estimate::serve::Latency;
use crate::estimate::traffic::traffic;
use crate::estimate::{Assessment, Time, assess, estimate};
use crate::export::{Format, SCHEMA, banded, bands, grouped, json, text};
use crate::import::job::ReadJob;
use crate::job::{Arrivals, Load, Percentile};
use crate::mesh::Convention;
use crate::plan::{Draft, Purpose};
use crate::units::{Bytes, Seconds};
use clap::Args;
use serde_json::json;
use std::fmt::Write as _;

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The plans, each as one argument: `tp16`, `tp8xpp2`, `dp16+ep16`.
    #[arg(required = true, num_args = 1..)]
    plans: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

struct Compared {
    name: String,
    /// The convention it was read in: the job's, or Megatron's, which can say both grids.
    convention: Convention,
    assessment: Assessment,
}

impl Compared {
    /// A time with its band.
    fn banded(&self, read: &ReadJob, seconds: Seconds, key: &str) -> String {
        let (Some(plan), Some(estimate)) = (&self.assessment.resolution.plan, &self.assessment.estimate) else {
            return seconds.to_string();
        };
        banded(seconds, key, &bands(&read.job, read.framework, plan, estimate))
    }
}

pub(super) fn run(args: &CompareArgs) -> Result<Verdict> {
    let format = args.output.format(&[Format::Table, Format::Json, Format::Markdown])?;
    let read = args.job.read()?;
    super::plan::note_assumptions(args.output.quiet, &read);
    let mut all = Vec::new();
    for name in &args.plans {
        let draft = shorthand(&read, name)?;
        let assessment = assess(&read.job, read.framework, &draft);
        all.push(Compared { name: name.clone(), convention: draft.convention, assessment });
    }
    let text = match format {
        Format::Json => {
            let results: Vec<serde_json::Value> = all
                .iter()
                .map(|c| {
                    json::result(
                        &read.job,
                        c.convention,
                        read.framework,
                        Some(&c.name.clone().into()),
                        &c.assessment,
                        true,
                    )
                })
                .collect();
            let value = json!({
                "schema": SCHEMA,
                "job": json::job(&read.job),
                "convention": read.convention.name(),
                "results": results,
                "differences": differences(&read, &all),
                "leads": leads_json(&read, &all),
            });
            out::pretty(&value)
        }
        Format::Table | Format::Markdown | Format::Jsonl | Format::Csv | Format::Html => {
            let (head, rows) = grid(&read, &all);
            let head: Vec<&str> = head.iter().map(String::as_str).collect();
            if format == Format::Markdown {
                text::markdown_table(&head, &rows)
            } else {
                table(&read, &all, &head, &rows)
            }
        }
    };
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::of(all.iter().all(|c| c.assessment.resolution.rejections.is_empty())))
}

/// A plan as people name it: `dp16+ep16` says that EP lies over DP, which in the product convention is one factor of 16;
/// `tp8+ep16` that EP lies over all ranks of a stage, attention cut by TP and data parallel for the rest: both grids.
fn shorthand(read: &ReadJob, name: &str) -> Result<Draft> {
    let plain = name.replace('+', " ");
    let mut draft = Draft::parse(&plain, read.convention).at("plan")?;
    if name.contains('+')
        && read.convention == Convention::Product
        && let (Some(dp), Some(ep)) = (draft.dp, draft.ep)
    {
        if !dp.is_multiple_of(ep) && !ep.is_multiple_of(dp) {
            let allowed = "one of DP and EP a multiple of the other where `+` lays EP over DP";
            return Err(Error::invalid("plan", "dp+ep", name, allowed));
        }
        draft.dp = Some((dp / ep).max(1));
    } else if name.contains('+')
        && read.convention == Convention::Product
        && let (None, Some(ep), Some(tp)) = (draft.dp, draft.ep, draft.tp)
        && draft.etp.is_none()
    {
        let (gpus, pp) = (read.job.gpus(), draft.pp.unwrap_or(1).max(1));
        let (attention, experts) = (tp.saturating_mul(pp).max(1), ep.saturating_mul(pp).max(1));
        if !gpus.is_multiple_of(attention) || !gpus.is_multiple_of(experts) {
            let allowed = format!("TP*PP and EP*PP that divide the {gpus} GPUs where `+` lays EP over TP");
            return Err(Error::invalid("plan", "tp+ep", name, allowed));
        }
        (draft.convention, draft.dp, draft.etp) = (Convention::Megatron, Some(gpus / attention), Some(1));
        // Expert copies that attention is not split over are whole replicas.
        draft.knobs.replicas = gcd(gpus / experts, gpus / attention);
    }
    Ok(draft)
}

/// Who leads from how many requests in flight on; null for training.
fn leads_json(read: &ReadJob, all: &[Compared]) -> serde_json::Value {
    if read.job.serve().is_none() {
        return serde_json::Value::Null;
    }
    let fitting: Vec<&Compared> = all.iter().filter(|c| c.assessment.resolution.rejections.is_empty()).collect();
    let leads = leads(read, &fitting);
    leads.iter().map(|l| json!({"plan": l.name, "from_concurrency": l.from, "to_concurrency": l.to})).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn grid(read: &ReadJob, all: &[Compared]) -> (Vec<String>, Vec<Vec<String>>) {
    let job = &read.job;
    let mut head = vec![String::new()];
    head.extend(all.iter().map(|c| c.name.clone()));
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |name: &str, cell: &dyn Fn(&Compared) -> String| {
        let mut row = vec![name.to_owned()];
        row.extend(all.iter().map(cell));
        if row.iter().skip(1).any(|c| !c.is_empty()) {
            rows.push(row);
        }
    };
    let purpose = if job.train().is_some() { Purpose::Train } else { Purpose::Serve };
    add("verdict", &|c| {
        let broken: Vec<&str> = c.assessment.resolution.rejections.iter().map(|r| r.rule.id()).collect();
        if broken.is_empty() { "fits".into() } else { format!("rejected: {}", broken.join(", ")) }
    });
    add("plan", &|c| {
        let plan = c.assessment.resolution.plan;
        plan.map_or_else(String::new, |p| p.text(p.convention(c.convention), purpose))
    });
    add("GPUs", &|c| c.assessment.resolution.formula.clone());
    add("memory per GPU, worst stage", &|c| {
        let estimate = c.assessment.estimate;
        estimate.map_or_else(String::new, |e| {
            format!("{} ({:.0}%)", e.memory.ledger.bytes(), e.memory.utilization() * 100.0)
        })
    });
    for term in MemoryTerm::ALL {
        add(&format!("  {}", term.key()), &|c| {
            let bytes = c.assessment.estimate.map_or(0.0, |e| e.memory.ledger.get(*term));
            if bytes > 0.0 { Bytes::new(bytes).to_string() } else { String::new() }
        });
    }
    add("layers of the stages", &|c| {
        c.assessment.resolution.plan.map_or_else(String::new, |p| {
            let ends = (p.knobs.first_stage_layers, p.knobs.last_stage_layers);
            let stages = crate::framework::stage_layers(c.convention, job.model.layers(), p.mesh.pp(), ends.0, ends.1);
            let words: Vec<String> = stages.iter().map(u32::to_string).collect();
            if words.len() > 8 { format!("{} stages", words.len()) } else { words.join("/") }
        })
    });
    if job.train().is_some() {
        let step = |c: &Compared| c.assessment.estimate.and_then(|e| e.step().copied());
        add("step", &|c| step(c).map_or_else(String::new, |s| c.banded(read, s.seconds(), "step_time")));
        for term in TimeTerm::ALL {
            add(&format!("  {}", term.key()), &|c| {
                step(c).map_or_else(String::new, |s| unless_nothing(s.ledger.get(*term)))
            });
        }
        add("tokens/s, all GPUs", &|c| step(c).map_or_else(String::new, |s| grouped(s.tokens_per_s(job))));
    } else {
        let service = |c: &Compared| c.assessment.estimate.and_then(|e| e.service().copied());
        add("KV tokens, total", &|c| service(c).map_or_else(String::new, |s| grouped(s.kv_capacity_tokens.floor())));
        let load = |c: &Compared| c.assessment.estimate.map(|e| e.load);
        let given = job.serve().is_some_and(|s| s.load == Load::InFlight);
        if !given {
            add("in flight", &|c| service(c).map_or_else(String::new, |s| grouped(s.concurrency)));
            add("requests/s", &|c| load(c).map_or_else(String::new, |l| format!("{:.2}", l.requests_per_s)));
        }
        add("requests at once", &|c| service(c).map_or_else(String::new, |s| grouped(s.max_concurrency)));
        add("TTFT", &|c| service(c).map_or_else(String::new, |s| c.banded(read, Seconds::new(s.ttft_s), "ttft")));
        add("TPOT", &|c| service(c).map_or_else(String::new, |s| c.banded(read, Seconds::new(s.tpot_s), "tpot")));
        for term in ServeTerm::ALL {
            add(&format!("  {}", term.key()), &|c| {
                service(c).map_or_else(String::new, |s| unless_nothing(s.tpot.get(*term)))
            });
        }
        if job.serve().is_some_and(|s| s.arrivals == Arrivals::Poisson || s.percentile != Percentile::Mean) {
            let tail = |l: &Latency| format!("{}, {}", Seconds::new(l.p95), Seconds::new(l.p99));
            add("TTFT p95, p99", &|c| load(c).map_or_else(String::new, |l| tail(&l.ttft)));
            add("TPOT p95, p99", &|c| load(c).map_or_else(String::new, |l| tail(&l.tpot)));
        }
        add("tokens/s/user", &|c| service(c).map_or_else(String::new, |s| format!("{:.1}", s.tokens_per_s_per_user)));
        add("output tokens/s, all GPUs", &|c| service(c).map_or_else(String::new, |s| grouped(s.output_tokens_per_s)));
    }
    let step = if job.train().is_some() { "per optimiser step" } else { "per decode step" };
    add(&format!("collectives {step}"), &|c| {
        c.assessment.resolution.plan.map_or_else(String::new, |p| {
            let mut words = Vec::new();
            // Of a serving step's two exchanges the first sends tokens out, the second brings them back.
            let mut exchanges = ["dispatch", "combine"].into_iter();
            for t in traffic(job, c.convention, &p) {
                let place = if t.placed.tier == Tier::Network { "over network" } else { "inside domain" };
                let exchange = job.serve().is_some() && t.collective == Collective::AllToAll;
                let name = if exchange { exchanges.next() } else { None }.unwrap_or(t.collective.name());
                words.push(format!("{} {} {name} {place}", grouped(t.calls), t.group.name()));
            }
            if words.is_empty() { "none".to_owned() } else { words.join("; ") }
        })
    });
    (head, rows)
}

/// A time, or an empty cell.
fn unless_nothing(seconds: f64) -> String {
    if seconds > 0.0 { Seconds::new(seconds).to_string() } else { String::new() }
}

fn table(read: &ReadJob, all: &[Compared], head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = super::plan::heading(&read.job);
    let _ = writeln!(text, "convention {}: {}\n", read.convention, read.convention.identity());
    let columns: Vec<usize> = (0..head.len()).collect();
    text.push_str(&out::table(head, rows, &columns));
    for c in all {
        for rejection in &c.assessment.resolution.rejections {
            let _ = writeln!(text, "{}: [{}] {rejection} ({})", c.name, rejection.rule.id(), rejection.hint());
        }
        if let Some(plan) = &c.assessment.resolution.plan {
            let Some(estimate) = &c.assessment.estimate else { continue };
            for remark in crate::explain::remarks(&read.job, read.framework, plan, None, estimate) {
                let _ = writeln!(text, "{}: {remark}", c.name);
            }
        }
    }
    for line in differences(read, all) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// What sets the plans apart, in sentences; no single winner where the load decides.
fn differences(read: &ReadJob, all: &[Compared]) -> Vec<String> {
    let job = &read.job;
    let fitting: Vec<&Compared> = all.iter().filter(|c| c.assessment.resolution.rejections.is_empty()).collect();
    let mut out = Vec::new();
    let priced = |c: &Compared| c.assessment.estimate.expect("a plan that holds is priced");
    if fitting.len() < 2 {
        return out;
    }
    let best = |value: &dyn Fn(&Compared) -> f64| {
        let mut sorted = fitting.clone();
        sorted.sort_by(|a, b| value(a).total_cmp(&value(b)));
        let (first, second) = (sorted[0], sorted[1]);
        (first.name.clone(), value(second) / value(first), second.name.clone())
    };
    match fitting.first().map(|c| priced(c).time) {
        Some(Time::Train(_)) => {
            let (name, factor, next) = best(&|c| 1.0 / priced(c).tokens_per_s(job));
            let size = (factor - 1.0) * 100.0;
            if factor < 1.0 + crate::rank::TIE {
                out.push(format!("{name} and {next} are within {:.0}%: measure both", crate::rank::TIE * 100.0));
            } else {
                out.push(format!("{name} is {size:.0}% faster than {next}"));
            }
        }
        Some(Time::Serve(_)) => {
            let service = |c: &Compared| *priced(c).service().expect("a serving job");
            let (name, factor, next) = best(&|c| service(c).tpot_s);
            out.push(format!("shortest time per token: {name} ({factor:.2}x shorter than {next})"));
            let (name, factor, next) = best(&|c| 1.0 / service(c).output_tokens_per_s);
            out.push(format!("most tokens per second at this load: {name} ({factor:.2}x of {next})"));
            let (name, factor, next) = best(&|c| 1.0 / service(c).kv_capacity_tokens.max(1.0));
            out.push(format!("most KV cache: {name} ({factor:.2}x of {next})"));
            if job.model.is_mla()
                && fitting.iter().any(|c| c.assessment.resolution.plan.is_some_and(|p| p.mesh.tp() > 1))
            {
                out.push("MLA KV is replicated across TP: every TP rank holds the whole latent cache".to_owned());
            }
            out.push(crossover(&leads(read, &fitting)));
        }
        None => {}
    }
    out
}

/// A plan that leads from a number of requests in flight on.
struct Lead {
    /// From here it is ahead by more than plans that tie.
    from: u32,
    /// Up to here it is.
    to: u32,
    name: String,
}

/// The most requests in flight that leads are looked for.
const MOST_SWEPT: u32 = 4096;

/// Who leads at other loads. Looked for at doublings and at multiples of the most attention ranks, as requests come whole and a
/// rank more or less would make the lead flicker.
fn leads(read: &ReadJob, fitting: &[&Compared]) -> Vec<Lead> {
    let plans = || fitting.iter().filter_map(|c| c.assessment.resolution.plan.map(|plan| (c, plan)));
    let ranks = plans().map(|(_, plan)| plan.mesh.dp_attention()).max().unwrap_or(1).max(1);
    let mut loads: Vec<u32> = (0..=12).map(|k| 1 << k).filter(|n| *n <= ranks || ranks > MOST_SWEPT / 2).collect();
    loads.extend((1..=MOST_SWEPT / ranks).map(|k| k * ranks));
    loads.sort_unstable();
    loads.dedup();
    let mut out: Vec<Lead> = Vec::new();
    for concurrency in loads {
        let job = crate::goal::with_serve(&read.job, |s| (s.load, s.concurrency) = (Load::InFlight, concurrency));
        let mut rates: Vec<(f64, &str)> = plans()
            .map(|(c, plan)| (estimate(&job, c.convention, &plan).tokens_per_s(&job), c.name.as_str()))
            .collect();
        rates.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (Some((most, name)), second) = (rates.first(), rates.get(1)) else { continue };
        if second.is_some_and(|(next, _)| next * (1.0 + crate::rank::TIE) >= *most) {
            continue;
        }
        match out.last_mut() {
            Some(last) if last.name == *name => last.to = concurrency,
            Some(_) | None => out.push(Lead { from: concurrency, to: concurrency, name: (*name).to_owned() }),
        }
    }
    out
}

/// Who leads at which load, in words.
fn crossover(leads: &[Lead]) -> String {
    let tie = crate::rank::TIE * 100.0;
    let Some(last) = leads.len().checked_sub(1) else {
        return format!("no plan leads at any load by more than {tie:.0}%: measure");
    };
    let words: Vec<String> = leads
        .iter()
        .enumerate()
        .map(|(i, lead)| match (lead.from, i == last) {
            (1, true) => format!("{} at any load", lead.name),
            (1, false) => format!("{} up to {}", lead.name, lead.to),
            (from, true) => format!("{} from {from}", lead.name),
            (from, false) => format!("{} from {from} to {}", lead.name, lead.to),
        })
        .collect();
    let between = if last > 0 { format!("; in between they are within {tie:.0}%: measure") } else { String::new() };
    format!("most tokens per second by requests in flight: {}{between}", words.join(", "))
}
