//! The frameworks a plan can be started on: their conventions, their rank orders, how they split layers.

use crate::mesh::{Convention, Group, Mesh};
use crate::plan::Toggle;
use std::fmt;

/// A framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Framework {
    /// Megatron-LM.
    Megatron,
    /// Megatron Bridge.
    Bridge,
    /// torchtitan.
    Torchtitan,
    /// DeepSpeed.
    Deepspeed,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM.
    Trtllm,
}

impl Framework {
    /// Every framework.
    pub const ALL: [Self; 7] =
        [Self::Megatron, Self::Bridge, Self::Torchtitan, Self::Deepspeed, Self::Vllm, Self::Sglang, Self::Trtllm];

    /// The name in flags and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.convention().name()
    }

    /// The name its makers use.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Megatron => "Megatron-LM",
            Self::Bridge => "Megatron Bridge",
            Self::Torchtitan => "torchtitan",
            Self::Deepspeed => "DeepSpeed",
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::Trtllm => "TensorRT-LLM",
        }
    }

    /// The version whose code the rules were read in.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Megatron => "0.19.2 / 0.20.0-dev",
            Self::Bridge => "0.6.2",
            Self::Torchtitan => "main (2026-11), 0.3.0",
            Self::Deepspeed => "0.19.8",
            Self::Vllm => "0.33.0",
            Self::Sglang => "0.5.23",
            Self::Trtllm => "1.2 / 1.3rc",
        }
    }

    /// Whose names it uses.
    #[must_use]
    pub const fn convention(self) -> Convention {
        match self {
            Self::Megatron => Convention::Megatron,
            Self::Bridge => Convention::Bridge,
            Self::Torchtitan => Convention::Torchtitan,
            Self::Deepspeed => Convention::Deepspeed,
            Self::Vllm => Convention::Vllm,
            Self::Sglang => Convention::Sglang,
            Self::Trtllm => Convention::Trtllm,
        }
    }

    /// The framework of a convention, if it is one's.
    #[must_use]
    pub fn of(convention: Convention) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.convention() == convention)
    }

    /// What it says of its kernels by being named: Megatron runs on Transformer Engine's fused ones.
    #[must_use]
    pub const fn kernels(self) -> Toggle {
        match self {
            Self::Megatron | Self::Bridge => Toggle::On,
            Self::Torchtitan | Self::Deepspeed | Self::Vllm | Self::Sglang | Self::Trtllm => Toggle::Default,
        }
    }

    /// Whether it serves (the others train).
    #[must_use]
    pub const fn serves(self) -> bool {
        match self {
            Self::Vllm | Self::Sglang | Self::Trtllm => true,
            Self::Megatron | Self::Bridge | Self::Torchtitan | Self::Deepspeed => false,
        }
    }
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// Groups of ranks that talk together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupKind {
    /// Tensor parallel.
    Tp,
    /// Context parallel.
    Cp,
    /// Data parallel of attention and dense layers.
    Dp,
    /// Data and context parallel together: who shards the dense optimizer.
    DpCp,
    /// Pipeline parallel.
    Pp,
    /// Expert parallel.
    Ep,
    /// Expert tensor parallel.
    Etp,
    /// Expert data parallel: who shards the experts' optimizer.
    Edp,
}

impl GroupKind {
    /// Every group.
    pub const ALL: [Self; 8] = [Self::Tp, Self::Cp, Self::Dp, Self::DpCp, Self::Pp, Self::Ep, Self::Etp, Self::Edp];

    /// The name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tp => "tp",
            Self::Cp => "cp",
            Self::Dp => "dp",
            Self::DpCp => "dp_cp",
            Self::Pp => "pp",
            Self::Ep => "ep",
            Self::Etp => "etp",
            Self::Edp => "edp",
        }
    }
}

/// How many whole-model copies (serving replicas) lie outermost; see [`group`].
pub type Replicas = u32;

