//! A plan as somebody wrote it, in the names of one convention, as text or key by key.

use super::{Knobs, Module, Recompute, Schedule, Toggle};
use crate::mesh::Convention;
use std::fmt;

/// Why a plan's text or object cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// The key.
    pub key: String,
    /// What stood there.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan: at `{}`: `{}` is not allowed: {}", self.key, self.value, self.allowed)
    }
}

impl std::error::Error for PlanError {}

/// A plan as somebody wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Draft {
    /// Whose names these are.
    pub convention: Convention,
    /// TP (SGLang's and TensorRT-LLM's `tp` is the whole stage).
    pub tp: Option<u32>,
    /// CP.
    pub cp: Option<u32>,
    /// PP.
    pub pp: Option<u32>,
    /// EP, as a number.
    pub ep: Option<u32>,
    /// EP, as vLLM's switch.
    pub expert_parallel: Option<bool>,
    /// ETP.
    pub etp: Option<u32>,
    /// DP of the convention.
    pub dp: Option<u32>,
    /// torchtitan's replicated DP.
    pub dp_replicate: Option<u32>,
    /// torchtitan's sharded DP.
    pub dp_shard: Option<u32>,
    /// SGLang's attention DP.
    pub attn_dp: Option<u32>,
    /// SGLang's attention CP, vLLM's PCP.
    pub pcp: Option<u32>,
    /// TensorRT-LLM's expert TP.
    pub moe_tp: Option<u32>,
    /// TensorRT-LLM's EP.
    pub moe_ep: Option<u32>,
    /// TensorRT-LLM's attention DP switch.
    pub attention_dp: Option<bool>,
    /// Sequence parallelism, when said.
    pub sequence_parallel: Option<bool>,
    /// The rest.
    pub knobs: Knobs,
}

/// A value of a plan's key, before its meaning is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not set on purpose.
    Null,
    /// A switch.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// The largest degree that is read; larger ones are typing slips.
pub const MOST_DEGREE: u32 = 1 << 20;

const TRAIN_KNOBS: [&str; 15] = [
    "micro_batch",
    "vpp",
    "recompute",
    "zero",
    "sequence_parallel",
    "optimizer_offload",
    "schedule",
    "tp_overlap",
    "dp_overlap",
    "ep_overlap",
    "pp_overlap",
    "fused_kernels",
    "loss_fusion",
    "first_stage_layers",
    "last_stage_layers",
];

