//! A guest that stands still for ever, told from one that only looks so.
//!
//! Registers that do not change prove nothing: a guest may wait for a timer, poll a clock or
//! clear memory. What proves a hang is a loop through the same registers in which nothing from
//! outside can come in: single steps show that all registers recur within 256, and no
//! instruction on the way loads, stores, reads a system register, or lets an interrupt in. Then
//! the next round is the same as the last one. A WFI is such an instruction too: whatever ends
//! its sleep, the loop leads back to it.
//!
//! Where interrupts may be taken, a loop proves nothing; but where every CPU sleeps, none has armed a
//! timer, and no device is there that could speak up, no interrupt will come.

use std::collections::HashMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::a64;
use crate::gdbstub::GdbStub;

/// The longest loop that is looked for.
const STEPS: usize = 256;

/// PSTATE.I and PSTATE.F.
const INTERRUPTS_MASKED: u64 = 0xc0;

/// HCR_EL2 and SCR_EL3: the bits that send interrupts to that level, where PSTATE masks them not.
const HCR_ROUTES: u64 = 1 << 27 | 0x38;
const SCR_ROUTES: u64 = 0xe;

const PC: usize = 32;
const PSTATE: usize = 33;

/// A hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// What the guest does instead of going on.
    pub kind: Kind,
    /// How sure that is.
    pub certainty: Certainty,
}

/// What a guest that hangs does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It runs in a circle that leads nowhere.
    Spin,
    /// It sleeps, and nothing can wake it.
    Wfi,
    /// It is busy with nothing new.
    Livelock,
    /// It sleeps most of the time, and nothing new happens in between.
    Idle,
}

/// How sure a hang is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// It cannot end.
    Proved,
    /// Nothing new was seen for long.
    Likely,
}

impl Kind {
    /// The name, as in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Spin => "spin",
            Kind::Wfi => "wfi",
            Kind::Livelock => "livelock",
            Kind::Idle => "idle",
        }
    }
}

impl Hang {
    /// In words.
    #[must_use]
    pub fn message(self) -> &'static str {
        match (self.certainty, self.kind) {
            (Certainty::Proved, Kind::Wfi) => "the CPU sleeps in a WFI that nothing can end",
            (Certainty::Proved, _) => "the CPU runs in a loop that nothing can end",
            (Certainty::Likely, Kind::Idle) => "the guest mostly sleeps, and does nothing new",
            (Certainty::Likely, _) => {
                "the guest is busy, and has done nothing new for as long as --quiet allows"
            }
        }
    }
}

/// Looks for a proof that no CPU will ever do anything else. The guest stands still.
/// `interrupts_are_off` says that the interrupt controller delivers none.
///
/// # Errors
/// The stub does not answer.
pub fn prove(stub: &mut GdbStub, interrupts_are_off: bool) -> io::Result<Option<Kind>> {
    let mut kind = None;
    for (number, cpu) in stub.cpus()?.into_iter().enumerate() {
        stub.select(cpu)?;
        let registers = stub.general()?;
        if is_parked(&registers) || (number != 0 && waits_at_spin_table(stub, registers[PC])) {
            continue;
        }
        match prove_cpu(stub, cpu, interrupts_are_off)? {
            Some(Kind::Wfi) => kind = kind.or(Some(Kind::Wfi)),
            Some(other) => kind = Some(other),
            None => return Ok(None),
        }
    }
    Ok(kind)
}

/// The registers that arm a timer: ENABLE is bit 0, IMASK bit 1 (Arm ARM, Generic Timer registers).
const TIMERS: [&str; 7] = [
    "CNTV_CTL_EL0",
    "CNTP_CTL_EL0",
    "CNTPS_CTL_EL1",
    "CNTHP_CTL_EL2",
    "CNTHV_CTL_EL2",
    "CNTHPS_CTL_EL2",
    "CNTHVS_CTL_EL2",
];

/// The registers of all CPUs that were started, if every one of them stands in a WFI and has armed
/// nothing that could end it: neither a timer nor a performance counter. The guest stands still.
///
/// # Errors
/// The stub does not answer.
pub fn asleep(stub: &mut GdbStub) -> io::Result<Option<Vec<[u64; PSTATE + 1]>>> {
    let mut asleep = Vec::new();
    for cpu in stub.cpus()? {
        stub.select(cpu)?;
        let registers = stub.general()?;
        if is_parked(&registers) {
            continue;
        }
        let before = registers[PC].wrapping_sub(4);
        if Code::default().at(stub, before) != Some(a64::WFI) {
            return Ok(None);
        }
        for timer in TIMERS {
            if stub.register(timer)?.unwrap_or(0) & 0b11 == 0b01 {
                return Ok(None);
            }
        }
        if stub.register("PMINTENSET_EL1")?.unwrap_or(0) != 0 {
            return Ok(None);
        }
        asleep.push(registers);
    }
    Ok(Some(asleep).filter(|asleep| !asleep.is_empty()))
}

