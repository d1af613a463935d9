//! GPU files: datasheet facts and fitted efficiencies.

use super::read;
use crate::cluster::{
    Architecture, AttentionFit, Basis, Collective, CollectiveFit, DecodeFit, Dtype, Efficiency, ExpertFit, GemmKind,
    Gpu, KernelFit, KernelMaker, LinkKind, MoeFit, ScaleUp, SmallReduceFit,
};
use crate::error::{Error, Locate, Result};
use crate::model::WeightFormat;
use crate::units::{Bytes, BytesPerSec, FlopPerSec, Seconds, UsdPerHour};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A file of `configs/gpus`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GpuFile {
    pub(super) name: String,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    pub(super) source: Vec<String>,
    architecture: String,
    memory: String,
    datasheet_memory: Option<String>,
    hbm_bandwidth: String,
    peak: BTreeMap<String, String>,
    sms: Option<u32>,
    l2: Option<String>,
    scale_up: ScaleUpFile,
    nic: String,
    gpus_per_node: u32,
    price_per_hour: Option<PriceFile>,
    efficiency: Option<EfficiencyFile>,
    efficiency_like: Option<String>,
}

/// Links inside a domain.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleUpFile {
    kind: String,
    bandwidth: String,
    domain: u32,
}

/// A price with its standing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceFile {
    pub(super) value: String,
    basis: Option<String>,
    source: Option<String>,
}

