//! `plan --disaggregated`: pools of prefill and decode against plans that do both.

use super::args::{OutputArgs, SpaceArgs};
use super::plan::heading_at;
use super::watched::Watched;
use super::{Verdict, flag_error, out};
use crate::error::Result;
use crate::export::chart::{Chart, Point, Series};
use crate::export::{Format, SCHEMA, grouped, html, json, text};
use crate::goal::pools::{Pool, Rung, Split, ladder};
use crate::import::job::ReadJob;
use crate::job::{Job, Load};
use crate::mesh::Convention;
use crate::plan::{Plan, Purpose};
use crate::rank::TIE;
use crate::units::{Bytes, Seconds};
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(super) fn run(read: &ReadJob, space: &SpaceArgs, output: &OutputArgs, format: Format) -> Result<Verdict> {
    let Some(serve) = read.job.serve() else {
        return Err(flag_error("--disaggregated", "a training job", "a serving job: --serve"));
    };
    if let Load::Rate(_) = serve.load {
        return Err(flag_error("--disaggregated", "with --rate", "targets (--ttft, --tpot), or none"));
    }
    let space = space.options(read)?;
    super::plan::note_assumptions(output.quiet, read);
    let watched = Watched::new(false, None);
    let view = View {
        job: &read.job,
        convention: space.convention(),
        rungs: watched.watch(|watch| ladder(&read.job, &space, watch)),
    };
    let text = match format {
        Format::Json => out::pretty(&view.json()),
        Format::Jsonl => view.rungs.iter().map(|rung| format!("{}\n", view.rung(rung))).collect(),
        Format::Csv => view.csv(),
        Format::Markdown => text::markdown_table(&HEAD, &view.rows()),
        Format::Html => {
            let title = format!("{} on {}, prefill and decode apart", read.job.model.name(), read.job.cluster);
            html::plain(&title, &HEAD, &view.rows(), &view.lines(), &view.chart().svg())
        }
        Format::Table => view.table(),
    };
    out::write(output.output.as_deref(), &text)?;
    Ok(Verdict::of(view.rungs.iter().any(|r| r.together.is_some() || r.apart.is_some())))
}

struct View<'a> {
    job: &'a Job,
    convention: Convention,
    rungs: Vec<Rung>,
}

const HEAD: [&str; 11] = [
    "TPOT target",
    "together",
    "TTFT",
    "out tokens/s/GPU",
    "prefill pool",
    "decode pool",
    "TTFT (KV transfer shown)",
    "out tokens/s/GPU",
    "apart over together",
    "GPUs apart",
    "NIC or NVLink used",
];

const KEYS: [&str; 14] = [
    "tpot_target_s",
    "together_plan",
    "together_requests_per_s",
    "together_ttft_s",
    "together_tokens_per_s_per_gpu",
    "prefill_plan",
    "prefill_workers",
    "decode_plan",
    "decode_workers",
    "apart_requests_per_s",
    "apart_ttft_s",
    "apart_tokens_per_s_per_gpu",
    "kv_transfer_s",
    "kv_transfer_exposed_s",
];

