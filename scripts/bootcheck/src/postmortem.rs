//! What a dead guest left behind: its registers, its stacks, and our kernel's black box.
//!
//! The guest stands still: it has ended, hangs, or was stopped. Nothing read here is trusted to
//! be there; what cannot be had is left out.

use crate::blackbox::{self, Record};
use crate::gdbstub::{GdbStub, Registers};
use crate::loader::Loader;
use crate::locate::{Scene, Snapshot};
use crate::plan::{BlackBox, Plan, ram_start};
use crate::printk::{self, Linux};
use crate::qemu::Qemu;
use crate::unwind;

/// How much of a stack is kept for the backtrace.
const STACK: usize = 16 << 10;

/// How far RAM is searched on a board, which has as much as it has.
const BOARD_RAM: u64 = 1 << 30;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct PostMortem {
    /// The registers of the first CPU, if it was asked for them.
    pub registers: Option<Registers>,
    /// The black box.
    pub record: Option<Record>,
    /// Its physical address.
    pub record_at: Option<u64>,
    /// What was read of a Linux.
    pub linux: Option<Linux>,
    /// What a backtrace needs.
    pub scene: Scene,
}

/// How much is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The black box alone, and only where its place is known or a loader chose it: the boot was a
    /// good one.
    Record,
    /// All there is.
    Everything,
}

/// Reads what is left. A black box at the place of one of the `marks` must carry its number: else it
/// is of a boot before.
#[must_use]
pub fn examine(qemu: &mut Qemu, plan: &Plan, marks: &[BlackBox], depth: Depth) -> PostMortem {
    let mut found = PostMortem::default();
    let is_anywhere = plan.loader != Loader::Qemu && plan.image.is_ours;
    if depth == Depth::Record && plan.black_box.is_none() && !is_anywhere {
        return found;
    }
    let Ok(stub) = qemu.gdb() else {
        return found;
    };
    if depth == Depth::Record {
        let record = known_place(stub, plan, marks).or_else(|| {
            let registers = is_anywhere.then(|| stub.registers().ok())??;
            named_place(stub, plan, marks, &registers)
        });
        found.take_record(record);
        return found;
    }
    let cpus = stub.cpus().unwrap_or_default();
    let (first, others) = match cpus.split_first() {
        Some((first, others)) => (Some(*first), others),
        None => (None, &[][..]),
    };
    let _ = first.map(|cpu| stub.select(cpu));
    found.registers = stub.registers().ok();
    let record = known_place(stub, plan, marks)
        .or_else(|| named_place(stub, plan, marks, found.registers.as_ref()?))
        .or_else(|| search(stub, plan, marks));
    found.take_record(record);
    found.linux = linux(stub, plan);
    found.scene = scene(stub, &found);
    // Of ours, one CPU runs the kernel.
    if !plan.image.is_ours {
        add_cpus(stub, others, &mut found.scene);
    }
    found
}

/// A black box, and its physical address.
type Found = Option<(u64, Record)>;

impl PostMortem {
    fn take_record(&mut self, found: Found) {
        (self.record_at, self.record) = found.unzip();
    }
}

/// Where the ELF's symbol says.
fn known_place(stub: &mut GdbStub, plan: &Plan, marks: &[BlackBox]) -> Found {
    read(stub, marks, plan.black_box?.address)
}

/// Where the register says that our kernels keep its address in.
fn named_place(
    stub: &mut GdbStub,
    plan: &Plan,
    marks: &[BlackBox],
    registers: &Registers,
) -> Found {
    let address = *registers.get("TPIDRRO_EL0")?;
    let is_possible = plan.image.is_ours && address != 0;
    is_possible.then(|| read(stub, marks, address))?
}

/// Anywhere in RAM; only our own kernels have one.
fn search(stub: &mut GdbStub, plan: &Plan, marks: &[BlackBox]) -> Found {
    places(plan).find_map(|address| read(stub, marks, address))
}

/// The places of records in the memory of a guest that has not started yet: those of boots before.
pub fn old_records(qemu: &mut Qemu, plan: &Plan) -> Vec<u64> {
    let Ok(stub) = qemu.gdb() else {
        return Vec::new();
    };
    let mut is_record = |address: &u64| {
        let magic = stub.read_physical(*address, blackbox::MAGIC.len());
        magic.is_ok_and(|magic| magic == blackbox::MAGIC)
    };
    places(plan).filter(|address| is_record(address)).collect()
}

