//! Published layouts with their known verdicts, the readings against `rules`, and the mission's document claim by claim.

use super::*;
use crate::catalog;
use crate::import::document;
use crate::job::{GradDtype, Precision, Train, Workload};
use crate::mesh::Convention::{Bridge, Megatron, Product};
use crate::rules;

fn draft(text: &str, convention: Convention) -> Draft {
    Draft::parse(text, convention).expect("a plan in its notation")
}

fn job(model: &str, gpus: u32) -> Job {
    let train = Train {
        seq_len: 4096,
        global_batch: 1024,
        precision: Precision::Bf16,
        grad_dtype: GradDtype::Fp32,
        moe_balance: 1.0,
        mtp_layers: 0,
    };
    let (model, cluster) = (
        catalog::model(model).expect("a built-in model"),
        catalog::cluster(&format!("{gpus}xH100")).expect("a built-in GPU in a readable shape"),
    );
    Job::new(model, cluster, Workload::Train(train)).expect("a workload the model takes")
}

/// Layouts that were published or reported, the GPUs they were for, and what they need when they cannot start.
/// Sources: Megatron-Bridge #2718, #3747, #5754, #6054, #6083, slime #2077, verl #4855, ms-swift #9106 and the Megatron guide.
const PUBLISHED: [(&str, u64, Option<u64>); 29] = [
    ("tp1 pp8 ep32 etp1", 64, Some(256)),
    ("tp1 pp4 ep32 etp1", 64, Some(128)),
    ("tp1 pp8 ep8 etp1", 64, None),
    ("tp1 pp2 ep32 etp1", 64, None),
    ("tp1 pp4 ep64 etp1", 128, Some(256)),
    ("tp1 pp2 ep64 etp1", 128, None),
    ("tp2 pp8 ep64 etp1", 64, Some(512)),
    ("tp2 pp8 ep64 etp1", 1024, None),
    ("tp2 pp16 ep64 etp1", 256, Some(1024)),
    ("tp2 pp16 ep64 etp1", 1024, None),
    ("tp2 pp16 ep64", 1024, Some(2048)),
    ("tp2 pp6 ep8 etp1", 32, Some(48)),
    ("tp2 pp6 ep8 etp1", 48, None),
    ("tp2 pp2 ep8 etp1", 8, Some(16)),
    ("tp2 pp2 ep4 etp1", 8, None),
    ("tp4 pp16 ep4 etp1", 64, None),
    ("tp4 pp16 ep4", 64, Some(256)),
    ("tp2 pp2 ep2 etp1", 4, None),
    ("tp2 pp2 ep2", 4, Some(8)),
    ("tp4 pp4 cp2", 64, None),
    ("tp8 pp8 cp2", 1024, None),
    ("tp1 pp4 ep8", 64, None),
    ("tp1 pp4 ep8", 16, Some(32)),
    ("tp4 pp4 ep8", 256, None),
    ("tp4 pp4 ep8 etp1", 256, None),
    ("tp4 pp4 ep8 etp2", 256, None),
    ("tp4 ep8", 16, Some(32)),
    ("tp2 pp4 ep2 dp2", 16, None),
    ("tp2 pp2 ep4 dp4", 16, None),
];

#[test]
fn published_layouts_have_their_known_verdicts() {
    for (text, gpus, needs) in PUBLISHED {
        let verdict = check_draft(Some(Framework::Megatron), &draft(text, Megatron), Some(gpus), None);
        assert_eq!(verdict.holds(), needs.is_none(), "{text} on {gpus}: {:?}", verdict.findings);
        if let Some(needs) = needs {
            assert_eq!(verdict.gpus.needed, needs, "{text} on {gpus}");
            let words = verdict.violations().map(|f| f.message.clone()).collect::<Vec<_>>().join("; ");
            assert!(words.contains(&needs.to_string()), "{text} on {gpus}: {words}");
            assert!(verdict.violations().any(|f| f.asked_by.is_some()), "{text}: {:?}", verdict.findings);
        }
    }
    // Bridge takes an unset expert TP as 1.
    let verdict = check_draft(Some(Framework::Bridge), &draft("tp2 pp16 ep64", Bridge), Some(1024), None);
    assert!(verdict.holds(), "{:?}", verdict.findings);
}