impl View<'_> {
    fn plan(&self, plan: &Plan) -> String {
        plan.text(plan.convention(self.convention), Purpose::Serve)
    }

    fn pool(&self, pool: &Pool) -> String {
        format!("{} x {} GPUs: {}", pool.workers, pool.plan.mesh.world(), self.plan(&pool.plan))
    }

    /// How much more the pools answer: nothing where one of the two finds no plan.
    fn gain(&self, rung: &Rung) -> Option<f64> {
        let (together, apart) = rung.speeds(self.job);
        (together > 0.0 && apart > 0.0).then(|| apart / together - 1.0)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        self.rungs.iter().map(|rung| self.row(rung)).collect()
    }

    fn row(&self, rung: &Rung) -> Vec<String> {
        let (together, apart) = rung.speeds(self.job);
        let mut out = vec![Seconds::new(rung.tpot_s).to_string()];
        match &rung.together {
            Some(row) => out.extend([
                self.plan(&row.plan),
                Seconds::new(row.estimate.load.ttft.mean).to_string(),
                grouped(together),
            ]),
            None => out.extend(["nothing meets it".to_owned(), String::new(), String::new()]),
        }
        match &rung.apart {
            Some(split) => out.extend([
                self.pool(&split.prefill),
                self.pool(&split.decode),
                format!("{} ({})", Seconds::new(split.ttft_s), Seconds::new(split.exposed_s)),
                grouped(apart),
                self.gain(rung).map_or_else(String::new, |g| format!("{:+.0}%", g * 100.0)),
                split.gpus().to_string(),
                format!("{:.0}%", split.link_share * 100.0),
            ]),
            None => {
                out.push("nothing meets it".to_owned());
                out.extend(vec![String::new(); 6]);
            }
        }
        out
    }

    /// Where it pays, in sentences.
    fn lines(&self) -> Vec<String> {
        let mut out = Vec::new();
        let asked = self.job.serve().and_then(|s| s.tpot).map(Seconds::get);
        let rung = asked.and_then(|tpot| self.rungs.iter().find(|r| r.tpot_s.to_bits() == tpot.to_bits()));
        if let Some(rung) = rung {
            let target = Seconds::new(rung.tpot_s);
            out.push(match (self.gain(rung), &rung.together, &rung.apart) {
                (Some(gain), ..) if gain > TIE => {
                    format!("at {target} a token, apart answers {:.0}% more", gain * 100.0)
                }
                (Some(gain), ..) if gain < -TIE => {
                    format!("at {target} a token, apart does not pay: {:.0}% less", -gain * 100.0)
                }
                (Some(_), ..) => format!("at {target} a token, both are within {:.0}%: measure both", TIE * 100.0),
                (None, None, Some(_)) => format!("at {target} a token, only apart meets the targets"),
                (None, Some(_), None) => format!("at {target} a token, only together meets the targets"),
                (None, ..) => format!("at {target} a token, nothing meets the targets"),
            });
        }
        let pays = |r: &&Rung| self.gain(r).is_some_and(|g| g > TIE) || r.together.is_none() && r.apart.is_some();
        let targets = |keep: &dyn Fn(&&Rung) -> bool| {
            let all: Vec<String> =
                self.rungs.iter().filter(|r| keep(r)).map(|r| Seconds::new(r.tpot_s).to_string()).collect();
            if all.is_empty() { "none of these targets".to_owned() } else { all.join(", ") }
        };
        out.push(format!("apart pays at {}", targets(&pays)));
        out.push(format!("apart does not pay at {}", targets(&|r| !pays(r) && r.together.is_some())));
        if let Some(split) = self.rungs.iter().find_map(|r| r.apart) {
            out.push(format!(
                "KV cache: {} a request from worker to worker, {} over the {}, layer by layer behind the prefill",
                Bytes::new(split.transfer_bytes),
                Seconds::new(split.transfer_s),
                split.link.name()
            ));
        }
        out.push(
            "means under independent arrivals; prefill workers at most 90% busy; speeds per GPU of the cluster"
                .to_owned(),
        );
        out
    }

    fn chart(&self) -> Chart {
        let series = |name: &str, mark: char, speed: &dyn Fn(&Rung) -> f64, tpot: &dyn Fn(&Rung) -> Option<f64>| {
            let points = self.rungs.iter().filter_map(|rung| {
                let label = format!("{name}, target {}", Seconds::new(rung.tpot_s));
                tpot(rung).map(|tpot| Point { x: 1.0 / tpot, y: speed(rung), label })
            });
            Series { name: name.to_owned(), mark: Some(mark), joined: true, points: points.collect() }
        };
        let together = |r: &Rung| r.together.map(|row| row.estimate.load.tpot.mean);
        Chart {
            x: "tokens/s/user".to_owned(),
            y: "output tokens/s/GPU".to_owned(),
            series: vec![
                series("together", 'o', &|r| r.speeds(self.job).0, &together),
                series("prefill and decode apart", 'x', &|r| r.speeds(self.job).1, &|r| r.apart.map(|s| s.tpot_s)),
            ],
        }
    }

    fn table(&self) -> String {
        let mut text = heading_at(self.job, true);
        let _ = writeln!(text, "prefill and decode together against apart, {} GPUs\n", self.job.gpus());
        text.push_str(&out::table(&HEAD, &self.rows(), &[1, 4, 5]));
        text.push('\n');
        text.push_str(&self.chart().text(out::width()));
        text.push('\n');
        for line in self.lines() {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    fn split(&self, split: &Split) -> Value {
        let pool = |p: &Pool| {
            json!({
                "plan": self.plan(&p.plan),
                "workers": p.workers,
                "gpus_per_worker": p.plan.mesh.world(),
                "requests_per_s_per_worker": p.rate,
                "concurrency_per_worker": p.in_flight,
            })
        };
        json!({
            "prefill": pool(&split.prefill),
            "decode": pool(&split.decode),
            "gpus": split.gpus(),
            "idle_gpus": self.job.gpus() - split.gpus(),
            "requests_per_s": split.requests_per_s,
            "ttft_s": split.ttft_s,
            "tpot_s": split.tpot_s,
            "kv_transfer_bytes_per_request": split.transfer_bytes,
            "kv_transfer_s": split.transfer_s,
            "kv_transfer_exposed_s": split.exposed_s,
            "link": split.link.name(),
            "link_share": split.link_share,
        })
    }

    fn rung(&self, rung: &Rung) -> Value {
        let (together, apart) = rung.speeds(self.job);
        let row = rung.together.map(|row| {
            json!({
                "plan": self.plan(&row.plan),
                "replicas": row.plan.knobs.replicas,
                "requests_per_s": row.estimate.load.requests_per_s,
                "ttft_s": row.estimate.load.ttft.mean,
                "tpot_s": row.estimate.load.tpot.mean,
                "tokens_per_s_per_gpu": together,
            })
        });
        let mut split = rung.apart.map(|split| self.split(&split));
        if let Some(split) = &mut split {
            split["tokens_per_s_per_gpu"] = apart.into();
        }
        json!({"tpot_target_s": rung.tpot_s, "together": row, "apart": split, "gain": self.gain(rung)})
    }

    fn json(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "job": json::job(self.job),
            "convention": self.convention.name(),
            "disaggregated": self.rungs.iter().map(|r| self.rung(r)).collect::<Vec<Value>>(),
            "notes": self.lines(),
        })
    }

    fn csv(&self) -> String {
        let mut out = String::new();
        text::push_record(&mut out, &KEYS.map(str::to_owned));
        for rung in &self.rungs {
            let (together, apart) = rung.speeds(self.job);
            let mut cells = vec![rung.tpot_s.to_string()];
            cells.extend(rung.together.map_or_else(
                || vec![String::new(); 4],
                |row| {
                    let load = &row.estimate.load;
                    let numbers = [load.requests_per_s, load.ttft.mean, together].map(|v| v.to_string());
                    [vec![self.plan(&row.plan)], numbers.to_vec()].concat()
                },
            ));
            cells.extend(rung.apart.map_or_else(
                || vec![String::new(); 9],
                |s| {
                    let pools = [s.prefill, s.decode];
                    let pools = pools.iter().flat_map(|p| [self.plan(&p.plan), p.workers.to_string()]);
                    let numbers = [s.requests_per_s, s.ttft_s, apart, s.transfer_s, s.exposed_s].map(|v| v.to_string());
                    pools.chain(numbers).collect()
                },
            ));
            text::push_record(&mut out, &cells);
        }
        out
    }
}
