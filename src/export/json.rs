//! The machine form: plain numbers in base units, the unit in the key, a schema number.

use super::{Ranking, SCHEMA};
use crate::cost::network::Tier;
use crate::cost::{MemoryLedger, MemoryTerm, Term};
use crate::estimate::band::{Band, SHARE};
use crate::estimate::traffic::traffic;
use crate::estimate::train::Utilization;
use crate::estimate::{self, Assessment, Estimate, Time};
use crate::explain;
use crate::framework::Framework;
use crate::job::{Job, Load, Percentile, Serve, Workload};
use crate::mesh::Convention;
use crate::plan::{Plan, Purpose};
use crate::rank::{Row, dollars_in_and_out, dollars_per_million};
use crate::robust::{BANDS, Candidate, Robustness};
use crate::rules::Rejection;
use crate::search::{Funnel, StopReason, Tally};
use serde_json::{Map, Value, json};

/// A rejection with its words, numbers and the nearest legal values.
#[must_use]
pub fn rejection(r: &Rejection) -> Value {
    json!({
        "rule": r.rule.id(),
        "message": r.to_string(),
        "need": finite(r.need),
        "have": finite(r.have),
        "nearest": r.hint(),
    })
}

/// JSON has no infinities; none should come out of the core, and none may break a reader.
fn finite(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// A plan with its degrees, in the convention's names and in both grids.
#[must_use]
pub fn plan(job: &Job, convention: Convention, plan: &Plan) -> Value {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let said = plan.convention(convention);
    let purpose = purpose(job);
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("text", plan.text(said, purpose).into());
    put("convention", said.name().into());
    put("tp", m.tp().into());
    put("cp", m.cp().into());
    put("pp", m.pp().into());
    put("ep", m.ep().into());
    put("etp", m.etp().into());
    put("dp", said.dp(m).into());
    put("dp_attention", m.dp_attention().into());
    put("edp", m.edp().into());
    put("gpus", m.world().into());
    put("idle_gpus", job.gpus().saturating_sub(m.world()).into());
    put("formula", said.formula(m).into());
    match purpose {
        Purpose::Train => {
            put("micro_batch", k.micro_batch.into());
            put("vpp", k.vpp.into());
            put("recompute", k.recompute.to_string().into());
            put("zero", k.zero.into());
            put("sequence_parallel", (k.sequence_parallel && m.tp() > 1).into());
            put("schedule", k.schedule.name().into());
            put("optimizer_offload", (f64::from(k.optimizer_offload) / 100.0).into());
        }
        Purpose::Serve => {
            put("replicas", k.replicas.into());
            put("gpus_per_replica", (m.world() / k.replicas.max(1)).into());
        }
    }
    put("stage_layers", estimate::stage_layers(job, convention, plan).into());
    Value::Object(out)
}

fn purpose(job: &Job) -> Purpose {
    match job.workload {
        Workload::Train(_) => Purpose::Train,
        Workload::Serve(_) => Purpose::Serve,
    }
}

fn memory_terms(ledger: &MemoryLedger) -> Value {
    MemoryTerm::ALL.iter().map(|t| (t.key().to_owned(), finite(ledger.get(*t)))).collect::<Map<_, _>>().into()
}

/// Memory per GPU, worst stage first, then every stage.
fn memory(job: &Job, convention: Convention, at: &Plan, estimate: &Estimate) -> Value {
    let m = &estimate.memory;
    let stages: Vec<Value> = estimate::stages(job, convention, at)
        .iter()
        .map(|s| json!({"terms_bytes": memory_terms(s), "total_bytes": finite(s.total())}))
        .collect();
    json!({
        "scope": "per GPU, worst stage",
        "terms_bytes": memory_terms(&m.ledger),
        "total_bytes": finite(m.ledger.total()),
        "allocated_bytes": finite(m.ledger.allocated().get()),
        "capacity_bytes": finite(m.capacity.get()),
        "utilization": finite(m.utilization()),
        "worst_stage": m.worst_stage,
        "stages": stages,
    })
}

/// The bands of an estimate's times, by time: ends in seconds, and what they rest on.
fn bands(job: &Job, framework: Option<Framework>, at: &Plan, estimate: &Estimate) -> Value {
    let of = |(key, time, band): &(&'static str, f64, Band)| {
        let (low, high) = band.around(*time);
        let value = json!({
            "off": finite(band.off),
            "low_s": finite(low),
            "high_s": finite(high),
            "share": SHARE,
            "runs": band.rows,
            "kind": band.kind,
            "curves": band.borrowed.as_deref().unwrap_or("measured"),
        });
        ((*key).to_owned(), value)
    };
    super::bands(job, framework, at, estimate).iter().map(of).collect::<Map<_, _>>().into()
}

fn time(job: &Job, framework: Option<Framework>, at: &Plan, estimate: &Estimate, out: &mut Map<String, Value>) {
    let gpus = f64::from(at.mesh.world());
    let terms: Map<String, Value> =
        estimate.time.parts().iter().map(|part| (part.key.to_owned(), finite(part.seconds))).collect();
    let mut time = Map::from_iter([("band".to_owned(), bands(job, framework, at, estimate))]);
    match &estimate.time {
        Time::Train(step) => {
            let flops = step.model_flops_per_gpu(job, at.mesh.world());
            let tokens = step.tokens_per_s(job);
            let used = Utilization::of(job, at, step);
            let train = json!({
                "step_time_s": finite(step.seconds().get()),
                "terms_s": terms,
                "slowest_stage": step.slowest_stage,
                "tokens_per_s": finite(tokens),
                "tokens_per_s_per_gpu": finite(tokens / gpus),
                "model_tflops_per_gpu": finite(flops / 1e12),
                "mfu": finite(flops / job.cluster.gpu.peak16().get()),
                "mfu_convention": "causal attention halved, recomputation not counted, 16-bit dense peak",
                "utilization": {
                    "mfu_causal": finite(used.mfu_causal),
                    "mfu_full_attention": finite(used.mfu_full),
                    "hfu_causal": finite(used.hfu_causal),
                    "hfu_full_attention": finite(used.hfu_full),
                },
            });
            out.insert("train".into(), train);
        }
        Time::Serve(s) => {
            let serve = json!({
                "ttft_s": finite(s.ttft_s),
                "ttft_steady_s": finite(s.ttft_steady_s),
                "ttft_burst_s": finite(s.ttft_burst_s),
                "tpot_s": finite(s.tpot_s),
                "decode_step_s": finite(s.decode_step_s),
                "prefill_s": finite(s.prefill_s),
                "output_tokens_per_s": finite(s.output_tokens_per_s),
                "tokens_per_s_per_gpu": finite(s.output_tokens_per_s / gpus),
                "tokens_per_s_per_user": finite(s.tokens_per_s_per_user),
                "kv_tokens_per_replica": finite(s.kv_tokens_per_replica.floor()),
                "kv_capacity_tokens": finite(s.kv_capacity_tokens.floor()),
                "max_concurrency": finite(s.max_concurrency),
                "concurrency": finite(s.concurrency),
                "requests_per_s": finite(estimate.load.requests_per_s),
                "kv_pressure": finite(estimate.load.kv_pressure),
            });
            let mut serve = serve.as_object().cloned().unwrap_or_default();
            for (name, latency) in [("ttft", &estimate.load.ttft), ("tpot", &estimate.load.tpot)] {
                for which in [Percentile::P50, Percentile::P90, Percentile::P95, Percentile::P99] {
                    serve.insert(format!("{name}_{}_s", which.name()), finite(latency.at(which)));
                }
            }
            out.insert("serve".into(), serve.into());
            time.insert("tpot_terms_s".into(), terms.into());
        }
    }
    out.insert("time".into(), time.into());
    if let Some(cost) = dollars_per_million(job, at, estimate) {
        out.insert("usd_per_million_tokens".into(), finite(cost));
    }
    if let Some((input, output)) = dollars_in_and_out(job, at, estimate) {
        out.insert("usd_per_million_input_tokens".into(), finite(input));
        out.insert("usd_per_million_output_tokens".into(), finite(output));
    }
}

/// Collectives per step, one object a kind and group.
#[must_use]
pub fn communication(job: &Job, convention: Convention, at: &Plan) -> Value {
    traffic(job, convention, at)
        .iter()
        .map(|t| {
            json!({
                "group": t.group.name(),
                "collective": t.collective.name(),
                "ranks": t.placed.size,
                "stride": t.ranks.stride(),
                "members_per_node": t.members_per_node,
                "members_per_domain": t.placed.near,
                "link": t.placed.tier.name(),
                "crosses_network": t.placed.tier == Tier::Network,
                "bytes_per_call": finite(t.bytes),
                "calls_per_step": finite(t.calls),
                "seconds_per_call": finite(t.seconds),
            })
        })
        .collect()
}

/// One result `R`: a plan judged and, where it has a mesh, priced.
#[must_use]
pub fn result(
    job: &Job,
    convention: Convention,
    framework: Option<Framework>,
    id: Option<&Value>,
    assessment: &Assessment,
    full: bool,
) -> Value {
    let mut out = head(id);
    let resolution = &assessment.resolution;
    let rejections = &resolution.rejections;
    match &resolution.plan {
        Some(p) => out.insert("plan".into(), plan(job, convention, p)),
        None => out.insert(
            "plan".into(),
            json!({"convention": convention.name(), "gpus": resolution.needed, "formula": resolution.formula}),
        ),
    };
    out.insert("verdict".into(), if rejections.is_empty() { "fits" } else { "rejected" }.into());
    out.insert("rejections".into(), rejections.iter().map(rejection).collect());
    if let (Some(p), Some(estimate)) = (&resolution.plan, &assessment.estimate) {
        out.insert("warnings".into(), explain::remarks(job, framework, p, None, estimate).into());
        out.insert("memory".into(), memory(job, convention, p, estimate));
        time(job, framework, p, estimate, &mut out);
        if full {
            out.insert("communication".into(), communication(job, convention, p));
        }
    }
    finish(job, out)
}

fn head(id: Option<&Value>) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("schema".into(), SCHEMA.into());
    if let Some(id) = id {
        out.insert("id".into(), id.clone());
    }
    out
}

