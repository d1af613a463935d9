//! Files, folders, flags and formats around the verdict, and bytes that nobody would write.

use super::verify::{Checked, VerifyOutcome, VerifyRequest, run, run_on};
use crate::export::verify::{VerifyFormat, file, render};
use serde_json::Value;
use std::path::PathBuf;

const MISSION: &str = include_str!("../../tests/it/documents/mission.md");

fn plain() -> VerifyRequest {
    VerifyRequest::default()
}

fn error(name: &str, bytes: &[u8], request: &VerifyRequest) -> String {
    let text = run_on(name, bytes, request).expect_err(name).to_string();
    assert!(!text.contains('\n') && text.len() < 400, "{text}");
    text
}

/// A folder of this test's own, removed when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
        let path = std::env::temp_dir().join(format!("meshwright-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        for (file, bytes) in files {
            let file = path.join(file);
            std::fs::create_dir_all(file.parent().expect("a file in a folder")).expect("a folder that can be made");
            std::fs::write(file, bytes).expect("a file that can be written");
        }
        Self(path)
    }

    fn request(&self) -> VerifyRequest {
        VerifyRequest { paths: vec![self.0.display().to_string()], ..plain() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_json_is_the_contract() {
    let result = run_on("plan.md", MISSION.as_bytes(), &plain());
    let json = file(&Checked { file: "plan.md".into(), result });
    assert_eq!((&json["schema"], &json["file"], &json["holds"]), (&1.into(), &"plan.md".into(), &false.into()));
    assert_eq!(json["gpus"]["available"], 16);
    assert_eq!(json["gpus"]["needed"], 32);
    assert_eq!(json["gpus"]["formula"], "TP*EP*PP*DP = 2*4*2*2 = 32");
    let violations = json["violations"].as_array().expect("a list");
    assert!(violations.iter().all(|v| v["message"].is_string() && v["claimed"].is_number() && v["actual"].is_number()));
    let frameworks: Vec<&String> = json["by_framework"].as_object().expect("an object").keys().collect();
    assert_eq!(frameworks, ["product", "megatron", "bridge", "torchtitan", "deepspeed", "vllm", "sglang", "trtllm"]);
    for reading in json["by_framework"].as_object().expect("an object").values() {
        assert!(reading["holds"].is_boolean() && reading["needed"].is_number());
        assert!(reading["formula"].is_string() && reading["why"].is_string());
    }
    for fix in json["fixes"].as_array().expect("a list") {
        assert!(fix["change"].is_string() && fix["plan"].is_string() && fix["holds"] == true, "{fix}");
    }
}

#[test]
fn a_folder_is_linted_file_by_file() {
    let folder = Folder::new(
        "folder",
        &[
            ("b/bad.md", MISSION.as_bytes()),
            ("a-good.yaml", b"tp: 2\nep: 4\npp: 2\ndp: 1\ntotal_gpus: 16\n"),
            ("broken.json", b"{\"tp\": 2,\n\"ep\": }"),
            ("zero.txt", b"TP 2, EP 0"),
            ("notes.txt", b"Buy milk & <bread>"),
            ("weights.bin", &[0xff, 0xfe, 0]),
            ("latin.txt", b"TP 2 caf\xe9"),
            (".hidden.md", b"TP 0"),
        ],
    );
    let outcome = run(&folder.request()).expect("a readable document");
    let names: Vec<(bool, String)> =
        outcome.files.iter().map(|f| (f.holds(), f.file.rsplit('/').next().unwrap_or_default().to_owned())).collect();
    let expected = [(true, "a-good.yaml"), (false, "bad.md"), (false, "broken.json"), (false, "zero.txt")];
    assert_eq!(names, expected.map(|(holds, name)| (holds, name.to_owned())));
    assert_eq!(outcome.skipped.len(), 3, "{:?}", outcome.skipped);
    assert!(!outcome.holds());
    let text = render(&outcome, VerifyFormat::Table);
    assert!(text.contains("bad.md: FAILS: world: TP*EP*PP*DP = 2*4*2*2 = 32"), "{text}");
    assert!(text.contains("4 checked, 3 fail; 3 skipped"), "{text}");
    let json: Value = serde_json::from_str(&render(&outcome, VerifyFormat::Json)).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(4));
    assert_eq!(render(&outcome, VerifyFormat::Jsonl).lines().count(), 4);
    assert!(render(&outcome, VerifyFormat::Markdown).starts_with("| plan | verdict |"));

    let empty = Folder::new("empty", &[("readme.txt", b"nothing")]);
    assert!(run(&empty.request()).expect_err("a refusal").to_string().contains("at least one plan"));
}

#[test]
fn sarif_and_junit_are_well_formed() {
    let folder = Folder::new(
        "ci",
        &[("a \"<&>' 1.md", MISSION.as_bytes()), ("note.txt", b"no plan"), ("good.txt", b"tp2 ep4 pp2 dp1 on 16 GPUs")],
    );
    let outcome = run(&folder.request()).expect("a readable document");
    let sarif: Value = serde_json::from_str(&render(&outcome, VerifyFormat::Sarif)).expect("JSON");
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().expect("a list");
    let rules: Vec<&Value> =
        run["tool"]["driver"]["rules"].as_array().expect("a list").iter().map(|r| &r["id"]).collect();
    assert!(!results.is_empty() && results.iter().all(|r| rules.contains(&&r["ruleId"])));
    assert!(
        results
            .iter()
            .any(|r| { r["level"] == "error" && r["locations"][0]["physicalLocation"]["region"]["startLine"] == 16 })
    );
    let uri = &results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert!(uri.as_str().expect("a string").ends_with("a%20%22%3C&%3E'%201.md"), "{uri}");
    let xml = render(&outcome, VerifyFormat::Junit);
    assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\""), "{xml}");
    assert!(xml.contains("a &quot;&lt;&amp;&gt;&apos; 1.md"), "{xml}");
    balanced(&xml);
}

