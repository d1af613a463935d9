//! Prefill and decode apart: pools of workers matched by rate, and whether that pays.
