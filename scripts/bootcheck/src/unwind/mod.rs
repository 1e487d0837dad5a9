//! Who called: from registers and memory of a guest that stands still.
//!
//! Each step up goes by the call frame information that the compiler left in the ELF
//! (`.eh_frame`, `.debug_frame`), which also covers code built without frame pointers, such as a
//! prebuilt `core`. Where it covers nothing, as in hand-written assembly without `.cfi`
//! directives, the frame records that x29 leads to are followed. After a return through an
//! overwritten frame, which leaves neither a function nor an x29, the stack is searched for the first
//! chain of frame records that is whole: the innermost calls are lost, those above are right. No step
//! trusts the guest: every address is checked, every frame must lie above the one before, and their
//! number is bounded.

use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EhFrame, Register, RegisterRule, UnwindContext,
    UnwindSection,
};

use crate::symbols::{Meaning, Piece, Place, Positions, Symbols};

/// The most frames that are looked for.
const MOST_FRAMES: usize = 64;

/// How far the stack pointer may move from one frame to the next.
const LARGEST_FRAME: u64 = 16 << 20;

/// How far up a stack is searched for a frame record.
const LONGEST_SEARCH: u64 = 4 << 10;

/// x29 and x30 of the architecture's procedure call standard.
const FP: usize = 29;
const LR: usize = 30;

/// DWARF's number of the stack pointer.
const DWARF_SP: Register = Register(31);

/// The general registers of a CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer in use.
    pub sp: u64,
    /// Where it executes.
    pub pc: u64,
}

/// The memory of a guest that stands still, at the addresses that its code uses.
pub trait Memory {
    /// Fills `buffer` from `address` on; `None` if nothing can be read there.
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Option<()>;
}

/// How a frame was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The registers say so.
    Registers,
    /// By call frame information.
    Cfi,
    /// By a frame record.
    FramePointer,
    /// In the link register alone: a function without call frame information had not saved it.
    LinkRegister,
    /// On the stack; functions between this one and the one before are lost.
    Search,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The address, as linked where the image is known to run there.
    pub pc: u64,
    /// What is there.
    pub place: Place,
    /// How it was found.
    pub found: Found,
}

/// The frames from `registers` up, innermost first; the first is where the CPU executes.
#[must_use]
pub fn backtrace(
    symbols: &Symbols,
    positions: &Positions,
    registers: &Registers,
    memory: &mut dyn Memory,
) -> Vec<Frame> {
    let mut unwinder = Unwinder {
        symbols,
        positions,
        tables: Tables::of(symbols),
        memory,
    };
    unwinder.run(*registers)
}

struct Unwinder<'a> {
    symbols: &'a Symbols,
    positions: &'a Positions,
    tables: Tables,
    memory: &'a mut dyn Memory,
}

