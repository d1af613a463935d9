//! What other programs write, read into ours.

pub mod document;
pub mod hf;
#[cfg(test)]
mod hf_tests;
pub mod job;
mod keys;
mod quant;
pub mod verify;
#[cfg(test)]
mod verify_tests;
