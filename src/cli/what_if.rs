//! `what-if`: the best plan at each of several GPU counts, GPU types, link speeds, memory sizes, lengths or prices.

use super::args::{JobArgs, OutputArgs, SpaceArgs, objective, values};
use super::watched::{EffortArgs, Watched};
use super::{Verdict, flag_error, out};
use crate::catalog;
use crate::cluster::Cluster;
use crate::error::{Locate, Result};
use crate::estimate::Time;
use crate::export::sweep::{Case, Found, Sweep};
use crate::export::{Format, band_lines, bands, grouped};
use crate::import::job::ReadJob;
use crate::job::{Job, MOST_GPUS, Serve, Train, Workload};
use crate::mesh::divisors;
use crate::plan::Purpose;
use crate::rank::{Objective, Row, dollars_per_million};
use crate::rules::Rule;
use crate::search::{Outcome, SearchOptions, StopReason};
use crate::space::{SpaceOptions, fewer};
use crate::units::{Bytes, BytesPerSec, Seconds, UsdPerHour};
use clap::Args;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(super) struct WhatIfArgs {
    #[command(flatten)]
    job: JobArgs,
    /// GPU counts: `8,16,32` or `8..=64`. A plan that leaves some idle counts where none takes all of them, and by throughput and
    /// latency wherever it is better.
    #[arg(long)]
    gpus: Option<String>,
    /// GPU types or clusters, separated by commas; a bare GPU keeps the cluster's count.
    #[arg(long, value_name = "NAMES")]
    gpu_types: Option<String>,
    /// Network rates per NIC, separated by commas, as in `100 Gb/s,400 Gb/s`.
    #[arg(long, value_name = "RATES")]
    network: Option<String>,
    /// Memory sizes of the GPU, separated by commas, as in `80 GiB,141 GB`.
    #[arg(long, value_name = "SIZES")]
    hbm: Option<String>,
    /// Sequence lengths when training, input lengths when serving: `4096,8192`.
    #[arg(long, value_name = "TOKENS")]
    seq_lens: Option<String>,
    /// Prices of a GPU-hour, separated by commas, as in `$2/h,$3.50/h`.
    #[arg(long, value_name = "PRICES")]
    prices: Option<String>,
    /// The largest `model` (of those built in), `batch` or `context` that fits this cluster; several separated by commas.
    #[arg(long, value_name = "THINGS")]
    largest: Option<String>,
    #[command(flatten)]
    space: SpaceArgs,
    /// throughput, latency, headroom, cost or balanced (default: throughput).
    #[arg(long)]
    objective: Option<String>,
    #[command(flatten)]
    effort: EffortArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// One combination of everything but the count of GPUs.
#[derive(Clone)]
struct Variant {
    label: String,
    cluster: Cluster,
    workload: Workload,
}

impl Variant {
    fn named(&self, label: &str) -> Self {
        Self { label: format!("{} {label}", self.label).trim().to_owned(), ..self.clone() }
    }
}

pub(super) fn run(args: &WhatIfArgs) -> Result<Verdict> {
    let format = args.output.format(&Format::ALL)?;
    args.output.set_threads()?;
    let read = args.job.read()?;
    let space = args.space.options(&read)?;
    let exhaustive = args.effort.exhaustive;
    let objective = objective(args.objective.as_deref())?;
    let options = SearchOptions { objective, top: 1, exhaustive, ..SearchOptions::default() };
    let watched = Watched::new(false, args.effort.limit()?);
    let variants = variants(args, &read)?;
    let counts = counts(args)?;
    let largest = wanted(args)?;

    let mut sweep =
        Sweep { heading: String::new(), cases: Vec::new(), notes: Vec::new(), largest: Vec::new(), stopped: None };
    let all = counts.as_ref().map_or(1, Vec::len) * variants.len();
    let mut searches: Vec<Searches<'_>> = variants
        .iter()
        .map(|variant| Searches::new(&read, variant, &space, options, &watched, counts.is_some()))
        .collect::<Result<_>>()?;
    'sweep: for i in 0..counts.as_ref().map_or(1, Vec::len) {
        for searches in &mut searches {
            let gpus = counts.as_ref().map_or_else(|| searches.variant.cluster.gpus(), |all| all[i]);
            if sweep.heading.is_empty() {
                sweep.heading = super::plan::heading(&searches.job(gpus)?.job);
            }
            let case = searches.case(gpus, &mut sweep.notes)?;
            if watched.stopped() {
                sweep.stopped = Some(format!("{}: {} of {all} cases", watched.why(), sweep.cases.len()));
                break 'sweep;
            }
            sweep.cases.push(case);
        }
    }
    for what in largest {
        if !watched.stopped() {
            sweep.largest.push((what.name().to_owned(), what.find(&read, &space, options, &watched)));
        }
    }
    if let Some(stopped) = &sweep.stopped {
        out::note(args.output.quiet, stopped);
    }
    let text = match format {
        Format::Json => out::pretty(&sweep.json()),
        Format::Jsonl => sweep.cases.iter().map(|c| format!("{}\n", sweep.json_case(c))).collect(),
        Format::Csv => sweep.csv(),
        Format::Markdown => sweep.markdown(),
        Format::Html => sweep.page(),
        Format::Table => {
            let (head, rows) = sweep.table();
            let mut text = format!("{}{}{}", sweep.heading, out::table(head, &rows, &[1, 4]), sweep.chart());
            let lines = sweep.lines();
            if !lines.is_empty() {
                text.push_str(&format!("\n{}\n", lines.join("\n")));
            }
            text
        }
    };
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::of(sweep.cases.iter().any(|c| c.found.is_ok())))
}