impl Unwinder<'_> {
    fn run(&mut self, mut registers: Registers) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut found = Found::Registers;
        loop {
            let linked = self.positions.as_linked(self.symbols, registers.pc);
            let meaning = match found {
                Found::Registers => Meaning::Executing,
                _ => Meaning::Return,
            };
            let place = linked
                .map(|pc| self.symbols.resolve(pc, meaning))
                .unwrap_or_default();
            frames.push(Frame {
                pc: linked.unwrap_or(registers.pc),
                place,
                found,
            });
            if frames.len() == MOST_FRAMES {
                return frames;
            }
            let Some((caller, how)) = self.caller(&registers, linked, meaning) else {
                return frames;
            };
            // Only the innermost function may be one that has not touched the stack.
            let is_above = caller.sp > registers.sp
                || (caller.sp == registers.sp && meaning == Meaning::Executing);
            if !is_above || caller.sp - registers.sp > LARGEST_FRAME {
                return frames;
            }
            (registers, found) = (caller, how);
        }
    }

    /// The registers as they were in the caller.
    fn caller(
        &mut self,
        registers: &Registers,
        linked: Option<u64>,
        meaning: Meaning,
    ) -> Option<(Registers, Found)> {
        let probe = linked.map(|pc| match meaning {
            Meaning::Executing => pc,
            Meaning::Return => pc.wrapping_sub(1),
        });
        if let Some(rules) = probe.and_then(|probe| self.tables.rules(probe)) {
            // What covers the address is right about it, if it says that this is the end, too.
            let caller = self.apply(&rules, registers)?;
            return self.is_return(caller.pc).then_some((caller, Found::Cfi));
        }
        if meaning == Meaning::Executing
            && let Some(caller) = self.by_link_register(registers, linked)
        {
            return Some((caller, Found::LinkRegister));
        }
        if let Some(caller) = self.by_frame_record(registers) {
            return Some((caller, Found::FramePointer));
        }
        let is_lost = meaning == Meaning::Executing && linked.is_none();
        Some((is_lost.then(|| self.by_search(registers))??, Found::Search))
    }

    fn apply(&mut self, rules: &Rules, registers: &Registers) -> Option<Registers> {
        let cfa = value(registers, rules.base)?.wrapping_add_signed(rules.offset);
        let mut caller = *registers;
        caller.sp = cfa;
        for (register, rule) in &rules.registers {
            let number = usize::from(register.0);
            let Some(slot) = caller.x.get_mut(number) else {
                continue;
            };
            *slot = match *rule {
                RegisterRule::Offset(offset) => {
                    read_word(self.memory, cfa.wrapping_add_signed(offset))?
                }
                RegisterRule::ValOffset(offset) => cfa.wrapping_add_signed(offset),
                RegisterRule::Register(other) => value(registers, other)?,
                RegisterRule::SameValue => continue,
                RegisterRule::Constant(constant) => constant,
                // The end of the chain, for the return address; else a value nobody needs.
                _ if number == LR => return None,
                _ => continue,
            };
        }
        caller.pc = caller.x[LR];
        Some(caller)
    }

    /// In a function that has not saved it yet, or never does, the caller is in x30. After it has
    /// made a call itself, x30 leads back into the function.
    fn by_link_register(&self, registers: &Registers, linked: Option<u64>) -> Option<Registers> {
        let lr = registers.x[LR];
        if !self.is_return(lr) {
            return None;
        }
        let caller = self.positions.as_linked(self.symbols, lr)?;
        let name = |address, meaning| self.symbols.resolve(address, meaning).symbol;
        let own = linked.and_then(|pc| name(pc, Meaning::Executing));
        if own.is_some() && own == name(caller, Meaning::Return) {
            return None;
        }
        Some(Registers {
            pc: lr,
            ..*registers
        })
    }

    fn by_frame_record(&mut self, registers: &Registers) -> Option<Registers> {
        let record = registers.x[FP];
        if !record.is_multiple_of(8) || record < registers.sp {
            return None;
        }
        let next = read_word(self.memory, record)?;
        let lr = read_word(self.memory, record.checked_add(8)?)?;
        if !self.is_return(lr) {
            return None;
        }
        let mut caller = *registers;
        caller.x[FP] = next;
        caller.x[LR] = lr;
        caller.sp = record.checked_add(16)?;
        caller.pc = lr;
        Some(caller)
    }

    /// The first frame record on the stack that leads up to the end of its chain.
    fn by_search(&mut self, registers: &Registers) -> Option<Registers> {
        (0..LONGEST_SEARCH).step_by(16).find_map(|offset| {
            let mut candidate = *registers;
            candidate.x[FP] = registers.sp.next_multiple_of(16).checked_add(offset)?;
            let caller = self.by_frame_record(&candidate)?;
            let mut top = caller;
            for _ in 0..MOST_FRAMES {
                if top.x[FP] == 0 {
                    return Some(caller);
                }
                top = self.by_frame_record(&top)?;
            }
            None
        })
    }

    /// Whether a call in the image may return here.
    fn is_return(&self, address: u64) -> bool {
        self.positions
            .as_linked(self.symbols, address)
            .is_some_and(|linked| self.symbols.follows_call(linked))
    }
}

fn value(registers: &Registers, register: Register) -> Option<u64> {
    match register {
        DWARF_SP => Some(registers.sp),
        Register(number) => registers.x.get(usize::from(number)).copied(),
    }
}

fn read_word(memory: &mut dyn Memory, address: u64) -> Option<u64> {
    let mut word = [0; 8];
    memory.read(address, &mut word)?;
    Some(u64::from_le_bytes(word))
}

/// Call frame information of an ELF.
struct Tables {
    eh_frame: Option<(EhFrame<Piece>, BaseAddresses)>,
    debug_frame: Option<DebugFrame<Piece>>,
}

/// How one function, at one instruction, finds its caller.
struct Rules {
    base: Register,
    offset: i64,
    registers: Vec<(Register, RegisterRule<usize>)>,
}

impl Tables {
    fn of(symbols: &Symbols) -> Self {
        let eh_frame = symbols.section(".eh_frame").map(|(address, piece)| {
            let mut section = EhFrame::from(piece);
            section.set_address_size(8);
            let bases = BaseAddresses::default()
                .set_eh_frame(address)
                .set_text(symbols.base());
            (section, bases)
        });
        let debug_frame = symbols.section(".debug_frame").map(|(_, piece)| {
            let mut section = DebugFrame::from(piece);
            section.set_address_size(8);
            section
        });
        Self {
            eh_frame,
            debug_frame,
        }
    }

    fn rules(&self, address: u64) -> Option<Rules> {
        let by_eh_frame = self
            .eh_frame
            .as_ref()
            .and_then(|(section, bases)| rules(section, bases, address));
        by_eh_frame.or_else(|| {
            let section = self.debug_frame.as_ref()?;
            rules(section, &BaseAddresses::default(), address)
        })
    }
}

fn rules<S>(section: &S, bases: &BaseAddresses, address: u64) -> Option<Rules>
where
    S: UnwindSection<Piece>,
    S::Offset: gimli::UnwindOffset<usize>,
{
    let mut context = UnwindContext::new();
    let row = section
        .unwind_info_for_address(bases, &mut context, address, S::cie_from_offset)
        .ok()?;
    match *row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Some(Rules {
            base: register,
            offset,
            registers: row.registers().cloned().collect(),
        }),
        // No compiler for aarch64 writes these; frame pointers have to do.
        CfaRule::Expression(_) => None,
    }
}

#[cfg(test)]
mod tests;
