//! Reading what people have: job files, launch scripts.

pub mod command;
pub mod hf;
#[cfg(test)]
mod hf_tests;
pub mod job;
mod keys;
mod quant;
