//! `bootcheck bisect`: the commit that broke the boot, proved and explained.
//!
//! ```text
//!  git (the user's, read only) ─► commits ─┐
//!  tree (a checkout of ours) ─► builder ─► lab ─► ends ─► hunt ─► prove ─► outcome ─► report
//!                            (surroundings) (each   (GOOD,  │                        (console,
//!                                      build and    BAD)    search (Bayes' rule       JSON, Markdown,
//!                                      boot once)           over the history)         git's log)
//! ```
//!
//! - [`history`], [`rates`] and [`search`] are arithmetic: no git, no QEMU, tested with thousands
//!   of simulated histories.
//! - [`git`] only reads the user's repository; [`tree`] is the checkout, with its [`submodules`],
//!   [`builder`] runs builds while there is [`room`], [`lab`] remembers what was built and booted, and lets
//!   a stopped bisection go on.
//! - [`failure`] and [`metric`] say what one boot means, [`sought`] which of them is asked.
//! - [`ends`] confirms GOOD and BAD, [`hunt`] finds, [`prove`] proves, [`mod@first_difference`]
//!   compares the last good boot with the first bad one.

pub mod builder;
pub mod ends;
pub mod failure;
pub mod first_difference;
pub mod git;
pub mod history;
pub mod hunt;
pub mod lab;
pub mod metric;
pub mod options;
pub mod outcome;
pub mod progress;
pub mod prove;
pub mod rates;
pub mod report;
pub mod room;
pub mod search;
pub mod session;
pub mod sought;
pub mod submodules;
pub mod tree;
pub mod work;

pub use session::run;
