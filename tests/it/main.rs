//! The integration tests, one binary: laws, oracle, published facts, schemas, snapshots, the command line, garbage, tidiness.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect fails")]

mod cli;
mod frameworks;
mod garbage;
mod golden;
mod laws;
mod oracle;
mod pipelines;
mod published;
mod ranks;
mod schema;
mod search;
mod serving;
mod tidy;
mod tool;
mod validation;
mod worlds;
