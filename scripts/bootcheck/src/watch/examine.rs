//! What a guest left behind, as facts.

use super::Watch;
use crate::a64;
use crate::plan::BlackBox;
use crate::postmortem::{self, Depth};
use crate::qemu::Qemu;
use crate::signs::{self, Sighting, Sign};
use crate::unwind;
use crate::verdict::{Ending, Fatal, Verdict, judge};

impl Watch<'_> {
    /// Reads what the guest left behind.
    pub(super) fn examine(&mut self, qemu: &mut Qemu, marks: &[BlackBox]) {
        let passed = judge(&self.facts, self.plan.rule).verdict == Verdict::Pass;
        let depth = if passed {
            Depth::Record
        } else {
            Depth::Everything
        };
        let mut is_partial = false;
        let mut found = postmortem::examine(qemu, self.plan, marks, depth);
        self.record_at = found.record_at;
        if let Some(record) = found.record.take() {
            if !passed {
                is_partial = record
                    .exception
                    .as_ref()
                    .is_some_and(|exception| exception.is_partial);
                self.facts.recorded_exception = record.exception.as_ref().map(Fatal::recorded);
                self.facts.recorded_panic = record.panic.map(Sighting::from);
                self.facts.recorded_outcome = record.passed;
            }
            if self.console.is_silent() && !passed {
                for line in record.console.lines() {
                    match signs::read(line) {
                        Some(Sign::Test(test)) => self.facts.tests.add(test),
                        Some(Sign::PreviousBoot(death)) => self.previous_boot = Some(death),
                        _ => {}
                    }
                }
            }
            self.recorded_console = Some(record.console);
            self.stages = record.stages;
        }
        if let Some(linux) = found.linux.take() {
            self.read_linux_log(&linux.log);
            self.recorded_console = Some(linux.log);
        }
        if passed {
            return;
        }
        let counted = self.last_orders.map_or(u64::MAX, |(count, _)| count);
        let (unresumed, is_storm) = qemu.exceptions(|log| {
            let unresumed = log.unresumed().filter(|taken| taken.serial <= counted);
            (unresumed.map(Fatal::logged), log.is_storm)
        });
        if let Some(fatal) = unresumed {
            if found.scene.exception.is_none() {
                // Vectors that are lost execute nothing: the registers are still those.
                let kept = found.scene.last.filter(|_| is_storm);
                found.scene.exception = Some(unwind::Registers {
                    pc: fatal.elr,
                    ..kept.unwrap_or(unwind::Registers {
                        x: [0; 31],
                        sp: 0,
                        pc: 0,
                    })
                });
            }
            if a64::is_linux_bug(fatal.esr) {
                found.scene.last = found.scene.exception;
            }
            if is_partial {
                // The recorder itself failed; the log has all of it.
                self.facts.recorded_exception = None;
            }
            self.facts.logged_exception = Some(fatal);
        }
        if let (Some(Ending::PowerOff | Ending::Reset), Some(last)) =
            (self.facts.ending, &mut found.scene.last)
        {
            // Back to the call that did it.
            last.pc = last.pc.wrapping_sub(4);
        }
        self.facts.has_registers = found.registers.is_some();
        self.scene = Some(found.scene);
    }

    /// Whether a Linux that says nothing has logged its end: panic() may go round in its delay loop
    /// for as long as `panic=` says.
    pub(super) fn has_panicked_silently(&mut self, qemu: &mut Qemu) -> bool {
        let (image, source) = (&self.plan.image, &self.plan.source);
        let may_be_linux = !image.is_ours && (image.linux.is_some() || source.is_some());
        if !may_be_linux || qemu.stop().is_err() {
            return false;
        }
        let found = qemu.gdb().ok();
        let found = found.and_then(|stub| postmortem::linux(stub, self.plan));
        if let Some(linux) = found {
            self.read_linux_log(&linux.log);
        }
        // If it has ended meanwhile, the event tells.
        let _ = qemu.run();
        self.facts.kept_panic.is_some()
    }

    /// What a Linux logged counts where its console did not tell it.
    fn read_linux_log(&mut self, log: &str) {
        if self.facts.panic.is_some() || self.facts.exception.is_some() {
            return;
        }
        for line in log.lines() {
            match signs::read(line) {
                Some(Sign::Panic(sighting)) => {
                    self.facts.kept_panic.get_or_insert(sighting);
                }
                Some(Sign::Exception(sighting)) => {
                    self.facts.kept_exception.get_or_insert(sighting);
                }
                _ => {}
            }
        }
    }
}
