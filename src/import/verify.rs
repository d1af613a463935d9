//! Plans to check: files, folders and standard input, with the facts that flags and the documents themselves give.

use super::document::{self, DocumentError};
use super::job::{self, JobFile};
use super::verify_launch;
use crate::catalog;
use crate::claim::Claims;
use crate::cluster::Cluster;
use crate::error::{Error, Locate, Result};
use crate::framework::Framework;
use crate::job::{Job, MOST_GPUS, Serve, Train, Workload};
use crate::mesh::Convention;
use crate::model::Model;
use crate::verify::{self, Facts, Finding, Jobs, Spare, Verdict};
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What to check, and against what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyRequest {
    /// Files, folders, or `-` for standard input.
    pub paths: Vec<String>,
    /// The model; the one that a document names unless given.
    pub model: Option<String>,
    /// The cluster.
    pub cluster: Option<String>,
    /// GPUs there are.
    pub gpus: Option<u64>,
    /// Routed experts.
    pub experts: Option<u64>,
    /// The convention in force.
    pub convention: Option<String>,
    /// The framework in force.
    pub framework: Option<String>,
}

/// One checked file.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The file, or `-`.
    pub file: String,
    /// The verdict; of a file in a folder that cannot be read, why.
    pub result: std::result::Result<Verdict, Error>,
}

impl Checked {
    /// Whether it was read and holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.result.as_ref().is_ok_and(Verdict::holds)
    }
}

/// Everything that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyOutcome {
    /// The files, in the order given and sorted inside a folder.
    pub files: Vec<Checked>,
    /// Files of folders that are no plans, with the reason.
    pub skipped: Vec<(String, String)>,
    /// Whether a list was asked for: several paths, or a folder.
    pub many: bool,
}

impl VerifyOutcome {
    /// Whether everything holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.files.iter().all(Checked::holds)
    }
}

/// Checks everything asked for.
///
/// # Errors
/// When a flag is wrong, or a path that was named cannot be read or holds no plan. A broken file inside a folder fails the
/// folder and is no error.
pub fn run(request: &VerifyRequest) -> Result<VerifyOutcome> {
    let given = Given::read(request)?;
    if request.paths.is_empty() {
        return Err(Error::missing("verify", "PATH", "a file, a folder, or `-` for standard input"));
    }
    let mut out = VerifyOutcome { files: Vec::new(), skipped: Vec::new(), many: request.paths.len() > 1 };
    for path in &request.paths {
        if path == "-" {
            let bytes = bytes_of("standard input", std::io::stdin().lock())?;
            out.files.push(Checked { file: path.clone(), result: Ok(check(path, &bytes, &given)?) });
        } else if Path::new(path).is_dir() {
            out.many = true;
            folder(Path::new(path), &given, &mut out)?;
        } else {
            let bytes = bytes_of(path, File::open(path).map_err(|e| Error::read(path, &e))?)?;
            out.files.push(Checked { file: path.clone(), result: Ok(check(path, &bytes, &given)?) });
        }
    }
    if out.files.is_empty() {
        let paths = request.paths.join(", ");
        return Err(Error::invalid("verify", "PATH", paths, "a folder that holds at least one plan"));
    }
    Ok(out)
}

/// Checks one document in memory, under a name that tells its format.
///
/// # Errors
/// When it cannot be read or holds no plan.
pub fn run_on(name: &str, bytes: &[u8], request: &VerifyRequest) -> Result<Verdict> {
    check(name, bytes, &Given::read(request)?)
}

/// Most files of a folder; a tree with more is not a folder of plans.
const MOST_FILES: usize = 10_000;

/// How deep a folder is followed.
const DEEPEST: usize = 16;

/// Endings of files that may be plans.
const ENDINGS: [&str; 11] = ["txt", "md", "markdown", "json", "yaml", "yml", "toml", "sh", "slurm", "sbatch", "plan"];

