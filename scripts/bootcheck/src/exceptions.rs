//! QEMU's exception log (`-d int`), read as it comes and kept by what it means.
//!
//! A dump at the end shows the last exception; with broken vectors a CPU takes some 130,000 a
//! second, and the last one says nothing. What counts is the first synchronous exception from
//! which execution never resumed. So the log is paired up: an exception taken is open until an
//! exception return goes back to where it came from. Healthy kernels take thousands, and all of
//! those are closed again; interrupts and calls (PSCI, semihosting) never count at all.
//!
//! Nothing here depends on time: what is kept is bounded by count.

use std::collections::HashSet;

use crate::a64;

/// So many synchronous exceptions on top of each other, with no return in between, are a storm:
/// no handler is that deep.
pub const STORM: u32 = 500;

/// The most open exceptions that are kept; beyond, interrupts are forgotten first.
const OPEN: usize = 4096;

/// The most different exceptions that are told apart as new.
const KINDS: usize = 4096;

/// An exception that was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The architecture's own names.
pub struct Taken {
    /// QEMU's name for it, as `Data Abort`.
    pub name: String,
    pub from_el: u8,
    pub to_el: u8,
    pub esr: u64,
    pub far: Option<u64>,
    pub elr: u64,
    /// [`ExceptionLog::count`] with this one.
    pub serial: u64,
}

impl Taken {
    /// Interrupts come from outside.
    fn is_interrupt(&self) -> bool {
        matches!(
            self.name.as_str(),
            "IRQ"
                | "FIQ"
                | "Virtual IRQ"
                | "Virtual FIQ"
                | "Virtual SERR"
                | "NMI"
                | "Virtual IRQ NMI"
                | "Virtual FIQ NMI"
        )
    }

    /// PSCI's CPU_SUSPEND sleeps within the call, and QEMU's log never says that the call was handled. One
    /// that the guest takes has come from somewhere.
    fn is_call_of_qemu(&self) -> bool {
        matches!(a64::exception_class(self.esr), 0x16 | 0x17) && self.elr == 0
    }

    /// Whether it is one that a kernel takes by mistake. What user space does is its business.
    fn counts(&self) -> bool {
        self.from_el >= 1 && !self.is_interrupt()
    }
}

/// What the log has told so far.
#[derive(Debug, Clone, Default)]
pub struct ExceptionLog {
    current: Option<Taken>,
    open: Vec<Taken>,
    kinds: HashSet<(u64, u64)>,
    /// Exceptions since the last return.
    depth: u32,
    /// Exceptions and returns altogether.
    pub count: u64,
    /// Whether there was a storm.
    pub is_storm: bool,
}

