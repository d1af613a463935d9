//! Questions of people who buy and run serving clusters, each in one command as they would type it.

use crate::tool::{Scratch, run, say};
use serde_json::Value;

fn serve(line: &str) -> Value {
    let ran = say(&format!("plan --serve --quiet --format json {line}"));
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.stderr);
    ran.json()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

const LLAMA: &str = "--model llama-3-70b --isl 2000 --osl 300";

#[test]
fn targets_alone_ask_for_the_most_requests_in_flight() {
    let loose = serve(&format!("{LLAMA} --cluster 8xH100 --tpot 60 --ttft 2000"));
    let tight = serve(&format!("{LLAMA} --cluster 8xH100 --tpot 20 --ttft 2000"));
    let best = |v: &Value| v["results"][0]["serve"].clone();
    assert!(number(&best(&loose), "concurrency") > 2.0 * number(&best(&tight), "concurrency"));
    assert!(number(&best(&loose), "tpot_s") <= 0.06 && number(&best(&tight), "tpot_s") <= 0.02);
    assert!(loose["job"]["serve"]["concurrency"].is_null(), "the requests in flight are the answer");
    // With a number of requests a target refuses, as before.
    let fixed = say(&format!("plan --serve --quiet {LLAMA} --cluster 8xH100 --tpot 20 --concurrency 512"));
    assert_eq!(fixed.code, Some(1), "{}", fixed.stdout);
    assert!(fixed.stdout.contains("a token takes"), "{}", fixed.stdout);
}

#[test]
fn a_rate_asks_for_the_fewest_gpus() {
    let line = format!("{LLAMA} --cluster 64xH100 --rate 20 --ttft 1000 --tpot 40");
    let answer = serve(&line);
    let best = &answer["results"][0];
    let (replicas, each) = (number(&best["plan"], "replicas"), number(&best["plan"], "gpus_per_replica"));
    assert!((replicas * each + number(&best["plan"], "idle_gpus") - 64.0).abs() < 1e-9);
    assert!((number(&best["serve"], "requests_per_s") - 20.0).abs() < 1e-9);
    // Twice the load takes more, the same load under tighter targets no fewer.
    let gpus = |line: &str| number(&serve(line)["results"][0]["plan"], "gpus");
    assert!(gpus(&format!("{LLAMA} --cluster 64xH100 --rate 40 --ttft 1000 --tpot 40")) > replicas * each);
    assert!(
        gpus(&format!("{LLAMA} --cluster 64xH100 --rate 20 --ttft 1000 --tpot 40 --percentile p99")) >= replicas * each
    );
    let text = say(&format!("plan --serve --quiet {line}")).stdout;
    assert!(text.contains("fewest GPUs for 20 requests/s: ") && text.contains(" GPUs = "), "{text}");
    let beyond = say(&format!("plan --serve --quiet {LLAMA} --cluster 8xH100 --rate 200"));
    assert_eq!(beyond.code, Some(1));
    assert!(
        beyond.stdout.contains("200 requests/s take ") && beyond.stdout.contains("and there are 8"),
        "{}",
        beyond.stdout
    );
}

#[test]
fn several_gpu_types_for_one_load_in_one_command() {
    let ran = say(&format!(
        "what-if --serve --quiet {LLAMA} --cluster 64xH100 --gpu-types h100,h200,b200 --rate 20 --tpot 40 --format json"
    ));
    let value = ran.json();
    let used: Vec<f64> = value["results"].as_array().unwrap().iter().map(|r| number(r, "used")).collect();
    assert!(used.len() == 3 && used.iter().all(|n| *n > 0.0 && *n < 64.0) && used[2] < used[0], "{used:?}");
}

#[test]
fn dollars_in_and_out_add_up() {
    let answer = serve(&format!("{LLAMA} --cluster 8xH100 --concurrency 64 --gpu-price $3/h"));
    for row in answer["results"].as_array().unwrap() {
        let request =
            number(row, "usd_per_million_input_tokens") * 2000.0 + number(row, "usd_per_million_output_tokens") * 300.0;
        let paid = 3.0 * 8.0 / 3600.0 / number(&row["serve"], "requests_per_s") * 1e6;
        assert!((request / paid - 1.0).abs() < 1e-9, "{request} {paid}");
    }
}