fn folder(path: &Path, given: &Given, out: &mut VerifyOutcome) -> Result<()> {
    let mut files = Vec::new();
    list(path, 0, &mut files)?;
    files.sort();
    for path in files {
        let name = path.display().to_string();
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        // Programs are plans only as recipes; whatever else they set is not about GPUs.
        let program = ending.as_deref() == Some("py");
        if !program && !ending.is_none_or(|e| ENDINGS.contains(&e.as_str())) {
            out.skipped.push((name, "not a kind of file that holds plans".to_owned()));
            continue;
        }
        let read = File::open(&path).map_err(|e| Error::read(&name, &e)).and_then(|file| bytes_of(&name, file));
        let result = read.and_then(|bytes| {
            if (program || document::read(&name, &bytes).is_err_and(|e| e.no_plan))
                && verify_launch::read(&name, &bytes).is_ok_and(|r| r.is_none())
            {
                return Ok(None);
            }
            check(&name, &bytes, given).map(Some)
        });
        match result {
            Ok(None) => out.skipped.push((name, "names no degree, so it is no plan".to_owned())),
            Err(error @ (Error::TooLarge { .. } | Error::NotUtf8 { .. })) => {
                out.skipped.push((name, error.to_string()));
            }
            Ok(Some(verdict)) => out.files.push(Checked { file: name, result: Ok(verdict) }),
            Err(error) => out.files.push(Checked { file: name, result: Err(error) }),
        }
    }
    Ok(())
}

/// The files of a folder; hidden ones and links to folders are left alone.
fn list(path: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<()> {
    let name = path.display().to_string();
    for entry in std::fs::read_dir(path).map_err(|e| Error::read(&name, &e))? {
        let entry = entry.map_err(|e| Error::read(&name, &e))?;
        let kind = entry.file_type().map_err(|e| Error::read(&name, &e))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() && depth < DEEPEST {
            list(&entry.path(), depth + 1, out)?;
        } else if kind.is_file() || (kind.is_symlink() && entry.path().is_file()) {
            out.push(entry.path());
        }
        if out.len() > MOST_FILES {
            return Err(Error::invalid(
                &name,
                "",
                format!("{} files", out.len()),
                format!("at most {MOST_FILES} files"),
            ));
        }
    }
    Ok(())
}

/// Reads at most what a plan can be; the limit holds for pipes too.
pub(super) fn bytes_of(name: &str, source: impl std::io::Read) -> Result<Vec<u8>> {
    let limit = document::LARGEST as u64;
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::read(name, &e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { path: name.to_owned(), limit });
    }
    Ok(bytes)
}

/// What the flags say.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) model: Option<Model>,
    pub(super) cluster: Option<Cluster>,
    pub(super) gpus: Option<u64>,
    pub(super) experts: Option<u64>,
    convention: Option<Convention>,
}

impl Given {
    fn read(request: &VerifyRequest) -> Result<Self> {
        let model = request.model.as_deref().map(catalog::model).transpose()?;
        let cluster = request.cluster.as_deref().map(catalog::cluster).transpose()?;
        let framework = request.framework.as_deref().map(|name| job::framework("--framework", name)).transpose()?;
        let convention = request.convention.as_deref().map(|name| job::convention("--convention", name)).transpose()?;
        if let (Some(framework), Some(convention)) = (framework, convention)
            && framework.convention() != convention
        {
            let allowed = format!("{framework}'s own convention, {}", framework.convention());
            return Err(Error::invalid("--convention", "", convention.name(), allowed));
        }
        if let Some(gpus) = request.gpus {
            within_most("--gpus", "", gpus)?;
            if cluster.as_ref().is_some_and(|c| u64::from(c.gpus()) != gpus) {
                return Err(Error::invalid(
                    "--gpus",
                    "",
                    gpus,
                    "the number of GPUs of --cluster, or only one of the two",
                ));
            }
        }
        if request.experts == Some(0) {
            return Err(Error::invalid("--experts", "", 0, "at least 1"));
        }
        if let (Some(experts), Some(model)) = (request.experts, &model) {
            let own = model.moe().map_or(0, |moe| u64::from(moe.experts));
            if own != experts {
                return Err(Error::invalid(
                    "--experts",
                    "",
                    experts,
                    format!("the {own} experts of --model, or left out"),
                ));
            }
        }
        let gpus = request.gpus.or(cluster.as_ref().map(|c| u64::from(c.gpus())));
        let convention = convention.or(framework.map(Framework::convention));
        Ok(Self { model, cluster, gpus, experts: request.experts, convention })
    }
}

