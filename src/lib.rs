//! meshwright: which split of this model over these GPUs?

pub mod catalog;
pub mod cluster;
pub mod cost;
pub mod error;
pub mod estimate;
pub mod explain;
pub mod export;
pub mod framework;
pub mod huggingface;
pub mod import;
pub mod job;
pub mod launch;
pub mod mesh;
pub mod model;
pub mod plan;
pub mod rank;
pub mod rules;
pub mod search;
pub mod space;
pub mod units;

#[cfg(feature = "cli")]
pub mod cli;
