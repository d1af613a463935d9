//! meshwright answers one question, exactly and at once: **which split of this model over these GPUs?**
//!
//! A [`job::Job`] (model, cluster, workload) spans a [`space`] of [`plan::Plan`]s; a [`rules::Rule`] rejects a plan with its numbers
//! or an [`estimate::Estimate`] prices it; a [`search`](mod@search) walks the space in parallel and keeps the best.
//!
//! ```
//! use meshwright::job::{GradDtype, Job, Precision, Train, Workload};
//! use meshwright::mesh::Convention;
//! use meshwright::plan::{Draft, Purpose};
//! use meshwright::search::{SearchOptions, Watch, search};
//! use meshwright::{catalog, estimate, space::SpaceOptions};
//! use std::sync::atomic::AtomicBool;
//!
//! let train = Train {
//!     seq_len: 4096,
//!     global_batch: 512,
//!     precision: Precision::Bf16,
//!     grad_dtype: GradDtype::Fp32,
//!     moe_balance: 1.0,
//!     mtp_layers: 0,
//! };
//! let (model, cluster) = (catalog::model("mixtral-8x7b")?, catalog::cluster("16xH100")?);
//! let job = Job::new(model, cluster, Workload::Train(train)).expect("a sound job");
//!
//! // The best plans that fit.
//! let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
//! let found = search(&job, &SpaceOptions::default(), &SearchOptions::default(), &watch);
//! let best = &found.rows[0];
//! assert!(best.estimate.memory.fits());
//! println!("{}", best.plan.text(Convention::Product, Purpose::Train));
//!
//! // A plan somebody wrote: 32 GPUs, and there are 16.
//! let draft = Draft::parse("tp2 ep4 pp2 dp2", Convention::Product).expect("a plan");
//! let judged = estimate::assess(&job, None, &draft);
//! assert_eq!(judged.resolution.needed, 32);
//! assert_eq!(judged.resolution.rejections[0].rule.id(), "world");
//! # Ok::<(), meshwright::error::Error>(())
//! ```
//!
//! Nothing left of [`error`] in this list does I/O, and nothing there can fail once a job exists; see `ARCHITECTURE.md`. Formulas
//! and their sources are in `docs/MODEL.md`.

// -- core: no files, no clock, no environment, no printing --
pub mod units;

pub mod model;

pub mod cluster;

pub mod lengths;

pub mod job;

pub mod mesh;

pub mod plan;

pub mod framework;

pub mod rules;

pub mod space;

pub mod cost;

pub mod estimate;

pub mod rank;

pub mod search;

pub mod goal;
pub mod robust;

pub mod claim;

pub mod verify;

pub mod validate;

pub mod explain;

// -- shell: files, terminal, people --
pub mod error;

pub mod huggingface;

pub mod catalog;

pub mod import;

pub mod export;

pub mod launch;

#[cfg(feature = "cli")]
pub mod cli;