#[test]
fn percentiles_rise_and_spread_with_the_load_and_the_lengths() {
    let line = "--model llama-3-70b --cluster 8xH100 --tp 8";
    let at = |flags: &str| serve(&format!("{line} {flags}"))["results"][0]["serve"].clone();
    for flags in ["--arrivals steady", "--arrivals burst10x", "--arrivals poisson"] {
        let s = at(flags);
        for name in ["ttft", "tpot"] {
            let all = ["p50", "p90", "p95", "p99"].map(|p| number(&s, &format!("{name}_{p}_s")));
            assert!(all.windows(2).all(|w| w[0] <= w[1]), "{flags} {name} {all:?}");
        }
    }
    let here = Scratch::new();
    let file = here.file("answers.csv", "tokens,count\n100,70\n300,20\n1700,10\n# a comment\n");
    let point = at("--arrivals poisson --rate 3 --isl 2000 --osl 300");
    let spread = at(&format!("--arrivals poisson --rate 3 --isl 2000,1200,6500 --osl {file}"));
    assert!(number(&spread, "ttft_p95_s") > 1.5 * number(&point, "ttft_p95_s"), "{spread} {point}");
}

#[test]
fn answers_of_one_token_cost_no_less_than_nothing() {
    let line =
        "--model gpt2 --cluster 1xH100 --framework sglang --isl 64 --osl 1 --concurrency 100000 --arrivals burst10x";
    let answer = serve(line);
    let row = &answer["results"][0];
    let mut figures = row["serve"].as_object().unwrap().values().filter_map(Value::as_f64);
    assert!(figures.all(|v| v >= 0.0) && number(row, "usd_per_million_input_tokens") >= 0.0, "{row}");
}

#[test]
fn the_frontier_is_drawn_and_written_in_every_format() {
    let line = "plan --serve --quiet --pareto --model qwen3-30b-a3b --cluster 8xH100";
    let text = say(line).stdout;
    assert!(text.is_ascii() && text.contains("tokens/s/user\n") && text.contains("  a  tp"), "{text}");
    assert!(text.lines().take_while(|l| !l.contains('#')).all(|l| l.len() <= 130), "{text}");
    let json = say(&format!("{line} --format json")).json();
    let points = json["frontier"].as_array().unwrap();
    assert!(points.len() > 3 && points.iter().all(|p| p["concurrency"].as_f64() > Some(0.0)));
    let pairs: Vec<(f64, f64)> =
        points.iter().map(|p| (number(p, "tokens_per_s_per_gpu"), number(p, "tokens_per_s_per_user"))).collect();
    assert!(pairs.windows(2).all(|w| w[0].0 >= w[1].0 && w[0].1 <= w[1].1), "{pairs:?}");
    let csv = say(&format!("{line} --format csv")).stdout;
    assert_eq!(csv.lines().count(), points.len() + 1);
    assert!(csv.lines().next().unwrap().contains("pareto") && csv.lines().nth(1).unwrap().ends_with("true"), "{csv}");
    assert!(say(&format!("{line} --format markdown")).stdout.lines().count() == points.len() + 2);
    let html = say(&format!("{line} --format html")).stdout;
    assert!(html.contains("<svg") && html.matches("<circle").count() >= points.len() && !html.contains("<script"));
    assert_eq!(say(&format!("{line} --threads 1")).stdout, text, "any number of threads");
}

