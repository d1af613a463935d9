//! Reading what other programs write.

pub mod command;