#[test]
fn layers_that_do_not_come_out_are_named() {
    let cases = [
        ("deepseek-v2", "pp8", 64, "layers"),
        ("glm-4.5-air", "pp4", 64, "layers"),
        ("qwen3-30b-a3b", "pp2 first_stage_layers=11 last_stage_layers=13", 64, "stage-sizes"),
        ("qwen3-235b-a22b", "tp1 pp8 ep8 etp1", 64, "layers"),
        ("llama-3.1-405b", "tp8 pp8 cp2", 1024, "layers"),
    ];
    for (model, text, gpus, rule) in cases {
        let job = job(model, gpus);
        let verdict = check_draft(Some(Framework::Megatron), &draft(text, Megatron), None, Some(&job));
        let rules: Vec<&str> = verdict.violations().map(|f| f.rule).filter(|r| *r != "memory").collect();
        assert_eq!(rules, [rule], "{model} {text}: {:?}", verdict.findings);
    }
}

/// The reading of numbers and the resolution of a whole job are two roads to the same grids.
#[test]
fn readings_agree_with_the_rules_of_grids() {
    let job = job("qwen3-30b-a3b", 16);
    let grid = |r: &rules::Rejection| {
        use rules::Rule::{DenseGrid, ExpertFold, ExpertGrid, ExpertSplit, NotExpressible, World};
        [World, DenseGrid, ExpertGrid, ExpertFold, ExpertSplit, NotExpressible].contains(&r.rule)
    };
    let degrees = [1, 2, 3, 4, 8, 16];
    for convention in Convention::ALL {
        for tp in degrees {
            for pp in [1, 2, 4] {
                for ep in degrees {
                    for dp in [None, Some(1), Some(2), Some(4), Some(8)] {
                        let dp = if convention == Product { dp.or(Some(1)) } else { dp };
                        let (tp, pp, ep) = (Some(tp), Some(pp), Some(ep));
                        let plain = Draft { convention, tp, pp, ep, ..Draft::default() };
                        let draft = match (convention, dp) {
                            (Convention::Trtllm, _) => plain,
                            (_, dp) => Draft { dp, ..plain },
                        };
                        let resolution = rules::resolve(&job, &draft);
                        let refused = resolution.rejections.iter().any(grid);
                        let reading = read(convention, &draft, Some(16), Spare::Fine);
                        // Training wants the world exact, which a spare GPU is not.
                        let trains = Framework::of(convention).is_none_or(|f| !f.serves());
                        let spare = trains && reading.idle > 0;
                        let serves_too_much = !trains && reading.needed > 16;
                        assert_eq!(
                            refused || serves_too_much,
                            !reading.holds() || spare,
                            "{convention} {draft:?}\n{:?}\n{reading:?}",
                            resolution.rejections
                        );
                    }
                }
            }
        }
    }
}

const MISSION: [(&str, &str); 4] = [
    ("mission.txt", include_str!("../../tests/it/documents/mission.txt")),
    ("mission.md", include_str!("../../tests/it/documents/mission.md")),
    ("mission.json", include_str!("../../tests/it/documents/mission.json")),
    ("mission.yaml", include_str!("../../tests/it/documents/mission.yaml")),
];

fn check(name: &str, text: &str, convention: Option<Convention>) -> Verdict {
    let (_, claims) = document::read(name, text.as_bytes()).expect("a readable document");
    let force = convention.unwrap_or_default();
    let draft = draft_of(&claims, force).expect("a document that claims a plan");
    let facts = Facts {
        convention: force,
        named: convention.is_some(),
        available: claims.available_gpus.as_ref().map(|s| s.value),
        experts: claims.experts.as_ref().map(|s| s.value),
        gpu_bytes: None,
        spare: Spare::Violation,
        jobs: None,
    };
    check_claims(&claims, &draft, &facts)
}

