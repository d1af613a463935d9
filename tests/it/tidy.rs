//! The repository holds itself to its own rules. Belongs here: checks of sources, data files and documents as text.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under a folder, sorted.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { out.push(path) }
        }
    }
    out.sort();
    out
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// Rooms of the core, then of the shell: a room may use those before it.
///
/// `architecture.md` puts search before rank; search keeps the best rows and so uses rank.
const CORE: [&str; 21] = [
    "units",
    "model",
    "cluster",
    "lengths",
    "job",
    "mesh",
    "plan",
    "framework",
    "rules",
    "space",
    "cost",
    "estimate",
    "rank",
    "search",
    "goal",
    "robust",
    "claim",
    "verify",
    "validate",
    "explain",
    "lib",
];
const SHELL: [&str; 9] = ["error", "huggingface", "catalog", "import", "export", "launch", "reference", "cli", "main"];

fn room(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The code of a file: no comments, no tests. `lib.rs` names every room, and is no room.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let mut out = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("mod tests {") {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        if !code.trim().is_empty() {
            out.push((at + 1, code.to_owned()));
        }
    }
    out
}

/// Files that only tests see.
fn is_test(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name == "tests.rs" || name.ends_with("_tests.rs") || short(path) == "src/rules/facts.rs"
}

fn sources() -> Vec<PathBuf> {
    files("src").into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs") && !is_test(p)).collect()
}

#[test]
fn every_room_has_its_place_in_the_order() {
    for path in sources() {
        let room = room(&path);
        assert!(
            CORE.contains(&room.as_str()) || SHELL.contains(&room.as_str()),
            "{room}: give it a place in CORE or SHELL"
        );
    }
}

