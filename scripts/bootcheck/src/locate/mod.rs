//! Where a boot failed: function, source line and callers, from what the guest left behind.
//!
//! Two sources, the better one first: the [`Scene`], registers and memory of the guest as the
//! post-mortem found them, and what the report on the console says. Addresses become addresses
//! as linked; with an ELF they get names and lines, without one they stay addresses.

use crate::decode::find::{Finder, Word};
use crate::signs::{self, Sign};
use crate::symbols::{Meaning, Place, Positions, Symbols, names};
use crate::unwind::{self, Frame, Memory, Registers};
use crate::verdict::Verdict;

/// What the post-mortem found in a guest that has ended or stands still.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// Addresses that the image's first byte had: physical, and where it was displaced to.
    pub bases: Vec<u64>,
    /// The registers at the first exception from which execution never resumed.
    pub exception: Option<Registers>,
    /// The registers of the first CPU, where it stands still.
    pub last: Option<Registers>,
    /// Those of the other CPUs, if the kernel runs on all of them.
    pub others: Vec<Registers>,
    /// The stacks, at the addresses that the registers use.
    pub memory: Snapshot,
}

/// Pieces of a guest's memory, kept beyond its end.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Snapshot {
    /// Adds a piece.
    pub fn add(&mut self, address: u64, bytes: Vec<u8>) {
        self.pieces.push((address, bytes));
    }
}

impl Memory for Snapshot {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Option<()> {
        let found = self.pieces.iter().find_map(|(start, bytes)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(offset..offset.checked_add(buffer.len())?)
        });
        buffer.copy_from_slice(found?);
        Some(())
    }
}

/// A place in the backtrace, as the source has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// The address, as linked where that is known.
    pub pc: u64,
    /// The function, inlined ones too.
    pub function: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
    /// Whether this is Rust's own library or somebody else's crate.
    pub is_library: bool,
}

/// Where it failed, and who called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// The steps, innermost first; the first is where it failed.
    pub steps: Vec<Step>,
    /// What the linker knows about the first address: `symbol+0x10 (file:line)`.
    pub summary: Option<String>,
}

impl Whereabouts {
    /// The innermost step in the kernel's own source. What was jumped to and is no code is none.
    #[must_use]
    pub fn culprit(&self) -> Option<&Step> {
        let is_own = |step: &&Step| !step.is_library && step.function.is_some();
        self.steps.iter().find(is_own).or(self.steps.first())
    }

    /// The step at this place in the source.
    #[must_use]
    pub fn step_at(&self, file: &str, line: Option<u32>) -> Option<&Step> {
        let is_there = |step: &&Step| step.file.as_deref() == Some(file) && step.line == line;
        self.steps.iter().find(is_there)
    }

    /// The functions of the kernel's own source, innermost first.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        let own = self.steps.iter().filter(|step| !step.is_library);
        own.filter_map(|step| step.function.as_deref())
    }
}

/// Finds out where it failed; `None` if nothing tells.
#[must_use]
pub fn locate(
    verdict: Verdict,
    scene: Option<&Scene>,
    console: Option<&str>,
    symbols: Option<&Symbols>,
) -> Option<Whereabouts> {
    let frames = match verdict {
        Verdict::Pass | Verdict::Infra | Verdict::Unbootable => return None,
        _ => scene
            .and_then(|scene| by_scene(verdict, scene, symbols))
            .or_else(|| by_console(console?, symbols))?,
    };
    let mut steps: Vec<Step> = frames.iter().flat_map(steps).collect();
    let mut first = frames.first();
    if verdict == Verdict::Panic {
        skip_panic_handler(&mut steps);
        let pc = steps.first().map(|step| step.pc);
        first = frames.iter().find(|frame| Some(frame.pc) == pc);
    }
    let summary = first.and_then(|frame| frame.place.summary());
    Some(Whereabouts { steps, summary })
}

