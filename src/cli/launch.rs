//! `launch`: the commands and files that start a plan.

use super::args::{JobArgs, OutputArgs};
use super::{Verdict, flag_error, out};
use crate::error::{Error, Result};
use crate::estimate::assess;
use crate::export::{Format, SCHEMA, json};
use crate::framework::{Framework, GroupKind};
use crate::launch::{Launch, LaunchFile, launch, ranks::rank_map};
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct LaunchArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The plan, as in `tp2 ep4 pp2 dp1 mb1`, in the framework's convention.
    plan: Option<String>,
    /// Write the files here (a folder) instead of printing them.
    #[arg(long, value_name = "FOLDER")]
    write: Option<String>,
    /// Print which rank holds what, and which ranks form each group.
    #[arg(long)]
    ranks: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &LaunchArgs) -> Result<Verdict> {
    let format = args.output.format(&[Format::Table, Format::Json])?;
    let read = super::estimate::read_with_plan(&args.job, args.plan.as_deref())?;
    let framework = match read.framework.or(Framework::of(read.convention)) {
        Some(framework) => framework,
        None if read.job.serve().is_some() => Framework::Vllm,
        None => Framework::Megatron,
    };
    let draft = read.draft.expect("read_with_plan asks for one");
    // A plan in product's words is judged in those words, then under the framework's own rules.
    let assessment = assess(&read.job, read.framework, &draft);
    let mut broken = assessment.resolution.rejections.clone();
    if let (None, Some(plan)) = (read.framework, &assessment.resolution.plan) {
        broken.extend(crate::rules::broken(&read.job, Some(framework), plan));
    }
    for rejection in &broken {
        out::note(false, &format!("cannot work [{}]: {rejection}; {}", rejection.rule.id(), rejection.hint()));
    }
    let Some(plan) = assessment.resolution.plan.filter(|_| broken.is_empty()) else {
        return Ok(Verdict::Fails);
    };
    let started = match launch(&read.job, &plan, framework) {
        Ok(started) => started,
        Err(why) => {
            out::note(false, &why.to_string());
            return Ok(Verdict::Fails);
        }
    };
    if let Some(folder) = &args.write {
        return write_files(folder, &started);
    }
    let convention = framework.convention();
    let map = rank_map(convention, &plan.mesh, &plan.knobs, read.job.cluster.gpus_per_node);
    let text = if format == Format::Json {
        let groups: serde_json::Map<String, Value> =
            GroupKind::ALL.iter().map(|k| (k.name().to_owned(), json!(map.groups(*k)))).collect();
        let ranks: Vec<Value> = map
            .ranks
            .iter()
            .enumerate()
            .map(|(rank, p)| {
                json!({"rank": rank, "node": p.node, "local": p.local, "tp": p.tp, "cp": p.cp, "dp": p.dp, "pp": p.pp,
                       "ep": p.ep, "etp": p.etp, "edp": p.edp})
            })
            .collect();
        let files: Vec<Value> = started.files.iter().map(|f| json!({"name": f.name, "text": f.text})).collect();
        let commands: Vec<Value> =
            started.commands.iter().map(|c| json!({"node": c.node, "replica": c.replica, "text": c.text})).collect();
        let environment: serde_json::Map<String, Value> =
            started.environment.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        out::pretty(&json!({
            "schema": SCHEMA,
            "framework": framework.name(),
            "plan": json::plan(&read.job, convention, &plan),
            "environment": environment,
            "commands": commands,
            "files": files,
            "notes": started.notes,
            "ranks": ranks,
            "groups": groups,
        }))
    } else {
        let formula = convention.formula(&plan.mesh);
        format!("# {formula}\n{}", text(&started, args.ranks.then_some(&map)))
    };
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::Holds)
}

fn text(started: &Launch, map: Option<&crate::launch::ranks::RankMap>) -> String {
    let mut text = started.text();
    if let Some(map) = map {
        text.push_str("\n# ranks\n");
        for (rank, p) in map.ranks.iter().enumerate() {
            let _ = writeln!(
                text,
                "# rank {rank}: node {} gpu {}: tp {} cp {} dp {} pp {} | etp {} ep {} edp {}",
                p.node, p.local, p.tp, p.cp, p.dp, p.pp, p.etp, p.ep, p.edp
            );
        }
        for kind in GroupKind::ALL {
            let groups: Vec<String> = map.groups(kind).iter().map(|g| format!("{g:?}").replace(' ', "")).collect();
            let _ = writeln!(text, "# {} groups: {}", kind.name(), groups.join(" "));
        }
    }
    text
}

fn write_files(folder: &str, started: &Launch) -> Result<Verdict> {
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, &e))?;
    for LaunchFile { name, text } in started.written() {
        let path = Path::new(folder).join(&name);
        let path = path.to_str().ok_or_else(|| flag_error("--write", folder, "a UTF-8 path"))?;
        out::write(Some(path), &text)?;
        out::note(false, path);
    }
    Ok(Verdict::Holds)
}