impl Draft {
    /// The degree keys a convention knows.
    #[must_use]
    pub const fn keys(convention: Convention) -> &'static [&'static str] {
        match convention {
            Convention::Product => &["tp", "ep", "pp", "dp", "cp", "etp"],
            Convention::Megatron | Convention::Bridge => &["tp", "cp", "pp", "ep", "etp", "dp", "replicas"],
            Convention::Torchtitan => &["tp", "cp", "pp", "ep", "dp", "dp_replicate", "dp_shard", "pp_microbatches"],
            Convention::Deepspeed => &["tp", "pp", "ep", "dp"],
            Convention::Vllm => &["tp", "pp", "dp", "ep", "dcp", "pcp", "eplb", "redundant_experts", "replicas"],
            Convention::Sglang => &[
                "tp",
                "pp",
                "dp",
                "attn_dp",
                "attn_cp",
                "ep",
                "moe_dp",
                "a2a",
                "eplb",
                "redundant_experts",
                "replicas",
            ],
            Convention::Trtllm => &["tp", "pp", "cp", "moe_tp", "moe_ep", "attention_dp", "replicas"],
        }
    }

    /// Reads the text form: `tp2 ep4 pp2 dp1 mb1 recompute=full`, in any order, case ignored, `x`, `,` and spaces between.
    ///
    /// # Errors
    /// Names the key, what stood there and what is allowed.
    pub fn parse(text: &str, convention: Convention) -> Result<Self, PlanError> {
        let mut draft = Self { convention, ..Self::default() };
        let mut seen: Vec<String> = Vec::new();
        for word in words(text) {
            let (key, value) = split_word(&word).ok_or_else(|| PlanError {
                key: word.clone(),
                value: word.clone(),
                allowed: "write degrees as in `tp2 ep4 pp2 dp1` and knobs as in `mb1 recompute=full`".into(),
            })?;
            let key = canonical(&key);
            if seen.contains(&key) {
                return Err(PlanError { key, value, allowed: "each key once".into() });
            }
            draft.set(&key, &read_value(&value))?;
            seen.push(key);
        }
        if seen.is_empty() {
            let allowed = "at least one degree, as in `tp2 ep4 pp2 dp1`".into();
            return Err(PlanError { key: "plan".into(), value: text.trim().into(), allowed });
        }
        Ok(draft)
    }

    /// Sets one key.
    ///
    /// # Errors
    /// When the key is unknown to the convention or the value is not allowed.
    pub fn set(&mut self, key: &str, value: &Value) -> Result<(), PlanError> {
        let refuse = |allowed: String| PlanError { key: key.to_owned(), value: value.to_string(), allowed };
        let known = Self::keys(self.convention);
        if !known.contains(&key) && !TRAIN_KNOBS.contains(&key) {
            let mut list: Vec<&str> = known.to_vec();
            list.extend(TRAIN_KNOBS);
            return Err(refuse(format!("keys of the {} convention: {}", self.convention, list.join(", "))));
        }
        if *value == Value::Null {
            return Ok(());
        }
        let count = |least: u32| match value {
            Value::Number(n) if n.fract() == 0.0 && *n >= f64::from(least) && *n <= f64::from(MOST_DEGREE) => {
                Ok(*n as u32)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {
                Err(refuse(format!("a whole number from {least} to {MOST_DEGREE}")))
            }
        };
        let switch = || match value {
            Value::Bool(b) => Ok(*b),
            Value::Null | Value::Number(_) | Value::Text(_) => Err(refuse("true or false".into())),
        };
        let toggle = || switch().map(|on| if on { Toggle::On } else { Toggle::Off });
        match key {
            "tp" => self.tp = Some(count(1)?),
            "cp" => self.cp = Some(count(1)?),
            "pp" => self.pp = Some(count(1)?),
            "ep" => match value {
                Value::Bool(on) if self.convention == Convention::Vllm => self.expert_parallel = Some(*on),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => self.ep = Some(count(1)?),
            },
            "etp" => self.etp = Some(count(1)?),
            "dp" => self.dp = Some(count(1)?),
            "dp_replicate" => self.dp_replicate = Some(count(1)?),
            "dp_shard" => match value {
                Value::Number(n) if *n < 0.0 => self.dp_shard = None,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => self.dp_shard = Some(count(1)?),
            },
            "attn_dp" => self.attn_dp = Some(count(1)?),
            "pcp" | "attn_cp" => self.pcp = Some(count(1)?),
            "moe_tp" => self.moe_tp = Some(count(1)?),
            "moe_ep" => self.moe_ep = Some(count(1)?),
            "attention_dp" => self.attention_dp = Some(switch()?),
            "moe_dp" => self.knobs.moe_dp = count(1)?,
            "dcp" => self.knobs.dcp = count(1)?,
            "eplb" => self.knobs.eplb = switch()?,
            "redundant_experts" => self.knobs.redundant_experts = count(0)?,
            "replicas" => self.knobs.replicas = count(1)?,
            "a2a" => {
                self.knobs.a2a = match value {
                    Value::Bool(on) => *on,
                    Value::Text(name) => name != "none",
                    Value::Null | Value::Number(_) => return Err(refuse("none, or the name of a backend".into())),
                }
            }
            "pp_microbatches" => self.knobs.pp_microbatches = count(1)?,
            "micro_batch" => self.knobs.micro_batch = count(1)?,
            "vpp" => self.knobs.vpp = count(1)?,
            "first_stage_layers" => self.knobs.first_stage_layers = count(1)?,
            "last_stage_layers" => self.knobs.last_stage_layers = count(1)?,
            "zero" => match value {
                Value::Number(n) if [0.0, 1.0, 2.0, 3.0].contains(n) => self.knobs.zero = *n as u8,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {
                    return Err(refuse("0, 1, 2 or 3".into()));
                }
            },
            "sequence_parallel" => self.sequence_parallel = Some(switch()?),
            "optimizer_offload" => match value {
                Value::Number(n) if (0.0..=1.0).contains(n) => {
                    self.knobs.optimizer_offload = (*n * 100.0).round() as u8;
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {
                    return Err(refuse("a share from 0 to 1".into()));
                }
            },
            "tp_overlap" => self.knobs.tp_overlap = toggle()?,
            "dp_overlap" => self.knobs.dp_overlap = toggle()?,
            "ep_overlap" => self.knobs.ep_overlap = toggle()?,
            "pp_overlap" => self.knobs.pp_overlap = toggle()?,
            "fused_kernels" => self.knobs.fused_kernels = toggle()?,
            "loss_fusion" => self.knobs.loss_fusion = toggle()?,
            "recompute" => {
                let list = || {
                    let names: Vec<&str> = Module::ALL.iter().map(|m| m.name()).collect();
                    format!(
                        "none, selective, full, uniform:N, block:N (N whole layers), or modules joined by `+`: {}",
                        names.join(", ")
                    )
                };
                let text = match value {
                    Value::Text(text) => text.to_ascii_lowercase(),
                    Value::Null | Value::Bool(_) | Value::Number(_) => return Err(refuse(list())),
                };
                self.knobs.recompute = Recompute::parse(&text).ok_or_else(|| refuse(list()))?;
            }
            "schedule" => {
                let text = value.to_string().to_ascii_lowercase();
                self.knobs.schedule = match text.as_str() {
                    "interleaved" => Schedule::OneFOneB,
                    _ => Schedule::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| {
                        let names: Vec<&str> = Schedule::ALL.iter().map(|s| s.name()).collect();
                        refuse(format!("{}, interleaved", names.join(", ")))
                    })?,
                };
            }
            _ => unreachable!("every known key has an arm"),
        }
        Ok(())
    }
}