/// Where a black box may be, if nothing tells.
fn places(plan: &Plan) -> impl Iterator<Item = u64> + use<> {
    let start = ram_start(&plan.machine).filter(|_| plan.image.is_ours);
    let size = plan.mem.map_or(BOARD_RAM, |mem| mem.0);
    let ram = start.map(|start| start..start.saturating_add(size));
    ram.unwrap_or_default()
        .step_by(blackbox::ALIGNMENT as usize)
}

fn read(stub: &mut GdbStub, marks: &[BlackBox], address: u64) -> Found {
    let magic = stub.read_physical(address, blackbox::MAGIC.len()).ok()?;
    if magic != blackbox::MAGIC {
        return None;
    }
    let bytes = stub.read_physical(address, blackbox::WHOLE).ok()?;
    let mark = marks.iter().find(|mark| mark.address == address);
    let record = blackbox::read(&bytes, mark.map(|mark| mark.nonce))?;
    Some((address, record))
}

/// The log of a Linux.
pub fn linux(stub: &mut GdbStub, plan: &Plan) -> Option<Linux> {
    if plan.image.is_ours {
        return None;
    }
    let (start, size) = (ram_start(&plan.machine)?, plan.mem?.0);
    let places = || printk::places(plan.load_address(), start, size);
    let symbols = plan.source.as_ref().and_then(|source| source.get().ok());
    symbols
        .and_then(|symbols| printk::read(stub, symbols, places()).ok())
        .or_else(|| printk::search(stub, plan.image.linux.as_ref()?, places()).ok())
}

/// Registers and stacks for the unwinder.
fn scene(stub: &mut GdbStub, found: &PostMortem) -> Scene {
    let last = found.registers.as_ref().map(for_unwinding);
    let record = found.record.as_ref();
    let exception = record
        .and_then(|record| record.exception.as_ref())
        .filter(|exception| !exception.is_partial)
        .map(|exception| unwind::Registers {
            x: exception.x,
            sp: exception.sp,
            pc: exception.elr,
        });
    let mut memory = Snapshot::default();
    for registers in [&last, &exception].into_iter().flatten() {
        if let Some(stack) = read_stack(stub, registers.sp) {
            memory.add(registers.sp, stack);
        }
    }
    let mut bases = record.map_or_else(Vec::new, |record| vec![record.image]);
    if let Some(linux) = &found.linux {
        bases.extend(&linux.bases);
    }
    Scene {
        bases,
        exception,
        last,
        others: Vec::new(),
        memory,
    }
}

/// Adds registers and stacks of these CPUs.
fn add_cpus(stub: &mut GdbStub, cpus: &[u32], scene: &mut Scene) {
    for cpu in cpus {
        let general = stub.select(*cpu).and_then(|()| stub.general());
        let Ok(general) = general else { continue };
        let registers = unwind::Registers {
            x: std::array::from_fn(|number| general[number]),
            sp: general[31],
            pc: general[32],
        };
        if let Some(stack) = read_stack(stub, registers.sp) {
            scene.memory.add(registers.sp, stack);
        }
        scene.others.push(registers);
    }
}

/// As much as can be read from here on: a stack may end before.
fn read_stack(stub: &mut GdbStub, sp: u64) -> Option<Vec<u8>> {
    let mut stack = Vec::new();
    let mut length = STACK;
    while length >= 64 && stack.len() < STACK {
        match stub.read_virtual(sp.checked_add(stack.len() as u64)?, length) {
            Ok(bytes) => stack.extend(bytes),
            Err(_) => length /= 2,
        }
    }
    Some(stack).filter(|stack| !stack.is_empty())
}

fn for_unwinding(registers: &Registers) -> unwind::Registers {
    let get = |name: &str| registers.get(name).copied().unwrap_or(0);
    unwind::Registers {
        x: std::array::from_fn(|number| get(&format!("x{number}"))),
        sp: get("sp"),
        pc: get("pc"),
    }
}
