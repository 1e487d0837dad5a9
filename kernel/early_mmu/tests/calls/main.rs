//! What each call does, by example: one file a subject.

mod arguments;
mod blocks;
mod contiguous;
mod dump;
mod flush;
mod flush_ranges;
mod foreign;
mod geometries;
mod hierarchical;
mod hostile;
mod limits;
mod live;
mod parts;
mod refusals;
mod regressions;
mod remap;
mod splitting;
mod truth_table;

#[path = "../support/mod.rs"]
mod support;
