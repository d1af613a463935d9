//! `list`: what is built in.

use super::args::OutputArgs;
use super::{Verdict, out};
use crate::catalog;
use crate::cluster::Dtype;
use crate::error::Result;
use crate::export::{Format, SCHEMA, text};
use crate::framework::Framework;
use crate::rank::Objective;
use crate::rules::Rule;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// What to list.
    what: What,
    /// Only the rules of this framework.
    #[arg(long)]
    framework: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Models,
    Gpus,
    Clusters,
    Frameworks,
    Rules,
    Objectives,
}

struct Listing {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    values: Vec<Value>,
}

pub(super) fn run(args: &ListArgs) -> Result<Verdict> {
    let format = args.output.format(&[Format::Table, Format::Json, Format::Jsonl, Format::Csv, Format::Markdown])?;
    let framework = args.framework.as_deref().map(|n| crate::import::job::framework("--framework", n)).transpose()?;
    let listing = match args.what {
        What::Models => models(),
        What::Gpus => gpus(),
        What::Clusters => clusters(),
        What::Frameworks => frameworks(),
        What::Rules => rules(framework),
        What::Objectives => objectives(),
    };
    let text = match format {
        Format::Json => out::pretty(&json!({"schema": SCHEMA, "items": listing.values})),
        Format::Jsonl => listing.values.iter().map(|v| format!("{v}\n")).collect(),
        Format::Csv => {
            let mut text = String::new();
            text::push_record(&mut text, &listing.head.iter().map(|h| (*h).to_owned()).collect::<Vec<String>>());
            for row in &listing.rows {
                text::push_record(&mut text, row);
            }
            text
        }
        Format::Markdown => text::markdown_table(&listing.head, &listing.rows),
        Format::Table | Format::Html => {
            let left: Vec<usize> = (0..listing.head.len()).collect();
            out::table(&listing.head, &listing.rows, &left)
        }
    };
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::Holds)
}

fn models() -> Listing {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for entry in catalog::models() {
        let model = entry.model();
        let quant = model.quant();
        let weights = model.weight_bytes(quant);
        let kv = model.kv_elements_per_token() * 2;
        rows.push(vec![
            model.name().to_owned(),
            format!("{:.2}B", model.params() as f64 / 1e9),
            format!("{:.2}B", model.active_params() as f64 / 1e9),
            model.layers().to_string(),
            format!("{:.1} GB", weights / 1e9),
            quant.format.name().to_owned(),
            format!("{kv} B"),
        ]);
        values.push(json!({
            "name": model.name(),
            "aliases": entry.aliases(),
            "params": model.params(),
            "published_params": entry.published_params(),
            "active_params": model.active_params(),
            "routed_params": model.routed_params(),
            "layers": model.layers(),
            "hidden": model.spec().hidden,
            "heads": model.heads(),
            "kv_heads": model.kv_heads(),
            "experts": model.moe().map(|m| m.experts),
            "top_k": model.moe().map(|m| m.top_k),
            "weights": quant.format.name(),
            "weight_bytes": weights,
            "kv_bytes_per_token": kv,
            "source": entry.source(),
            "note": entry.note(),
        }));
    }
    let head = vec!["model", "parameters", "active", "layers", "checkpoint", "weights", "KV/token (bf16, one copy)"];
    Listing { head, rows, values }
}

