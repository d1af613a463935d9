//! What is printed is what is read back: random plans through every framework, and the commands people look at.

use super::*;
use crate::cluster::{
    Architecture, AttentionFit, Basis, Cluster, DecodeFit, Efficiency, Gpu, LinkKind, MoeFit, Network, NetworkKind,
    ScaleUp,
};
use crate::import::command::{ReadCommand, read};
use crate::job::{GradDtype, KvFormat, Precision};
use crate::model::{Block, DenseMlp, Gqa, Mixer, Mla, Mlp, Model, ModelSpec, Moe, Norm, QkNorm, Quant, Run};
use crate::plan::{Draft, Module, Purpose, Recompute, Schedule, Toggle};
use crate::units::{Bytes, BytesPerSec, FlopPerSec, Seconds};

/// Random numbers that are the same on every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

fn gqa() -> Mixer {
    Mixer::Gqa(Gqa { qk_norm: QkNorm::PerHead, ..Gqa::plain(32, 8, 128) })
}

fn experts() -> Moe {
    Moe {
        experts: 64,
        top_k: 6,
        ffn: 1408,
        gated: true,
        shared_ffn: 2816,
        shared_gate: false,
        router_bias: false,
        bias: false,
        groups: 8,
        top_groups: 4,
    }
}

fn model(name: &str, mixer: Mixer, with_experts: bool) -> Model {
    let dense = Block {
        mixer,
        mlp: Mlp { dense: Some(DenseMlp { ffn: 11264, gated: true, bias: false }), moe: None },
        norms: 2,
    };
    let sparse = Block { mixer, mlp: Mlp { dense: None, moe: Some(experts()) }, norms: 2 };
    let layers = if with_experts {
        vec![Run { pattern: vec![0], repeat: 1 }, Run { pattern: vec![1], repeat: 23 }]
    } else {
        vec![Run { pattern: vec![0], repeat: 24 }]
    };
    Model::new(ModelSpec {
        name: name.into(),
        hidden: 2048,
        vocab: 102_400,
        max_positions: 16_384,
        learned_positions: false,
        tied_embeddings: false,
        norm: Norm::Rms,
        mtp: 0,
        quant: None,
        blocks: if with_experts { vec![dense, sparse] } else { vec![dense] },
        layers,
    })
    .expect("a consistent model")
}

fn models() -> [Model; 3] {
    let mla = Mixer::Mla(Mla { heads: 32, q_lora: 1536, kv_lora: 512, nope: 128, rope: 64, v: 128, indexer: None });
    let latent = model("acme/latent-16b", mla, true);
    let drafting = Model::new(ModelSpec { mtp: 1, ..latent.spec().clone() }).expect("a consistent model");
    [model("acme/dense-7b", gqa(), false), model("acme/moe-16b", gqa(), true), drafting]
}

fn cluster(nodes: u32) -> Cluster {
    let scale_up = ScaleUp { kind: LinkKind::Nvlink, bandwidth: BytesPerSec::new(4.5e11), domain: 8 };
    let gpu = Gpu {
        name: "h100-sxm".into(),
        architecture: Architecture::Hopper,
        memory: Bytes::new(8.0e10),
        datasheet_memory: None,
        hbm: BytesPerSec::new(3.3e12),
        peaks: [Some(FlopPerSec::new(1e15)); 9],
        scale_up,
        nic: BytesPerSec::new(5e10),
        gpus_per_node: 8,
        price: None,
        efficiency: Efficiency {
            gemm: [None; 4],
            prefill_attention: AttentionFit { t0: Seconds::new(1e-5), compute: 0.5, half_length: 1000.0 },
            latent_prefill: Vec::new(),
            decode_attention: DecodeFit { t0: Seconds::new(1e-5), memory: 0.7, memory_8bit: 0.7 },
            moe: MoeFit { t0: Seconds::new(1e-5), compute: 0.5, memory: 0.7, permute: 2.0 },
            experts: Vec::new(),
            custom_all_reduce: Vec::new(),
            collectives: [const { Vec::new() }; 4],
            source: Vec::new(),
            basis: Basis::Assumed,
        },
        source: Vec::new(),
    };
    let network = Network {
        kind: NetworkKind::Infiniband,
        bandwidth: BytesPerSec::new(5e10),
        nics_per_node: 8,
        latency: Seconds::new(5e-6),
    };
    Cluster { name: format!("{nodes}x8xH100"), gpu, nodes, gpus_per_node: 8, scale_up, network }
}

