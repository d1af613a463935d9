//! The command line as people and scripts meet it. Belongs here: exit codes, streams, files, formats, words of refusals.

use crate::schema::check;
use crate::tool::{Scratch, command, run, run_with, say};
use serde_json::Value;
use std::io::Read as _;
use std::process::Stdio;

const QWEN: &str = "--model qwen3-30b-a3b --cluster 16xH100";

#[test]
fn zero_when_something_is_found_one_when_nothing_two_when_the_question_is_wrong() {
    let cases: &[(&str, i32)] = &[
        ("plan --model qwen3-30b-a3b --cluster 16xH100 --top 1", 0),
        ("plan --model deepseek-v3 --cluster 8xH100 --serve", 1),
        ("plan --model deepseek-v4000 --cluster 8xH100", 2),
        ("estimate --model llama-3-8b --cluster 8xH100 tp2xpp1xdp4", 0),
        ("estimate --model llama-3-8b --cluster 8xH100 tp2xpp1xdp2", 1),
        ("estimate --model llama-3-8b --cluster 8xH100 tp2xqq1", 2),
        ("compare --model llama-3-8b --cluster 8xH100 tp8 tp4xdp2", 0),
        ("compare --model llama-3-8b --cluster 8xH100 tp8 tp4xdp4", 1),
        ("compare --model llama-3-8b --cluster 8xH100 tp8 tp", 2),
        ("what-if --model llama-3-8b --cluster 8xH100 --gpus 8,16", 0),
        ("what-if --model deepseek-v3 --cluster 8xH100 --gpus 1,2", 1),
        ("what-if --model llama-3-8b --cluster 8xH100 --gpus none", 2),
        ("launch --model llama-3-8b --cluster 8xH100 tp2xpp1xdp4", 0),
        ("launch --model llama-3-8b --cluster 8xH100 --framework megatron tp3", 1),
        ("launch --model llama-3-8b --cluster 8xH100", 2),
        ("explain --model llama-3-8b --cluster 8xH100 tp2xpp1xdp4", 0),
        ("explain --model deepseek-v3 --cluster 8xH100 --serve", 1),
        ("explain --model llama-3-8b", 2),
        ("list models", 0),
        ("list modles", 2),
        ("--help", 0),
        ("plan --help", 0),
        ("--version", 0),
        ("", 2),
        ("verify nowhere.md", 2),
        ("validate", 0),
        ("validate --frmat json", 2),
    ];
    for (line, code) in cases {
        let ran = say(line);
        assert_eq!(ran.code, Some(*code), "{line}\n{}{}", ran.stdout, ran.stderr);
        if *code == 2 {
            assert!(ran.refusal().starts_with("error: "), "{line}: {}", ran.stderr);
        } else {
            assert!(!ran.stdout.is_empty() || line.starts_with("launch"), "{line} answers on stdout");
        }
    }
}

#[test]
fn every_format_of_every_command_that_has_it() {
    for (command, formats) in [
        (format!("plan {QWEN} --top 3"), &["table", "json", "jsonl", "csv", "markdown", "html"][..]),
        (format!("estimate {QWEN} ep8xpp2"), &["table", "json", "jsonl"]),
        (format!("compare {QWEN} ep8xpp2 tp8xdp2"), &["table", "json", "markdown"]),
        (format!("what-if {QWEN} --gpus 8,16"), &["table", "json", "jsonl", "csv", "markdown", "html"]),
        (format!("explain {QWEN} ep8xpp2"), &["table", "json"]),
        (format!("launch {QWEN} ep8xpp2"), &["table", "json"]),
        ("list gpus".to_owned(), &["table", "json", "jsonl", "csv", "markdown"]),
        ("list rules".to_owned(), &["table", "json", "jsonl", "csv", "markdown"]),
    ] {
        for format in ["table", "json", "jsonl", "csv", "markdown", "html", "MARKDOWN", "yaml"] {
            let ran = say(&format!("{command} --quiet --format {format}"));
            if !formats.contains(&format.to_lowercase().as_str()) {
                assert!(ran.refusal().contains("--format"), "{}", ran.stderr);
                continue;
            }
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{command} {format}");
            assert!(ran.stdout.ends_with('\n') && !ran.stdout.contains('\u{1b}'), "{command} {format}");
            match format {
                "json" => assert_eq!(ran.json()["schema"], 1, "{command}"),
                "jsonl" => ran.stdout.lines().for_each(|l| assert!(serde_json::from_str::<Value>(l).is_ok(), "{l}")),
                "csv" => {
                    let columns: Vec<usize> = ran.stdout.split("\r\n").filter(|l| !l.is_empty()).map(fields).collect();
                    assert!(columns.len() > 1 && columns.windows(2).all(|w| w[0] == w[1]), "{}", ran.stdout);
                }
                "markdown" => {
                    assert!(ran.stdout.lines().all(|l| l.starts_with('|') && l.ends_with('|')), "{}", ran.stdout);
                }
                "html" => assert!(
                    ran.stdout.contains("<html")
                        && !ran.stdout.contains("http://")
                        && !ran.stdout.contains("src=\"http"),
                    "one page, nothing fetched"
                ),
                _ => {}
            }
        }
    }
}