impl ExceptionLog {
    /// Takes in one line of QEMU's standard error; whether it belongs to the log.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some(rest) = line.strip_prefix("Taking exception ") {
            self.settle();
            let name = rest
                .split_once('[')
                .and_then(|(_, rest)| rest.split_once(']'));
            self.current = Some(Taken {
                name: name.map_or_else(String::new, |(name, _)| name.to_owned()),
                ..Taken::default()
            });
            return true;
        }
        if let Some(rest) = line.strip_prefix("Exception return from AArch64 EL") {
            self.settle();
            self.exception_return(rest);
            return true;
        }
        let Some(detail) = line.strip_prefix("...") else {
            return false;
        };
        let Some(current) = &mut self.current else {
            return true;
        };
        if let Some(levels) = detail.strip_prefix("from EL") {
            let mut levels = levels
                .split(" to EL")
                .map(|level| level.parse().unwrap_or(0));
            current.from_el = levels.next().unwrap_or(0);
            current.to_el = levels.next().unwrap_or(0);
        } else if let Some(syndrome) = detail.strip_prefix("with ESR ") {
            current.esr = number(syndrome.rsplit('/').next().unwrap_or_default());
        } else if let Some(address) = detail.strip_prefix("with FAR ") {
            current.far = Some(number(address));
        } else if let Some(address) = detail.strip_prefix("with ELR ") {
            current.elr = number(address);
        } else if detail.starts_with("handled as ") || detail.starts_with("handling as ") {
            // PSCI and semihosting: QEMU does it, the guest goes on behind the call.
            self.current = None;
        } else if detail.starts_with("to EL") {
            self.settle();
        }
        true
    }

    /// The first synchronous exception that is still open.
    #[must_use]
    pub fn unresumed(&self) -> Option<&Taken> {
        self.open.iter().find(|taken| taken.counts())
    }

    /// How many different exceptions there were, up to a bound.
    #[must_use]
    pub fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// The exception being told of is complete.
    fn settle(&mut self) {
        let Some(mut taken) = self.current.take() else {
            return;
        };
        self.count += 1;
        taken.serial = self.count;
        if taken.is_call_of_qemu() {
            return;
        }
        // User space never resumes by returning to a kernel, and is not judged.
        if taken.from_el == 0 || self.is_storm {
            return;
        }
        if taken.counts() {
            self.depth += 1;
            self.is_storm |= self.depth >= STORM;
        }
        if self.kinds.len() < KINDS {
            self.kinds.insert((taken.esr, taken.elr));
        }
        if self.open.len() >= OPEN {
            let interrupt = self.open.iter().position(Taken::is_interrupt);
            self.open.remove(interrupt.unwrap_or(OPEN - 1));
        }
        self.open.push(taken);
    }

    /// `1 to AArch64 EL1 PC 0x…`
    fn exception_return(&mut self, rest: &str) {
        self.count += 1;
        let Some((level, pc)) = rest
            .split_once(" to AArch64 EL")
            .and_then(|(_, rest)| rest.split_once(" PC "))
        else {
            return;
        };
        if level == "0" || self.is_storm {
            return;
        }
        let pc = number(pc);
        // To the instruction or the one behind it; else to a place that the handler chose, which
        // closes the innermost.
        let returns = |taken: &Taken| pc == taken.elr || pc == taken.elr.wrapping_add(4);
        let index = self.open.iter().rposition(returns);
        let index = index.or(self.open.len().checked_sub(1));
        if let Some(index) = index {
            self.open.truncate(index);
            self.depth = 0;
        }
    }
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ExceptionLog {
        let mut log = ExceptionLog::default();
        for line in text.lines() {
            assert!(log.line(line), "{line:?}");
        }
        log
    }

    /// As QEMU 7.2 writes it.
    const UNDEFINED: &str = "\
Taking exception 1 [Undefined Instruction] on CPU 0
...from EL1 to EL1
...with ESR 0x0/0x2000000
...with ELR 0xffff8000800097e8
...to EL1 PC 0xffff800080001200 PSTATE 0x3c5
";

    /// As QEMU 10 writes it.
    const ABORT: &str = "\
Taking exception 4 [Data Abort] on CPU 0
...from EL1 to EL1
...with ESR 0x25/0x96000005
...with FAR 0xffff800040000000
...with SPSR 0x800003c5
...with ELR 0xffff800080009898
...to EL1 PC 0xffff800080001200 PSTATE 0x3c5
";

    const CALL: &str = "\
Taking exception 11 [Hypervisor Call] on CPU 0
...from EL1 to EL2
...with ESR 0x16/0x5a000000
...handled as PSCI call
";

    const SEMIHOSTING: &str = "\
Taking exception 16 [Semihosting call] on CPU 0
...handling as semihosting call 0x18
";

    const INTERRUPT: &str = "\
Taking exception 5 [IRQ] on CPU 0
...from EL1 to EL1
...with ESR 0x25/0x96000005
...with ELR 0x1000
...to EL1 PC 0x280 PSTATE 0x3c5
";

    fn back_to(pc: u64) -> String {
        format!("Exception return from AArch64 EL1 to AArch64 EL1 PC {pc:#x}\n")
    }

    #[test]
    fn the_first_of_several_is_what_counts() {
        let log = read(&[UNDEFINED, ABORT, CALL].concat());
        let first = log.unresumed().unwrap();
        assert_eq!((first.esr, first.elr), (0x200_0000, 0xffff_8000_8000_97e8));
        assert_eq!((first.from_el, first.far), (1, None));
        assert_eq!(log.kinds(), 2);
    }

    #[test]
    fn what_was_resumed_does_not_count() {
        for pc in [0xffff_8000_8000_9898, 0xffff_8000_8000_989c, 0x1234] {
            assert_eq!(read(&[ABORT, &back_to(pc)].concat()).unresumed(), None);
        }
        // A fault in a handler that is resumed leaves the one that is handled.
        let log = read(&[UNDEFINED, ABORT, &back_to(0xffff_8000_8000_9898)].concat());
        assert_eq!(log.unresumed().unwrap().name, "Undefined Instruction");
        // The outer one is resumed: so are those within it.
        let log = read(&[UNDEFINED, ABORT, &back_to(0xffff_8000_8000_97ec)].concat());
        assert_eq!(log.unresumed(), None);
    }

    #[test]
    fn interrupts_calls_and_user_space_never_count() {
        let user = ABORT.replace("from EL1", "from EL0");
        let log = read(&[INTERRUPT, CALL, SEMIHOSTING, &user].concat());
        assert_eq!(log.unresumed(), None);
        let suspend = CALL.replace("...handled as PSCI call\n", "");
        let log = read(&[&suspend, CALL, &suspend, &back_to(0x1000)].concat());
        assert_eq!(log.unresumed(), None);
        let taken = suspend + "...with ELR 0x4020006c\n...to EL2 PC 0x400 PSTATE 0x3c9\n";
        assert_eq!(read(&taken).unresumed().unwrap().elr, 0x4020_006c);
        let log = read(&[INTERRUPT, ABORT].concat());
        assert_eq!(log.unresumed().unwrap().far, Some(0xffff_8000_4000_0000));
    }

    #[test]
    fn a_storm_is_told_by_its_depth_and_keeps_what_began_it() {
        let log = read(&(UNDEFINED.to_owned() + &ABORT.repeat(STORM as usize - 2)));
        assert!(!log.is_storm);
        let log = read(&(UNDEFINED.to_owned() + &ABORT.repeat(100_000)));
        assert!(log.is_storm && log.open.len() <= OPEN);
        assert_eq!(log.unresumed().unwrap().name, "Undefined Instruction");
        let resumed = ABORT.to_owned() + &back_to(0xffff_8000_8000_9898);
        let log = read(&resumed.repeat(100_000));
        assert!(!log.is_storm && log.unresumed().is_none());
    }

    #[test]
    fn interrupts_that_never_return_do_not_fill_the_memory() {
        let log = read(&(UNDEFINED.to_owned() + &INTERRUPT.repeat(2 * OPEN)));
        assert!(log.open.len() <= OPEN && !log.is_storm);
        assert_eq!(log.unresumed().unwrap().name, "Undefined Instruction");
    }

    #[test]
    fn messages_are_not_the_log() {
        let mut log = ExceptionLog::default();
        assert!(!log.line("qemu-system-aarch64: warning: nothing"));
        assert!(
            log.line("...with ESR 0x0"),
            "a piece of the log, out of place"
        );
        assert!(log.line("Exception return from AArch64 EL2 to AArch64 EL1 PC 0x4"));
        assert_eq!(log.unresumed(), None);
    }
}