fn training(model: &Model, nodes: u32, dice: &mut Dice) -> Job {
    let train = Train {
        seq_len: 4096,
        global_batch: 1536,
        precision: *dice.pick(&Precision::ALL),
        grad_dtype: *dice.pick(&GradDtype::ALL),
        moe_balance: 1.0,
        mtp_layers: 0,
    };
    Job::new(model.clone(), cluster(nodes), Workload::Train(train)).expect("a workload the model takes")
}

fn serving(model: &Model, nodes: u32, dice: &mut Dice) -> Job {
    let serve = Serve {
        isl: 4000,
        osl: 1000,
        concurrency: 64,
        kv_cache: *dice.pick(&KvFormat::ALL),
        memory_fraction: Some(0.9),
        mtp: *dice.pick(&[0, 1, 3]),
        ..Serve::of(Quant::NONE)
    };
    Job::new(model.clone(), cluster(nodes), Workload::Serve(serve)).expect("a workload the model takes")
}

/// A random plan; most of them a given framework cannot say.
fn random_plan(framework: Framework, moe: bool, dice: &mut Dice) -> Option<Plan> {
    let sizes = [1, 1, 2, 2, 3, 4, 8];
    let [tp, cp, pp, dp] = [0; 4].map(|_| *dice.pick(&sizes));
    let mut knobs = Knobs { replicas: 1, ..Knobs::default() };
    let stage = tp * cp * dp;
    let (ep, etp) = match (moe, dice.below(3)) {
        (false, _) => (1, tp),
        (true, 0) => (*dice.pick(&[1, 2, 4, 8, 16, 32]), *dice.pick(&[1, 2, 4])),
        (true, 1) => (*dice.pick(&[1, 2, 4, 8]), tp),
        (true, _) => *dice.pick(&[(stage, 1), (1, stage)]),
    };
    if framework.serves() {
        knobs.replicas = *dice.pick(&[1, 1, 2, 3]);
        let balanced = dice.below(4) == 0 && ep > 1;
        if framework != Framework::Trtllm {
            knobs.dcp = *dice.pick(&[1, 1, 1, 2]);
            knobs.eplb = balanced;
            knobs.redundant_experts = if balanced { *dice.pick(&[0, 16]) } else { 0 };
        }
        if framework == Framework::Sglang {
            knobs.a2a = moe && ep == stage && dice.below(2) == 0;
            knobs.moe_dp = if moe { stage / (ep * etp).max(1) } else { 1 };
        }
        if framework != Framework::Trtllm && moe && ep == stage && dp > knobs.replicas && dice.below(2) == 0 {
            knobs.ep_overlap = Toggle::On;
            // SGLang's overlap names its backend.
            knobs.a2a = framework == Framework::Sglang;
        }
    } else {
        knobs.micro_batch = *dice.pick(&[1, 2, 4]);
        knobs.vpp = if pp > 1 { *dice.pick(&[1, 1, 2]) } else { 1 };
        knobs.recompute = *dice.pick(&[
            Recompute::None,
            Recompute::SELECTIVE,
            Recompute::Full,
            Recompute::Modules(1 << Module::Mlp as u8 | 1 << Module::Layernorm as u8),
        ]);
        knobs.zero = *dice.pick(&[0, 1, 1, 2, 3]);
        knobs.sequence_parallel = dice.below(3) > 0;
        knobs.schedule = if pp > 1 {
            *dice.pick(&[Schedule::OneFOneB, Schedule::OneFOneB, Schedule::Gpipe])
        } else {
            Schedule::OneFOneB
        };
        knobs.optimizer_offload = *dice.pick(&[0, 0, 50, 100]);
        knobs.tp_overlap = *dice.pick(&[Toggle::Default, Toggle::On]);
        knobs.dp_overlap = *dice.pick(&[Toggle::Default, Toggle::On]);
        knobs.ep_overlap = *dice.pick(&[Toggle::Default, Toggle::Default, Toggle::On]);
        if matches!(framework, Framework::Megatron | Framework::Bridge) && knobs.vpp > 1 {
            knobs.pp_overlap = *dice.pick(&[Toggle::Default, Toggle::Off]);
        }
        if framework == Framework::Torchtitan {
            knobs.dp_replicate = *dice.pick(&[1, 1, 2]);
            knobs.pp_microbatches = if pp > 1 { *dice.pick(&[4, 8]) } else { 0 };
            // It always shards, and hides communication by itself.
            knobs.zero = *dice.pick(&[2, 3]);
            (knobs.dp_overlap, knobs.ep_overlap) = (Toggle::Default, Toggle::Default);
        } else if pp > 1 && dice.below(4) == 0 {
            (knobs.first_stage_layers, knobs.last_stage_layers) = (3, 2);
        }
        if framework == Framework::Deepspeed {
            (knobs.tp_overlap, knobs.dp_overlap, knobs.ep_overlap) = Default::default();
            knobs.sequence_parallel = true;
        }
    }
    let mesh = Mesh::new(tp, cp, pp, dp * knobs.replicas, ep, etp)?;
    (mesh.world() <= 512).then_some(Plan { mesh, knobs })
}