#[test]
fn prefill_and_decode_apart() {
    let line = "plan --serve --quiet --disaggregated --model deepseek-v3 --cluster 32xH200 --isl 4000 --osl 500 --tpot 40 --ttft 2000";
    let text = say(line).stdout;
    assert!(text.contains("apart pays at") && text.contains("KV cache: 268.1 MiB"), "{text}");
    let json = say(&format!("{line} --format json")).json();
    let rungs = json["disaggregated"].as_array().unwrap();
    let asked =
        rungs.iter().find(|r| (number(r, "tpot_target_s") - 0.04).abs() < 1e-12).expect("the target's own rung");
    let apart = &asked["apart"];
    assert!(number(apart, "ttft_s") <= 2.0 && number(apart, "tpot_s") <= 0.04, "{apart}");
    for pool in ["prefill", "decode"] {
        let p = &apart[pool];
        assert!(
            number(p, "workers") * number(p, "requests_per_s_per_worker")
                >= number(apart, "requests_per_s") * (1.0 - 1e-9)
        );
    }
    for format in ["csv", "markdown", "jsonl", "html"] {
        let out = say(&format!("{line} --format {format}"));
        assert!(out.code == Some(0) && out.stdout.lines().count() >= rungs.len(), "{format}");
    }
    assert!(say("plan --disaggregated --model gpt2 --cluster 8xH100").refusal().contains("serving"));
}

#[test]
fn two_nodes_four_ways() {
    let line = "compare --serve --quiet --model deepseek-v3 --cluster 2x8xH100 tp16 tp8xpp2 dp16+ep16 tp8+ep16";
    let text = say(line).stdout;
    for words in [
        "122 tp all_reduce over network",
        "122 tp all_reduce inside domain; 1 pp send_recv over network",
        "58 ep dispatch over network; 58 ep combine over network",
        "tp8 ep16 pp1 dp2 etp1",
        "most tokens per second by requests in flight: tp8xpp2 at any load",
        "KV tokens, total",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Long prompts on one rank stall all others; short ones with long answers pay for wide expert parallelism.
    let line = format!("{line} --isl 1024 --osl 4096");
    let text = say(&line).stdout;
    for words in ["most tokens per second by requests in flight: tp8xpp2 up to ", ", dp16+ep16 from "] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = say(&format!("{line} --format json")).json();
    let leads = json["leads"].as_array().unwrap();
    assert_eq!((&leads[0]["plan"], &leads[0]["from_concurrency"]), (&"tp8xpp2".into(), &1.into()));
    assert_eq!(leads.last().unwrap()["plan"], "dp16+ep16");
    assert!(
        say("compare --serve --model deepseek-v3 --cluster 2x8xH100 tp3+ep16").refusal().contains("divide the 16 GPUs")
    );
}

#[test]
fn speculative_tokens_are_said_to_be_assumed() {
    let line = format!("plan --serve --quiet {LLAMA} --cluster 8xH200 --concurrency 4 --objective latency");
    let tpot =
        |flags: &str| number(&say(&format!("{line} --format json {flags}")).json()["results"][0]["serve"], "tpot_s");
    assert!(tpot("--mtp 1") < tpot("") && tpot("--mtp 1 --mtp-acceptance 0") > tpot(""));
    assert!(say(&format!("{line} --mtp 1")).stdout.contains("measured on random prompts"));
}

#[test]
fn bad_loads_are_refused_in_one_line() {
    let here = Scratch::new();
    let bins = here.file("bins.csv", "tokens,count\n100,5\nmany,3\n");
    for (flags, word) in [
        ("--rate 0", "rate"),
        ("--rate nan", "rate"),
        ("--rate 1e9", "rate"),
        ("--rate 3 --concurrency 5", "concurrency"),
        ("--rate 3 --arrivals burst10x", "burst"),
        ("--percentile p42", "percentile"),
        ("--isl 0", "isl"),
        ("--isl 100,200", "isl"),
        ("--isl 300,200,100", "isl"),
        ("--osl nowhere.csv", "nowhere.csv"),
        (&format!("--osl {bins}"), "bins.csv:3"),
        ("--mtp 99", "mtp"),
        ("--mtp-acceptance 2", "mtp_acceptance"),
        ("--ttft=-3", "ttft"),
        ("--disaggregated --rate 3", "--rate"),
    ] {
        let mut args = vec!["plan", "--serve", "--model", "llama-3-8b", "--cluster", "8xH100"];
        args.extend(flags.split(' '));
        let ran = run(&args);
        let said = ran.refusal();
        assert!(said.contains(word), "{flags}: {said}");
    }
}
