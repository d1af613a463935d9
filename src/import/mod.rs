//! Reading what people have: job files, documents, launch scripts.

pub mod command;
pub mod document;
pub mod job;
pub mod verify;
#[cfg(test)]
mod verify_tests;