/// A draft with everything said that its convention would otherwise fill in.
fn said(draft: &Draft, framework: Framework) -> Draft {
    let mut d = *draft;
    let some = |degree: &mut Option<u32>| *degree = Some(degree.unwrap_or(1));
    for degree in [&mut d.tp, &mut d.pp, &mut d.cp, &mut d.ep, &mut d.dp_replicate, &mut d.attn_dp, &mut d.pcp] {
        some(degree);
    }
    match framework {
        Framework::Megatron | Framework::Bridge => {
            d.etp = Some(d.etp.unwrap_or(if d.ep == Some(1) { d.tp.expect("a draft that says its TP") } else { 0 }));
        }
        Framework::Vllm => d.ep = None,
        Framework::Trtllm => d.attention_dp = Some(d.attention_dp.unwrap_or(false)),
        Framework::Torchtitan | Framework::Deepspeed | Framework::Sglang => {}
    }
    // Degrees that a script never says, as they follow from the world.
    if matches!(framework, Framework::Megatron | Framework::Bridge | Framework::Torchtitan | Framework::Deepspeed) {
        d.dp = None;
    }
    d.etp = d.etp.filter(|_| framework != Framework::Deepspeed);
    d.sequence_parallel = Some(d.tp == Some(1) || d.sequence_parallel.unwrap_or(true));
    d.knobs.sequence_parallel = true;
    d.knobs.dp_replicate = 1;
    d
}

fn printed(launch: &Launch) -> String {
    let mut text: String = launch.commands.iter().map(|c| format!("{}\n", c.text)).collect();
    match launch.framework {
        Framework::Trtllm => text.push_str(&launch.files[0].text),
        // The launcher's line comes after the configuration it names, as in a script that writes it.
        Framework::Deepspeed => text = format!("cat > ds_config.json <<EOF\n{}EOF\n{text}", launch.files[0].text),
        Framework::Megatron | Framework::Bridge | Framework::Torchtitan | Framework::Vllm | Framework::Sglang => {}
    }
    text
}

fn round_trip(framework: Framework, seed: u64) {
    let models = models();
    let mut dice = Dice::new(seed);
    let (mut done, mut tried) = (0, 0);
    while done < 500 {
        tried += 1;
        assert!(tried < 400_000, "{framework}: only {done} plans can be said");
        let model = dice.pick(&models);
        let Some(plan) = random_plan(framework, model.moe().is_some(), &mut dice) else { continue };
        let job = if framework.serves() { serving(model, 64, &mut dice) } else { training(model, 64, &mut dice) };
        let Ok(launch) = launch(&job, &plan, framework) else { continue };
        done += 1;
        let text = printed(&launch);
        let back = read(&text).unwrap_or_else(|e| panic!("{framework} {plan:?}\n{e}\n{text}"));
        assert_eq!(back.framework, framework, "{text}");
        let convention = framework.convention();
        let purpose = if framework.serves() { Purpose::Serve } else { Purpose::Train };
        // The text form leaves these out, or does not read them back.
        let plain = Plan { knobs: Knobs { dcp: 1, ..plan.knobs }, ..plan };
        let mut wanted = Draft::parse(&plain.text(convention, purpose), convention).expect("a plan in its notation");
        wanted.knobs.dcp = plan.knobs.dcp;
        if framework == Framework::Trtllm && model.moe().is_none() {
            (wanted.moe_tp, wanted.moe_ep) = (None, None);
        }
        if framework == Framework::Vllm || framework == Framework::Sglang {
            wanted.pcp = Some(plan.mesh.cp());
        }
        if framework.serves() {
            wanted.knobs.replicas = plan.knobs.replicas;
        }
        assert_eq!(said(&back.draft, framework), said(&wanted, framework), "{plan:?}\n{text}");
        check_sizes(&job, &plan, &back, &text);
    }
}