/// The counts asked for.
fn counts(args: &WhatIfArgs) -> Result<Option<Vec<u32>>> {
    let Some(text) = &args.gpus else { return Ok(None) };
    let counts = values("--gpus", text)?;
    match counts.iter().find(|n| **n > MOST_GPUS) {
        Some(n) => Err(flag_error("--gpus", &n.to_string(), &format!("1 to {MOST_GPUS}"))),
        None => Ok(Some(counts)),
    }
}

/// Every combination of types, rates, sizes, prices and lengths.
fn variants(args: &WhatIfArgs, read: &ReadJob) -> Result<Vec<Variant>> {
    let base = &read.job.cluster;
    let first = Variant { label: String::new(), cluster: base.clone(), workload: read.job.workload };
    let mut out = vec![first.clone()];
    if let Some(names) = &args.gpu_types {
        out.clear();
        for name in names.split(',').map(str::trim) {
            let cluster = match catalog::gpu(name) {
                Ok(gpu) => catalog::cluster(&format!("{}x{}", base.gpus(), gpu.name))?,
                Err(_) => catalog::cluster(name)?,
            };
            let label = cluster.gpu.name.clone();
            out.push(Variant { cluster, ..first.named(&label) });
        }
    }
    out = widened(out, args.network.as_deref(), |variant, rate| {
        variant.cluster.network.bandwidth = BytesPerSec::parse(rate).at("--network")?;
        Ok(rate.to_owned())
    })?;
    out = widened(out, args.hbm.as_deref(), |variant, size| {
        variant.cluster.gpu.memory = Bytes::parse(size).at("--hbm")?;
        Ok(size.to_owned())
    })?;
    out = widened(out, args.prices.as_deref(), |variant, price| {
        variant.cluster.gpu.price = Some(UsdPerHour::parse(price).at("--prices")?);
        Ok(price.to_owned())
    })?;
    let lengths = args.seq_lens.as_deref().map(|text| values("--seq-lens", text)).transpose()?;
    let lengths = lengths.map(|all| all.iter().map(u32::to_string).collect::<Vec<String>>().join(","));
    widened(out, lengths.as_deref(), |variant, length| {
        let tokens = values("--seq-lens", length)?[0];
        variant.workload = match variant.workload {
            Workload::Train(train) => Workload::Train(Train { seq_len: tokens, ..train }),
            Workload::Serve(serve) => Workload::Serve(Serve { isl: tokens, ..serve }),
        };
        Ok(format!("{length} tokens"))
    })
}

/// Each variant with each word of a list applied to it.
fn widened(
    variants: Vec<Variant>,
    list: Option<&str>,
    apply: impl Fn(&mut Variant, &str) -> Result<String>,
) -> Result<Vec<Variant>> {
    let Some(list) = list else { return Ok(variants) };
    let mut out = Vec::new();
    for variant in &variants {
        for word in list.split(',').map(str::trim) {
            let mut other = variant.clone();
            let label = apply(&mut other, word)?;
            out.push(other.named(&label));
        }
    }
    Ok(out)
}

/// The searches of one variant, each count of GPUs once: a case that leaves GPUs idle asks for those of fewer.
struct Searches<'a> {
    read: &'a ReadJob,
    variant: &'a Variant,
    space: SpaceOptions,
    use_fewer: bool,
    options: SearchOptions,
    watched: &'a Watched,
    base: Job,
    /// By count: the best plan on all of so many GPUs, or the nearest miss.
    done: BTreeMap<u32, std::result::Result<Row, String>>,
}

