//! Boots one aarch64 image under QEMU and says what happened.
//!
//! ```text
//!  image ──► plan ──► qemu ──┬─ console bytes ─► console ─► signs ─┐
//!  (what is  (QEMU's  (QMP,  ├─ QMP events ──────────────────────► │ verdict ─► report
//!   in it)    words)  child) └─ clock (guest time) ──────────────► │ (evidence   (JSON,
//!                                  ▲         boot: the event loop ─┘  weighed)    text)
//! ```
//!
//! - [`image`] tells what a file is before QEMU is asked to boot it; [`flatten`] makes our own
//!   `Image` out of the kernel's ELF.
//! - [`plan`] is the only place that writes QEMU arguments; [`qemu`] starts it, [`qmp`] talks to
//!   it, [`stream`] takes in what it writes,
//!   [`process`] makes sure that it never outlives us; [`loader`] knows U-Boot and UEFI.
//! - [`exceptions`] reads QEMU's exception log, [`standstill`] notices that nothing new happens and
//!   [`hang`] proves that nothing ever will, [`postmortem`] reads what a dead guest left behind:
//!   registers through [`gdbstub`], our kernel's [`blackbox`], Linux's log ([`printk`]).
//! - [`watch`] watches one guest until something is certain; [`boot`] is QEMU around that, and the
//!   resets. What was seen is a list of [`verdict::Facts`]; [`verdict::judge`] alone turns facts
//!   into a verdict.
//! - [`run`] is the `boot` command around it, [`matrix`] many boots in parallel, [`mod@bench`] boots
//!   compared in pairs, [`budget`] boots counted in instructions, [`inject`] boots of broken images
//!   that test the tester; [`faults`] lists what a kernel can do wrong on request.
//! - [`mod@bisect`] builds and boots one commit after the other, until it is plain which one is to
//!   blame.
//! - [`symbols`] says what is at an address, [`unwind`] who called; [`mod@decode`] adds both to a
//!   console, [`locate`] to a failure, and [`mod@fingerprint`] tells failures apart.
//!
//! The tester knows a kernel by its image and what it says, never by its source: neither `kernel`
//! nor `early_mmu` is a dependency, so that images of other projects are judged alike.
#![deny(unsafe_code)]

// First: its macros are for all that follow.
#[macro_use]
pub mod output;

pub mod a64;
pub mod bench;
pub mod bisect;
pub mod blackbox;
pub mod boot;
pub mod budget;
pub mod build;
pub mod ci;
pub mod cli;
pub mod clock;
pub mod console;
pub mod decode;
pub mod digest;
pub mod escape;
pub mod exceptions;
pub mod faults;
pub mod files;
pub mod fingerprint;
pub mod flatten;
pub mod gdbstub;
pub mod guest;
pub mod hang;
pub mod image;
pub mod inject;
pub mod interrupt;
pub mod ktap;
pub mod layout;
pub mod loader;
pub mod locate;
pub mod matrix;
pub mod parallel;
pub mod plan;
pub mod postmortem;
pub mod printk;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod report;
pub mod run;
pub mod signs;
pub mod size;
pub mod standstill;
pub mod stream;
pub mod symbols;
#[cfg(test)]
mod testelf;
pub mod unwind;
pub mod verdict;
pub mod watch;
