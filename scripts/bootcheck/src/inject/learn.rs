//! Which instructions a boot executes, learnt from QEMU's log.
//!
//! `-d in_asm` logs each block of instructions when it is first translated, which is when it is
//! first executed; `-d int` puts the exceptions in between. The kernel has no say in it.

use std::collections::BTreeSet;
use std::io::BufRead;

/// The instructions of the image that executed, as offsets into it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// Before the first exception.
    pub before: BTreeSet<u64>,
    /// After it, and not before.
    pub after: BTreeSet<u64>,
}

/// Reads a log that QEMU wrote with `-d in_asm,int`. The image has `size` bytes and is linked to
/// `link`; where it was loaded is where the boot code jumps to first.
///
/// # Errors
/// What the operating system said.
pub fn read(log: impl BufRead, link: u64, size: u64) -> std::io::Result<Executed> {
    let mut reader = Reader {
        link,
        size,
        ..Reader::default()
    };
    for line in log.split(b'\n') {
        reader.line(&String::from_utf8_lossy(&line?));
    }
    Ok(reader.executed)
}

#[derive(Default)]
struct Reader {
    link: u64,
    size: u64,
    blocks: u32,
    load: Option<u64>,
    executed: Executed,
    /// What the last block before the exception was the first to execute.
    last_block: Vec<u64>,
    has_faulted: bool,
    awaits_elr: bool,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if line.starts_with("IN:") {
            self.blocks += 1;
            if !self.has_faulted {
                self.last_block.clear();
            }
        } else if let Some(address) = instruction(line) {
            self.instruction(address);
        } else if let Some(name) = exception(line)
            && !self.has_faulted
            && !is_call_or_interrupt(name)
        {
            self.has_faulted = true;
            self.awaits_elr = true;
        } else if let Some(elr) = line.strip_prefix("...with ELR 0x")
            && std::mem::take(&mut self.awaits_elr)
        {
            let elr = u64::from_str_radix(elr.trim(), 16).ok();
            if let Some(elr) = elr.and_then(|elr| self.offset(elr)) {
                self.cut(elr);
            }
        }
    }

    fn instruction(&mut self, address: u64) {
        // QEMU's own boot code is the first block; the image is entered by its first byte.
        if self.blocks == 2 {
            self.load.get_or_insert(address);
        }
        let Some(offset) = self.offset(address) else {
            return;
        };
        if self.has_faulted {
            if !self.executed.before.contains(&offset) {
                self.executed.after.insert(offset);
            }
        } else if self.executed.before.insert(offset) {
            self.last_block.push(offset);
        }
    }

    fn offset(&self, address: u64) -> Option<u64> {
        let bases = [Some(self.link), self.load];
        let offsets = bases
            .into_iter()
            .flatten()
            .map(|base| address.wrapping_sub(base));
        offsets.into_iter().find(|offset| *offset < self.size)
    }

    /// The first exception was at `elr`: what is behind it in its block has not executed yet, and
    /// the instruction itself is broken already.
    fn cut(&mut self, elr: u64) {
        if self.last_block.contains(&elr) {
            for offset in self.last_block.drain(..).filter(|offset| *offset >= elr) {
                self.executed.before.remove(&offset);
            }
        }
    }
}

/// `0x40200058:  aa0003f5  mov x21, x0`
fn instruction(line: &str) -> Option<u64> {
    let (address, rest) = line.strip_prefix("0x")?.split_once(':')?;
    let word = rest.trim_start().split(' ').next()?;
    u32::from_str_radix(word, 16)
        .ok()
        .filter(|_| word.len() == 8)?;
    u64::from_str_radix(address, 16).ok()
}

/// `Taking exception 3 [Prefetch Abort] on CPU 0`
fn exception(line: &str) -> Option<&str> {
    let (_, rest) = line.strip_prefix("Taking exception ")?.split_once('[')?;
    rest.split_once(']').map(|(name, _)| name)
}

/// What a healthy guest takes: calls to firmware and hypervisor, and interrupts.
fn is_call_or_interrupt(name: &str) -> bool {
    name.ends_with("Call")
        || name.ends_with("call")
        || name.ends_with("IRQ")
        || name.ends_with("FIQ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
----------------
IN: 
0x40000000:  580000c0  ldr      x0, #0x40000018
0x40000014:  d61f0080  br       x4

----------------
IN: 
0x40200000:  d503201f  nop      
0x40200004:  14000015  b        #0x40200058

Taking exception 11 [Hypervisor Call] on CPU 0
...with ELR 0x40200004
----------------
IN: primary_switched
0xffff800080000008:  aa0003f5  mov      x21, x0
0xffff80008000000c:  b900001f  str      wzr, [x0]
0xffff800080000010:  d65f03c0  ret

Taking exception 4 [Data Abort] on CPU 0
...from EL1 to EL1
...with ESR 0x25/0x9600004f
...with ELR 0xffff80008000000c
----------------
IN: 
0xffff800080000020:  d51bd040  msr      tpidr_el0, x0
0xffff800080000008:  aa0003f5  mov      x21, x0
Taking exception 4 [Data Abort] on CPU 0
...with ELR 0xffff800080000020
0xffff800090000000:  d51bd040  msr      tpidr_el0, x0
";

    #[test]
    fn what_executes_before_and_after_the_first_exception() {
        let executed = read(LOG.as_bytes(), 0xffff_8000_8000_0000, 0x1000).unwrap();
        assert_eq!(Vec::from_iter(executed.before), [0, 4, 8]);
        assert_eq!(Vec::from_iter(executed.after), [0x20]);
    }

    #[test]
    fn a_log_of_anything_is_no_panic() {
        let noise: Vec<u8> = (0..10_000_u32)
            .map(|n| (n.wrapping_mul(n) >> 5) as u8)
            .collect();
        assert_eq!(read(&noise[..], 0, u64::MAX).unwrap(), Executed::default());
        for cut in 0..LOG.len() {
            read(&LOG.as_bytes()[cut..], 0, 0x1000).unwrap();
        }
    }
}
