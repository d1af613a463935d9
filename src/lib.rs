//! meshwright: which split of this model over these GPUs?

pub mod catalog;
pub mod cluster;
pub mod cost;
pub mod estimate;
pub mod error;
pub mod framework;
pub mod import;
pub mod job;
pub mod mesh;
pub mod model;
pub mod plan;
pub mod rules;
pub mod units;
