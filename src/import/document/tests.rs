//! The mission's document in every format, phrasings from real documents, and bytes that nobody would write.

use super::*;
use crate::claim::Said;

const MISSION: &str = "Strategy: TP 2, EP 4, PP 2, DP 2 for 16 GPUs, 64 experts, \
Total GPUs required = PP x TP x DP = 2 x 2 x 2 = 8, memory utilisation 51562500000.0% of 80 GB";

fn claims(name: &str, text: &str) -> Claims {
    match read(name, text.as_bytes()) {
        Ok((_, claims)) => claims,
        Err(error) => panic!("{text:?}: {error}"),
    }
}

fn error(name: &str, text: &str) -> DocumentError {
    read(name, text.as_bytes()).expect_err(text)
}

fn v<T: Clone>(said: &Option<Said<T>>) -> Option<T> {
    said.as_ref().map(|s| s.value.clone())
}

/// What was claimed, in one line, so that a test also fails on what should not have been read.
fn shown(c: &Claims) -> String {
    let mut parts = Vec::new();
    let counts = [
        ("tp", &c.tp),
        ("ep", &c.ep),
        ("pp", &c.pp),
        ("dp", &c.dp),
        ("cp", &c.cp),
        ("etp", &c.etp),
        ("edp", &c.edp),
        ("vpp", &c.vpp),
        ("mb", &c.micro_batch),
        ("gb", &c.global_batch),
        ("seq", &c.seq_len),
        ("have", &c.available_gpus),
        ("nodes", &c.nodes),
        ("each", &c.gpus_per_node),
        ("need", &c.required_gpus),
        ("experts", &c.experts),
    ];
    for (name, said) in counts {
        if let Some(said) = said {
            parts.push(format!("{name}{}", said.value));
        }
    }
    let amounts = [
        ("xgpu", &c.experts_per_gpu),
        ("used", &c.memory_per_gpu),
        ("of", &c.memory_capacity),
        ("util", &c.utilization),
    ];
    for (name, said) in amounts {
        if let Some(said) = said {
            parts.push(format!("{name}{}", said.value));
        }
    }
    for (name, said) in [("model", &c.model), ("gpu", &c.gpu), ("fw", &c.framework), ("conv", &c.convention)] {
        if let Some(said) = said {
            parts.push(format!("{name}={}", said.value));
        }
    }
    if let Some(f) = &c.formula {
        let factors: Vec<_> = f.value.factors.iter().map(u64::to_string).collect();
        parts.push(format!("[{}={}={:?}]", f.value.axes.join("*"), factors.join("*"), f.value.result));
    }
    if !c.contradictions.is_empty() {
        parts.push(format!("contradictions{}", c.contradictions.len()));
    }
    parts.join(" ").replace("Some", "")
}

fn is_the_mission(format: &str, c: &Claims) {
    let degrees = [v(&c.tp), v(&c.ep), v(&c.pp), v(&c.dp)];
    assert_eq!(degrees, [Some(2), Some(4), Some(2), Some(2)], "{format}");
    assert_eq!(v(&c.available_gpus), Some(16), "{format}");
    assert_eq!(v(&c.required_gpus), Some(8), "{format}");
    assert_eq!(v(&c.experts), Some(64), "{format}");
    assert_eq!(v(&c.utilization), Some(515_625_000.0), "{format}");
    assert_eq!(v(&c.memory_capacity), Some(80e9), "{format}");
    assert_eq!(v(&c.memory_per_gpu), None, "{format}");
    let formula = c.formula.clone().expect(format).value;
    assert_eq!(formula.axes, ["pp", "tp", "dp"], "{format}");
    assert_eq!(formula.factors, [2, 2, 2], "{format}");
    assert_eq!(formula.result, Some(8), "{format}");
    assert!(c.contradictions.is_empty(), "{format}: {:?}", c.contradictions);
    assert!(c.unknown.is_empty(), "{format}: {:?}", c.unknown);
}

