//! `compare`: named plans side by side.

use super::args::{JobArgs, OutputArgs};
use super::{Verdict, out};
use crate::cost::network::Tier;
use crate::cost::{MemoryTerm, Term, TimeTerm};
use crate::error::{Error, Locate, Result};
use crate::estimate::traffic::traffic;
use crate::estimate::{Assessment, Time, assess};
use crate::export::{Format, SCHEMA, banded, bands, grouped, json, text};
use crate::import::job::ReadJob;
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
        all.push(Compared { name: name.clone(), assessment: assess(&read.job, read.framework, &draft) });
    }
    let text = match format {
        Format::Json => {
            let results: Vec<serde_json::Value> = all
                .iter()
                .map(|c| {
                    json::result(
                        &read.job,
                        read.convention,
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

/// A plan as people name it: `dp16+ep16` says that EP lies over DP, which in the product convention is one factor of 16.
fn shorthand(read: &ReadJob, name: &str) -> Result<Draft> {
    let plain = name.replace('+', " ");
    let mut draft = Draft::parse(&plain, read.convention).at("plan")?;
    if name.contains('+')
        && read.convention == crate::mesh::Convention::Product
        && let (Some(dp), Some(ep)) = (draft.dp, draft.ep)
    {
        if !dp.is_multiple_of(ep) && !ep.is_multiple_of(dp) {
            let allowed = "one of DP and EP a multiple of the other where `+` lays EP over DP";
            return Err(Error::invalid("plan", "dp+ep", name, allowed));
        }
        draft.dp = Some((dp / ep).max(1));
    }
    Ok(draft)
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
        plan.map_or_else(String::new, |p| p.text(p.convention(read.convention), purpose))
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
            let stages =
                crate::framework::stage_layers(read.convention, job.model.layers(), p.mesh.pp(), ends.0, ends.1);
            let words: Vec<String> = stages.iter().map(u32::to_string).collect();
            if words.len() > 8 { format!("{} stages", words.len()) } else { words.join("/") }
        })
    });
    if job.train().is_some() {
        let step = |c: &Compared| c.assessment.estimate.and_then(|e| e.step().copied());
        add("step", &|c| step(c).map_or_else(String::new, |s| c.banded(read, s.seconds(), "step_time")));
        for term in TimeTerm::ALL {
            add(&format!("  {}", term.key()), &|c| {
                let seconds = step(c).map_or(0.0, |s| s.ledger.get(*term));
                if seconds > 0.0 { Seconds::new(seconds).to_string() } else { String::new() }
            });
        }
        add("tokens/s, all GPUs", &|c| step(c).map_or_else(String::new, |s| grouped(s.tokens_per_s(job))));
    } else {
        let service = |c: &Compared| c.assessment.estimate.and_then(|e| e.service().copied());
        add("KV tokens, total", &|c| service(c).map_or_else(String::new, |s| grouped(s.kv_capacity_tokens.floor())));
        add("requests at once", &|c| service(c).map_or_else(String::new, |s| grouped(s.max_concurrency)));
        add("TTFT", &|c| service(c).map_or_else(String::new, |s| c.banded(read, Seconds::new(s.ttft_s), "ttft")));
        add("TPOT", &|c| service(c).map_or_else(String::new, |s| c.banded(read, Seconds::new(s.tpot_s), "tpot")));
        add("tokens/s/user", &|c| service(c).map_or_else(String::new, |s| format!("{:.1}", s.tokens_per_s_per_user)));
        add("output tokens/s, all GPUs", &|c| service(c).map_or_else(String::new, |s| grouped(s.output_tokens_per_s)));
    }
    let step = if job.train().is_some() { "per optimiser step" } else { "per decode step" };
    add(&format!("collectives {step}"), &|c| {
        c.assessment.resolution.plan.map_or_else(String::new, |p| {
            let mut words = Vec::new();
            for t in traffic(job, read.convention, &p) {
                let place = if t.placed.tier == Tier::Network { "over network" } else { "inside domain" };
                words.push(format!("{} {} {} {place}", grouped(t.calls), t.group.name(), t.collective.name()));
            }
            if words.is_empty() { "none".to_owned() } else { words.join("; ") }
        })
    });
    (head, rows)
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
            out.push(crossover(read, &fitting));
        }
        None => {}
    }
    out
}

/// Who leads at other loads: concurrency from 1 upwards.
fn crossover(read: &ReadJob, fitting: &[&Compared]) -> String {
    let mut leaders: Vec<(u32, String)> = Vec::new();
    let mut concurrency: u32 = 1;
    while concurrency <= 4096 {
        let mut job = read.job.clone();
        if let crate::job::Workload::Serve(serve) = &mut job.workload {
            serve.concurrency = concurrency;
        }
        let mut best: Option<(f64, &str)> = None;
        for c in fitting {
            let Some(plan) = &c.assessment.resolution.plan else { continue };
            let rate = crate::estimate::estimate(&job, read.convention, plan).tokens_per_s(&job);
            if best.is_none_or(|(most, _)| rate > most) {
                best = Some((rate, &c.name));
            }
        }
        if let Some((_, name)) = best
            && leaders.last().is_none_or(|(_, last)| last != name)
        {
            leaders.push((concurrency, name.to_owned()));
        }
        concurrency *= 2;
    }
    let words: Vec<String> = leaders.iter().map(|(from, name)| format!("{name} from {from}")).collect();
    format!("most tokens per second by requests in flight: {}", words.join(", "))
}