fn check_sizes(job: &Job, plan: &Plan, back: &ReadCommand, text: &str) {
    if let Some(world) = back.world {
        assert_eq!(world, u64::from(plan.mesh.world()), "{text}");
    }
    match &job.workload {
        Workload::Train(train) => {
            assert_eq!(back.train.global_batch, Some(train.global_batch), "{text}");
            if back.framework == Framework::Megatron || back.framework == Framework::Bridge {
                assert_eq!(back.train.seq_len, Some(train.seq_len), "{text}");
                assert_eq!(back.train.precision, Some(train.precision), "{text}");
                assert_eq!(back.model.layers, Some(job.model.layers()));
                assert_eq!(back.model.experts, job.model.moe().map(|m| m.experts));
                assert_eq!(back.model.kv_heads, job.model.kv_heads());
            }
            assert!(back.world.is_some(), "{text}");
        }
        Workload::Serve(serve) => {
            assert_eq!(back.model.name.as_deref(), Some(job.model.name()));
            assert_eq!(back.serve.max_model_len, Some(5056));
            assert_eq!(back.serve.memory_fraction, Some(0.9));
            // A model without a predictor starts no drafts.
            let drafts = if job.model.spec().mtp > 0 { serve.mtp } else { 0 };
            assert_eq!(back.serve.mtp, (drafts > 0).then_some(drafts), "{text}");
            assert_eq!(back.serve.kv_cache, (serve.kv_cache == KvFormat::Fp8).then_some(KvFormat::Fp8));
        }
    }
}

#[test]
fn megatron_comes_back() {
    round_trip(Framework::Megatron, 1);
}

#[test]
fn bridge_comes_back() {
    round_trip(Framework::Bridge, 2);
}

#[test]
fn torchtitan_comes_back() {
    round_trip(Framework::Torchtitan, 3);
}

#[test]
fn deepspeed_comes_back() {
    round_trip(Framework::Deepspeed, 4);
}

#[test]
fn vllm_comes_back() {
    round_trip(Framework::Vllm, 5);
}

#[test]
fn sglang_comes_back() {
    round_trip(Framework::Sglang, 6);
}

#[test]
fn trtllm_comes_back() {
    round_trip(Framework::Trtllm, 7);
}

fn sixteen(framework: Framework, mesh: Mesh, knobs: Knobs) -> Result<Launch, NotExpressible> {
    let mut dice = Dice::new(9);
    let model = &models()[1];
    let job = if framework.serves() { serving(model, 2, &mut dice) } else { training(model, 2, &mut dice) };
    launch(&job, &Plan { mesh, knobs }, framework)
}