fn within_most(origin: &str, key: &str, gpus: u64) -> Result<()> {
    if gpus == 0 || gpus > u64::from(MOST_GPUS) {
        return Err(Error::invalid(origin, key, gpus, format!("1 to {MOST_GPUS} GPUs")));
    }
    Ok(())
}

fn check(name: &str, bytes: &[u8], given: &Given) -> Result<Verdict> {
    if let Some(verdict) = job_file(name, bytes)? {
        return Ok(verdict);
    }
    if let Some(read) = verify_launch::read(name, bytes)? {
        return Ok(verify_launch::check(&read, given));
    }
    let (_, claims) = document::read(name, bytes).map_err(|error| located(name, bytes, error))?;
    check_document(name, &claims, given)
}

/// A reader's error with its file.
fn located(name: &str, bytes: &[u8], error: DocumentError) -> Error {
    if let Err(bad) = std::str::from_utf8(bytes) {
        return Error::NotUtf8 { path: name.to_owned(), offset: bad.valid_up_to() };
    }
    let line = if error.line > 0 { format!("line {}", error.line) } else { String::new() };
    if error.value.is_empty() || error.key == name || error.key.is_empty() {
        return Error::parse(name, line, format!("{} (allowed: {})", error.message, error.allowed));
    }
    let key = if line.is_empty() { error.key } else { format!("{line}: {}", error.key) };
    Error::invalid(name, key, error.value, format!("{}: {}", error.message, error.allowed))
}

