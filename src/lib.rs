//! meshwright: which split of this model over these GPUs?

pub mod cluster;
pub mod framework;
pub mod import;
pub mod job;
pub mod launch;
pub mod mesh;
pub mod model;
pub mod plan;
pub mod rules;
pub mod units;