fn finish(job: &Job, mut out: Map<String, Value>) -> Value {
    let (memory, time) = estimate::basis(job);
    out.insert("basis".into(), json!({"memory": memory.name(), "time": time.name()}));
    Value::Object(out)
}

/// One result of a ranking.
#[must_use]
pub fn row(r: &Ranking<'_>, at: usize, row: &Row) -> Value {
    let own = r.job_of(row);
    let r = &Ranking { job: &own, ..*r };
    let mut out = head(None);
    out.insert("rank".into(), (at + 1).into());
    let tie = r.outcome.rows.first().is_some_and(|best| row.ties_with(best));
    out.insert("ties_with_best".into(), tie.into());
    out.insert("plan".into(), plan(r.job, r.convention, &row.plan));
    out.insert("verdict".into(), "fits".into());
    out.insert("rejections".into(), Value::Array(Vec::new()));
    out.insert("memory".into(), memory(r.job, r.convention, &row.plan, &row.estimate));
    let framework = Framework::of(r.convention);
    time(r.job, framework, &row.plan, &row.estimate, &mut out);
    out.insert("warnings".into(), explain::remarks(r.job, framework, &row.plan, None, &row.estimate).into());
    out.insert("why".into(), explain::reason(r.job, r.convention, &row.plan, &row.estimate).into());
    let over: Vec<&str> = explain::over_network(r.job, r.convention, &row.plan).iter().map(|g| g.name()).collect();
    out.insert("over_network".into(), over.into());
    finish(r.job, out)
}

