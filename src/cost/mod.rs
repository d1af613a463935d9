//! What a plan is charged: memory and time, term by term.
//!
//! `ops` describes a block per token (FLOP, bytes kept); `memory`, `compute`, `network` and `pipeline` price one resource each
//! and do not see each other. `estimate` puts them together.

pub mod compute;
pub mod memory;
pub mod network;
pub mod ops;
pub mod pipeline;
pub mod schedule;
pub mod stack;

use crate::cluster::Basis;
use crate::units::{Bytes, Seconds};

/// A closed set of terms that a [`Ledger`] holds.
pub trait Term: Copy + 'static {
    /// Every term, in the order of columns.
    const ALL: &'static [Self];
    /// Its place in [`Term::ALL`].
    fn index(self) -> usize;
    /// Its key in outputs.
    fn key(self) -> &'static str;
    /// What it is, for people.
    fn meaning(self) -> &'static str;
}

macro_rules! terms {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $key:literal $basis:ident $meaning:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)*
        }

        impl Term for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn index(self) -> usize {
                self as usize
            }

            fn key(self) -> &'static str {
                match self {
                    $(Self::$variant => $key,)*
                }
            }

            fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)*
                }
            }
        }

        impl $name {
            /// How far its figures can be trusted.
            #[must_use]
            pub const fn basis(self) -> Basis {
                match self {
                    $(Self::$variant => Basis::$basis,)*
                }
            }
        }
    };
}

terms! {
    /// What a GPU's memory holds.
    MemoryTerm {
        Weights "weights" Exact "weights of this rank in their number format",
        Gradients "gradients" Exact "gradients as they are accumulated",
        Optimizer "optimizer" Exact "master weights and Adam moments of this rank's shard",
        Activations "activations" Modelled "activations kept for the backward pass of all micro-batches in flight",
        Logits "logits" Modelled "logits and loss of the last stage",
        Transients "transients" Modelled "working set of the largest layer, on top of what is kept",
        GradWork "weight_gradient_buffers" Modelled "one buffer per distinct weight shape for fused gradient accumulation",
        Gathered "gathered_parameters" Modelled "parameters gathered around the running layer (ZeRO-3)",
        KvCache "kv_cache" Modelled "keys and values, latents and recurrent states of all requests in flight",
        ServeActivations "prefill_activations" Modelled "largest prefill step and the sampler",
        ExpertBuffers "expert_buffers" Modelled "dispatch and combine buffers of expert parallelism",
        Workspaces "workspaces" Assumed "scratch memory of the matrix libraries",
        Communication "communication" Assumed "NCCL channels and all-reduce buffers",
        Graphs "cuda_graphs" Assumed "captured graphs",
        Context "context" Assumed "driver and CUDA context",
        Fragmentation "fragmentation" Assumed "reserved by the allocator but not usable",
    }
}

impl MemoryTerm {
    /// Whether `PyTorch`'s `max_memory_allocated` would count it.
    #[must_use]
    pub const fn allocated(self) -> bool {
        match self {
            Self::Weights
            | Self::Gradients
            | Self::Optimizer
            | Self::Activations
            | Self::Logits
            | Self::Transients
            | Self::GradWork
            | Self::Gathered
            | Self::KvCache
            | Self::ServeActivations
            | Self::ExpertBuffers
            | Self::Workspaces => true,
            Self::Communication | Self::Graphs | Self::Context | Self::Fragmentation => false,
        }
    }
}

terms! {
    /// Where the time of a training step goes.
    TimeTerm {
        Compute "compute" Modelled "forward and backward of the busiest stage, all micro-batches",
        Recompute "recompute" Modelled "forward work done again in the backward pass",
        TpExposed "tp_exposed" Modelled "tensor parallel collectives that nothing hides",
        CpExposed "cp_exposed" Modelled "context parallel exchange that nothing hides",
        EpExposed "ep_exposed" Modelled "expert dispatch and combine that nothing hides",
        PpExposed "pp_exposed" Modelled "activations between stages that nothing hides",
        PpBubble "pp_bubble" Modelled "the pipeline filling and draining",
        DpExposed "dp_exposed" Modelled "gradient reduction and parameter gather that nothing hides",
        Optimizer "optimizer" Modelled "the optimizer's pass over its shard",
        Allocator "allocator" Assumed "micro-batches that wait while PyTorch empties its cache and asks the driver for memory again",
    }
}

terms! {
    /// Where the time of a further token of a request goes.
    ServeTerm {
        Projections "projections" Modelled "matrix products of attention, dense MLPs, shared experts, router and head",
        Attention "attention" Modelled "attention over the KV cache, and recurrent states",
        Experts "experts" Modelled "the fused kernels of routed experts",
        SmallKernels "small_kernels" Modelled "norms, rotary embedding, activations, quantisation, routing",
        Tp "tp" Modelled "all-reduces of tensor parallelism",
        Ep "ep" Modelled "exchange of tokens between attention ranks and their experts",
        Pp "pp" Modelled "hops between pipeline stages, and waiting for the slowest",
        Host "host" Modelled "scheduler, sampling and output that the GPU waits for",
        Prefill "prefill" Modelled "prefills of other requests that run meanwhile",
    }
}

/// Amounts by term; the total is their sum by construction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ledger<const N: usize> {
    amounts: [f64; N],
}

impl<const N: usize> Ledger<N> {
    /// Nothing charged.
    pub const EMPTY: Self = Self { amounts: [0.0; N] };

    /// Adds to a term.
    pub fn add<T: Term>(&mut self, term: T, amount: f64) {
        self.amounts[term.index()] += amount;
    }

    /// The amount of a term, in base units.
    #[must_use]
    pub fn get<T: Term>(&self, term: T) -> f64 {
        self.amounts[term.index()]
    }

    /// Adds another ledger, some times over.
    pub fn add_all(&mut self, other: &Self, times: f64) {
        for (amount, more) in self.amounts.iter_mut().zip(other.amounts) {
            *amount += times * more;
        }
    }

    /// The same with nothing charged to a term.
    #[must_use]
    pub fn without<T: Term>(mut self, term: T) -> Self {
        self.amounts[term.index()] = 0.0;
        self
    }

    /// The sum of all terms, in base units.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.amounts.iter().sum()
    }
}

/// Bytes by [`MemoryTerm`].
pub type MemoryLedger = Ledger<16>;
/// Seconds by [`TimeTerm`].
pub type TimeLedger = Ledger<10>;
/// Seconds by [`ServeTerm`].
pub type ServeLedger = Ledger<9>;

impl MemoryLedger {
    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::new(self.total())
    }

    /// What `PyTorch`'s allocator would report as its peak.
    #[must_use]
    pub fn allocated(&self) -> Bytes {
        Bytes::new(MemoryTerm::ALL.iter().filter(|t| t.allocated()).map(|t| self.get(*t)).sum())
    }
}

impl TimeLedger {
    /// All of it.
    #[must_use]
    pub fn seconds(&self) -> Seconds {
        Seconds::new(self.total())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledgers_have_a_place_for_every_term() {
        assert_eq!(MemoryTerm::ALL.len(), MemoryLedger::EMPTY.amounts.len());
        assert_eq!(TimeTerm::ALL.len(), TimeLedger::EMPTY.amounts.len());
        assert_eq!(ServeTerm::ALL.len(), ServeLedger::EMPTY.amounts.len());
    }
}