impl<'a> Searches<'a> {
    fn new(
        read: &'a ReadJob,
        variant: &'a Variant,
        space: &SpaceOptions,
        options: SearchOptions,
        watched: &'a Watched,
        counted: bool,
    ) -> Result<Self> {
        let base = Job::new(read.job.model.clone(), variant.cluster.clone(), variant.workload).at("what-if")?;
        // By these, more GPUs must not answer with less; by cost or headroom fewer GPUs would always be better.
        let more_is_better = matches!(options.objective, Objective::Throughput | Objective::Latency);
        let use_fewer = space.use_fewer || counted && more_is_better;
        let space = SpaceOptions { use_fewer: false, ..space.clone() };
        Ok(Self { read, variant, space, use_fewer, options, watched, base, done: BTreeMap::new() })
    }

    fn job(&self, gpus: u32) -> Result<ReadJob> {
        let cluster = if gpus == self.variant.cluster.gpus() {
            self.variant.cluster.clone()
        } else {
            self.variant.cluster.resized(gpus)
        };
        let job = Job::new(self.base.model.clone(), cluster, self.variant.workload).at("what-if")?;
        Ok(ReadJob { id: None, job, framework: self.read.framework, convention: self.read.convention, draft: None })
    }

    /// The best plan on all of so many GPUs.
    fn all_of(&mut self, gpus: u32) -> Result<std::result::Result<Row, String>> {
        if let Some(known) = self.done.get(&gpus) {
            return Ok(known.clone());
        }
        let outcome = self.watched.search(&self.job(gpus)?, &self.space, &self.options);
        let found = outcome.rows.first().copied().ok_or_else(|| nearest_miss(&outcome));
        if outcome.stop == StopReason::Exhausted {
            self.done.insert(gpus, found.clone());
        }
        Ok(found)
    }

    fn case(&mut self, gpus: u32, notes: &mut Vec<String>) -> Result<Case> {
        let mut best = self.all_of(gpus)?;
        if best.is_err() || self.use_fewer {
            for count in fewer(gpus, self.variant.cluster.gpus_per_node) {
                let Ok(row) = self.all_of(count)? else { continue };
                if self.watched.stopped() {
                    break;
                }
                if best.as_ref().is_ok_and(|now| now.order(&row).is_le()) {
                    continue;
                }
                best = Ok(row);
            }
        }
        if let Ok(row) = &best {
            let bands = bands(&self.base, self.read.framework, &row.plan, &row.estimate);
            let shown: Vec<_> = bands.into_iter().filter(|(key, ..)| *key != "ttft").collect();
            for line in band_lines(&shown) {
                if !notes.contains(&line) {
                    notes.push(line);
                }
            }
        }
        Ok(Case {
            gpus,
            variant: self.variant.label.clone(),
            gpu: self.variant.cluster.gpu.name.clone(),
            found: best.map(|row| self.found(&row)),
        })
    }

    fn found(&self, row: &Row) -> Found {
        let purpose = if self.base.train().is_some() { Purpose::Train } else { Purpose::Serve };
        let said = row.plan.convention(self.space.convention());
        let memory = &row.estimate.memory;
        Found {
            used: row.plan.mesh.world(),
            plan: row.plan.text(said, purpose),
            formula: said.formula(&row.plan.mesh),
            memory: memory.ledger.bytes(),
            utilization: memory.utilization(),
            time: match &row.estimate.time {
                Time::Train(step) => step.seconds(),
                Time::Serve(service) => Seconds::new(service.tpot_s),
            },
            tokens_per_s: row.estimate.tokens_per_s(&self.base),
            usd_per_million: dollars_per_million(&self.base, &row.plan, &row.estimate),
        }
    }
}

fn nearest_miss(outcome: &Outcome) -> String {
    let funnel = &outcome.funnel;
    let all = || funnel.plan_rules.iter().chain(&funnel.mesh_rules);
    let memory = all().find(|t| t.rule == Rule::Memory);
    let miss = memory.or_else(|| all().max_by_key(|t| t.refused)).and_then(|t| t.nearest);
    miss.map_or_else(|| "nothing fits".to_owned(), |(_, miss)| format!("nothing fits: {miss}"))
}

/// What may be asked for the largest of.
#[derive(Clone, Copy)]
enum Largest {
    Model,
    Batch,
    Context,
}

fn wanted(args: &WhatIfArgs) -> Result<Vec<Largest>> {
    let all = [Largest::Model, Largest::Batch, Largest::Context];
    let words = args.largest.iter().flat_map(|text| text.split(',')).map(str::trim);
    words
        .map(|word| {
            let known = all.into_iter().find(|l| l.name() == word.to_ascii_lowercase());
            known.ok_or_else(|| flag_error("--largest", word, "model, batch, context"))
        })
        .collect()
}