fn find<'a>(verdict: &'a Verdict, rule: &str) -> &'a Finding {
    verdict.findings.iter().find(|f| f.rule == rule).unwrap_or_else(|| panic!("no {rule}: {:?}", verdict.findings))
}

#[test]
fn the_missions_document_never_passes() {
    for (name, text) in MISSION {
        let verdict = check(name, text, None);
        assert!(!verdict.holds(), "{name}");
        let g = &verdict.gpus;
        assert_eq!((g.available, g.needed, g.short), (Some(16), 32, 16), "{name}");
        assert_eq!(g.formula, "TP*EP*PP*DP = 2*4*2*2 = 32", "{name}");
        let rules: Vec<&str> = verdict.violations().map(|f| f.rule).collect();
        for rule in ["world", "formula", "gpus-claimed", "utilization-unit"] {
            assert!(rules.contains(&rule), "{name}: {rules:?}");
        }
        assert!(find(&verdict, "world").message.contains("200% of the 16 available: 16 short"), "{name}");
        let formula = find(&verdict, "formula");
        assert!(formula.message.contains("leaves EP out"), "{name}: {}", formula.message);
        assert_eq!((formula.claimed, formula.actual), (Some(8.0), Some(32.0)), "{name}");
        let unit = find(&verdict, "utilization-unit");
        assert!(unit.message.contains("bytes divided by gigabytes; 41.25 GB of 80 GB is 51.56%"), "{}", unit.message);
        assert_eq!((unit.claimed, unit.actual), (Some(51_562_500_000.0), Some(51.5625)), "{name}");
        assert!(verdict.violations().all(|f| f.line > 0), "{name}: {:?}", verdict.findings);
        assert_eq!(verdict.readings.len(), 8);
        for reading in &verdict.readings {
            let needed = if reading.convention == Product { 32 } else { 8 };
            assert_eq!((reading.needed, reading.holds()), (needed, false), "{name} {}", reading.convention);
        }
        let fixes: Vec<(&str, &str, u64)> =
            verdict.fixes.iter().map(|f| (f.change.as_str(), f.plan.as_str(), f.gpus)).collect();
        for fix in [
            ("EP 4 -> 2", "tp2 ep2 pp2 dp2", 16),
            ("TP 2 -> 1", "tp1 ep4 pp2 dp2", 16),
            ("DP 2 -> 1", "tp2 ep4 pp2 dp1", 16),
            ("PP 2 -> 1", "tp2 ep4 pp1 dp2", 16),
            ("DP 2 -> 4", "tp2 ep4 pp2 dp4", 16),
            ("GPUs 16 -> 32", "tp2 ep4 pp2 dp2", 32),
        ] {
            assert!(fixes.contains(&fix), "{name}: {fix:?} is not in {fixes:?}");
        }
        assert!(verdict.fixes.len() <= 12 && verdict.fixes.is_sorted_by_key(|f| f.changed), "{fixes:?}");
        for convention in Convention::ALL {
            assert!(!check(name, text, Some(convention)).holds(), "{name} {convention}");
        }
    }
}

#[test]
fn every_fix_holds_when_checked_alone() {
    for (name, text) in MISSION {
        for convention in Convention::ALL {
            for fix in check(name, text, Some(convention)).fixes {
                let draft = draft(&fix.plan, fix.convention);
                let verdict = check_draft(Framework::of(fix.convention), &draft, Some(fix.gpus), None);
                assert!(verdict.holds() && verdict.gpus.needed == fix.gpus, "{fix:?}: {:?}", verdict.findings);
            }
        }
    }
}

