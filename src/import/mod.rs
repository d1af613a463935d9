//! Reading what people have: job files, documents, launch scripts.

pub mod command;
pub mod document;
pub mod job;
mod load;
pub mod verify;
mod verify_launch;
mod verify_model;
#[cfg(test)]
mod verify_tests;