impl Largest {
    const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Batch => "batch",
            Self::Context => "context",
        }
    }

    /// The largest on the job's own cluster: candidates are tried from the largest down, so no rule on sizes is assumed.
    fn find(self, read: &ReadJob, space: &SpaceOptions, options: SearchOptions, watched: &Watched) -> String {
        let found = match self {
            Self::Model => largest_model(read, space, options, watched),
            Self::Batch => largest_batch(read, space, options, watched),
            Self::Context => largest_context(read, space, options, watched),
        };
        found.unwrap_or_else(|| "none".to_owned())
    }
}

/// The best plans of a changed job, if it is sound.
fn searched(
    read: &ReadJob,
    job: std::result::Result<Job, crate::job::JobError>,
    space: &SpaceOptions,
    options: SearchOptions,
    watched: &Watched,
) -> Option<Outcome> {
    let changed =
        ReadJob { id: None, job: job.ok()?, framework: read.framework, convention: read.convention, draft: None };
    Some(watched.search(&changed, space, &options)).filter(|outcome| !outcome.rows.is_empty())
}

fn largest_model(read: &ReadJob, space: &SpaceOptions, options: SearchOptions, watched: &Watched) -> Option<String> {
    let mut models: Vec<_> = catalog::models().iter().map(|entry| (entry.name(), entry.model())).collect();
    models.sort_by(|a, b| b.1.params().cmp(&a.1.params()).then(a.0.cmp(b.0)));
    let own = read.job.model.quant();
    models.into_iter().find_map(|(name, model)| {
        let workload = match read.job.workload {
            // A format that is the checkpoint's own is the other checkpoint's own.
            Workload::Serve(serve) if serve.quant == own => Workload::Serve(Serve { quant: model.quant(), ..serve }),
            same @ (Workload::Serve(_) | Workload::Train(_)) => same,
        };
        let job = Job::new(model.clone(), read.job.cluster.clone(), workload);
        searched(read, job, space, options, watched)?;
        Some(format!("{name} ({:.1}B parameters, of the built-in models)", model.params() as f64 / 1e9))
    })
}

fn largest_batch(read: &ReadJob, space: &SpaceOptions, options: SearchOptions, watched: &Watched) -> Option<String> {
    let (model, cluster) = (&read.job.model, &read.job.cluster);
    match read.job.workload {
        Workload::Train(train) => divisors(u64::from(train.global_batch)).into_iter().rev().find_map(|batch| {
            let mut space = space.clone();
            space.bounds.micro_batch = vec![batch as u32];
            searched(read, Ok(read.job.clone()), &space, options, watched)?;
            let tokens = grouped(batch as f64 * f64::from(train.seq_len));
            Some(format!("micro-batches of {batch} sequences ({tokens} tokens)"))
        }),
        Workload::Serve(serve) => (0..=16).rev().map(|k| 1_u32 << k).find_map(|concurrency| {
            let workload = Workload::Serve(Serve { concurrency, ..serve });
            let options = SearchOptions { top: 50, ..options };
            let job = Job::new(model.clone(), cluster.clone(), workload);
            let outcome = searched(read, job, space, options, watched)?;
            let holds = |row: &Row| row.estimate.service().is_some_and(|s| s.concurrency >= f64::from(concurrency));
            let context = grouped(f64::from(serve.isl) + f64::from(serve.osl));
            outcome.rows.iter().chain(&outcome.frontier).any(holds).then(|| {
                format!(
                    "{} requests of {context} tokens in flight (powers of two tried)",
                    grouped(f64::from(concurrency))
                )
            })
        }),
    }
}

fn largest_context(read: &ReadJob, space: &SpaceOptions, options: SearchOptions, watched: &Watched) -> Option<String> {
    let (model, cluster) = (&read.job.model, &read.job.cluster);
    let most = model.spec().max_positions;
    let lower = (0..31).rev().map(|k| 1_u32 << k).filter(|tokens| *tokens < most);
    std::iter::once(most).chain(lower).find_map(|tokens| {
        let workload = match read.job.workload {
            Workload::Train(train) => Workload::Train(Train { seq_len: tokens, ..train }),
            Workload::Serve(serve) => {
                let isl = tokens.checked_sub(serve.osl).filter(|isl| *isl > 0)?;
                Workload::Serve(Serve { isl, ..serve })
            }
        };
        searched(read, Job::new(model.clone(), cluster.clone(), workload), space, options, watched)?;
        let limit = if tokens == most { "the model's own limit" } else { "powers of two tried" };
        Some(format!("{} tokens ({limit})", grouped(f64::from(tokens))))
    })
}