#[test]
fn megatron_says_every_size_on_every_node() {
    let mesh = Mesh::new(2, 1, 2, 4, 4, 1).expect("factors that divide");
    let out = sixteen(Framework::Megatron, mesh, Knobs { recompute: Recompute::Full, ..Knobs::default() })
        .expect("a plan the framework starts");
    assert_eq!(out.commands.len(), 2);
    let text = &out.commands[1].text;
    for part in [
        "CUDA_DEVICE_MAX_CONNECTIONS=1 torchrun --nnodes 2 --nproc_per_node 8 --node_rank 1",
        "--expert-tensor-parallel-size 1",
        "--sequence-parallel",
        "--use-distributed-optimizer",
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
        "--group-query-attention --num-query-groups 8",
        "--moe-layer-freq '([0]*1+[1]*23)'",
        "--moe-shared-expert-intermediate-size 2816",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(out.files.iter().any(|f| f.name == "launch.slurm" && f.text.contains("#SBATCH --nodes=2")));
}

#[test]
fn latent_attention_has_its_flags() {
    let mut dice = Dice::new(3);
    let job = training(&models()[2], 1, &mut dice);
    let plan = Plan { mesh: Mesh::new(1, 1, 1, 8, 8, 1).expect("factors that divide"), knobs: Knobs::default() };
    let text = &launch(&job, &plan, Framework::Megatron).expect("a plan the framework starts").commands[0].text;
    let flags = ["--multi-latent-attention", "--q-lora-rank 1536", "--kv-lora-rank 512", "--qk-pos-emb-head-dim 64"];
    assert!(flags.iter().all(|flag| text.contains(flag)), "{text}");
    assert!(!text.contains("--group-query-attention") && !text.contains("CUDA_DEVICE_MAX"), "{text}");
}

#[test]
fn what_cannot_be_said_names_the_nearest() {
    let four = Mesh::new(2, 1, 2, 4, 4, 1).expect("factors that divide");
    let none = Knobs::default();
    let error = sixteen(Framework::Vllm, four, none).expect_err("a refusal");
    assert_eq!(error.nearest.map(|m| (m.ep(), m.etp())), Some((8, 1)));
    let error = sixteen(Framework::Trtllm, four, none).expect_err("a refusal");
    assert!(error.nearest.is_some() && !error.to_string().contains('\n'));
    let cut = Mesh::new(2, 1, 2, 4, 4, 2).expect("factors that divide");
    let error = sixteen(Framework::Torchtitan, cut, none).expect_err("a refusal");
    assert_eq!(error.nearest.map(|m| (m.ep(), m.etp())), Some((8, 1)));
    assert!(sixteen(Framework::Deepspeed, four, none).is_err());
    assert!(sixteen(Framework::Deepspeed, cut, none).is_ok());
    assert!(sixteen(Framework::Megatron, cut, Knobs { schedule: Schedule::DualPipe, ..none }).is_err());
    let large = Mesh::new(8, 1, 4, 1, 1, 8).expect("factors that divide");
    assert!(sixteen(Framework::Megatron, large, none).expect_err("a refusal").reason.contains("32 GPUs"));
}

#[test]
fn replicas_on_one_node_see_their_own_gpus() {
    let knobs = Knobs { replicas: 4, ..Knobs::default() };
    let out = sixteen(Framework::Vllm, Mesh::new(4, 1, 1, 4, 1, 4).expect("factors that divide"), knobs)
        .expect("a plan the framework starts");
    let seen: Vec<(u32, bool)> =
        out.commands.iter().map(|c| (c.node, c.text.starts_with("CUDA_VISIBLE_DEVICES=4,5,6,7 "))).collect();
    assert_eq!(seen, [(0, false), (0, true), (1, false), (1, true)]);
    assert!(out.commands[1].text.contains("--port 8001"));
    let wide = sixteen(Framework::Vllm, Mesh::new(2, 1, 2, 4, 8, 1).expect("factors that divide"), Knobs::default())
        .expect("a plan the framework starts");
    assert!(wide.commands[0].text.contains("-tp 2 -pp 2 -dp 4"));
    assert!(wide.commands[0].text.contains("--nnodes 2 --node-rank 0 --master-addr $MASTER_ADDR"));
    assert!(wide.commands[1].text.contains("--node-rank 1 --master-addr $MASTER_ADDR --headless"));
}

#[test]
fn speculative_tokens_are_started_or_told_to_be_missing() {
    let of = |mtp: u32, framework: Framework| {
        let spec = ModelSpec { mtp, ..models()[1].spec().clone() };
        let serve = Serve { mtp: 2, ..Serve::of(Quant::NONE) };
        let job = Job::new(Model::new(spec).expect("a consistent model"), cluster(1), Workload::Serve(serve))
            .expect("a workload the model takes");
        let plan = Plan { mesh: Mesh::new(8, 1, 1, 1, 1, 8).expect("factors that divide"), knobs: Knobs::default() };
        let launch = launch(&job, &plan, framework).expect("a plan the framework starts");
        printed(&launch) + &launch.notes.join("\n")
    };
    for (framework, flag) in [
        (Framework::Vllm, "\"num_speculative_tokens\":2"),
        (Framework::Sglang, "--speculative-num-draft-tokens 3"),
        (Framework::Trtllm, "num_nextn_predict_layers: 2"),
    ] {
        let (own, none) = (of(1, framework), of(0, framework));
        assert!(own.contains(flag) && !own.contains("draft head"), "{own}");
        assert!(!none.contains(flag) && none.contains("draft head"), "{none}");
    }
}

#[test]
fn names_from_outside_cannot_run_anything() {
    let mut dice = Dice::new(1);
    let job = serving(&model("x; touch /tmp/owned", gqa(), false), 1, &mut dice);
    let plan = Plan { mesh: Mesh::new(8, 1, 1, 1, 1, 8).expect("factors that divide"), knobs: Knobs::default() };
    for framework in [Framework::Vllm, Framework::Sglang, Framework::Trtllm] {
        let out = launch(&job, &plan, framework).expect("a plan the framework starts");
        assert!(out.commands[0].text.contains("'x; touch /tmp/owned'"));
    }
}