const MISSION_MD: &str = "# Deployment plan\n\n## Parallelism strategy\n\n| Axis | Degree |\n|------|-------:|\n\
| Tensor Parallelism (TP) | 2 |\n| Expert Parallelism (EP) | 4 |\n| **Pipeline Parallelism** (PP) | `2` |\n| Data Parallelism (DP) | 2 |\n\n\
## Resources\n\n- Available GPUs: **16**\n- Number of experts: 64\n- Total GPUs required = PP × TP × DP = 2 × 2 × 2 = **8**\n\
- Memory utilization: 51562500000.0% of 80 GB\n";

const MISSION_JSON: &str = r#"{
  "parallelism": {"tensor": 2, "expert_parallel_size": 4, "pp": 2, "data": 2},
  "cluster": {"available_gpus": 16},
  "num_experts": 64,
  "total_gpus_required": 8,
  "formula": "PP x TP x DP = 2 x 2 x 2 = 8",
  "memory": {"utilization": "51562500000.0%", "capacity": "80 GB"}
}"#;

const MISSION_YAML: &str = "strategy: TP 2, EP 4, PP 2, DP 2\ntotal_gpus: 16\nexperts: 64\n\
total_gpus_required: \"PP x TP x DP = 2 x 2 x 2 = 8\"\nmemory_utilization: 51562500000.0%\ngpu_memory: 80 GB\n";

#[test]
fn the_mission_document_reads_the_same_in_every_format() {
    for (name, text) in [
        ("plan.txt", MISSION),
        ("plan.md", MISSION_MD),
        ("plan.json", MISSION_JSON),
        ("plan.yaml", MISSION_YAML),
        ("plan", &MISSION.replace(", ", "\n")),
        ("plan.md", MISSION),
    ] {
        is_the_mission(name, &claims(name, text));
    }
    let one_string = format!("{{\"notes\": {MISSION:?}}}");
    is_the_mission("one string in JSON", &claims("plan.json", &one_string));
    let block = format!("plan: |\n  {}\n", MISSION.replace(", ", "\n  "));
    is_the_mission("block text in YAML", &claims("plan.yml", &block));
}