/// A CPU that was never started; only another one could start it.
fn is_parked(registers: &[u64]) -> bool {
    registers[..=PC].iter().all(|register| *register == 0)
}

/// A CPU that waits for another one to store its entry point, as boards without PSCI have it
/// (`wfe; ldr xN, [...]; cbz xN, the wfe`): it goes on only if that other one does.
fn waits_at_spin_table(stub: &mut GdbStub, pc: u64) -> bool {
    let mut code = Code::default();
    (0..3_u64).any(|back| {
        let start = pc.wrapping_sub(4 * back);
        let mut word = |index: u64| code.at(stub, start.wrapping_add(4 * index)).unwrap_or(0);
        a64::is_spin_table_wait([word(0), word(1), word(2)])
    })
}

fn prove_cpu(stub: &mut GdbStub, cpu: u32, interrupts_are_off: bool) -> io::Result<Option<Kind>> {
    if !interrupts_are_off && has_routes(stub)? {
        return Ok(None);
    }
    let mut code = Code::default();
    let mut seen: Vec<[u64; PSTATE + 1]> = Vec::new();
    for _ in 0..STEPS {
        let registers = stub.general()?;
        let is_masked = registers[PSTATE] & INTERRUPTS_MASKED == INTERRUPTS_MASKED;
        if !is_masked && !interrupts_are_off {
            return Ok(None);
        }
        if seen.contains(&registers) {
            return Ok(Some(Kind::Spin));
        }
        let pc = registers[PC];
        // A CPU asleep stands behind its WFI, and no step would end.
        if code.at(stub, pc.wrapping_sub(4)) == Some(a64::WFI) && leads_to_wfi(stub, &mut code, pc)
        {
            return Ok(Some(Kind::Wfi));
        }
        match code.at(stub, pc) {
            Some(a64::WFI) => {
                let is_loop = leads_to_wfi(stub, &mut code, pc.wrapping_add(4));
                return Ok(is_loop.then_some(Kind::Wfi));
            }
            Some(word) if a64::is_pure(word) => {}
            _ => return Ok(None),
        }
        if seen.is_empty() && code.at(stub, pc.wrapping_sub(4)) == Some(a64::WFI) {
            // Perhaps asleep, and what follows is more than a way back: not to be found out so.
            return Ok(None);
        }
        // A step throws all translated code away, so none where it is plain what comes; and QEMU steps over
        // a WFE or YIELD together with what follows it.
        let is_wait = code.at(stub, pc).is_some_and(a64::is_wait);
        if (seen.is_empty() || is_wait) && meets_the_world(stub, &mut code, pc) {
            return Ok(None);
        }
        seen.push(registers);
        stub.step(cpu)?;
    }
    Ok(None)
}

/// Whether the way from `start` leads to the WFI before it, over nothing but jumps, hints and
/// barriers: registers stay the same without looking.
fn leads_to_wfi(stub: &mut GdbStub, code: &mut Code, start: u64) -> bool {
    let target = start.wrapping_sub(4);
    let mut pc = start;
    for _ in 0..STEPS {
        if pc == target {
            return true;
        }
        let Some(word) = code.at(stub, pc) else {
            return false;
        };
        pc = match a64::jump(word, pc) {
            Some(next) => next,
            None if a64::is_idle(word) => pc.wrapping_add(4),
            None => return false,
        };
    }
    false
}

/// Whether the way from `pc`, up to the first branch that depends on a register or flag, comes to
/// an instruction that is not pure.
fn meets_the_world(stub: &mut GdbStub, code: &mut Code, mut pc: u64) -> bool {
    for _ in 0..STEPS {
        let Some(word) = code.at(stub, pc).filter(|word| a64::is_pure(*word)) else {
            return true;
        };
        pc = match a64::jump(word, pc) {
            Some(next) => next,
            None if a64::is_branch(word) || word == a64::WFI => return false,
            None => pc.wrapping_add(4),
        };
    }
    false
}

/// Whether interrupts may be taken to a higher exception level, whose masks do not show.
fn has_routes(stub: &mut GdbStub) -> io::Result<bool> {
    let hcr = stub.register("HCR_EL2")?.unwrap_or(0);
    let scr = stub.register("SCR_EL3")?.unwrap_or(0);
    Ok(hcr & HCR_ROUTES != 0 || scr & SCR_ROUTES != 0)
}

/// The instructions, each read once.
#[derive(Default)]
struct Code(HashMap<u64, Option<u32>>);

impl Code {
    fn at(&mut self, stub: &mut GdbStub, pc: u64) -> Option<u32> {
        *self.0.entry(pc).or_insert_with(|| {
            let bytes = stub.read_virtual(pc, 4).ok()?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        })
    }
}