#[test]
fn rooms_use_only_rooms_before_them() {
    let order: Vec<&str> = CORE.iter().chain(&SHELL).copied().collect();
    let place = |room: &str| order.iter().position(|r| *r == room);
    let mut wrong = Vec::new();
    for path in sources() {
        let own = room(&path);
        if own == "lib" {
            continue;
        }
        for (line, code) in code(&path) {
            for used in code.split("crate::").skip(1) {
                let name: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if name != own && place(&name) > place(&own) {
                    wrong.push(format!("{}:{line}: {own} uses {name}", short(&path)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_reads_no_file_no_clock_and_prints_nothing() {
    let shell = [
        "std::fs",
        "std::env",
        "std::time",
        "std::io",
        "println!",
        "print!",
        "eprintln!",
        "clap",
        "indicatif",
        "std::process",
    ];
    let mut wrong = Vec::new();
    for path in sources().iter().filter(|p| CORE.contains(&room(p).as_str())) {
        for (line, code) in code(path) {
            for word in shell.iter().filter(|w| code.contains(**w)) {
                wrong.push(format!("{}:{line}: {word}", short(path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_source_file_is_long() {
    const MOST: usize = 700;
    let long: Vec<String> = sources()
        .iter()
        .map(|p| (p, fs::read_to_string(p).unwrap().lines().count()))
        .filter(|(_, lines)| *lines >= MOST)
        .map(|(p, lines)| format!("{}: {lines} lines", short(p)))
        .collect();
    assert!(long.is_empty(), "cut these at a seam: {}", long.join(", "));
}

#[test]
fn every_data_file_has_a_source_and_a_place_in_the_list() {
    let list = fs::read_to_string(root().join("src/catalog/list.rs")).unwrap();
    for kind in ["models", "gpus", "clusters"] {
        for path in files(&format!("configs/{kind}")) {
            let name = short(&path);
            let value: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let sources = value["source"].as_array().unwrap_or_else(|| panic!("{name}: `source` is a list"));
            assert!(
                !sources.is_empty() && sources.iter().all(|s| s.as_str().is_some_and(|s| !s.trim().is_empty())),
                "{name}"
            );
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert_eq!(value["name"], stem, "{name} is named as its file");
            assert!(
                list.contains(&format!("\"{stem}\"")) || list.contains(&format!("/{stem}.json")),
                "{name} is not in src/catalog/list.rs"
            );
        }
    }
}

#[test]
fn job_files_read() {
    for path in files("configs/jobs") {
        let name = short(&path);
        let text = fs::read_to_string(&path).unwrap();
        let file = meshwright::import::job::JobFile::parse(&name, &text).unwrap_or_else(|e| panic!("{e}"));
        file.read(&name).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// What git tracks, as text.
fn tracked() -> BTreeMap<String, String> {
    let out = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    // A source archive has no git: its files are what was tracked.
    let Some(out) = out.ok().filter(|o| o.status.success()) else { return BTreeMap::new() };
    let names = String::from_utf8(out.stdout).unwrap();
    names
        .split('\0')
        .filter(|n| !n.is_empty())
        .filter_map(|n| Some((n.to_owned(), fs::read_to_string(root().join(n)).ok()?)))
        .collect()
}

#[test]
fn no_file_names_a_machine() {
    let own = short(&root().join(file!()));
    // Written in halves, so that this file does not name them itself.
    let places = [["../", "shared"], ["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"]].map(|halves| halves.concat());
    let mut wrong = Vec::new();
    for (name, text) in tracked() {
        if name == own {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            if let Some(place) = places.iter().find(|p| line.contains(p.as_str())) {
                wrong.push(format!("{name}:{}: {place}", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_changelog_has_this_version() {
    let Ok(text) = fs::read_to_string(root().join("CHANGELOG.md")) else { return };
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "CHANGELOG.md does not name {}", env!("CARGO_PKG_VERSION"));
}

/// Commands of the `console` blocks of a document: lines that start with `$ `, continued with a backslash.
fn commands(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let (mut inside, mut open) = (false, false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside && line.contains("```console");
            open = false;
        } else if inside && (open || line.starts_with("$ ")) {
            let part = if open { line.trim() } else { &line[2..] };
            let (word, more) = part.strip_suffix('\\').map_or((part, false), |w| (w, true));
            if open && let Some(last) = out.last_mut() {
                last.push_str(word);
            } else {
                out.push(word.to_owned());
            }
            open = more;
        }
    }
    out
}

/// A command of the README as a shell runs it with the built binary; `None` for those that build or test.
fn with_the_binary(command: &str) -> Option<String> {
    let bare = command.replace("cargo run --release --quiet -- ", "meshwright ");
    let bare = bare.replace("cargo run --release -- ", "meshwright ");
    bare.starts_with("meshwright ").then_some(bare)
}

/// What a command says, and how it ended.
fn said(command: &str) -> (Option<i32>, String, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_meshwright")).parent().unwrap().display().to_string();
    let path = format!("{binary}:{}", std::env::var("PATH").unwrap_or_default());
    let out = Command::new("bash")
        .args(["-c", command])
        .current_dir(root())
        .env("PATH", &path)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

/// Every command of the README ends as the README says: `# exit 1` after it, or 0.
#[test]
fn the_readme_runs() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let mut ran = 0;
    for command in commands(&text) {
        let Some(command) = with_the_binary(&command) else { continue };
        let (command, expected) = command.split_once(" # exit ").unwrap_or((&command, "0"));
        let (code, _, stderr) = said(command);
        assert_eq!(code.map(|c| c.to_string()).as_deref(), Some(expected), "{command}\n{stderr}");
        ran += 1;
    }
    assert!(ran > 5, "README.md has {ran} commands");
}

/// The output that the README shows under a command is what the command says now.
#[test]
fn the_readme_shows_real_output() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let mut shown = 0;
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once("```console\n") {
        let (block, after) = after.split_once("\n```\n").expect("a block ends");
        let next = after.split("```").nth(1).unwrap_or_default();
        let first = commands(&format!("```console\n{block}\n```")).into_iter().find_map(|c| with_the_binary(&c));
        if let (Some(command), Some(expected)) = (first, next.strip_prefix("text\n"))
            && !next.starts_with("text\nworld")
            && after.split("```").next().is_some_and(|prose| !prose.contains("\n## "))
        {
            let (_, stdout, _) = said(command.split(" # exit ").next().unwrap());
            let lines = |t: &str| t.trim_end().lines().map(|l| l.trim_end().to_owned()).collect::<Vec<String>>();
            assert_eq!(lines(&stdout), lines(expected), "{command}: write the README's output anew");
            shown += 1;
        }
        rest = after;
    }
    assert!(shown >= 5, "README.md shows the output of {shown} commands");
}

#[test]
fn commands_are_found() {
    let text = "a\n```console\n$ meshwright plan \\\n    --top 3\n  # 1\n$ ls\n```\n```\n$ no\n```\n";
    assert_eq!(commands(text), ["meshwright plan --top 3", "ls"]);
}