/// Splits at spaces, commas and those `x` that stand between a number and the next key.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase().replace('×', "x");
    let chars: Vec<char> = lower.chars().collect();
    let mut out = vec![String::new()];
    for (i, &c) in chars.iter().enumerate() {
        let after_digit = i > 0 && chars[i - 1].is_ascii_digit();
        let before_letter = chars.get(i + 1).is_some_and(char::is_ascii_alphabetic);
        if c.is_whitespace() || matches!(c, ',' | ';') || (c == 'x' && after_digit && before_letter) {
            out.push(String::new());
        } else if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.retain(|word| !word.is_empty() && word != "x");
    out
}

/// `tp2` and `tp=2` give the key and its value.
fn split_word(word: &str) -> Option<(String, String)> {
    if let Some((key, value)) = word.split_once(['=', ':']) {
        return (!key.is_empty() && !value.is_empty()).then(|| (key.to_owned(), value.to_owned()));
    }
    let at = word.find(|c: char| c.is_ascii_digit())?;
    let (key, value) = word.split_at(at);
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

fn canonical(key: &str) -> String {
    match key.replace('-', "_").as_str() {
        "mb" | "mbs" | "micro_batch_size" => "micro_batch".to_owned(),
        "sp" => "sequence_parallel".to_owned(),
        "offload" => "optimizer_offload".to_owned(),
        other => other.to_owned(),
    }
}

fn read_value(text: &str) -> Value {
    match text {
        "true" | "on" | "yes" => Value::Bool(true),
        "false" | "off" | "no" => Value::Bool(false),
        "null" => Value::Null,
        _ => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_case_and_separator() {
        let a = Draft::parse("tp2 ep4 pp2 dp1 mb1", Convention::Product).expect("a plan in its notation");
        for other in ["TP2xEP4xPP2xDP1 mb1", "dp=1, pp=2, ep=4, tp=2, micro_batch=1", "pp2,tp2,ep4,dp1"] {
            assert_eq!(Draft::parse(other, Convention::Product).expect("a plan in its notation"), a, "{other}");
        }
    }

    #[test]
    fn bad_words_name_what_is_allowed() {
        for bad in ["", "tp", "tp0", "tp2 tp4", "tq2", "tp1.5", "recompute=some", "zero=4", "tp99999999999"] {
            let error = Draft::parse(bad, Convention::Product).expect_err("a refusal");
            assert!(!error.allowed.is_empty(), "{bad}");
        }
    }

    #[test]
    fn modules_round_trip() {
        let draft =
            Draft::parse("tp2 recompute=core_attn+moe_act", Convention::Megatron).expect("a plan in its notation");
        assert_eq!(draft.knobs.recompute.to_string(), "core_attn+moe_act");
        assert_eq!(Recompute::SELECTIVE.to_string(), "selective");
    }
}