/// A job file of ours, whose plan, model, cluster and workload are exact.
fn job_file(name: &str, bytes: &[u8]) -> Result<Option<Verdict>> {
    let Ok(Value::Object(map)) = serde_json::from_slice::<Value>(bytes) else { return Ok(None) };
    if !["plan", "model", "cluster"].iter().all(|key| map.contains_key(*key)) {
        return Ok(None);
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    // Other programs have files with these keys too; those are read as documents.
    let Ok(file) = JobFile::parse(name, text) else { return Ok(None) };
    if file.train.is_none() && file.serve.is_none() && !file.framework.as_deref().is_some_and(serves) {
        return Ok(None);
    }
    let job = file.read(name)?;
    Ok(job.draft.map(|draft| verify::check_draft(job.framework, &draft, None, Some(&job.job))))
}

fn serves(name: &str) -> bool {
    job::framework("", name).is_ok_and(Framework::serves)
}

/// The convention that a document names.
fn named(claims: &Claims) -> Option<Convention> {
    let framework = claims.framework.as_ref().and_then(|said| job::framework("", &said.value).ok());
    let convention = claims.convention.as_ref().and_then(|said| match said.value.as_str() {
        "folded" | "mcore" | "megatron-core" => Some(Convention::Megatron),
        "textbook" | "naive" => Some(Convention::Product),
        name => job::convention("", name).ok(),
    });
    convention.or(framework.map(Framework::convention))
}

fn check_document(name: &str, claims: &Claims, given: &Given) -> Result<Verdict> {
    let stated = given.convention.or_else(|| named(claims));
    let convention = stated.unwrap_or_default();
    let draft = verify::draft_of(claims, convention).at(name)?;
    let available = given.gpus.or(claims.available_gpus.as_ref().map(|said| said.value));
    if let (Some(said), None) = (&claims.available_gpus, given.gpus) {
        within_most(name, &format!("line {}: available_gpus", said.line), said.value)?;
    }
    let mut notes = Vec::new();
    let model = match (&given.model, &claims.model) {
        (Some(model), _) => Some(model.clone()),
        (None, Some(said)) => {
            // A document names a model; it does not make us read files.
            let found = catalog::model(&said.value).ok().filter(|_| !Path::new(&said.value).exists());
            if found.is_none() {
                let message = format!("the model `{}` is not known here; name one with --model", said.value);
                notes.push(Finding { line: said.line, ..Finding::note("model", message) });
            }
            found
        }
        (None, None) => None,
    };
    let cluster = given.cluster.clone().or_else(|| cluster_of(claims, available));
    let gpu_bytes = cluster.as_ref().map(|c| c.gpu.memory.get());
    let experts = given.experts.or_else(|| match &model {
        Some(model) => model.moe().map(|moe| u64::from(moe.experts)),
        None => claims.experts.as_ref().map(|said| said.value),
    });
    let serves = Framework::of(convention).map(Framework::serves);
    let trains = claims.global_batch.is_some() || claims.micro_batch.is_some();
    let (train, serve) = match (&model, cluster.clone().or_else(|| stand_in(available))) {
        (Some(model), Some(cluster)) => {
            let cluster = match available.and_then(|w| u32::try_from(w).ok()) {
                Some(w) if w != cluster.gpus() => cluster.resized(w),
                _ => cluster,
            };
            let seq_len = claims.seq_len.as_ref().and_then(|said| u32::try_from(said.value).ok());
            let batch = claims.global_batch.as_ref().and_then(|said| u32::try_from(said.value).ok());
            let job = |serving| assumed(model, &cluster, serving, seq_len, batch);
            (job(false), job(true))
        }
        _ => (None, None),
    };
    let memory = cluster.is_some() && (serves.is_some() || trains);
    let jobs = (train.is_some() || serve.is_some()).then_some(Jobs {
        train: train.as_ref(),
        serve: serve.as_ref(),
        batch: claims.global_batch.is_some(),
        sequence: claims.seq_len.is_some(),
        hardware: cluster.is_some(),
        nodes: cluster.is_some(),
        memory,
        exact: false,
    });
    let named = stated.is_some();
    let facts = Facts { convention, named, available, experts, gpu_bytes, spare: Spare::Violation, jobs };
    let mut verdict = verify::check_claims(claims, &draft, &facts);
    verdict.findings.extend(notes);
    Ok(verdict)
}

/// The cluster that a document names by its GPU.
fn cluster_of(claims: &Claims, available: Option<u64>) -> Option<Cluster> {
    let gpu = &claims.gpu.as_ref()?.value;
    let gpu = catalog::gpu(gpu).is_ok().then_some(gpu)?;
    let said = |count: &Option<crate::claim::Said<u64>>| count.as_ref().map(|c| c.value);
    let spec = match (said(&claims.nodes), said(&claims.gpus_per_node), available) {
        (Some(nodes), Some(each), Some(all)) if nodes.checked_mul(each) == Some(all) => format!("{nodes}x{each}x{gpu}"),
        (_, _, Some(all)) => format!("{all}x{gpu}"),
        (_, _, None) => format!("8x{gpu}"),
    };
    catalog::cluster(&spec).ok()
}

/// A cluster whose GPU nobody names: it carries a number of GPUs to the rules on shapes, and nothing else is asked of it.
pub(super) fn stand_in(available: Option<u64>) -> Option<Cluster> {
    catalog::cluster(&format!("{}xh100-sxm", available.unwrap_or(8))).ok()
}

/// A job around a model whose workload was not said, or said in part.
pub(super) fn assumed(
    model: &Model,
    cluster: &Cluster,
    serving: bool,
    seq_len: Option<u32>,
    batch: Option<u32>,
) -> Option<Job> {
    let most = model.spec().max_positions.max(2);
    let workload = if serving {
        let usual = Serve::of(model.quant());
        let isl = seq_len.unwrap_or(usual.isl).min(most).saturating_sub(1).max(1);
        Workload::Serve(Serve { isl, osl: 1, ..usual })
    } else {
        let usual = Train::default();
        let seq_len = seq_len.unwrap_or_else(|| usual.seq_len.min(most));
        Workload::Train(Train { seq_len, global_batch: batch.unwrap_or(usual.global_batch), ..usual })
    };
    Job::new(model.clone(), cluster.clone(), workload).ok()
}