impl PriceFile {
    /// The price; a file that calls it anything but a guess is wrong.
    pub(super) fn price(&self, origin: &str) -> Result<UsdPerHour> {
        if let Some(basis) = &self.basis {
            basis_of(origin, "price_per_hour.basis", basis)?;
        }
        if self.source.as_ref().is_some_and(String::is_empty) {
            return Err(Error::invalid(origin, "price_per_hour.source", "", "where the price comes from"));
        }
        UsdPerHour::parse(&self.value).at_key(origin, "price_per_hour.value")
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EfficiencyFile {
    source: Vec<String>,
    basis: String,
    gemm: BTreeMap<String, KernelFile>,
    prefill_attention: AttentionFile,
    #[serde(default)]
    latent_prefill: BTreeMap<String, AttentionFile>,
    decode_attention: DecodeFile,
    moe: MoeFile,
    #[serde(default)]
    experts: BTreeMap<String, BTreeMap<String, ExpertFile>>,
    #[serde(default)]
    custom_all_reduce: BTreeMap<String, BTreeMap<u32, SmallReduceFile>>,
    collectives: BTreeMap<String, BTreeMap<u32, LinkFile>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KernelFile {
    t0: String,
    compute: f64,
    memory: f64,
    per_k: String,
    median_error: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttentionFile {
    t0: String,
    compute: f64,
    half_length: f64,
    #[serde(default)]
    median_error: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecodeFile {
    t0: String,
    memory: f64,
    memory_8bit: Option<f64>,
    #[serde(default)]
    median_error: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoeFile {
    t0: String,
    compute: f64,
    memory: f64,
    permute: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpertFile {
    t0: String,
    compute: f64,
    memory: f64,
    permute: f64,
    spread: f64,
    rows: f64,
    median_error: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SmallReduceFile {
    t0: String,
    direct: String,
    two_step_t0: String,
    bus: String,
    median_error: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkFile {
    alpha: String,
    bus: String,
}

/// Finds a word in one of the core's tables.
pub(super) fn word<T: Copy>(
    origin: &str,
    key: &str,
    value: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T> {
    all.iter().copied().find(|item| name(*item) == value).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|item| name(*item)).collect();
        Error::invalid(origin, key, value, format!("one of {}", names.join(", ")))
    })
}

fn basis_of(origin: &str, key: &str, value: &str) -> Result<Basis> {
    word(origin, key, value, &[Basis::Exact, Basis::Measured, Basis::Modelled, Basis::Assumed], Basis::name)
}

/// A count from 1 to the most GPUs a job may have.
pub(super) fn count(origin: &str, key: &str, value: u32) -> Result<u32> {
    let most = crate::job::MOST_GPUS;
    if value == 0 || value > most {
        return Err(Error::invalid(origin, key, value, format!("a whole number from 1 to {most}")));
    }
    Ok(value)
}

/// A quantity that must be more than nothing.
pub(super) fn positive<T: Copy + PartialOrd>(origin: &str, key: &str, text: &str, value: T, zero: T) -> Result<T> {
    if value > zero { Ok(value) } else { Err(Error::invalid(origin, key, text, "more than zero")) }
}

fn bytes(origin: &str, key: &str, text: &str) -> Result<Bytes> {
    let value = Bytes::parse(text).at_key(origin, key)?;
    positive(origin, key, text, value, Bytes::ZERO)
}

/// A bandwidth above zero.
pub(super) fn bandwidth(origin: &str, key: &str, text: &str) -> Result<BytesPerSec> {
    let value = BytesPerSec::parse(text).at_key(origin, key)?;
    positive(origin, key, text, value, BytesPerSec::ZERO)
}

/// A time from zero.
pub(super) fn seconds(origin: &str, key: &str, text: &str) -> Result<Seconds> {
    Seconds::parse(text).at_key(origin, key)
}

/// A number in `(0, most]`.
fn within(origin: &str, key: String, value: f64, most: f64) -> Result<f64> {
    if value > 0.0 && value <= most {
        return Ok(value);
    }
    Err(Error::invalid(origin, key, value, format!("a number above 0, at most {most}")))
}

impl GpuFile {
    /// Checks the facts; `sibling` finds the GPU that lends its curves.
    pub(super) fn check(self, origin: &str, sibling: &dyn Fn(&str) -> Result<Gpu>) -> Result<Gpu> {
        let mut peaks = [None; 9];
        for (name, text) in &self.peak {
            let key = format!("peak.{name}");
            let dtype = word(origin, "peak", name, &Dtype::ALL, Dtype::name)?;
            let value = FlopPerSec::parse(text).at_key(origin, &key)?;
            peaks[dtype as usize] = Some(positive(origin, &key, text, value, FlopPerSec::ZERO)?);
        }
        if peaks[Dtype::Bf16 as usize].or(peaks[Dtype::Fp16 as usize]).is_none() {
            return Err(Error::missing(origin, "peak.bf16", "write the dense 16-bit peak, as in \"989 TFLOP/s\""));
        }
        if let Some(sms) = self.sms {
            count(origin, "sms", sms)?;
        }
        if let Some(l2) = &self.l2 {
            bytes(origin, "l2", l2)?;
        }
        let scale_up = ScaleUp {
            kind: word(origin, "scale_up.kind", &self.scale_up.kind, &LinkKind::ALL, LinkKind::name)?,
            bandwidth: bandwidth(origin, "scale_up.bandwidth", &self.scale_up.bandwidth)?,
            domain: count(origin, "scale_up.domain", self.scale_up.domain)?,
        };
        let efficiency = match (&self.efficiency, &self.efficiency_like) {
            (Some(own), None) => own.check(origin)?,
            (None, Some(name)) => borrowed(&sibling(name)?, scale_up.bandwidth),
            (Some(_), Some(name)) => {
                let allowed = "either `efficiency` or `efficiency_like`, not both";
                return Err(Error::invalid(origin, "efficiency_like", name, allowed));
            }
            (None, None) => {
                let allowed = "write the curves, or name a GPU to borrow them from in `efficiency_like`";
                return Err(Error::missing(origin, "efficiency", allowed));
            }
        };
        Ok(Gpu {
            architecture: word(origin, "architecture", &self.architecture, &Architecture::ALL, Architecture::name)?,
            memory: bytes(origin, "memory", &self.memory)?,
            datasheet_memory: self.datasheet_memory.map(|m| bytes(origin, "datasheet_memory", &m)).transpose()?,
            hbm: bandwidth(origin, "hbm_bandwidth", &self.hbm_bandwidth)?,
            peaks,
            scale_up,
            nic: bandwidth(origin, "nic", &self.nic)?,
            gpus_per_node: count(origin, "gpus_per_node", self.gpus_per_node)?,
            price: self.price_per_hour.map(|p| p.price(origin)).transpose()?,
            efficiency,
            name: self.name,
            source: self.source,
        })
    }
}

/// A sibling's curves: a guess, with the collectives in proportion to the links.
fn borrowed(from: &Gpu, link: BytesPerSec) -> Efficiency {
    let mut efficiency = from.efficiency.clone();
    scale_links(&mut efficiency, link.get() / from.scale_up.bandwidth.get());
    efficiency.basis = Basis::Assumed;
    efficiency.source = vec![format!("assumed from {}: its shares of the peaks and of the links", from.name)];
    efficiency
}

/// Scales the bandwidth of the collectives, for links that are faster or slower than the measured ones.
pub(super) fn scale_links(efficiency: &mut Efficiency, ratio: f64) {
    for fit in efficiency.collectives.iter_mut().flatten() {
        fit.bus = fit.bus * ratio;
    }
    for fit in &mut efficiency.custom_all_reduce {
        fit.direct = fit.direct * ratio;
        fit.bus = fit.bus * ratio;
    }
}

/// The `median_error` of the fit at `at`.
fn error_share(origin: &str, at: &str, error: f64) -> Result<f64> {
    if (0.0..=1.0).contains(&error) {
        return Ok(error);
    }
    Err(Error::invalid(origin, format!("{at}.median_error"), error, "a share from 0 to 1"))
}

impl AttentionFile {
    fn check(&self, origin: &str, name: &str) -> Result<AttentionFit> {
        let key = |field: &str| format!("efficiency.{name}.{field}");
        error_share(origin, &format!("efficiency.{name}"), self.median_error)?;
        Ok(AttentionFit {
            t0: seconds(origin, &key("t0"), &self.t0)?,
            compute: within(origin, key("compute"), self.compute, 2.0)?,
            half_length: within(origin, key("half_length"), self.half_length, 1e6)?,
        })
    }
}

impl EfficiencyFile {
    fn check(&self, origin: &str) -> Result<Efficiency> {
        let share = |key: &str, value| within(origin, format!("efficiency.{key}"), value, 2.0);
        let time = |key: &str, text: &str| seconds(origin, &format!("efficiency.{key}"), text);
        let mut gemm = [None; 4];
        for (name, fit) in &self.gemm {
            let kind = word(origin, "efficiency.gemm", name, &GemmKind::ALL, GemmKind::name)?;
            gemm[kind as usize] = Some(KernelFit {
                t0: time(&format!("gemm.{name}.t0"), &fit.t0)?,
                compute: share(&format!("gemm.{name}.compute"), fit.compute)?,
                memory: share(&format!("gemm.{name}.memory"), fit.memory)?,
                per_k: time(&format!("gemm.{name}.per_k"), &fit.per_k)?,
                median_error: error_share(origin, &format!("efficiency.gemm.{name}"), fit.median_error)?,
            });
        }
        if gemm[GemmKind::Bf16 as usize].is_none() {
            return Err(Error::missing(origin, "efficiency.gemm.bf16", "write the curve every other falls back to"));
        }
        error_share(origin, "efficiency.decode_attention", self.decode_attention.median_error)?;
        let mut collectives: [Vec<CollectiveFit>; 4] = Default::default();
        for (name, fits) in &self.collectives {
            let kind = word(origin, "efficiency.collectives", name, &Collective::ALL[..4], Collective::name)?;
            let key = format!("collectives.{name}");
            collectives[kind as usize] = fits
                .iter()
                .map(|(ranks, fit)| collective(origin, &key, *ranks, &fit.alpha, &fit.bus))
                .collect::<Result<_>>()?;
        }
        if let Some(none) = Collective::ALL[..4].iter().find(|c| collectives[**c as usize].is_empty()) {
            let key = format!("efficiency.collectives.{}", none.name());
            return Err(Error::missing(origin, key, "write `alpha` and `bus` for at least one number of ranks"));
        }
        let (prefill, decode, moe) = (&self.prefill_attention, &self.decode_attention, &self.moe);
        Ok(Efficiency {
            gemm,
            prefill_attention: prefill.check(origin, "prefill_attention")?,
            latent_prefill: self
                .latent_prefill
                .iter()
                .map(|(engine, fit)| {
                    let maker =
                        word(origin, "efficiency.latent_prefill", engine, &KernelMaker::ALL, KernelMaker::name)?;
                    Ok((maker, fit.check(origin, &format!("latent_prefill.{engine}"))?))
                })
                .collect::<Result<_>>()?,
            decode_attention: DecodeFit {
                t0: time("decode_attention.t0", &decode.t0)?,
                memory: share("decode_attention.memory", decode.memory)?,
                memory_8bit: share("decode_attention.memory_8bit", decode.memory_8bit.unwrap_or(decode.memory))?,
            },
            moe: MoeFit {
                t0: time("moe.t0", &moe.t0)?,
                compute: share("moe.compute", moe.compute)?,
                memory: share("moe.memory", moe.memory)?,
                permute: within(origin, "efficiency.moe.permute".into(), moe.permute, 100.0)?,
            },
            experts: self.experts(origin)?,
            custom_all_reduce: self.custom_all_reduce(origin)?,
            collectives,
            source: self.source.clone(),
            basis: basis_of(origin, "efficiency.basis", &self.basis)?,
        })
    }

    /// The engines' own small all-reduces.
    fn custom_all_reduce(&self, origin: &str) -> Result<Vec<SmallReduceFit>> {
        let mut all = Vec::new();
        for (engine, fits) in &self.custom_all_reduce {
            let maker = word(origin, "efficiency.custom_all_reduce", engine, &KernelMaker::ALL, KernelMaker::name)?;
            for (ranks, fit) in fits {
                let at = format!("efficiency.custom_all_reduce.{engine}.{ranks}");
                error_share(origin, &at, fit.median_error)?;
                all.push(SmallReduceFit {
                    maker,
                    ranks: count(origin, &at, *ranks)?,
                    t0: seconds(origin, &format!("{at}.t0"), &fit.t0)?,
                    direct: bandwidth(origin, &format!("{at}.direct"), &fit.direct)?,
                    two_step_t0: seconds(origin, &format!("{at}.two_step_t0"), &fit.two_step_t0)?,
                    bus: bandwidth(origin, &format!("{at}.bus"), &fit.bus)?,
                });
            }
        }
        Ok(all)
    }

    /// The fused expert kernels, by engine and format.
    fn experts(&self, origin: &str) -> Result<Vec<ExpertFit>> {
        let mut all = Vec::new();
        for (engine, formats) in &self.experts {
            let maker = word(origin, "efficiency.experts", engine, &KernelMaker::ALL, KernelMaker::name)?;
            for (format, fit) in formats {
                let at = format!("efficiency.experts.{engine}.{format}");
                let key = |name: &str| format!("{at}.{name}");
                if !(0.0..=1.0).contains(&fit.spread) {
                    return Err(Error::invalid(origin, key("spread"), fit.spread, "a share from 0 to 1"));
                }
                all.push(ExpertFit {
                    maker,
                    format: word(origin, &at, format, &WeightFormat::ALL, WeightFormat::name)?,
                    t0: seconds(origin, &key("t0"), &fit.t0)?,
                    // Weight-only formats may compute in a faster one than the 16-bit peak they are measured against.
                    compute: within(origin, key("compute"), fit.compute, 4.0)?,
                    memory: within(origin, key("memory"), fit.memory, 2.0)?,
                    permute: within(origin, key("permute"), fit.permute, 100.0)?,
                    spread: fit.spread,
                    rows: within(origin, key("rows"), fit.rows, 1024.0)?,
                    median_error: error_share(origin, &at, fit.median_error)?,
                });
            }
        }
        Ok(all)
    }
}

fn collective(origin: &str, key: &str, ranks: u32, alpha: &str, bus: &str) -> Result<CollectiveFit> {
    let key = format!("efficiency.{key}.{ranks}");
    Ok(CollectiveFit {
        ranks: count(origin, &key, ranks)?,
        alpha: seconds(origin, &format!("{key}.alpha"), alpha)?,
        bus: bandwidth(origin, &format!("{key}.bus"), bus)?,
    })
}

/// Parses a GPU file.
pub(super) fn parse(origin: &str, text: &str) -> Result<GpuFile> {
    read::typed(origin, text)
}