/// A job, as it was understood.
#[must_use]
pub fn job(job: &Job) -> Value {
    let c = &job.cluster;
    let cluster = json!({
        "name": c.name,
        "gpu": c.gpu.name,
        "gpus": c.gpus(),
        "nodes": c.nodes,
        "gpus_per_node": c.gpus_per_node,
        "domain_gpus": c.domain(),
        "gpu_memory_bytes": finite(c.gpu.memory.get()),
        "scale_up": c.scale_up.kind.name(),
        "scale_up_bytes_per_s": finite(c.scale_up.bandwidth.get()),
        "network": c.network.kind.name(),
        "network_bytes_per_s_per_gpu": finite(c.nic_share().get()),
    });
    let model = json!({
        "name": job.model.name(),
        "params": job.model.params(),
        "active_params": job.model.active_params(),
        "layers": job.model.layers(),
        "assumptions": job.model.assumptions,
    });
    let mut out = Map::new();
    out.insert("model".into(), model);
    out.insert("cluster".into(), cluster);
    match &job.workload {
        Workload::Train(t) => out.insert(
            "train".into(),
            json!({
                "seq_len": t.seq_len,
                "global_batch": t.global_batch,
                "precision": t.precision.name(),
                "grad_dtype": t.grad_dtype.name(),
                "moe_balance": t.moe_balance,
                "mtp_layers": t.mtp_layers,
            }),
        ),
        Workload::Serve(s) => out.insert("serve".into(), serving(s)),
    };
    Value::Object(out)
}

/// A serving workload; the requests in flight are null where they follow from targets or a rate.
fn serving(s: &Serve) -> Value {
    let mut out = json!({
        "isl": s.isl,
        "osl": s.osl,
        "concurrency": (s.load == Load::InFlight).then_some(s.concurrency),
        "weights": s.quant.format.name(),
        "kv_cache": s.kv_cache.name(),
        "arrivals": s.arrivals.name(),
        "prefix_hit": s.prefix_hit,
    });
    let mut put = |key: &str, value: Value| out[key] = value;
    if let Load::Rate(rate) = s.load {
        put("rate", rate.into());
    }
    if s.mtp > 0 {
        put("mtp", s.mtp.into());
        put("mtp_acceptance", finite(s.mtp_acceptance));
    }
    for (key, target) in [("ttft_ms", s.ttft), ("tpot_ms", s.tpot)] {
        if let Some(target) = target {
            put(key, finite(target.get() * 1e3));
        }
    }
    if s.ttft.is_some() || s.tpot.is_some() {
        put("percentile", s.percentile.name().into());
    }
    for (key, spread) in [("isl_spread", s.isl_spread), ("osl_spread", s.osl_spread)] {
        if spread.cv2 > 0.0 {
            put(key, json!({"squared_variation": spread.cv2, "p95": spread.p95}));
        }
    }
    out
}