/// Fields of a CSV record that may quote.
fn fields(line: &str) -> usize {
    let mut inside = false;
    1 + line
        .chars()
        .filter(|c| {
            if *c == '"' {
                inside = !inside;
            }
            *c == ',' && !inside
        })
        .count()
}

#[test]
fn the_result_is_on_stdout_and_the_rest_on_stderr() {
    let ran = say(&format!("plan {QWEN} --format json"));
    check("plan.json", &ran.json());
    assert!(ran.stderr.contains("plans in") && !ran.stdout.contains("plans/s"), "{}", ran.stderr);
    let quiet = say(&format!("plan {QWEN} --format json --quiet"));
    assert_eq!((quiet.stderr.as_str(), &quiet.stdout), ("", &ran.stdout), "the same bytes, and nothing beside");
    for flags in ["--threads 1", "--threads 2", "--threads 8", "--no-progress"] {
        assert_eq!(say(&format!("plan {QWEN} --format json {flags}")).stdout, ran.stdout, "{flags}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    for args in [&["list", "models", "--format", "json"][..], &["list", "rules"], &["plan", "--help"]] {
        let mut child = command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut first = [0; 16];
        out.read_exact(&mut first).unwrap();
        drop(out);
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    }
    let mut child = command()
        .args([
            "plan",
            "--model",
            "gpt2",
            "--cluster",
            "8xH100",
            "--top",
            "5000",
            "--variants",
            "5000",
            "--format",
            "json",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_result_file_appears_whole_or_not_at_all() {
    let here = Scratch::new();
    let file = here.file("plan.json", "old");
    let ran = run(&["plan", "--model", "gpt2", "--cluster", "1xH100", "--format", "json", "--output", &file]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    let text = std::fs::read_to_string(&file).unwrap();
    check("plan.json", &serde_json::from_str(&text).unwrap());
    assert_eq!(here.names(), ["plan.json"], "no parts are left");
    for bad in [here.path(""), here.path("no/such/folder.json"), "/".to_owned(), String::new()] {
        let ran = run(&["plan", "--model", "gpt2", "--cluster", "1xH100", "--quiet", "--output", &bad]);
        assert_eq!(ran.code, Some(2), "{bad}: {}", ran.stderr);
        assert_eq!(ran.refusal().lines().count(), 1);
    }
    assert_eq!(here.names(), ["plan.json"]);
    // A refused question leaves the file alone.
    run(&["plan", "--model", "gpt3000", "--cluster", "1xH100", "--output", &file]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_batch_goes_on_after_a_broken_line_and_keeps_order_and_ids() {
    let here = Scratch::new();
    let lines = [
        r#"{"id":1,"model":"gpt2","cluster":"8xH100","train":{"global_batch":8},"plan":"tp1 pp2 dp4"}"#,
        "not json",
        r#"{"id":{"a":[1]},"model":"gpt2","cluster":"8xH100","train":{"global_batch":8},"plan":"tp5"}"#,
        "",
        r#"{"id":"both","model":"gpt2","cluster":"8xH100","train":{},"serve":{},"plan":"tp1"}"#,
        r#"{"model":"gpt2","cluster":"8xH100","serve":{"isl":10,"osl":10},"plan":{"tp":4,"dp":2}}"#,
        r#"{"id":"no-plan","model":"gpt2","cluster":"8xH100","train":{}}"#,
        r#"{"id":"typo","model":"gpt2","cluster":"8xH100","train":{"seq_length":4096},"plan":"tp1"}"#,
        r#"{"id":"m","model":"qwen3-30b-a3b","cluster":"16xH100","train":{},"convention":"megatron","plan":{"tp":1,"pp":2,"ep":8,"etp":null}}"#,
    ];
    let file = here.file("jobs.jsonl", lines.join("\n"));
    let ran = run(&["estimate", "--batch", &file]);
    let answers: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let ids: Vec<Value> = answers.iter().map(|a| a.get("id").cloned().unwrap_or("none".into())).collect();
    assert_eq!(Value::from(ids).to_string(), r#"[1,"none",{"a":[1]},"both","none","no-plan","typo","m"]"#);
    let kinds: Vec<&str> = answers.iter().map(|a| a["verdict"].as_str().unwrap_or("error")).collect();
    assert_eq!(kinds, ["fits", "error", "rejected", "error", "fits", "error", "error", "fits"]);
    let error = |i: usize| answers[i]["error"].as_str().unwrap();
    assert!(error(1).contains("jobs.jsonl:2"), "{}", error(1));
    assert!(error(3).contains("exactly one of"), "{}", error(3));
    assert!(error(6).contains("seq_len"), "did you mean: {}", error(6));
    assert_eq!(answers[7]["plan"]["dp"], 8);
    assert_eq!(ran.code, Some(1));
    assert_eq!(run_with(&["estimate", "--batch", "-"], lines.join("\n").as_bytes()).stdout.lines().count(), 8);
    assert!(run_with(&["estimate", "--batch", "-"], b" \n\n").refusal().contains("--batch"));
    let all_good = run_with(&["estimate", "--batch", "-"], format!("{}\r\n", lines[0]).as_bytes());
    assert_eq!(all_good.code, Some(0), "{}", all_good.stdout);
}

#[test]
fn the_job_file_takes_exactly_one_workload() {
    let here = Scratch::new();
    let both = here.file("both.json", r#"{"model":"gpt2","cluster":"1xH100","train":{},"serve":{}}"#);
    assert!(run(&["plan", "--job", &both]).refusal().contains("exactly one of"));
    let serve = here.file("serve.json", r#"{"model":"gpt2","cluster":"1xH100","serve":{"isl":10,"osl":10}}"#);
    let ran = run(&["plan", "--job", &serve, "--format", "json", "--quiet"]);
    assert_eq!(ran.json()["job"]["serve"]["isl"], 10);
    let over = run(&["plan", "--job", &serve, "--osl", "20", "--cluster", "2xH100", "--format", "json", "--quiet"]);
    let job = &over.json()["job"];
    assert_eq!(
        (&job["serve"]["osl"], &job["serve"]["isl"], &job["cluster"]["gpus"]),
        (&20.into(), &10.into(), &2.into())
    );
}

#[test]
fn a_serving_flag_alone_asks_for_serving() {
    for flag in ["--isl 10", "--concurrency 2", "--weights bf16", "--engine-version 0.33"] {
        let ran = say(&format!("plan --model llama-3-8b --cluster 1xH100 --quiet --format json --osl 10 {flag}"));
        assert!(ran.json()["job"]["serve"].is_object(), "{flag}");
    }
    let alone = say("plan --model llama-3-8b --cluster 1xH100 --quiet --format json --engine-version 0.33");
    assert!(alone.json()["job"]["serve"].is_object(), "--engine-version means an engine");
}

/// Every axis of a sweep at once, and what holds for the whole of it.
#[test]
fn a_sweep_varies_everything() {
    let axes = ["--gpus", "4,8", "--hbm", "80 GiB,141 GiB", "--seq-lens", "2048,4096", "--prices", "$2/h,$4/h"];
    let more = ["--network", "100 Gb/s,400 Gb/s", "--largest", "model,batch,context"];
    let base = ["what-if", "--quiet", "--model", "qwen3-4b", "--cluster", "8xH100", "--format", "json"];
    let value = run(&[&base[..], &axes, &more].concat()).json();
    let results = value["results"].as_array().unwrap();
    assert_eq!(results.len(), 32);
    assert!(results.iter().all(|r| r["verdict"] == "fits"), "{results:#?}");
    assert_eq!(value["exhausted"], true);
    assert_eq!(value["smallest"].as_array().unwrap().len(), 16);
    assert_eq!(value["largest"].as_array().unwrap().len(), 3);
    // Twice the price is twice the cost; the same GPUs at the same speed.
    let of = |variant: &str| results.iter().find(|r| r["variant"] == variant && r["gpus"] == 8).unwrap();
    let (cheap, dear) = (of("100 Gb/s 80 GiB $2/h 2048 tokens"), of("100 Gb/s 80 GiB $4/h 2048 tokens"));
    let usd = |r: &Value| r["usd_per_million_tokens"].as_f64().unwrap();
    assert!((usd(dear) / usd(cheap) - 2.0).abs() < 1e-9);
    assert_eq!(cheap["plan"], dear["plan"]);
    for bad in ["--hbm 12", "--prices cheap", "--seq-lens 0", "--largest cluster", "--network fast", "--time-limit 0"] {
        let (flag, word) = bad.split_once(' ').unwrap();
        let ran = run(&["what-if", "--model", "qwen3-4b", "--cluster", "8xH100", flag, word]);
        assert!(ran.refusal().contains(flag), "{bad}: {}", ran.stderr);
    }
}

/// A count that no plan fills is answered with the best plan of fewer GPUs.
#[test]
fn odd_counts_name_their_idle_gpus() {
    let value = say("what-if --quiet --model qwen3-30b-a3b --cluster 8xH100 --gpus 8..=20 --format json").json();
    for r in value["results"].as_array().unwrap() {
        assert_eq!(r["used"].as_u64().unwrap() + r["idle"].as_u64().unwrap(), r["gpus"].as_u64().unwrap());
    }
    let of = |gpus: u64| value["results"].as_array().unwrap().iter().find(|r| r["gpus"] == gpus).unwrap().clone();
    let rates: Vec<f64> = (8..=20).map(|n| of(n)["tokens_per_s"].as_f64().unwrap()).collect();
    assert!(rates.windows(2).all(|w| w[1] >= w[0]), "more GPUs never do less: {rates:?}");
}

/// A search whose time is up gives what it has, and says so.
#[test]
fn a_time_limit_gives_the_best_so_far() {
    let line = "plan --model deepseek-v3 --cluster 16384xH100 --space folded --exhaustive --format json";
    let ran = say(&format!("{line} --time-limit 0.05"));
    assert!(ran.stderr.contains("time limit reached"), "{}", ran.stderr);
    let searched = &ran.json()["searched"];
    assert_eq!((&searched["stop"], &searched["exhausted"]), (&Value::from("time-limit"), &Value::from(false)));
    let share = searched["share"].as_f64().unwrap();
    assert!(share < 1.0, "{share}");
    let text = say(&format!("{} --time-limit 0.05", line.replace("json", "table"))).stdout;
    assert!(text.contains("time limit reached") && text.contains("of the plans were covered"), "{text}");
}

/// Other worlds: the winner's share, the robust choice, its regret.
#[test]
fn a_ranking_says_how_robust_it_is() {
    let ran = say(&format!("plan {QWEN} --quiet --robust 8 --format json"));
    let value = ran.json();
    let robust = &value["robustness"];
    assert_eq!(robust["worlds"], 8);
    assert!(robust["robust_choice"]["worst_regret"].as_f64() <= robust["winner"]["worst_regret"].as_f64());
    assert_eq!(robust["bands"].as_array().unwrap().len(), 7);
    assert!(say(&format!("plan {QWEN} --quiet --robust")).stdout.contains("robust choice"));
    assert!(say(&format!("plan {QWEN} --robust 8 --format csv")).refusal().contains("--robust"));
}

#[test]
fn a_typo_is_answered_with_what_was_meant() {
    for (line, meant) in [
        ("plan --model qwen3-30b-a3 --cluster 16xH100", "`qwen3-30b-a3b`"),
        ("plan --model qwen3-30b-a3b --cluster 16xH10", "h100"),
        ("plan --model qwen3-30b-a3b --cluster dgx-h10", "dgx-h100"),
        ("plan --modell qwen3-30b-a3b", "--model"),
        ("plan --model gpt2 --cluster 1xH100 --framework megatrn", "megatron"),
        ("plan --model gpt2 --cluster 1xH100 --objective throughputs", "throughput"),
        ("list framework", "frameworks"),
        ("plan --model gpt2 --cluster 1xH100 --precision bf61", "bf16"),
    ] {
        let ran = say(line);
        let said = ran.refusal();
        assert!(said.to_lowercase().contains(meant), "{line}: {said}");
    }
}

#[test]
fn broken_files_are_named() {
    let here = Scratch::new();
    let cases: [(&str, &[u8], &str); 7] = [
        ("latin.json", b"{\"model\":\"caf\xe9\"}", "UTF-8"),
        ("empty.json", b"", "EOF"),
        ("cut.json", b"{\"model\":", "line 1"),
        ("list.json", b"[]", "list.json"),
        ("number.json", b"17", "number.json"),
        ("two.json", b"{} {}", "two.json"),
        ("bom.json", b"\xef\xbb\xbf{\"model\":3}", "model"),
    ];
    for (name, bytes, word) in cases {
        let file = here.file(name, bytes);
        for flag in ["--job", "--model", "--cluster"] {
            let mut args = vec!["plan", flag, &file];
            if flag != "--model" && flag != "--job" {
                args.extend(["--model", "gpt2"]);
            }
            if flag == "--model" {
                args.extend(["--cluster", "1xH100"]);
            }
            let ran = run(&args);
            assert!(ran.refusal().contains(name), "{flag} {name}: {}", ran.stderr);
            if flag == "--job" {
                assert!(ran.stderr.contains(word), "{name}: {}", ran.stderr);
            }
        }
    }
    let folder = here.path("");
    for args in [
        &["plan", "--job", &folder][..],
        &["estimate", "--batch", &folder],
        &["plan", "--model", &folder, "--cluster", "1xH100"],
    ] {
        assert!(run(args).refusal().contains(folder.trim_end_matches('/')), "{args:?}");
    }
}

#[test]
fn a_config_json_and_its_folder_are_models() {
    let here = Scratch::new();
    let config = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":2048,"intermediate_size":8192,
        "num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":131072,
        "tie_word_embeddings":true,"head_dim":64}"#;
    let file = here.file("config.json", config);
    for model in [file, here.path("")] {
        let ran = run(&["plan", "--model", &model, "--cluster", "2xL40S", "--quiet", "--format", "json"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        // Llama-3.2-1B, as Meta counts it.
        assert_eq!(ran.json()["job"]["model"]["params"], 1_235_814_400_u64);
    }
    let missing = here.file("less.json", config.replace("\"hidden_size\":2048,", ""));
    assert!(run(&["plan", "--model", &missing, "--cluster", "2xL40S"]).refusal().contains("hidden_size"));
}

#[test]
fn numbers_beyond_reason_are_refused() {
    for flags in [
        "--seq-len 0",
        "--seq-len 4294967295",
        "--seq-len 99999999999999999999",
        "--global-batch 0",
        "--global-batch=-5",
        "--top 0",
        "--top 99999999999",
        "--threads 0",
        "--threads 99999",
        "--tp 0",
        "--tp 4294967296",
        "--pp 1..=99999999999",
        "--moe-balance nan",
        "--moe-balance inf",
        "--optimizer-offload nan",
        "--optimizer-offload 2",
        "--zero 4",
        "--zero=-1",
        "--serve --isl 0",
        "--serve --memory-fraction nan",
        "--serve --memory-fraction 1.5",
        "--serve --ttft-ms nan",
        "--serve --tpot-ms=-1",
        "--serve --prefix-hit 2",
        "--gpu-price=-1",
        "--gpu-price nan",
        "--micro-batch 0",
        "--vpp 0",
        "--recompute half",
        "--schedule 2f2b",
        "--cp 0",
    ] {
        let ran = say(&format!("plan --model gpt2 --cluster 1xH100 {flags}"));
        let flag = flags.split([' ', '=']).find(|w| *w != "--serve").unwrap().trim_start_matches("--");
        let said = ran.refusal().replace('_', "-");
        assert!(said.contains(flag), "{flags}: {said}");
    }
    for cluster in [
        "0xH100",
        "1048577xH100",
        "4294967296xH100",
        "99999999999999999999xH100",
        "65536x65536xH100",
        "1.5xH100",
        "x",
        "8x",
        "",
    ] {
        let ran = run(&["plan", "--model", "gpt2", "--cluster", cluster]);
        assert!(ran.refusal().contains("cluster") || ran.stderr.contains("gpu"), "{cluster}: {}", ran.stderr);
    }
}

#[test]
fn colours_only_where_a_person_looks() {
    for value in [None, Some("1")] {
        let mut command = command();
        command.args(["plan", "--model", "nobody", "--cluster", "1xH100"]);
        if let Some(value) = value {
            command.env("NO_COLOR", value);
        }
        let out = command.output().unwrap();
        assert!(!out.stderr.contains(&0x1b) && !out.stdout.contains(&0x1b), "a pipe is no person");
    }
    let out = command()
        .args(["plan", "--model", "nobody", "--cluster", "1xH100"])
        .env("NO_COLOR", "1")
        .env("CLICOLOR_FORCE", "1")
        .output()
        .unwrap();
    assert!(!out.stderr.contains(&0x1b), "NO_COLOR wins");
}

#[test]
fn pinned_axes_hold() {
    let ran = say(&format!(
        "plan {QWEN} --tp 1,2 --pp 2..=4 --ep 8 --micro-batch 1 --recompute full --zero 1 --quiet --format json --variants 9"
    ));
    let value = ran.json();
    let rows = value["results"].as_array().unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let plan = &row["plan"];
        assert!(plan["tp"].as_u64() <= Some(2) && (2..=4).contains(&plan["pp"].as_u64().unwrap()), "{plan}");
        assert_eq!(
            (&plan["ep"], &plan["micro_batch"], &plan["recompute"], &plan["zero"]),
            (&8.into(), &1.into(), &"full".into(), &1.into())
        );
    }
    let twice = say(&format!("plan {QWEN} --recompute full,full --zero 1,1 --quiet --format json")).json();
    let once = say(&format!("plan {QWEN} --recompute full --zero 1 --quiet --format json")).json();
    assert_eq!(twice["searched"], once["searched"], "a value said twice is one value");
}

/// Sensible, or a clear word that nothing fits and what is nearest; the table of the issue.
#[test]
fn the_four_models_on_the_clusters_of_the_issue() {
    for model in ["qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v3", "llama-3-70b"] {
        for (cluster, serve) in [
            ("16xH100", false),
            ("16xH100", true),
            ("64xH200", false),
            ("64xH200", true),
            ("18x4xGB200", false),
            ("18x4xGB200", true),
            ("1xL40S", false),
            ("1xL40S", true),
            ("3xA100", false),
            ("3xA100", true),
        ] {
            let mode = if serve { "--serve" } else { "--train" };
            let line = format!("plan --model {model} --cluster {cluster} {mode} --quiet");
            let (table, value) = (say(&line), say(&format!("{line} --format json")));
            assert!(matches!(table.code, Some(0 | 1)), "{line}: {:?}\n{}", table.code, table.stderr);
            assert_eq!((table.code, table.stderr.as_str()), (value.code, ""), "{line}");
            let value = value.json();
            check("plan.json", &value);
            let fits = table.code == Some(0);
            assert_eq!(fits, !value["results"].as_array().unwrap().is_empty(), "{line}");
            if !fits {
                assert!(
                    table.stdout.contains("no plan fits") && table.stdout.contains("nearest: "),
                    "{line}\n{}",
                    table.stdout
                );
                let layers = ["meshes", "plans"].map(|l| value["refused"][l].as_array().unwrap().clone()).concat();
                assert!(!layers.is_empty() && layers.iter().all(|t| t["nearest"].is_object()), "{line}");
            }
            // What must fit, and what cannot, whatever the calibration.
            let must = match (model, cluster, serve) {
                ("qwen3-30b-a3b", "16xH100" | "64xH200", _) | (_, "64xH200" | "18x4xGB200", true) => Some(true),
                ("mixtral-8x7b" | "llama-3-70b", "16xH100", _) | ("mixtral-8x7b" | "qwen3-30b-a3b", "3xA100", true) => {
                    Some(true)
                }
                ("deepseek-v3", "16xH100" | "3xA100" | "1xL40S", false)
                | (_, "1xL40S", false)
                | ("deepseek-v3", "1xL40S" | "3xA100", true) => Some(false),
                _ => None,
            };
            assert!(must.is_none_or(|must| must == fits), "{line}: {}", table.stdout);
        }
    }
}

/// A plan that was printed is a plan that can be typed.
#[test]
fn printed_plans_can_be_pasted_into_every_command() {
    for flags in [
        "--model qwen3-30b-a3b --cluster 16xH100",
        "--model qwen3-30b-a3b --cluster 16xH100 --framework megatron",
        "--model qwen3-30b-a3b --cluster 16xH100 --framework bridge",
        "--model qwen3-30b-a3b --cluster 16xH100 --framework torchtitan",
        "--model qwen3-30b-a3b --cluster 16xH100 --framework deepspeed",
        "--model deepseek-v3 --cluster 16xH200 --serve",
        "--model deepseek-v3 --cluster 16xH200 --framework vllm",
        "--model deepseek-v3 --cluster 16xH200 --framework sglang",
        "--model deepseek-v3 --cluster 16xH200 --framework trtllm",
    ] {
        let rows = say(&format!("plan {flags} --top 4 --quiet --format json")).json();
        for row in rows["results"].as_array().unwrap() {
            let text = row["plan"]["text"].as_str().unwrap();
            let mut args: Vec<&str> = vec!["estimate", "--quiet", "--format", "json"];
            args.extend(flags.split(' '));
            args.push(text);
            let ran = run(&args);
            assert_eq!(ran.code, Some(0), "{flags}: {text}: {}{}", ran.stdout, ran.stderr);
            let again = ran.json();
            for key in ["plan", "memory", "train", "serve"] {
                assert_eq!(again.get(key), row.get(key), "{flags}: {text}: {key}");
            }
            args[0] = "explain";
            assert_eq!(run(&args).code, Some(0), "explain {flags}: {text}");
        }
    }
}

#[test]
fn a_plan_from_folded_space_can_be_pasted_too() {
    for flags in ["--model qwen3-30b-a3b --cluster 16xH100", "--model qwen3-30b-a3b --cluster 16xH100 --serve"] {
        let rows = say(&format!("plan {flags} --space folded --top 10 --quiet --format json")).json();
        for row in rows["results"].as_array().unwrap() {
            let (text, convention) =
                (row["plan"]["text"].as_str().unwrap(), row["plan"]["convention"].as_str().unwrap());
            let mut args: Vec<&str> = vec!["estimate", "--quiet", "--format", "json"];
            args.extend(flags.split(' '));
            // A framework's convention brings its rules: serving in Megatron's words has no framework.
            args.extend(["--convention", convention, text]);
            let ran = run(&args);
            assert_eq!(ran.code, Some(0), "{flags} --convention {convention} {text}: {}", ran.stderr);
        }
    }
}

#[test]
fn idle_gpus_are_named() {
    let ran = say("plan --model llama-3-8b --cluster 7xH100 --serve --tp 2 --use-fewer --quiet --format json");
    let value = ran.json();
    for row in value["results"].as_array().unwrap() {
        let plan = &row["plan"];
        assert_eq!(plan["gpus"].as_u64().unwrap() + plan["idle_gpus"].as_u64().unwrap(), 7, "{plan}");
    }
    assert_eq!(value["results"][0]["plan"]["idle_gpus"], 1);
    let table = say("plan --model llama-3-8b --cluster 7xH100 --serve --tp 2 --use-fewer --quiet").stdout;
    assert!(table.contains("1 of 7 GPUs idle"), "{table}");
}

/// The mission's document in the four forms people keep plans in.
fn documents() -> [(&'static str, String); 4] {
    let text = "Strategy: TP 2, EP 4, PP 2, DP 2 for 16 GPUs, 64 experts\n\
        Total GPUs required = PP x TP x DP = 2 x 2 x 2 = 8\n\
        Memory: 41.25 GB of 80 GB, memory utilisation 51562500000.0%\n";
    let json = r#"{"gpus": 16, "num_experts": 64, "strategy": {"tp": 2, "ep": 4, "pp": 2, "dp": 2},
        "formula": "Total GPUs required = PP x TP x DP = 2 x 2 x 2 = 8", "memory_utilisation": "51562500000.0%",
        "memory": "41.25 GB of 80 GB"}"#;
    let yaml = "gpus: 16\nnum_experts: 64\nstrategy:\n  tp: 2\n  ep: 4\n  pp: 2\n  dp: 2\n\
        formula: \"Total GPUs required = PP x TP x DP = 2 x 2 x 2 = 8\"\n\
        memory_utilisation: 51562500000.0%\nmemory: 41.25 GB of 80 GB\n";
    [
        ("plan.txt", text.to_owned()),
        ("plan.md", crate::schema::DOCUMENT.to_owned()),
        ("plan.json", json.to_owned()),
        ("plan.yaml", yaml.to_owned()),
    ]
}

#[test]
fn us2_the_missions_document_never_passes() {
    let here = Scratch::new();
    for (name, text) in documents() {
        let file = here.file(name, text);
        let said = run(&["verify", &file]);
        assert_eq!(said.code, Some(1), "{name}: {}", said.stderr);
        for fact in
            ["32", "200%", "16 short", "leaves EP out", "not 8", "41.25 GB of 80 GB", "51.56%", "Megatron-LM", "vLLM"]
        {
            assert!(said.stdout.contains(fact), "{name}: `{fact}` in\n{}", said.stdout);
        }
        for fix in ["EP 4 -> 2", "32 experts on a GPU", "TP 2 -> 1", "DP 2 -> 1", "tp2 ep2 pp2 dp2", "tp1 ep4 pp2 dp2"]
        {
            assert!(said.stdout.contains(fix), "{name}: `{fix}` in\n{}", said.stdout);
        }
        let ran = run(&["verify", "--format", "json", &file]);
        assert_eq!(ran.code, Some(1));
        let value = ran.json();
        check("verify.json", &value);
        let rules: Vec<&str> =
            value["violations"].as_array().unwrap().iter().map(|v| v["rule"].as_str().unwrap()).collect();
        assert_eq!(rules, ["world", "formula", "gpus-claimed", "utilization-unit"], "{name}");
        assert!(value["by_framework"].as_object().unwrap().values().all(|f| f["holds"] == false), "{name}");
        // Every fix on the same GPUs is itself a document that holds, where the product convention reads it.
        for fix in value["fixes"].as_array().unwrap() {
            if fix["convention"].as_str().is_some_and(|c| c != "product") {
                continue;
            }
            let degrees: Vec<u64> = fix["plan"]
                .as_str()
                .unwrap()
                .split(' ')
                .map(|w| w.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().unwrap())
                .collect();
            let from_megatron = fix["change"].as_str().unwrap() == "DP 2 -> 4";
            assert!(from_megatron || degrees.iter().product::<u64>() == fix["gpus"].as_u64().unwrap(), "{fix}");
        }
    }
    let folder = run(&["verify", "--format", "json", &here.path("")]);
    assert_eq!((folder.code, folder.json().as_array().map(Vec::len)), (Some(1), Some(4)), "linted file by file");
    let piped = run_with(&["verify", "-"], documents()[0].1.as_bytes());
    assert_eq!(piped.code, Some(1), "{}", piped.stderr);
}

/// The same four factors with PP 4 and EP 2: wrong as a product, right as Megatron flags.
#[test]
fn us2_a_document_that_frameworks_can_start_says_so() {
    let text = "16 GPUs of 80 GB, 64 experts.\nStrategy: TP 2, PP 4, DP 2, EP 2\nTotal GPUs required = TP x PP x DP = 2 x 4 x 2 = 16\n";
    let ran = run_with(&["verify", "--format", "json", "-"], text.as_bytes());
    assert_eq!(ran.code, Some(1));
    let value = ran.json();
    check("verify.json", &value);
    let holds = |f: &str| value["by_framework"][f]["holds"].as_bool().unwrap();
    assert_eq!([holds("product"), holds("megatron"), holds("torchtitan")], [false, true, true]);
    let named = run_with(&["verify", "--framework", "megatron", "-"], text.as_bytes());
    assert_eq!(named.code, Some(0), "with its framework named it holds:\n{}{}", named.stdout, named.stderr);
}

#[test]
fn a_document_that_holds_gives_zero_and_one_without_a_plan_two() {
    let good =
        "16 GPUs, 64 experts. Strategy: TP 2, EP 2, PP 2, DP 2. Total GPUs = TP x EP x PP x DP = 2 x 2 x 2 x 2 = 16\n";
    for format in ["table", "json", "jsonl", "markdown", "sarif", "junit"] {
        let ran = run_with(&["verify", "--format", format, "-"], good.as_bytes());
        assert_eq!(ran.code, Some(0), "{format}: {}{}", ran.stdout, ran.stderr);
        assert!(!ran.stdout.is_empty());
    }
    let here = Scratch::new();
    for (name, bytes) in [("empty.md", &b""[..]), ("binary.md", b"\xff\xfe"), ("poem.md", b"Roses are red.\n")] {
        let file = here.file(name, bytes);
        let ran = run(&["verify", &file]);
        assert!(ran.refusal().contains(name), "{}", ran.stderr);
    }
    assert!(say("verify nowhere/at/all.md").refusal().contains("nowhere/at/all.md"));
}

#[test]
fn a_line_of_a_batch_that_is_no_text_spoils_only_itself() {
    let good = r#"{"id":1,"model":"gpt2","cluster":"8xH100","train":{"global_batch":8},"plan":"tp1 pp2 dp4"}"#;
    let ran = run_with(&["estimate", "--batch", "-"], &[b"a\xff\n", good.as_bytes(), b"\n"].concat());
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(1), 2), "{}", ran.stderr);
}

/// Two numbers that differ are not printed as the same.
#[test]
fn a_refusal_does_not_print_equal_numbers() {
    let value = say(&format!("plan {QWEN} --framework megatron --quiet --format json")).json();
    let tallies = ["meshes", "plans"].map(|l| value["refused"][l].as_array().unwrap().clone()).concat();
    let memory = tallies.iter().find(|t| t["rule"] == "memory").expect("some plans are too large");
    let message = memory["nearest"]["message"].as_str().unwrap();
    let sizes: Vec<&str> = message.split(' ').filter(|w| w.parse::<f64>().is_ok()).collect();
    assert!(sizes.len() == 2 && sizes[0] != sizes[1], "{message}");
}