/// Every tag is closed in order, and text holds no bare `<` or `&`.
fn balanced(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in xml.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        for entity in text.split('&').skip(1).chain(tag.split('&').skip(1)) {
            let name = entity.split(';').next().expect("at least one");
            assert!(["amp", "lt", "gt", "quot", "apos"].contains(&name), "{entity}");
        }
        let name = tag.split([' ', '/']).next().expect("at least one");
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed));
        } else if !tag.ends_with(['/', '?']) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn what_is_no_plan_is_an_error_of_one_line() {
    let says = |name: &str, bytes: &[u8], words: &[&str]| {
        let text = error(name, bytes, &plain());
        for word in words {
            assert!(text.contains(word), "{name}: {text}");
        }
    };
    says("a.txt", b"TP 2\xff", &["a.txt", "not UTF-8", "byte 4"]);
    says("a.txt", b"", &["a.txt", "no plan"]);
    says("a.txt", b"Hello\nworld, 16 GPUs", &["no plan", "TP 2"]);
    says("a.json", b"{\"tp\": 2,\n\"ep\": }", &["a.json", "line 2", "JSON"]);
    says("a.yaml", b"tp: [2\nep: 4\n", &["a.yaml", "YAML"]);
    says("a.md", b"# Plan\nTP: 2\nEP: 0\n", &["a.md", "line 3: ep", "`0`", "cannot be 0"]);
    says("a.txt", b"TP 99999999999999999999", &["line 1: tp", "too large"]);
    says("a.txt", b"TP 4000000", &["line 1: tp", "4000000", "1048576"]);
    says("a.txt", b"TP 2 on 99999999 GPUs", &["line 1: available_gpus", "99999999", "1048576"]);
    says("a.txt", b"TP 2 on 0 GPUs", &["available_gpus", "`0`"]);
    let missing = VerifyRequest { paths: vec!["no/such/plan.md".into()], ..plain() };
    assert!(run(&missing).expect_err("a refusal").to_string().contains("no/such/plan.md"));
    assert!(run(&plain()).expect_err("a refusal").to_string().contains("PATH"));
    let noise = Folder::new("noise", &[("noise.txt", &vec![b'x'; 10 << 20])]);
    let request = VerifyRequest { paths: vec![noise.0.join("noise.txt").display().to_string()], ..plain() };
    assert!(run(&request).expect_err("a refusal").to_string().contains("larger than"));
}

