//! What other programs write, read into ours.

pub mod hf;
#[cfg(test)]
mod hf_tests;
mod keys;
mod quant;
