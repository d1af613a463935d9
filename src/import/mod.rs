//! Reading what people have: job files, launch scripts.

pub mod command;
pub mod job;
