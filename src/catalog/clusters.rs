//! Clusters: built-in names, counts such as `16xH100`, files, and objects of a job file.

use super::gpu::{self, PriceFile, bandwidth, count, scale_links, word};
use super::{ClusterEntry, list, lookup, names, read};
use crate::cluster::{Cluster, Gpu, LinkKind, Network, NetworkKind, ScaleUp};
use crate::error::{Error, Locate, Result};
use crate::job::MOST_GPUS;
use crate::units::{Bytes, BytesPerSec, Seconds, UsdPerHour};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// A file of `configs/clusters`, or the same keys in a job file; what is left out comes from the GPU.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    name: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    source: Vec<String>,
    gpu: String,
    nodes: Option<u32>,
    gpus_per_node: Option<u32>,
    scale_up: Option<ScaleUpPart>,
    network: Option<NetworkPart>,
    host: Option<HostFile>,
    #[serde(alias = "price")]
    price_per_hour: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleUpPart {
    kind: Option<String>,
    bandwidth: Option<String>,
    domain: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkPart {
    kind: Option<String>,
    bandwidth: Option<String>,
    nics_per_node: Option<u32>,
    latency: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostFile {
    memory: String,
}

impl ClusterFile {
    /// Checks the file and fills in what it leaves out.
    fn check(self, origin: &str, fallback_name: &str) -> Result<Cluster> {
        let mut gpu = super::gpu(&self.gpu)?;
        let per = count(origin, "gpus_per_node", self.gpus_per_node.unwrap_or(gpu.gpus_per_node))?;
        let nodes = count(origin, "nodes", self.nodes.unwrap_or(1))?;
        within_most(origin, nodes, per)?;
        if let Some(price) = &self.price_per_hour {
            gpu.price = Some(price_of(origin, price)?);
        }
        if let Some(host) = &self.host {
            Bytes::parse(&host.memory).at_key(origin, "host.memory")?;
        }
        let mut scale_up = default_scale_up(&gpu, per);
        if let Some(part) = &self.scale_up {
            if let Some(kind) = &part.kind {
                scale_up.kind = word(origin, "scale_up.kind", kind, &LinkKind::ALL, LinkKind::name)?;
            }
            if let Some(text) = &part.bandwidth {
                scale_up.bandwidth = bandwidth(origin, "scale_up.bandwidth", text)?;
            }
            if let Some(domain) = part.domain {
                scale_up.domain = count(origin, "scale_up.domain", domain)?;
            }
        }
        // The curves were fitted on the GPU's own links.
        scale_links(&mut gpu.efficiency, scale_up.bandwidth.get() / gpu.scale_up.bandwidth.get());
        let mut network = default_network(&gpu, per);
        if let Some(part) = &self.network {
            if let Some(kind) = &part.kind {
                network.kind = word(origin, "network.kind", kind, &NetworkKind::ALL, NetworkKind::name)?;
            }
            if let Some(text) = &part.bandwidth {
                network.bandwidth = bandwidth(origin, "network.bandwidth", text)?;
            }
            if let Some(nics) = part.nics_per_node {
                network.nics_per_node = count(origin, "network.nics_per_node", nics)?;
            }
            if let Some(text) = &part.latency {
                network.latency = gpu::seconds(origin, "network.latency", text)?;
            }
        }
        let name = self.name.unwrap_or_else(|| fallback_name.to_owned());
        Ok(Cluster { name, gpu, nodes, gpus_per_node: per, scale_up, network })
    }
}

fn price_of(origin: &str, value: &Value) -> Result<UsdPerHour> {
    match value {
        Value::String(text) => UsdPerHour::parse(text).at_key(origin, "price_per_hour"),
        Value::Object(_) => read::typed_value::<PriceFile>(origin, value)?.price(origin),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            Err(Error::invalid(origin, "price_per_hour", value, "a text such as \"$2.50/h\""))
        }
    }
}

fn within_most(origin: &str, nodes: u32, per: u32) -> Result<()> {
    let gpus = u64::from(nodes) * u64::from(per);
    if gpus > u64::from(MOST_GPUS) {
        return Err(Error::invalid(origin, "", format!("{gpus} GPUs"), format!("1 to {MOST_GPUS} GPUs")));
    }
    Ok(())
}

/// The GPU's links; a domain inside the node shrinks or grows with it, one across nodes stays.
fn default_scale_up(gpu: &Gpu, per: u32) -> ScaleUp {
    let domain = if gpu.scale_up.domain <= gpu.gpus_per_node { per } else { gpu.scale_up.domain };
    ScaleUp { domain, ..gpu.scale_up }
}

/// The usual network: `InfiniBand` with a NIC per GPU, or 100 Gb/s Ethernet for a box of PCIe cards.
fn default_network(gpu: &Gpu, per: u32) -> Network {
    if gpu.scale_up.kind == LinkKind::Pcie {
        let (bandwidth, latency) = (BytesPerSec::new(100e9 / 8.0), Seconds::new(20e-6));
        return Network { kind: NetworkKind::Ethernet, bandwidth, nics_per_node: 1, latency };
    }
    Network { kind: NetworkKind::Infiniband, bandwidth: gpu.nic, nics_per_node: per, latency: Seconds::new(5e-6) }
}

/// Nodes of one kind of GPU with its usual links.
fn usual(name: &str, gpu: Gpu, nodes: u32, per: u32) -> Result<Cluster> {
    within_most("cluster", nodes, per)?;
    let (scale_up, network) = (default_scale_up(&gpu, per), default_network(&gpu, per));
    Ok(Cluster { name: name.to_owned(), gpu, nodes, gpus_per_node: per, scale_up, network })
}

/// A text: a built-in name, counts and a GPU or a built-in name, or a path.
pub(super) fn parse(spec: &str) -> Result<Cluster> {
    let spec = spec.trim();
    if let Some((name, text)) = lookup(list::CLUSTERS, spec) {
        return Ok(built_in(name, text)?.cluster);
    }
    let path = Path::new(spec);
    if spec.to_lowercase().ends_with(".json") || path.is_file() {
        let value = read::value(spec, &read::text(path)?)?;
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        return from_value(spec, &stem, &value);
    }
    let (counts, name) = split(spec)?;
    if let Some((file, text)) = lookup(list::CLUSTERS, name) {
        return several(spec, &counts, built_in(file, text)?.cluster);
    }
    let Some((file, text)) = lookup(list::GPUS, name) else {
        let known: Vec<&str> = names(list::GPUS).chain(names(list::CLUSTERS)).collect();
        let hint = format!(
            "write counts and a GPU as in `16xH100` or `2x8xH100`, a built-in cluster, or a file; `list gpus` shows all {}, `list clusters` all {}",
            list::GPUS.len(),
            list::CLUSTERS.len()
        );
        // The counts are right; the name behind them is compared.
        let suggestions = crate::error::nearest(name, known);
        return Err(Error::UnknownName { what: "cluster", name: spec.to_owned(), suggestions, hint });
    };
    let gpu = super::built_in_gpu(file, text)?;
    match counts.as_slice() {
        [] => Err(Error::invalid("cluster", "", spec, format!("write how many, as in `8x{file}`"))),
        [gpus] => {
            let per = (1..=gpu.gpus_per_node.min(*gpus)).rev().find(|per| gpus.is_multiple_of(*per)).unwrap_or(1);
            usual(spec, gpu, gpus / per, per)
        }
        [nodes, per] => usual(spec, gpu, *nodes, *per),
        _ => Err(Error::invalid("cluster", "", spec, "at most two counts: nodes and GPUs of a node")),
    }
}

/// A number of nodes of a built-in cluster, or of racks when its scale-up domain spans nodes.
fn several(spec: &str, counts: &[u32], mut cluster: Cluster) -> Result<Cluster> {
    let [times] = counts else {
        let allowed = format!("one count, the nodes, as in `4x{}`", cluster.name);
        return Err(Error::invalid("cluster", "", spec, allowed));
    };
    let nodes_of_domain = (cluster.scale_up.domain / cluster.gpus_per_node).max(1);
    let nodes = u64::from(*times) * u64::from(nodes_of_domain);
    cluster.nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    within_most("cluster", cluster.nodes, cluster.gpus_per_node)?;
    cluster.name = spec.to_owned();
    Ok(cluster)
}

/// Leading counts and the name behind them.
fn split(spec: &str) -> Result<(Vec<u32>, &str)> {
    let mut counts = Vec::new();
    let mut rest = spec;
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let after = rest[digits..].trim_start();
        let Some(tail) = after.strip_prefix(['x', 'X', '*', '\u{d7}']).filter(|_| digits > 0) else {
            return Ok((counts, rest));
        };
        let number = rest[..digits].parse().unwrap_or(u32::MAX);
        if number == 0 || number > MOST_GPUS {
            return Err(Error::invalid("cluster", "", spec, format!("counts from 1 to {MOST_GPUS}")));
        }
        counts.push(number);
        rest = tail.trim_start();
    }
}

/// One of `configs/clusters`.
pub(super) fn built_in(name: &str, text: &str) -> Result<ClusterEntry> {
    let origin = format!("configs/clusters/{name}.json");
    let file: ClusterFile = read::typed(&origin, text)?;
    let (aliases, source) = (file.aliases.clone(), file.source.clone());
    Ok(ClusterEntry { cluster: file.check(&origin, name)?, aliases, source })
}

/// An object with the keys of a cluster file.
pub(super) fn from_value(origin: &str, name: &str, value: &Value) -> Result<Cluster> {
    match value {
        Value::String(spec) => parse(spec),
        Value::Object(_) => read::typed_value::<ClusterFile>(origin, value)?.check(origin, name),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            let allowed = "a text such as \"16xH100\", or an object such as {\"gpu\": \"h100-sxm\", \"nodes\": 2}";
            Err(Error::invalid(origin, "cluster", value, allowed))
        }
    }
}