fn by_scene(verdict: Verdict, scene: &Scene, symbols: Option<&Symbols>) -> Option<Vec<Frame>> {
    let registers = match verdict {
        Verdict::Exception => scene.exception?,
        _ => scene.last?,
    };
    let Some(symbols) = symbols else {
        return Some(vec![unknown(registers.pc)]);
    };
    let mut positions = Positions::of(symbols);
    for base in &scene.bases {
        positions.add(*base);
    }
    let mut memory = scene.memory.clone();
    let mut backtrace = |registers| unwind::backtrace(symbols, &positions, registers, &mut memory);
    let frames = backtrace(&registers);
    let is_panicking = |frames: &[Frame]| frames.iter().flat_map(steps).any(|it| is_handler(&it));
    if verdict != Verdict::Panic || is_panicking(&frames) {
        return Some(frames);
    }
    // One of the others panicked, and stopped this one.
    let mut others = scene.others.iter().map(backtrace);
    Some(others.find(|frames| is_panicking(frames)).unwrap_or(frames))
}

fn unknown(pc: u64) -> Frame {
    Frame {
        pc,
        place: Place::default(),
        found: unwind::Found::Registers,
    }
}

/// The place and the call trace in the report of the failure on the console. Of what the report
/// itself is not sure of (`?`) nothing is taken.
fn by_console(console: &str, symbols: Option<&Symbols>) -> Option<Vec<Frame>> {
    let mut finder = Finder::default();
    let mut positions = symbols.map(Positions::of);
    let mut failed = false;
    let mut trace_began = false;
    let mut frames: Vec<Frame> = Vec::new();
    for line in console.lines() {
        let found = finder.read(line);
        if let (Some(positions), Some(base)) = (&mut positions, found.image_at) {
            positions.add(base);
        }
        failed |= matches!(signs::read(line), Some(Sign::Panic(_) | Sign::Exception(_)));
        if !failed {
            continue;
        }
        if trace_began && !found.in_trace {
            break;
        }
        trace_began |= found.in_trace;
        if line.ends_with('?') || !(found.in_trace || found.is_pc) {
            continue;
        }
        for spot in found.spots {
            let pc = match (&spot.word, symbols) {
                (Word::Offset(offset), Some(symbols)) => symbols.base().checked_add(*offset),
                (Word::Symbol(name, offset), Some(symbols)) => symbols
                    .address_of(name)
                    .and_then(|start| start.checked_add(*offset)),
                (Word::Address(address), Some(symbols)) => positions
                    .as_ref()
                    .and_then(|positions| positions.as_linked(symbols, *address))
                    // A jump into nowhere is where it failed all the same.
                    .or(found.is_pc.then_some(*address)),
                (Word::Address(address), None) => Some(*address),
                _ => None,
            };
            let Some(pc) = pc else { continue };
            // The trace repeats the place that it begins at.
            if spot.meaning == Meaning::Executing && !frames.is_empty() {
                continue;
            }
            let place = symbols
                .map(|symbols| symbols.resolve(pc, spot.meaning))
                .unwrap_or_default();
            frames.push(Frame {
                place,
                ..unknown(pc)
            });
        }
    }
    (!frames.is_empty()).then_some(frames)
}

/// One frame as the source has it: inlined calls are calls.
fn steps(frame: &Frame) -> Vec<Step> {
    if frame.place.calls.is_empty() {
        let function = frame.place.symbol.clone();
        return vec![Step {
            pc: frame.pc,
            is_library: function.as_deref().is_some_and(names::is_library_function),
            function,
            ..Step::default()
        }];
    }
    let calls = frame.place.calls.iter().cloned();
    calls
        .map(|call| Step {
            pc: frame.pc,
            function: call.function,
            file: call.file,
            line: call.line,
            is_library: call.is_library,
        })
        .collect()
}

/// Whether this is the function that a panic ends in: Rust's, or Linux's.
fn is_handler(step: &Step) -> bool {
    let name = step.function.as_deref().unwrap_or_default();
    name.ends_with("rust_begin_unwind") || name == "panic"
}

/// Takes off what ran because of the panic: the handler, and the library's way to it.
fn skip_panic_handler(steps: &mut Vec<Step>) {
    let handler = steps.iter().rposition(is_handler).map_or(0, |at| at + 1);
    let library = steps[handler..].iter().take_while(|step| step.is_library);
    let skipped = handler + library.count();
    if skipped < steps.len() {
        steps.drain(..skipped);
    }
}

#[cfg(test)]
mod tests;
