//! What frameworks are started with: every launch that is printed or written reads back to its plan and holds, scripts as
//! people write them are understood, published layouts get their known verdicts as command lines.

use meshwright::catalog;
use meshwright::framework::Framework;
use meshwright::import::command;
use meshwright::import::verify::{VerifyRequest, run_on};
use meshwright::job::{Arrivals, GradDtype, Job, KvFormat, Precision, Serve, Train, Workload};
use meshwright::launch::{Launch, launch};
use meshwright::plan::{Draft, Plan};
use meshwright::rules;
use meshwright::space::{Scope, Space, SpaceOptions};
use meshwright::verify::Verdict;
use std::sync::atomic::{AtomicU64, Ordering};

/// A small generator: the same plans on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

fn job(framework: Framework, model: &str, gpus: u32) -> Job {
    let model = catalog::model(model).unwrap();
    let workload = if framework.serves() {
        Workload::Serve(Serve {
            isl: 2048,
            osl: 512,
            concurrency: 64,
            quant: model.quant(),
            kv_cache: KvFormat::Bf16,
            arrivals: Arrivals::Steady,
            ttft: None,
            tpot: None,
            prefix_hit: 0.0,
            memory_fraction: None,
        })
    } else {
        Workload::Train(Train {
            seq_len: 4096,
            global_batch: 384,
            precision: Precision::Bf16,
            grad_dtype: GradDtype::Fp32,
            moe_balance: 1.0,
        })
    };
    Job::new(model, catalog::cluster(&format!("{gpus}xh200-sxm")).unwrap(), workload).unwrap()
}

const MODELS: [&str; 6] = [
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-8B",
    "deepseek-ai/DeepSeek-V3",
    "Qwen/Qwen3-235B-A22B",
    "mistralai/Mixtral-8x7B-v0.1",
    "meta-llama/Meta-Llama-3.1-70B",
];

/// Random plans that are legal under the framework's rules and that it can say.
fn plans(framework: Framework, count: usize) -> Vec<(Job, Plan, Launch)> {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d ^ framework as u64);
    let mut out = Vec::new();
    let options = SpaceOptions { scope: Scope::Folded, framework: Some(framework), ..SpaceOptions::default() };
    let mut spaces = Vec::new();
    for model in MODELS {
        for gpus in [8, 16, 48, 64] {
            let job = job(framework, model, gpus);
            let space = Space::new(&job, &options);
            if !space.is_empty() {
                spaces.push((job, space));
            }
        }
    }
    let mut tries = 0;
    while out.len() < count {
        tries += 1;
        assert!(tries < 200_000, "{framework}: {} legal plans only", out.len());
        let (job, space) = dice.pick(&spaces);
        let plan = space.get(dice.below(space.len()));
        if rules::broken(job, Some(framework), &plan).is_empty()
            && let Ok(started) = launch(job, &plan, framework)
        {
            out.push((job.clone(), plan, started));
        }
    }
    out
}

/// The plan that a draft means on a job.
fn meant(job: &Job, draft: &Draft) -> Plan {
    let resolution = rules::resolve(job, draft);
    resolution.plan.unwrap_or_else(|| panic!("{:?}: {draft:?}", resolution.rejections))
}

fn verdict(name: &str, text: &str, model: Option<&str>) -> Verdict {
    let request = VerifyRequest { model: model.map(str::to_owned), ..VerifyRequest::default() };
    run_on(name, text.as_bytes(), &request).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn told(verdict: &Verdict) -> Vec<String> {
    verdict.violations().map(|f| format!("{}: {}", f.rule, f.message)).collect()
}

fn round_trip(framework: Framework) {
    let files = AtomicU64::new(0);
    for (job, plan, started) in plans(framework, 500) {
        let text = started.text();
        // torchtitan and DeepSpeed name a configuration that is not in the command, so the model comes from a flag.
        let named = framework.serves() || matches!(framework, Framework::Megatron | Framework::Bridge);
        let name = (!named).then(|| job.model.name());
        let verdict = verdict("-", &text, name);
        assert!(verdict.holds(), "{framework} {:?}\n{:#?}\n{text}", plan.mesh, told(&verdict));
        // With the model named its sizes must be those that were written.
        let again = self::verdict("-", &text, Some(job.model.name()));
        assert!(again.holds(), "{framework} {:?}\n{:#?}\n{text}", plan.mesh, told(&again));
        let read = command::read(&text).unwrap();
        assert_eq!(read.framework, framework);
        assert_eq!(meant(&job, &read.draft).mesh, plan.mesh, "{text}");
        for file in started.written() {
            let read = command::read(&file.text).ok();
            if read.is_some_and(|read| read.draft.tp.is_some()) && file.name != "ds_config.json" {
                files.fetch_add(1, Ordering::Relaxed);
                let verdict = self::verdict(&file.name, &file.text, Some(job.model.name()));
                assert!(verdict.holds(), "{} {:?}\n{:#?}\n{}", file.name, plan.mesh, told(&verdict), file.text);
            }
        }
    }
    assert!(files.into_inner() >= 200, "{framework}");
}

#[test]
fn megatron_reads_back() {
    round_trip(Framework::Megatron);
}

#[test]
fn bridge_reads_back() {
    round_trip(Framework::Bridge);
}

#[test]
fn torchtitan_reads_back() {
    round_trip(Framework::Torchtitan);
}

#[test]
fn deepspeed_reads_back() {
    round_trip(Framework::Deepspeed);
}

#[test]
fn vllm_reads_back() {
    round_trip(Framework::Vllm);
}

#[test]
fn sglang_reads_back() {
    round_trip(Framework::Sglang);
}

#[test]
fn trtllm_reads_back() {
    round_trip(Framework::Trtllm);
}