/// A group's ranks in a convention's rank order.
///
/// Megatron, torchtitan, DeepSpeed, SGLang and the product convention lay `tp, cp, dp, pp` (experts: `etp, ep, edp, pp`), the
/// leftmost fastest; vLLM puts PP inside DP (`tp, pp, dp`); TensorRT-LLM puts CP fastest and EP before expert-TP. Serving
/// replicas are separate engines and come last.
/// Source: Megatron-Core `parallel_state.py` (order `tp-cp-ep-dp-pp`), vLLM `distributed/parallel_state.py`, TensorRT-LLM
/// `mapping.py`.
#[must_use]
pub fn group(convention: Convention, mesh: &Mesh, replicas: Replicas, kind: GroupKind) -> Group {
    let (tp, cp, pp) = (mesh.tp(), mesh.cp(), mesh.pp());
    let (ep, etp) = (mesh.ep(), mesh.etp());
    let replicas = replicas.max(1);
    let dp = (mesh.dp_attention() / replicas).max(1);
    let edp = (mesh.edp() / replicas).max(1);
    let stage = tp * cp * dp;
    match convention {
        Convention::Vllm => {
            // PP lies between TP and DP; an expert group is TP blocks repeated at every DP rank.
            let engine = tp * cp * pp;
            let across = Group { inner: (tp * cp, 1), outer: (dp, engine) };
            match kind {
                GroupKind::Tp => Group::strided(tp, 1),
                GroupKind::Cp => Group::strided(cp, tp),
                GroupKind::Dp => Group::strided(dp, engine),
                GroupKind::DpCp => Group { inner: (cp, tp), outer: (dp, engine) },
                GroupKind::Pp => Group::strided(pp, tp * cp),
                GroupKind::Ep if ep > 1 => across,
                GroupKind::Ep => Group::strided(1, 1),
                // A dense model's engines are cut by TP alone.
                GroupKind::Etp if etp == tp => Group::strided(tp, 1),
                GroupKind::Etp if etp > 1 => across,
                GroupKind::Etp => Group::strided(1, 1),
                GroupKind::Edp => Group::strided(edp, engine),
            }
        }
        Convention::Trtllm => match kind {
            GroupKind::Tp => Group::strided(tp, cp),
            GroupKind::Cp => Group::strided(cp, 1),
            GroupKind::Dp => Group::strided(dp, tp * cp),
            GroupKind::DpCp => Group { inner: (cp, 1), outer: (dp, tp * cp) },
            GroupKind::Pp => Group::strided(pp, stage),
            GroupKind::Ep => Group::strided(ep, 1),
            GroupKind::Etp => Group::strided(etp, ep),
            GroupKind::Edp => Group::strided(edp, ep * etp),
        },
        Convention::Product
        | Convention::Megatron
        | Convention::Bridge
        | Convention::Torchtitan
        | Convention::Deepspeed
        | Convention::Sglang => match kind {
            GroupKind::Tp => Group::strided(tp, 1),
            GroupKind::Cp => Group::strided(cp, tp),
            GroupKind::Dp => Group::strided(dp, tp * cp),
            GroupKind::DpCp => Group::strided(dp * cp, tp),
            GroupKind::Pp => Group::strided(pp, stage),
            GroupKind::Ep => Group::strided(ep, etp),
            GroupKind::Etp => Group::strided(etp, 1),
            GroupKind::Edp => Group::strided(edp, etp * ep),
        },
    }
}

/// The layers of every pipeline stage; see [`stage_len`].
#[must_use]
pub fn stage_layers(convention: Convention, layers: u32, pp: u32, first: u32, last: u32) -> Vec<u32> {
    (0..pp.max(1)).map(|stage| stage_len(convention, layers, pp, (first, last), stage)).collect()
}

/// The layers of one pipeline stage, as the convention's framework splits them.
///
/// Megatron takes explicit first and last stages (`ends`, zero when not set) or an even split; torchtitan and TensorRT-LLM give
/// the first stages the extra layers, vLLM those before the last, SGLang the last ones. Without a framework the middle stages
/// get the extras, as the ends hold embedding and head.
/// Source: Megatron-Core `transformer_block.py`, torchtitan `pipeline_parallel.py`, vLLM and SGLang `distributed/utils.py`.
#[must_use]
pub fn stage_len(convention: Convention, layers: u32, pp: u32, ends: (u32, u32), stage: u32) -> u32 {
    let pp = pp.max(1);
    let (first, last) = ends;
    let set = u32::from(first > 0) + u32::from(last > 0);
    if pp > 1 && set > 0 && first + last <= layers {
        if first > 0 && stage == 0 {
            return first;
        }
        if last > 0 && stage + 1 == pp {
            return last;
        }
        let middle = pp - set;
        let rest = layers - first - last;
        let at = stage - u32::from(first > 0);
        return rest / middle + u32::from(at < rest % middle);
    }
    let (each, extra) = (layers / pp, layers % pp);
    let takes = match convention {
        Convention::Torchtitan | Convention::Trtllm | Convention::Deepspeed => stage < extra,
        Convention::Sglang => stage >= pp - extra,
        // The last stage is spared, then the extras go to the ones before it.
        Convention::Vllm => stage + 1 < pp && stage + 1 + extra >= pp,
        Convention::Product | Convention::Megatron | Convention::Bridge => {
            // Rounded down: the last stage, with the head and the loss, is the last to get one.
            let from = (pp - extra) / 2;
            stage >= from && stage < from + extra
        }
    };
    each + u32::from(takes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_cover_every_layer() {
        for convention in Convention::ALL {
            for layers in 1..70 {
                for pp in 1..=layers {
                    let stages = stage_layers(convention, layers, pp, 0, 0);
                    assert_eq!(stages.iter().sum::<u32>(), layers, "{convention} {layers} {pp}");
                    assert_eq!(stages.len(), pp as usize);
                }
            }
        }
        assert_eq!(stage_layers(Convention::Vllm, 25, 2, 0, 0), [13, 12]);
        assert_eq!(stage_layers(Convention::Sglang, 25, 2, 0, 0), [12, 13]);
        assert_eq!(stage_layers(Convention::Megatron, 61, 4, 15, 14), [15, 16, 16, 14]);
    }

    #[test]
    fn megatrons_groups_of_sixteen() {
        let mesh = Mesh::new(2, 1, 2, 4, 4, 1).expect("factors that divide");
        assert_eq!(group(Convention::Megatron, &mesh, 1, GroupKind::Ep), Group::strided(4, 1));
        assert_eq!(group(Convention::Megatron, &mesh, 1, GroupKind::Pp), Group::strided(2, 8));
        let folded = Mesh::new(2, 1, 2, 4, 4, 2).expect("factors that divide");
        assert_eq!(group(Convention::Megatron, &folded, 1, GroupKind::Ep), Group::strided(4, 2));
    }
}