fn tally(job: &Job, convention: Convention, t: &Tally) -> Value {
    let nearest = t.nearest.map(|(p, miss)| {
        let said = p.convention(convention);
        json!({
            "plan": p.text(said, purpose(job)),
            "message": miss.to_string(),
            "need": finite(miss.need),
            "have": finite(miss.have),
            "hint": miss.hint(),
        })
    });
    json!({"rule": t.rule.id(), "refused": t.refused, "left": t.left, "nearest": nearest})
}

fn refused(job: &Job, convention: Convention, funnel: &Funnel) -> Value {
    let list = |tallies: &[Tally]| -> Value { tallies.iter().map(|t| tally(job, convention, t)).collect() };
    json!({"meshes": list(&funnel.mesh_rules), "plans": list(&funnel.plan_rules)})
}

/// A whole ranking.
#[must_use]
pub fn ranking(r: &Ranking<'_>) -> Value {
    let o = r.outcome;
    let results: Vec<Value> = o.rows.iter().enumerate().map(|(i, x)| row(r, i, x)).collect();
    let frontier: Vec<Value> = o
        .frontier
        .iter()
        .map(|x| {
            let (a, b) = crate::rank::trade(r.job, x);
            let (first, second) = match x.estimate.time {
                Time::Train(_) => ("tokens_per_s_per_gpu", "memory_headroom"),
                Time::Serve(_) => ("tokens_per_s_per_gpu", "tokens_per_s_per_user"),
            };
            let said = x.plan.convention(r.convention);
            let mut point = json!({"plan": x.plan.text(said, r.purpose()), first: finite(a), second: finite(b)});
            if let Some(service) = x.estimate.service() {
                point["concurrency"] = finite(service.concurrency);
            }
            point
        })
        .collect();
    let folded = r.folded.map(|x| {
        let said = x.plan.convention(Convention::Megatron);
        json!({"plan": x.plan.text(said, r.purpose()), "convention": said.name(), "value": finite(x.value)})
    });
    json!({
        "schema": SCHEMA,
        "job": job(r.job),
        "convention": r.convention.name(),
        "objective": r.objective.name(),
        "tie_band": crate::rank::TIE,
        "results": results,
        "frontier": frontier,
        "better_folded": folded,
        "refused": refused(r.job, r.convention, &o.funnel),
        "searched": {
            "factorisations": o.factorisations,
            "meshes": o.funnel.meshes,
            "plans": o.plans,
            "covered": o.covered,
            "priced": o.priced,
            "fit": o.fit,
            "exhausted": o.stop == StopReason::Exhausted,
            "stop": o.stop.name(),
            "share": o.share(),
        },
    })
}

/// How a ranking stands in other worlds; a regret that is null is of a plan that does not fit in some of them.
#[must_use]
pub fn robustness(r: &Ranking<'_>, robust: &Robustness) -> Value {
    let name = |plan: &Plan| plan.text(plan.convention(r.convention), r.purpose());
    let candidate = |c: &Candidate| {
        json!({
            "plan": name(&c.row.plan),
            "best_share": c.best,
            "tie_share": c.ties,
            "fit_share": c.fits,
            "mean_regret": finite(c.mean_regret),
            "worst_regret": finite(c.worst_regret),
        })
    };
    let bands: Vec<Value> =
        BANDS.iter().map(|b| json!({"input": b.key, "low": b.low, "high": b.high, "meaning": b.meaning})).collect();
    let flips: Vec<Value> = robust
        .flips
        .iter()
        .map(|f| json!({"input": f.band.key, "factor": f.by, "winner": name(&f.winner), "regret": finite(f.regret)}))
        .collect();
    json!({
        "worlds": robust.worlds,
        "bands": bands,
        "winner": candidate(&robust.winner),
        "robust_choice": candidate(&robust.candidates[0]),
        "candidates": robust.candidates.iter().map(candidate).collect::<Vec<Value>>(),
        "flips": flips,
    })
}

/// A batch line that could not be read.
#[must_use]
pub fn error(id: Option<&Value>, message: &str) -> Value {
    let mut out = head(id);
    out.insert("error".into(), message.into());
    Value::Object(out)
}