fn gpus() -> Listing {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for entry in catalog::gpus() {
        let gpu = &entry.gpu;
        let peaks: serde_json::Map<String, Value> =
            Dtype::ALL.iter().filter_map(|d| gpu.peak(*d).map(|p| (d.name().to_owned(), p.get().into()))).collect();
        rows.push(vec![
            gpu.name.clone(),
            gpu.architecture.name().to_owned(),
            gpu.memory.to_string(),
            gpu.hbm.to_string(),
            gpu.peak16().to_string(),
            gpu.peak(Dtype::Fp8).map_or_else(|| "none".to_owned(), |p| p.to_string()),
            format!("{} {}, domain {}", gpu.scale_up.kind.name(), gpu.scale_up.bandwidth, gpu.scale_up.domain),
            gpu.efficiency.basis.name().to_owned(),
        ]);
        values.push(json!({
            "name": gpu.name,
            "aliases": entry.aliases,
            "architecture": gpu.architecture.name(),
            "memory_bytes": gpu.memory.get(),
            "hbm_bytes_per_s": gpu.hbm.get(),
            "dense_peak_flops": peaks,
            "scale_up": gpu.scale_up.kind.name(),
            "scale_up_bytes_per_s": gpu.scale_up.bandwidth.get(),
            "domain_gpus": gpu.scale_up.domain,
            "gpus_per_node": gpu.gpus_per_node,
            "nic_bytes_per_s": gpu.nic.get(),
            "usd_per_hour_assumed": gpu.price.map(crate::units::UsdPerHour::get),
            "efficiency_basis": gpu.efficiency.basis.name(),
            "source": gpu.source,
        }));
    }
    let head = vec![
        "gpu",
        "architecture",
        "memory",
        "memory bandwidth",
        "16-bit dense",
        "fp8 dense",
        "scale-up, per direction",
        "efficiency",
    ];
    Listing { head, rows, values }
}

fn clusters() -> Listing {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for entry in catalog::clusters() {
        let c = &entry.cluster;
        rows.push(vec![
            c.name.clone(),
            c.gpu.name.clone(),
            format!("{} x {}", c.nodes, c.gpus_per_node),
            c.domain().to_string(),
            format!("{} x {} {}", c.network.nics_per_node, c.network.bandwidth, c.network.kind.name()),
        ]);
        values.push(json!({
            "name": c.name,
            "aliases": entry.aliases,
            "gpu": c.gpu.name,
            "nodes": c.nodes,
            "gpus_per_node": c.gpus_per_node,
            "domain_gpus": c.domain(),
            "network": c.network.kind.name(),
            "nic_bytes_per_s": c.network.bandwidth.get(),
            "nics_per_node": c.network.nics_per_node,
            "source": entry.source,
        }));
    }
    Listing { head: vec!["cluster", "gpu", "nodes x GPUs", "domain", "NICs of a node"], rows, values }
}

fn frameworks() -> Listing {
    let rows = Framework::ALL
        .iter()
        .map(|f| {
            let does = if f.serves() { "serves" } else { "trains" };
            vec![
                f.name().to_owned(),
                f.title().to_owned(),
                does.to_owned(),
                f.version().to_owned(),
                f.convention().identity().to_owned(),
            ]
        })
        .collect();
    let values = Framework::ALL
        .iter()
        .map(|f| json!({"name": f.name(), "title": f.title(), "serves": f.serves(), "version_read": f.version(), "identity": f.convention().identity()}))
        .collect();
    Listing { head: vec!["framework", "title", "does", "version read", "identity"], rows, values }
}

fn rules(framework: Option<Framework>) -> Listing {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for rule in Rule::ALL {
        let asked: Vec<_> =
            rule.asked_by().iter().filter(|s| framework.is_none_or(|f| s.framework == Some(f))).collect();
        if framework.is_some() && asked.is_empty() {
            continue;
        }
        let wheres: Vec<String> = asked
            .iter()
            .map(|s| format!("{}: {} (read in {})", s.framework.map_or("any", Framework::name), s.place, s.version))
            .collect();
        let sentence = rule.sentence().replace("{have}", "H").replace("{need}", "N");
        rows.push(vec![rule.id().to_owned(), format!("refused when {sentence}"), wheres.join("; ")]);
        let asked: Vec<Value> = asked
            .iter()
            .map(|s| json!({"framework": s.framework.map(Framework::name), "where": s.place, "version": s.version}))
            .collect();
        values.push(json!({"id": rule.id(), "refused_when": sentence, "change": rule.changes(), "asked_by": asked}));
    }
    Listing { head: vec!["rule", "what it refuses", "where the framework asks it"], rows, values }
}

fn objectives() -> Listing {
    let rows = Objective::ALL.iter().map(|o| vec![o.name().to_owned(), o.meaning().to_owned()]).collect();
    let values = Objective::ALL.iter().map(|o| json!({"name": o.name(), "meaning": o.meaning()})).collect();
    Listing { head: vec!["objective", "meaning"], rows, values }
}