#[test]
fn flags_are_facts_and_are_checked() {
    let with = |change: &dyn Fn(&mut VerifyRequest)| {
        let mut request = plain();
        change(&mut request);
        request
    };
    let plan = b"TP 2, EP 4, PP 2, DP 2".as_slice();
    assert!(run_on("a.txt", plan, &with(&|r| r.gpus = Some(32))).expect("a readable document").holds());
    assert!(
        run_on("a.txt", plan, &with(&|r| r.cluster = Some("4x8xH100".into()))).expect("a readable document").holds()
    );
    assert!(!run_on("a.txt", plan, &with(&|r| r.gpus = Some(16))).expect("a readable document").holds());
    let experts = with(&|r| (r.gpus, r.experts) = (Some(32), Some(66)));
    assert_eq!(
        run_on("a.txt", plan, &experts).expect("a readable document").violations().next().map(|f| f.rule),
        Some("experts")
    );
    // Heads of the model: 32 query heads, 4 KV heads.
    let heads = with(&|r| (r.gpus, r.model) = (Some(3), Some("qwen3-30b-a3b".into())));
    let verdict = run_on("a.txt", b"TP 3", &heads).expect("a readable document");
    assert!(verdict.violations().any(|f| f.rule == "heads" && f.message.contains("32")), "{:?}", verdict.findings);
    let named =
        run_on("a.txt", b"Qwen3-30B-A3B on 3 H100 GPUs, TP 3, Megatron-LM", &plain()).expect("a readable document");
    assert!(named.violations().any(|f| f.rule == "heads") && named.named, "{:?}", named.findings);
    // Case of the parameters alone: 235 billion of them do not fit on 8 GPUs in training.
    let big =
        run_on("a.txt", b"Qwen3-235B-A22B on 8 H100 GPUs, TP 8, Megatron-LM", &plain()).expect("a readable document");
    assert!(big.violations().any(|f| f.rule == "memory"), "{:?}", big.findings);
    // A document seldom tells the layout of its stages: only stages that no counting makes even are against it.
    for (text, holds) in [
        ("DeepSeek-V3, Megatron-LM: TP2 PP16 EP64 ETP1 on 1024 GPUs", true),
        ("DeepSeek-V3, Megatron-LM: TP2 PP16 EP64 on 1024 GPUs", false),
        ("Qwen3-235B-A22B, Megatron-LM: TP1 PP8 EP8 ETP1 on 64 GPUs", true),
        ("DeepSeek-V2 (60 layers), Megatron-LM: TP1 PP8 on 64 GPUs", false),
    ] {
        let verdict = run_on("a.txt", text.as_bytes(), &plain()).expect("a readable document");
        assert_eq!(verdict.holds(), holds, "{text}: {:?}", verdict.findings);
        assert!(verdict.findings.iter().any(|f| f.rule == "layers"), "{text}");
    }
    for (words, request) in [
        ("--framework", with(&|r| r.framework = Some("megatrn".into()))),
        ("--convention", with(&|r| r.convention = Some("x".into()))),
        ("--convention", with(&|r| (r.convention, r.framework) = (Some("product".into()), Some("vllm".into())))),
        ("--gpus", with(&|r| r.gpus = Some(0))),
        ("--gpus", with(&|r| (r.gpus, r.cluster) = (Some(8), Some("16xH100".into())))),
        ("--experts", with(&|r| r.experts = Some(0))),
        ("--experts", with(&|r| (r.experts, r.model) = (Some(64), Some("deepseek-v3".into())))),
        ("unknown model", with(&|r| r.model = Some("no-such-model".into()))),
    ] {
        let text = error("a.txt", plan, &request);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_job_file_is_judged_in_full() {
    let job = |plan: &str, framework: &str| {
        format!(
            r#"{{"model": "deepseek-ai/DeepSeek-V3", "cluster": "16xH200", "serve": {{"isl": 1024, "osl": 128, "concurrency": 16}},
            "framework": "{framework}", "plan": "{plan}"}}"#
        )
    };
    let verdict = |plan: &str, framework: &str| {
        run_on("job.json", job(plan, framework).as_bytes(), &plain()).expect("a readable document")
    };
    assert!(verdict("tp8 pp2 dp1 ep=false", "vllm").holds());
    let broken = verdict("tp5 pp1 dp1 ep=false", "vllm");
    assert!(broken.violations().any(|f| f.rule == "heads"), "{:?}", broken.findings);
    let text = error("job.json", job("tp0", "vllm").as_bytes(), &plain());
    assert!(text.contains("job.json") && text.contains("tp"), "{text}");
}