#[test]
fn a_folded_plan_is_told_from_a_wrong_one() {
    let text = include_str!("../../tests/it/documents/case-b.md");
    let verdict = check("case-b.md", text, None);
    assert!(!verdict.holds());
    assert_eq!(verdict.gpus.needed, 32);
    assert!(find(&verdict, "formula").message.contains("leaves EP out"));
    assert!(find(&verdict, "convention").message.contains("launchable as written in Megatron-LM"));
    let holds = |c: Convention| verdict.readings.iter().any(|r| r.convention == c && r.holds());
    assert!(!holds(Product) && holds(Megatron) && holds(Bridge) && holds(Convention::Torchtitan));
    assert!(verdict.fixes.iter().any(|f| f.changed == 0 && f.convention == Megatron));
    let sound = text.replace("51562500000.0%", "51.56%");
    assert!(check("b.md", &sound, Some(Megatron)).holds(), "{:?}", check("b.md", &sound, Some(Megatron)).findings);
    assert!(!check("b.md", &sound, None).holds());
}

#[test]
fn each_claim_is_recomputed() {
    let plan = "TP 2, EP 4, PP 2, DP 1 on 16 GPUs. ";
    let cases: [(&str, &[&str]); 17] = [
        ("", &[]),
        ("64 experts, 16 experts per GPU", &[]),
        ("64 experts, 8 experts per GPU", &["experts-per-gpu"]),
        ("66 experts", &["experts"]),
        ("Total GPUs = TP x EP x PP x DP = 16", &[]),
        ("Total GPUs = TP x EP x PP = 2 x 4 x 2 = 16", &[]),
        ("Total GPUs = TP x EP x PP x DP = 2 x 4 x 2 x 1 = 18", &["formula-arithmetic", "gpus-claimed"]),
        ("Total GPUs = TP x EP x PP x DP = 2 x 2 x 2 x 2 = 16", &["formula-arithmetic", "formula-arithmetic"]),
        ("The plan requires 12 GPUs.", &["gpus-claimed"]),
        ("Memory per GPU: 41.25 GB of 80 GB (51.56%)", &[]),
        ("Memory per GPU: 41.25 GB of 80 GB (61.56%)", &["utilization"]),
        ("Memory per GPU: 91 GB of 80 GB", &["memory"]),
        ("Memory utilization: 5156% of 80 GB", &["utilization-unit"]),
        ("Memory utilization: 120% of 80 GB", &["utilization"]),
        ("TP 4", &["contradiction"]),
        ("4 nodes with 8 GPUs each", &["contradiction"]),
        ("EDP 2", &["edp"]),
    ];
    for (claim, rules) in cases {
        let verdict = check("a.md", &format!("{plan}\n\n{claim}\n"), Some(Product));
        let found: Vec<&str> = verdict.violations().map(|f| f.rule).collect();
        assert_eq!(found, rules, "{claim}: {:?}", verdict.findings);
    }
    let typo = check("a.json", r#"{"tp": 2, "pp": 2, "expert_paralel_size": 4, "available_gpus": 4}"#, None);
    assert!(find(&typo, "unknown-key").message.contains("expert_parallel_size"));
}

#[test]
fn a_product_of_a_job_is_judged_as_the_rules_do() {
    let job = job("qwen3-30b-a3b", 16);
    for text in ["tp8", "tp8 dp2", "tp2 ep4 pp2", "tp16", "tp4 ep8 dp1"] {
        let draft = draft(text, Product);
        let refused = rules::judge(&job, None, &draft).rejections;
        let verdict = check_draft(None, &draft, None, Some(&job));
        let found: Vec<&str> = verdict.violations().map(|f| f.rule).filter(|r| *r != "memory").collect();
        assert_eq!(found.is_empty(), refused.is_empty(), "{text}: {found:?} {refused:?}");
    }
}

#[test]
fn huge_and_odd_numbers_get_an_answer() {
    for (text, gpus) in [
        ("tp1048576 ep1048576 pp1048576 dp1048576", 16),
        ("tp7 ep11 pp13 dp5", 720_720),
        ("tp2 ep4 pp2 dp2", 1_048_576),
        ("tp3", 1),
    ] {
        for convention in [Product, Megatron, Convention::Torchtitan, Convention::Deepspeed] {
            let verdict = check_draft(None, &draft(text, convention), Some(gpus), None);
            assert!(!verdict.holds() || convention != Product, "{text}");
            for reading in &verdict.readings {
                assert!(!reading.formula.is_empty());
            }
        }
    }
}
