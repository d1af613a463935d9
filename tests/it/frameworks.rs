//! What frameworks are started with: every launch that is printed or written reads back to its plan and holds, scripts as
//! people write them are understood, published layouts get their known verdicts as command lines.

use crate::tool::{Scratch, run, run_with};
use meshwright::catalog;
use meshwright::framework::Framework;
use meshwright::import::command;
use meshwright::import::verify::{VerifyRequest, run_on};
use meshwright::job::{GradDtype, Job, Precision, Serve, Train, Workload};
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
        Workload::Serve(Serve { isl: 2048, osl: 512, concurrency: 64, ..Serve::of(model.quant()) })
    } else {
        Workload::Train(Train {
            seq_len: 4096,
            global_batch: 384,
            precision: Precision::Bf16,
            grad_dtype: GradDtype::Fp32,
            moe_balance: 1.0,
            mtp_layers: 0,
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
        let mut broken = rules::broken(job, Some(framework), &plan);
        // What a search leaves out too: plans that start and then cannot build the model.
        rules::check_build(job, Some(framework), &plan, &mut broken);
        if broken.is_empty()
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

/// A file, the framework's plan in its own words, and the GPUs it starts.
const SCRIPTS: [(&str, &str, Option<u64>); 35] = [
    ("bridge-flags.sh", "bridge tp2 ep4 pp2", Some(16)),
    ("bridge-kwargs.txt", "bridge tp2 ep1 pp1 cp2", None),
    ("bridge-overrides.sh", "bridge tp4 ep1 pp4 cp2", Some(32)),
    ("bridge-recipe.py", "bridge tp2 ep8 pp4 mb2 vpp3", None),
    ("bridge.yaml", "bridge tp8 ep16 pp1 etp1", None),
    ("deepspeed-auto.json", "deepspeed tp2 ep4 pp1 etp1", None),
    ("deepspeed-nested.sh", "deepspeed tp1 ep1 pp1", Some(4)),
    ("deepspeed-plain.sh", "deepspeed tp1 ep1 pp1 mb2", Some(8)),
    ("deepspeed-script.sh", "deepspeed tp2 ep4 pp2 mb4", Some(16)),
    ("deepspeed.json", "deepspeed tp1 ep1 pp1 mb2", Some(8)),
    ("megatron-arrays.sh", "megatron tp2 ep4 pp2", Some(16)),
    ("megatron-container.slurm", "megatron tp8 ep8 pp1 etp1", Some(32)),
    ("megatron-context.sh", "megatron tp4 ep1 pp2 cp4", Some(32)),
    ("megatron-strings.sh", "megatron tp4 ep1 pp2 mb2 vpp4 sequence_parallel=false", Some(8)),
    ("megatron-uneven.sh", "megatron tp1 ep16 pp4 etp1 first_stage_layers=15 last_stage_layers=14", Some(64)),
    ("sglang-balanced.sh", "sglang tp8 ep8 pp1", Some(8)),
    ("sglang-context.sh", "sglang tp8 ep4 pp1 pcp2", Some(8)),
    ("sglang-new.sh", "sglang tp8 ep4 pp2 attn_dp=4", Some(16)),
    ("sglang-old.sh", "sglang tp16 ep16 pp1 attn_dp=16", Some(16)),
    ("sglang-replicas.txt", "sglang tp2 ep1 pp1 dp4", Some(8)),
    ("torchtitan-dual.slurm", "torchtitan tp1 ep8 pp4 vpp2", Some(32)),
    ("torchtitan-env.sh", "torchtitan tp1 ep1 pp1 cp8 dp_shard=1", Some(8)),
    ("torchtitan-flags.sh", "torchtitan tp2 ep4 pp1 mb2", Some(16)),
    ("torchtitan-tokens.sh", "torchtitan tp1 ep1 pp2 mb2 vpp2", Some(8)),
    ("torchtitan.toml", "torchtitan tp1 ep1 pp1 dp_replicate=2 dp_shard=8", None),
    ("trtllm-beside.sh", "trtllm tp8 pp1 moe_ep=8 attention_dp=true", Some(8)),
    ("trtllm-both.sh", "trtllm tp4 pp2", Some(8)),
    ("trtllm-moe.yml", "trtllm tp8 pp1 moe_tp=2 moe_ep=4", Some(8)),
    ("trtllm-srun.sh", "trtllm tp16 pp1 moe_ep=4", Some(16)),
    ("trtllm.yaml", "trtllm tp8 pp1 moe_ep=8 attention_dp=true", Some(8)),
    ("vllm-balanced.sh", "vllm tp1 pp1 dp16 ep=true", Some(16)),
    ("vllm-data-parallel.sh", "vllm tp2 pp1 dp8 ep=true", Some(16)),
    ("vllm-docker.sh", "vllm tp4 pp2 ep=false", Some(8)),
    ("vllm-short.txt", "vllm tp8 pp1 ep=true", Some(8)),
    ("vllm-two.sh", "vllm tp2 pp1 replicas2 ep=false", Some(4)),
];

const LAUNCH_LINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/launch_lines");

/// Scripts of our own, in the shapes that the frameworks' public documentation has.
#[test]
fn scripts_as_people_write_them_hold() {
    for (file, plan, gpus) in SCRIPTS {
        let ran = run(&["verify", &format!("{LAUNCH_LINES}/{file}"), "--format", "json"]);
        assert_eq!(ran.code, Some(0), "{file}: {}{}", ran.stdout, ran.stderr);
        let json = ran.json();
        let words = format!("{} {}", json["convention"].as_str().unwrap(), json["plan"].as_str().unwrap());
        assert_eq!((words.as_str(), json["gpus"]["available"].as_u64()), (plan, gpus), "{file}");
    }
    // As a folder they are a list, and no file of it is left out.
    let ran = run(&["verify", LAUNCH_LINES]);
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
    assert!(ran.stdout.contains("35 checked"), "{}", ran.stdout);
}

/// What the binary prints and writes, the binary reads.
#[test]
fn the_binary_reads_what_it_writes() {
    let cases = [
        ("megatron", "qwen3-30b-a3b", "tp2 ep4 pp2 dp4 etp1 mb1", "train"),
        ("bridge", "qwen3-30b-a3b", "tp2 ep4 pp2 dp4 etp1 mb1", "train"),
        ("torchtitan", "qwen3-8b", "tp2 pp2 dp_shard=4 mb1", "train"),
        ("deepspeed", "qwen3-8b", "tp2 dp8 mb1", "train"),
        ("vllm", "deepseek-v3", "tp8 pp2 dp1 ep=true", "serve"),
        ("sglang", "deepseek-v3", "tp16 attn_dp=16 ep16", "serve"),
        ("trtllm", "deepseek-v3", "tp16 attention_dp=true moe_ep=16 moe_tp=1", "serve"),
    ];
    for (framework, model, plan, purpose) in cases {
        let scratch = Scratch::new();
        let workload: &[&str] = if purpose == "train" { &["--train"] } else { &["--serve"] };
        let mut args = vec!["launch", "--model", model, "--cluster", "16xh200-sxm", "--framework", framework];
        args.extend(workload);
        args.push(plan);
        let printed = run(&args);
        assert_eq!(printed.code, Some(0), "{framework}: {}", printed.stderr);
        let read = run_with(&["verify", "-", "--format", "json"], printed.stdout.as_bytes());
        assert_eq!(read.code, Some(0), "{framework}: {}\n{}", read.stdout, printed.stdout);
        assert_eq!(read.json()["convention"], framework);
        assert_eq!(read.json()["gpus"]["needed"], 16, "{}", read.stdout);
        let as_json: Vec<&str> = args.iter().copied().chain(["--format", "json"]).collect();
        let read = run_with(&["verify", "-"], run(&as_json).stdout.as_bytes());
        assert_eq!(read.code, Some(0), "{framework}: {}{}", read.stdout, read.stderr);
        let folder = scratch.path("out");
        args.extend(["--write", &folder]);
        assert_eq!(run(&args).code, Some(0));
        let read = run(&["verify", &folder, "--model", model]);
        assert_eq!(read.code, Some(0), "{framework}: {}{}", read.stdout, read.stderr);
    }
}

/// Published and reported layouts as Megatron commands: model, GPUs, degrees, and the rule and the number of the refusal.
const PUBLISHED: [(&str, u32, &str, &str, &str); 31] = [
    ("qwen3-235b-a22b", 64, "tp1 pp8 ep32 etp1", "expert-grid", "256"),
    ("qwen3-235b-a22b", 64, "tp1 pp4 ep32 etp1", "expert-grid", "128"),
    ("qwen3-235b-a22b", 64, "tp1 pp8 ep8 etp1", "layers", "94"),
    ("qwen3-235b-a22b", 64, "tp1 pp8 ep8 etp1 counted", "", ""),
    ("qwen3-235b-a22b", 64, "tp1 pp2 ep32 etp1", "", ""),
    ("deepseek-v3", 128, "tp1 pp4 ep64 etp1", "expert-grid", "256"),
    ("deepseek-v3", 128, "tp1 pp2 ep64 etp1 layout", "", ""),
    ("deepseek-v3", 64, "tp2 pp8 ep64 etp1", "expert-grid", "512"),
    ("deepseek-v3", 1024, "tp2 pp8 ep64 etp1 layout", "", ""),
    ("deepseek-v3", 256, "tp2 pp16 ep64 etp1", "expert-grid", "1024"),
    ("deepseek-v3", 1024, "tp2 pp16 ep64 etp1 layout", "", ""),
    ("deepseek-v3", 1024, "tp2 pp16 ep64 layout", "expert-grid", "2048"),
    ("qwen3.5-122b-a10b", 32, "tp2 pp6 ep8 etp1", "expert-grid", "48"),
    ("qwen3.5-122b-a10b", 32, "tp2 pp6 ep8 etp1", "dense-grid", "12"),
    ("qwen3.5-122b-a10b", 48, "tp2 pp6 ep8 etp1", "", ""),
    ("glm-4.5", 8, "tp2 pp2 ep8 etp1", "expert-grid", "16"),
    ("glm-4.5", 8, "tp2 pp2 ep4 etp1", "", ""),
    ("qwen3-235b-a22b", 64, "tp4 pp16 ep4 etp1 layout", "", ""),
    ("qwen3-235b-a22b", 64, "tp4 pp16 ep4 layout", "expert-grid", "256"),
    ("", 4, "tp2 pp2 ep2 etp1", "", ""),
    ("", 4, "tp2 pp2 ep2", "expert-grid", "8"),
    ("", 8, "pp8 --num-layers=60", "layers", "60"),
    ("glm-4.5-air", 8, "pp4", "layers", "46"),
    (
        "",
        8,
        "pp2 --num-layers=48 --decoder-first-pipeline-num-layers=11 --decoder-last-pipeline-num-layers=13",
        "stage-sizes",
        "24",
    ),
    ("llama-3-70b", 64, "tp4 pp4 cp2", "", ""),
    ("llama-3.1-405b", 1024, "tp8 pp8 cp2 counted", "", ""),
    ("llama-3.1-405b", 1024, "tp8 pp8 cp2", "layers", "126"),
    ("mixtral-8x7b", 64, "tp1 pp4 ep8", "", ""),
    ("mixtral-8x22b", 256, "tp4 pp4 ep8", "", ""),
    ("mixtral-8x22b", 256, "tp4 pp4 ep8 etp1", "", ""),
    ("mixtral-8x22b", 256, "tp4 pp4 ep8 etp2", "", ""),
];

fn megatron(gpus: u32, words: &str) -> String {
    let each = gpus.min(8);
    let mut text =
        format!("torchrun --nnodes {} --nproc_per_node {each} pretrain_gpt.py --sequence-parallel", gpus / each);
    for word in words.split(' ') {
        let at = word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len());
        let (name, value) = (word[..at].trim_end_matches('='), &word[at..]);
        let flag = match name {
            "tp" => "--tensor-model-parallel-size",
            "pp" => "--pipeline-model-parallel-size",
            "cp" => "--context-parallel-size",
            "ep" => "--expert-model-parallel-size",
            "etp" => "--expert-tensor-parallel-size",
            "mb" => "--micro-batch-size",
            "first_stage_layers" => "--decoder-first-pipeline-num-layers",
            "last_stage_layers" => "--decoder-last-pipeline-num-layers",
            "counted" => "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split",
            "layout" => "--pipeline-model-parallel-layout E|t*30|t*31L",
            other => other,
        };
        text.push_str(&format!(" \\\n  '{flag}' {value}").replace('\'', if flag.contains(' ') { "" } else { "'" }));
    }
    text
}

#[test]
fn published_layouts_have_their_verdicts_as_commands() {
    for (model, gpus, words, rule, number) in PUBLISHED {
        let text = megatron(gpus, words);
        let verdict = verdict("run.sh", &text, (!model.is_empty()).then_some(model));
        if rule.is_empty() {
            assert!(verdict.holds(), "{model} {words} on {gpus}: {:?}", told(&verdict));
            continue;
        }
        let found = verdict.violations().find(|f| f.rule == rule);
        let found = found.unwrap_or_else(|| panic!("{model} {words} on {gpus}: {:?}", told(&verdict)));
        assert!(found.message.contains(number) && found.asked_by.is_some(), "{words}: {found:?}");
        // What is offered instead is another command that holds.
        for fix in &verdict.fixes {
            // DP follows from the ranks there, and what the model or the layout says stays.
            let own = fix.plan.split(' ').filter(|w| !w.starts_with("dp") && !w.contains("=false"));
            let rest = words.split(' ').filter(|w| w.starts_with("--num") || matches!(*w, "counted" | "layout"));
            let words: Vec<&str> = own.chain(rest).collect();
            let text = megatron(u32::try_from(fix.gpus).unwrap(), &words.join(" "));
            let again = self::verdict("run.sh", &text, (!model.is_empty()).then_some(model));
            assert!(again.holds(), "{model} {}: {:?}", fix.change, told(&again));
        }
        assert!(rule == "stage-sizes" || !verdict.fixes.is_empty(), "{model} {words}: no fix");
    }
}

#[test]
fn quantisation_blocks_are_asked_of_engines() {
    let cases = [
        ("Qwen/Qwen3-235B-A22B-FP8 -tp 8", Some("192")),
        ("Qwen/Qwen3-235B-A22B-FP8 -tp 4", None),
        ("Qwen/Qwen3-235B-A22B-FP8 -tp 8 --enable-expert-parallel", None),
        ("Qwen/Qwen3-30B-A3B-FP8 -tp 2", None),
        ("Qwen/Qwen3-30B-A3B-FP8 -tp 4", Some("192")),
        ("Qwen/Qwen3-30B-A3B-FP8 -tp 8", Some("96")),
        ("Qwen/Qwen3-235B-A22B -tp 8", None),
        ("Qwen/Qwen3-30B-A3B -tp 4", None),
    ];
    for (command, width) in cases {
        let verdict = verdict("-", &format!("vllm serve {command}\n"), None);
        let found = verdict.violations().find(|f| f.rule == "expert-quant-block");
        assert_eq!(found.is_some(), width.is_some(), "{command}: {:?}", told(&verdict));
        assert!(found.is_some() || verdict.holds(), "{command}: {:?}", told(&verdict));
        if let (Some(found), Some(width)) = (found, width) {
            assert!(found.message.contains(width) && found.message.contains("128"), "{}", found.message);
            assert!(
                verdict.fixes.iter().any(|fix| fix.plan.contains("ep=true") || fix.plan.contains("tp")),
                "{command}"
            );
        }
        if command.ends_with("-tp 8") {
            assert!(verdict.notes().any(|f| f.message.contains("copies of each of the 4 KV heads")), "{command}");
        }
    }
}

/// Broken launch files end in one line that names the place, or in findings.
#[test]
fn broken_launch_files_are_named() {
    let scratch = Scratch::new();
    let tp = "--tensor-model-parallel-size";
    let cases: [(&str, Vec<u8>, &[&str]); 14] = [
        (
            "typo.sh",
            b"torchrun pretrain_gpt.py \\\n --tensor-model-paralel-size 4".to_vec(),
            &["line 2", "paralel", "--tensor-model-parallel-size"],
        ),
        ("word.sh", format!("torchrun pretrain_gpt.py {tp} two").into_bytes(), &["line 1", tp, "two", "whole number"]),
        ("zero.sh", format!("torchrun pretrain_gpt.py {tp} 0").into_bytes(), &["line 1", tp, "`0`", "from 1"]),
        ("huge.sh", format!("torchrun pretrain_gpt.py {tp} 99999999999").into_bytes(), &["99999999999", "to 1048576"]),
        ("none.sh", format!("torchrun pretrain_gpt.py {tp}").into_bytes(), &["line 1", tp, "a value after it"]),
        (
            "twice.sh",
            format!("torchrun pretrain_gpt.py {tp} 2\ntorchrun pretrain_gpt.py {tp} 4").into_bytes(),
            &["line 2", "line 1 says 2"],
        ),
        ("unknown.sh", format!("torchrun pretrain_gpt.py {tp} $WHO").into_bytes(), &["$WHO", "does not say"]),
        ("half.txt", b"vllm serve Qwen/Qwen3-8B -tp 2.5".to_vec(), &["-tp", "2.5"]),
        ("share.txt", b"vllm serve Qwen/Qwen3-8B -tp 2 --gpu-memory-utilization 92".to_vec(), &["92", "share"]),
        ("stage.json", b"{\n\"zero_optimization\": {\"stage\": 7}\n}".to_vec(), &["line 2", "7", "0, 1, 2 or 3"]),
        (
            "slip.yaml",
            b"tensor_paralel_size: 8\nenable_attention_dp: true\npipeline_parallel_size: 2\n".to_vec(),
            &["line 1", "tensor_parallel_size"],
        ),
        ("latin.sh", b"torchrun pretrain_gpt.py caf\xe9".to_vec(), &["UTF-8"]),
        ("noise.sh", vec![b'x'; 10 << 20], &["larger than"]),
        ("empty.sh", b"#!/bin/bash\necho hello\n".to_vec(), &["no plan"]),
    ];
    for (name, bytes, words) in cases {
        let ran = run(&["verify", &scratch.file(name, bytes)]);
        assert_eq!(ran.code, Some(2), "{name}: {}{}", ran.stdout, ran.stderr);
        let line = ran.refusal();
        assert!(line.contains(name) && words.iter().all(|word| line.contains(word)), "{name}: {line}");
    }
    // Numbers that contradict each other can still be read.
    for (name, text, rule) in [
        ("world.sh", format!("torchrun --nnodes 2 --nproc_per_node 8 pretrain_gpt.py {tp} 3"), "dense-grid"),
        ("heads.txt", "vllm serve Qwen/Qwen3-8B -tp 5".to_owned(), "heads"),
        ("length.txt", "vllm serve Qwen/Qwen3-8B -tp 4 --max-model-len 1000000".to_owned(), "positions"),
        (
            "batch.json",
            "{\"train_batch_size\": 100, \"train_micro_batch_size_per_gpu\": 3, \"gradient_accumulation_steps\": 4}"
                .to_owned(),
            "batch",
        ),
    ] {
        let ran = run(&["verify", &scratch.file(name, text), "--gpus", "16", "--format", "json"]);
        assert_eq!(ran.code, Some(1), "{name}: {}{}", ran.stdout, ran.stderr);
        let json = ran.json();
        assert!(json["violations"].as_array().unwrap().iter().any(|v| v["rule"] == rule), "{name}: {}", ran.stdout);
    }
}

/// A document that mentions a command is still a document; one that has its plan in the command alone is read there.
#[test]
fn documents_with_commands_in_them() {
    let prose = "The plan is TP 2, EP 4, PP 2, DP 2 on 16 GPUs.\n\n```bash\nvllm serve Qwen/Qwen3-8B -tp 8\n```\n";
    let read = verdict("plan.md", prose, None);
    assert_eq!((read.gpus.available, read.holds()), (Some(16), false));
    let fenced = "# How we serve\n\nIt's easy:\n\n```bash\nvllm serve Qwen/Qwen3-8B -tp 8\n```\n";
    let read = verdict("plan.md", fenced, None);
    assert_eq!((read.gpus.needed, read.plan.as_str(), read.holds()), (8, "tp8 pp1 ep=false", true));
    let inline = "Start it with this:\nvllm serve Qwen/Qwen3-8B \\\n  -tp 8\nand wait, it's slow.\n";
    assert_eq!(verdict("note.txt", inline, None).plan, "tp8 pp1 ep=false");
}

/// Scripts that a machine broke give a verdict or one line, never a panic.
#[test]
fn mutated_scripts_are_survived() {
    let seeds: Vec<(&str, Vec<char>)> = SCRIPTS
        .iter()
        .map(|(file, ..)| (*file, std::fs::read_to_string(format!("{LAUNCH_LINES}/{file}")).unwrap().chars().collect()))
        .collect();
    let scraps = [
        "0",
        "7",
        "99999999999",
        "-1",
        "$X",
        "'",
        "\"",
        "\\\n",
        "=",
        ": ",
        "{",
        "}",
        "(",
        "é",
        "\0",
        "--",
        "\n",
        "1048577",
    ];
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..1500 {
        let (name, text) = dice.pick(&seeds);
        let mut text = text.clone();
        for _ in 0..=dice.below(5) {
            let at = usize::try_from(dice.below(text.len() as u64)).unwrap();
            match dice.below(3) {
                0 => drop(text.remove(at)),
                1 => text[at] = char::from(b'0' + u8::try_from(dice.below(10)).unwrap()),
                _ => drop(text.splice(at..at, dice.pick(&scraps).chars())),
            }
        }
        let text: String = text.into_iter().collect();
        let gpus = (round % 3 == 0).then_some(64);
        let request = VerifyRequest { gpus, ..VerifyRequest::default() };
        if let Err(error) = run_on(name, text.as_bytes(), &request) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