/// A small generator: the same documents on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides.max(1) as u64).unwrap_or(0)
    }
}

#[test]
fn mutated_documents_never_panic() {
    let seeds = [
        MISSION,
        include_str!("../../tests/it/documents/mission.txt"),
        include_str!("../../tests/it/documents/mission.json"),
        include_str!("../../tests/it/documents/mission.yaml"),
        "Qwen3-30B-A3B on 16 H100 80GB: TP 2, EP 8, PP 2, DP 4, vLLM, memory per GPU 41 GB, 16 experts per GPU",
        r#"{"plan": "tp8 ep2", "model": "deepseek-v3", "cluster": "16xH200", "train": {"seq_len": 4096}}"#,
    ];
    let scraps = [
        "0",
        "1",
        "3",
        "7",
        "16",
        "1048576",
        "1048577",
        "99999999999",
        "1e9",
        "-1",
        "%",
        "TP ",
        "EP ",
        "CP 4 ",
        "ETP 2 ",
        "EDP 3 ",
        "\n",
        "|",
        "x",
        "=",
        "{",
        "}",
        "\"",
        ": ",
        "GPUs",
        "experts",
        "SGLang ",
        "torchtitan ",
        "folded",
        "GiB",
        "\u{0}",
        "é",
    ];
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let requests = [plain(), VerifyRequest { gpus: Some(64), experts: Some(7), ..plain() }];
    for round in 0..1500 {
        let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
        for _ in 0..=dice.roll(6) {
            let at = dice.roll(text.len() + 1);
            match dice.roll(3) {
                0 if at < text.len() => {
                    text.remove(at);
                }
                1 if at < text.len() => text[at] = char::from(b'0' + u8::try_from(dice.roll(10)).unwrap_or(0)),
                _ => {
                    let scrap = scraps[dice.roll(scraps.len())];
                    text.splice(at..at, scrap.chars());
                }
            }
        }
        let text: String = text.into_iter().collect();
        for name in ["a.md", "a.json", "a.yaml"] {
            match run_on(name, text.as_bytes(), &requests[round % requests.len()]) {
                Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
                Ok(verdict) => {
                    let checked = vec![Checked { file: name.into(), result: Ok(verdict) }];
                    let outcome = VerifyOutcome { files: checked, skipped: Vec::new(), many: false };
                    for format in VerifyFormat::ALL {
                        assert!(!render(&outcome, format).is_empty());
                    }
                    balanced(&render(&outcome, VerifyFormat::Junit));
                }
            }
        }
    }
}