#[test]
fn phrasings_of_real_documents() {
    let cases = [
        ("| TP | EP | PP | DP |\n|---|---|---|---|\n| 2 | 4 | 2 | 2 |", "tp2 ep4 pp2 dp2"),
        ("| TP | 2 |\n| EP | 4 |", "tp2 ep4"),
        (
            "| Dimension | Symbol | Degree | Note |\n|--|--|--|--|\n| Tensor | TP | 2 | splits 64 heads |\n| Expert | EP | 4 | 16 experts per GPU |",
            "tp2 ep4 xgpu16",
        ),
        ("- Tensor Parallelism (TP): 2\n- Pipeline Parallelism (PP) = 4", "tp2 pp4"),
        ("**TP** = 2, **EP** = 4, `PP`: 8", "tp2 ep4 pp8"),
        ("TP=2, EP=4", "tp2 ep4"),
        ("tp2 ep4 pp2 dp2 mb1", "tp2 ep4 pp2 dp2 mb1"),
        ("TP2xEP4xPP2xDP2", "tp2 ep4 pp2 dp2"),
        ("TP16xDP2 on 32 GPUs", "tp16 dp2 have32"),
        ("tp2-ep4-pp2-dp2", "tp2 ep4 pp2 dp2"),
        ("TP/EP/PP/DP = 2/4/2/2", "tp2 ep4 pp2 dp2"),
        ("(TP, PP, DP) = (2, 4, 8)", "tp2 pp4 dp8"),
        ("tensor_parallel_size: 2\npipeline-parallel: 2 stages", "tp2 pp2"),
        (
            "torchrun --nnodes 2 --nproc_per_node 8 train.py --tensor-model-parallel-size 2 \\\n  --pipeline-model-parallel-size=4 --expert-model-parallel-size 8 --expert-tensor-parallel-size 1 --micro-batch-size 1 --global-batch-size 1,024 --seq-length 4096",
            "tp2 ep8 pp4 etp1 mb1 gb1024 seq4096 have16 nodes2 each8",
        ),
        (
            "vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 8 --data-parallel-size 2 --max-model-len 32k --gpu-memory-utilization 0.9",
            "tp8 dp2 seq32768 model=deepseek-ai/DeepSeek-V3 fw=vllm",
        ),
        ("Expert parallel degree of 4, with a tensor parallel size of 2", "tp2 ep4"),
        ("We train with a tensor parallel\nsize of 2 and 8-way expert parallelism.", "tp2 ep8"),
        ("8-way TP within a node, 4 pipeline stages, 2 DP replicas", "tp8 pp4 dp2"),
        ("TP2 PP2 DP4 on 16 NVIDIA H100 80GB GPUs", "tp2 pp2 dp4 have16 of80000000000 gpu=H100"),
        ("TP 8, 16x H100", "tp8 have16 gpu=H100"),
        ("TP 8; 16xH100-80GB", "tp8 have16 of80000000000 gpu=H100-80GB"),
        ("TP 8, 2x8xH200", "tp8 have16 nodes2 each8 gpu=H200"),
        ("tp8 on 2 nodes x 8 GPUs", "tp8 have16 nodes2 each8"),
        ("tp8; cluster: 2 nodes x 8", "tp8 have16 nodes2 each8"),
        ("TP=8 on 4 nodes with 8 A100s each", "tp8 have32 nodes4 each8 gpu=A100"),
        ("TP 4. 8 GPUs per node, 2 nodes.", "tp4 have16 nodes2 each8"),
        ("TP 2, 41.25 GB of 80 GB per GPU (51.56%)", "tp2 used41250000000 of80000000000 util0.5156000000000001"),
        (
            "TP 2, estimated memory 41.25 GB, 80GB HBM, utilization: 51.56 %",
            "tp2 used41250000000 of80000000000 util0.5156000000000001",
        ),
        ("TP 2. Memory per GPU: 40 GiB. GPU memory: 80 GB.", "tp2 used42949672960 of80000000000"),
        ("TP 2\nWeights: 20 GB\nKV cache: 12 GB\n900 GB/s NVLink\nTotal memory per GPU: 41 GB", "tp2 used41000000000"),
        ("EP 4: 64 experts, 16 experts per GPU, 8 experts per token", "ep4 experts64 xgpu16"),
        ("EP = 4; 256 routed experts, top-8, 1 shared expert", "ep4 experts256"),
        ("Total GPUs = TP * PP * DP = 2 * 2 * 4 = 16", "need16 [tp*pp*dp=2*2*4=(16)]"),
        ("World size = PP·TP·DP = 16; TP 2", "tp2 need16 [pp*tp*dp==(16)]"),
        ("TP2 x EP4 x PP2 x DP2 = 32 GPUs", "tp2 ep4 pp2 dp2 need32 [tp*ep*pp*dp=2*4*2*2=(32)]"),
        ("2 (TP) × 4 (EP) × 2 (PP) = 16", "tp2 ep4 pp2 [tp*ep*pp=2*4*2=(16)]"),
        ("16 = TP x PP x DP, TP: 4", "tp4 [tp*pp*dp==(16)]"),
        ("$TP \\times PP \\times DP = 2 \\times 2 \\times 2 = 8$ GPUs", "need8 [tp*pp*dp=2*2*2=(8)]"),
        ("PPxTPxDP = 8; PP = 2", "pp2 [pp*tp*dp==(8)]"),
        ("TP=2, PP=2, DP = 16 / (TP x PP) = 4", "tp2 pp2 dp4"),
        ("TP 2 for GPT-3 175B, 16-bit weights, 2024-05-01, v0.6.2, bf16", "tp2 model=GPT-3 175B"),
        ("Model: Mixtral 8x7B\nFramework: Megatron-LM\nTP 2\nEP 8", "tp2 ep8 model=Mixtral 8x7B fw=megatron"),
        ("PP rank 0 holds layers 0-15, PP 2; DP ranks 0 and 1", "pp2"),
        ("TP ≤ 8 inside a node, TP 4, EP within TP", "tp4"),
        ("The plan requires 32 GPUs but 16 GPUs are available. TP 2, 8 GPUs idle", "tp2 have16 need32"),
        ("TP 2, then TP 4", "tp2 contradictions1"),
        ("convention: folded\nTP 2 with TensorRT-LLM", "tp2 fw=trtllm conv=folded"),
        ("{'tp': 2, 'ep': 4}", "tp2 ep4"),
        ("Tensor parallelism across 8 GPUs, 16 GPUs in all", "tp8 have16"),
        ("1. TP: 2\n2. EP: 4\n3. Keep memory utilization below 90%", "tp2 ep4"),
        ("## Parallelism\n- Tensor: 2\n- Pipeline: 4\n## Other\n- Data: 7", "tp2 pp4"),
        ("SGLang --tp-size 8 --attn-dp-size 4 --ep-size 8", "tp8 ep8 fw=sglang"),
        ("Total GPUs = tp_size * pp_size * dp_size = 8, tp_size = 2", "tp2 need8 [tp*pp*dp==(8)]"),
        ("| TP × PP × DP | 2 × 2 × 2 = 8 |\n| TP | 2 |", "tp2 [tp*pp*dp=2*2*2=(8)]"),
        ("EP is folded into TP x DP, TP 2", "tp2"),
        ("required_gpus = TP × EP × PP × DP = 32 > 16 available, TP 2", "tp2 need32 [tp*ep*pp*dp==(32)]"),
        ("TP 2, 4 experts are active out of 64 experts", "tp2 experts64"),
        (
            "- **Tensor Parallelism:** 2-way\n- **Expert Parallelism:** 4-way (64 experts / 4 = 16 experts per GPU)",
            "tp2 ep4 experts64 xgpu16",
        ),
        ("GPU: NVIDIA A100 80GB\nGPUs per node: 8\nNodes: 2\nTP: 2", "tp2 have16 nodes2 each8 of80000000000 gpu=A100"),
        ("Memory per GPU: 41.25 GB / 80 GB (51.6%)\ntp: 2", "tp2 used41250000000 of80000000000 util0.516"),
        ("Memory utilisation = 41250000000 / 80 * 100 = 51562500000.0%; TP 2", "tp2 util515625000"),
        ("TP 2. Fits in 80 GB. 2 GPUs sit idle. Expected MFU 45%. 99% of requests under 2 s", "tp2"),
        ("export TP=2 PP=4 EP=8\nNGPUS=64", "tp2 ep8 pp4 have64"),
        ("--tp 8 --pp 2 --ep 4 --nnodes 2", "tp8 ep4 pp2 nodes2"),
        ("TP: 1\nPP: 4 (60 layers, 15 per stage)\nlayers: 60", "tp1 pp4"),
        ("Qwen3-235B-A22B-FP8: TP4, EP 8 on 64 H100s", "tp4 ep8 have64 model=Qwen3-235B-A22B-FP8 gpu=H100"),
    ];
    let mut wrong = String::new();
    for (text, expected) in cases {
        let got = match read("plan.md", text.as_bytes()) {
            Ok((_, claims)) => shown(&claims),
            Err(error) => format!("error: {error}"),
        };
        if got != expected {
            wrong += &format!("{text}\n  expected {expected}\n  got      {got}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn trees_of_real_configurations() {
    let cases = [
        (
            "a.json",
            r#"{"plan": "tp8 ep2 pp1 dp1 mb1", "cluster": "16xH200", "model": "deepseek-ai/DeepSeek-V3", "framework": "vllm", "convention": "product"}"#,
            "tp8 ep2 pp1 dp1 mb1 have16 model=deepseek-ai/DeepSeek-V3 gpu=H200 fw=vllm conv=product",
        ),
        (
            "a.json",
            r#"{"plan":{"tp":8,"cp":1,"pp":1,"ep":2,"etp":8,"dp":1,"vpp":1,"micro_batch":1},"cluster":{"gpu":"h100-sxm","nodes":2,"gpus_per_node":8}}"#,
            "tp8 ep2 pp1 dp1 cp1 etp8 vpp1 mb1 have16 nodes2 each8 gpu=h100-sxm",
        ),
        (
            "a.json",
            r#"{"tensorParallelSize": 2, "expertParallelDegree": "4", "numGPUs": 16, "memory_utilization_percent": 51.5}"#,
            "tp2 ep4 have16 util0.515",
        ),
        (
            "a.json",
            r#"{"tp": 2, "memory_utilization": 0.5, "memory_per_gpu_gb": 41.25, "gpu_memory": "80 GiB"}"#,
            "tp2 used41250000000 of85899345920 util0.5",
        ),
        ("a.json", r#"[{"axis": "TP", "degree": 2}, {"axis": "EP", "degree": 4}]"#, "tp2 ep4"),
        (
            "a.json",
            r#"{"tp": 2, "tp_size": 4, "experts": {"total": 64, "per_gpu": 16}}"#,
            "tp2 experts64 xgpu16 contradictions1",
        ),
        (
            "a.yaml",
            "parallelism:\n  data_parallel_replicate_degree: 2\n  data_parallel_shard_degree: 4\n  tensor_parallel_degree: 2\n",
            "tp2 dp8",
        ),
        (
            "a.yaml",
            "tensor_model_parallel_size: 2\nexpert_model_parallel_size: 4\nvirtual_pipeline_model_parallel_size: null\nexpert_tensor_parallel_size: ~\n",
            "tp2 ep4",
        ),
        (
            "a.yaml",
            "engine: vllm\ntp: 8\ndp: -1\nenable_expert_parallel: true\ngpu_memory_utilization: 0.9\n",
            "tp8 fw=vllm",
        ),
        ("a.yaml", "---\ntp: 2\n---\nep: 4\n", "tp2 ep4"),
        (
            "a.yaml",
            "moe_expert_parallel_size: 4\nmoe_tensor_parallel_size: 2\ntensor_parallel_size: 8\nnum_experts_per_tok: 8\n",
            "tp8 ep4 etp2",
        ),
        ("a.yaml", "tp: [1, 2, 4]\nep: 2\nworld_size: 16\n", "ep2 have16"),
        (
            "a.json",
            r#"{"tp": {"size": 2}, "gpu": {"name": "H100", "memory_gb": 80}, "required": {"gpus": 8}, "gpus": {"available": 16, "per_node": 8}}"#,
            "tp2 have16 each8 need8 of80000000000 gpu=H100",
        ),
        ("stdin", "{\"tp\": 2}", "tp2"),
    ];
    let mut wrong = String::new();
    for (name, text, expected) in cases {
        let got = match read(name, text.as_bytes()) {
            Ok((_, claims)) => shown(&claims),
            Err(error) => format!("error: {error}"),
        };
        if got != expected {
            wrong += &format!("{text}\n  expected {expected}\n  got      {got}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn claims_remember_their_line_and_words() {
    let c = claims("a.md", MISSION_MD);
    assert_eq!(c.ep.expect("ep").line, 8);
    let utilization = c.utilization.expect("utilization");
    assert_eq!((utilization.line, utilization.text.as_str()), (17, "- Memory utilization: 51562500000.0% of 80 GB"));
    let c = claims("a.json", MISSION_JSON);
    assert_eq!((c.tp.expect("tp").line, c.experts.expect("experts").line, c.formula.expect("formula").line), (2, 4, 6));
    let long = format!("{} TP 2 {}", "word ".repeat(100), "word ".repeat(100));
    let tp = claims("a.txt", &long).tp.expect("tp");
    assert!(tp.text.contains("TP 2") && tp.text.chars().count() <= 120, "{}", tp.text);
}

#[test]
fn mistyped_keys_are_named() {
    let c = claims(
        "a.json",
        "{\"tp\": 2, \"expert_paralel_size\": 4, \"pipline_parallel\": 2, \"hidden_size\": 4096, \"foo_parallel_size\": 3}",
    );
    assert_eq!(
        c.unknown,
        [
            "expert_paralel_size (line 1): did you mean expert_parallel_size?",
            "pipline_parallel (line 1): did you mean pipeline_parallel?",
            "foo_parallel_size (line 1): no known axis",
        ]
    );
}

#[test]
fn what_cannot_be_a_plan_is_refused_with_its_place() {
    assert!(error("a.txt", "Hello world, 16 GPUs").message.contains("names a degree: TP, PP, EP, DP"));
    assert!(error("a.txt", "").message.contains("no plan"));
    let zero = error("a.md", "# Plan\nTP: 2\nEP: 0\n");
    assert_eq!((zero.line, zero.key.as_str(), zero.value.as_str()), (3, "ep", "0"));
    assert_eq!(error("a.yaml", "pp: 1\ntp: 0\n").line, 2);
    assert!(error("a.txt", "tp2 ep0").message.contains("cannot be 0"));
    assert!(error("a.txt", "TP = 99999999999999999999999").message.contains("too large"));
    assert!(error("a.json", "{\"tp\": 1099511627777}").message.contains("too large"));
    assert!(error("a.json", "{\"tp\": 2.5}").message.contains("not a whole number"));
    assert!(error("a.json", "{\"tp\": 2,\n\"ep\": }").message.contains("not JSON"));
    assert_eq!(error("a.json", "{\"tp\": 2,\n\"ep\": }").line, 2);
    assert!(error("a.yaml", "tp: [2\nep: 4\n").message.contains("not YAML"));
    let deep = error("a.yaml", &"[".repeat(100_000)).message;
    assert!(deep.contains("nested") || deep.contains("recursion") || deep.contains("not YAML"), "{deep}");
    assert!(error("a.json", &"[".repeat(100_000)).message.contains("recursion"));
    let bytes = read("a.txt", b"TP 2\xff").expect_err("not UTF-8");
    assert!(bytes.message.contains("offset 4"), "{bytes}");
    let large = read("a.txt", &vec![b' '; (4 << 20) + 1]).expect_err("too large");
    assert!(large.allowed.contains("4 MiB"));
}

/// A small generator; the test must try the same bytes on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap_or(0)
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let seeds = [
        MISSION,
        MISSION_MD,
        MISSION_JSON,
        MISSION_YAML,
        "TP/EP = 2/4 (8-way) 2 nodes x 8 H100-80GB é×·≤ 41 GiB/s DP = 16/(2x2) = 4",
    ];
    let scraps: [&[u8]; 24] = [
        b"x",
        b"=",
        b"(",
        b")",
        b"|",
        b"\n",
        b"-",
        b"%",
        b"1e999",
        b"TP",
        b" GPUs",
        b"0",
        b"9999999999999999999999",
        b"\xc3",
        b"\xe2\x80\x94",
        b": ",
        b"{",
        b"\"",
        b"/",
        b"\\",
        b"GiB",
        b"H100",
        b"\xd0\x96",
        "İ×".as_bytes(),
    ];
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..6000 {
        let seed = seeds[round % seeds.len()].as_bytes();
        let mut bytes = seed.to_vec();
        for _ in 0..=dice.roll(8) {
            let at = dice.roll(bytes.len() + 1);
            match dice.roll(4) {
                0 => bytes.truncate(at.max(1)),
                1 if at < bytes.len() => bytes[at] = u8::try_from(dice.roll(256)).unwrap_or(0),
                2 if at < bytes.len() => {
                    bytes.remove(at);
                }
                _ => {
                    let scrap = scraps[dice.roll(scraps.len())];
                    bytes.splice(at..at, scrap.iter().copied());
                }
            }
        }
        let lossy = String::from_utf8_lossy(&bytes).into_owned();
        for name in ["a.txt", "a.md", "a.json", "a.yaml", "a"] {
            let _ = read(name, &bytes);
            let _ = read(name, lossy.as_bytes());
        }
    }
}

#[test]
fn a_hostile_document_takes_time_in_proportion_to_its_length() {
    let fragments = [
        "1/",
        "a/",
        "TP2",
        "TP ",
        "TP 2 ",
        "2x",
        "1x1x",
        "TPx",
        "(",
        "x",
        "*",
        "aB",
        "GPUs 2 = ",
        "| 1 ",
        "-",
        "9",
        "TP,",
        "8 of 9 GB ",
        "41% ",
        "experts ",
        "\n- TP:",
        "GPT-3 8B ",
        " 8B",
        "\"a",
        "a: 1, ",
        "1,000",
        "TP = 2 / 2 ",
        "memory ",
        "[",
        "tp: {",
        "*a ",
        "  - ",
        "é",
        "TP 2 x ",
        "2 nodes ",
    ];
    for fragment in fragments {
        let text = fragment.repeat((16 << 10) / fragment.len());
        let start = std::time::Instant::now();
        let _ = read("a.md", text.as_bytes());
        let _ = read("a.yaml", text.as_bytes());
        assert!(start.elapsed().as_secs() < 5, "{fragment:?} took {:?}", start.elapsed());
    }
}
