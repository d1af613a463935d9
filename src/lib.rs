//! meshwright: which split of this model over these GPUs?

pub mod catalog;
pub mod claim;
pub mod cluster;
pub mod cost;
pub mod error;
pub mod estimate;
pub mod explain;
pub mod export;
pub mod framework;
pub mod import;
pub mod job;
pub mod mesh;
pub mod model;
pub mod plan;
pub mod rank;
pub mod rules;
pub mod search;
pub mod space;
pub mod units;
pub mod verify;
