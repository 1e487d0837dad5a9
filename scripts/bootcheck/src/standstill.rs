//! Notices when a guest does nothing new, and what that is worth.
//!
//! New is: a byte on the console, code that was never translated before, a kind of exception that
//! was not there before. As soon as nothing is new, a proof is tried that nothing ever will be
//! ([`hang::prove`]); a second one a little later must agree. Where there is none, a guest whose
//! CPUs ran for long with nothing new is a likely hang; one that sleeps may wait for something,
//! and is left to the deadline.

use std::time::{Duration, Instant};

use crate::hang::{self, Certainty, Hang, Kind};
use crate::plan::{Plan, is_virt};
use crate::qemu::Qemu;

/// How long nothing must be new before a proof is tried.
const PAUSE: Duration = Duration::from_millis(40);

/// How far two proofs are apart.
const BETWEEN_PROOFS: Duration = Duration::from_millis(100);

/// How fast the pauses between futile proofs grow: each one stops the guest.
const GROWTH: u32 = 4;

/// How much of the time a CPU must run to be called busy.
const BUSY_SHARE: f64 = 0.5;

/// RTCIMSC of the `virt` machine's PL031: whether its alarm may interrupt.
const RTC: &str = "xp /1wx 0x09010010";

/// GICD_CTLR of the `virt` machine.
const GICD: &str = "xp /1wx 0x08000000";

/// What would show that something is new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sample {
    console: u64,
    blocks: Option<u64>,
    kinds: usize,
    stage: usize,
}

/// What is known of the guest's progress from outside.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Bytes on the console.
    pub console: u64,
    /// Kinds of exceptions.
    pub kinds: usize,
    /// Stages reached.
    pub stages: usize,
    /// Guest time.
    pub now: Duration,
    /// The part of it in which a CPU was busy.
    pub busy: Duration,
}

/// A proof that the guest hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Proof {
    kind: Kind,
    /// The registers of CPUs that sleep: another proof must find them as they were.
    asleep: Vec<[u64; 34]>,
}

/// Watches for standstill.
#[derive(Debug)]
pub struct Standstill {
    last: Sample,
    /// The last proof may have thrown translated code away; what is translated again is not new.
    is_disturbed: bool,
    since: Progress,
    next_proof: Instant,
    pause: Duration,
    proved: Option<Proof>,
}

impl Standstill {
    /// Begins to watch.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self {
            last: Sample::default(),
            is_disturbed: false,
            since: Progress::default(),
            next_proof: now + PAUSE,
            pause: PAUSE,
            proved: None,
        }
    }

    /// Looks at the guest; a hang, if it is one.
    pub fn look(&mut self, qemu: &mut Qemu, plan: &Plan, progress: Progress) -> Option<Hang> {
        let sample = Sample {
            console: progress.console,
            blocks: translated_blocks(qemu, plan),
            kinds: progress.kinds,
            stage: progress.stages,
        };
        let is_same = if std::mem::take(&mut self.is_disturbed) {
            (sample.console, sample.kinds) == (self.last.console, self.last.kinds)
        } else {
            sample == self.last
        };
        self.last = sample;
        let now = Instant::now();
        if !is_same {
            self.since = progress;
            self.pause = PAUSE;
            self.next_proof = now + PAUSE;
            self.proved = None;
            return None;
        }
        if now >= self.next_proof && plan.has_exception_log() {
            return self.try_proof(qemu, plan);
        }
        let busy = progress.busy.saturating_sub(self.since.busy);
        (busy >= plan.quiet).then(|| {
            let whole = progress.now.saturating_sub(self.since.now).as_secs_f64();
            let is_busy = busy.as_secs_f64() >= BUSY_SHARE * whole;
            Hang {
                kind: if is_busy { Kind::Livelock } else { Kind::Idle },
                certainty: Certainty::Likely,
            }
        })
    }

    fn try_proof(&mut self, qemu: &mut Qemu, plan: &Plan) -> Option<Hang> {
        let proof = prove(qemu, plan);
        self.is_disturbed = true;
        let now = Instant::now();
        match (proof, self.proved.take()) {
            (Some(proof), Some(before)) if proof == before => Some(Hang {
                kind: proof.kind,
                certainty: Certainty::Proved,
            }),
            (Some(proof), _) => {
                self.proved = Some(proof);
                self.next_proof = now + BETWEEN_PROOFS;
                None
            }
            (None, _) => {
                self.pause *= GROWTH;
                self.next_proof = now + self.pause;
                None
            }
        }
    }
}

/// One proof, with the guest stopped for it.
fn prove(qemu: &mut Qemu, plan: &Plan) -> Option<Proof> {
    qemu.stop().ok()?;
    let are_off = interrupts_are_off(qemu, plan);
    let are_quiet = devices_are_quiet(qemu, plan);
    let proof = qemu.gdb().ok().and_then(|stub| {
        let proof = hang::prove(stub, are_off).ok().flatten();
        let proof = proof.map(|kind| Proof {
            kind,
            asleep: Vec::new(),
        });
        proof.or_else(|| {
            let asleep = hang::asleep(stub).ok().flatten().filter(|_| are_quiet)?;
            let kind = Kind::Wfi;
            Some(Proof { kind, asleep })
        })
    });
    // If it has ended meanwhile, the event tells.
    let _ = qemu.run();
    proof
}

/// Whether the interrupt controller was never turned on. With several CPUs, QEMU's GICv2 must not
/// be asked: it wants to know which CPU asks, and crashes where none does.
fn interrupts_are_off(qemu: &mut Qemu, plan: &Plan) -> bool {
    if qemu.cpus != 1 || !is_virt(&plan.machine) {
        return false;
    }
    read_word(qemu, GICD).is_some_and(|control| control & 0b111 == 0)
}

/// Whether no device could interrupt: on `virt` without any that was added, the UART hears nothing,
/// and what is left is the clock's alarm.
fn devices_are_quiet(qemu: &mut Qemu, plan: &Plan) -> bool {
    let is_bare = is_virt(&plan.machine) && plan.qemu_args.is_empty();
    is_bare && read_word(qemu, RTC).is_some_and(|mask| mask & 1 == 0)
}

fn read_word(qemu: &mut Qemu, command: &str) -> Option<u32> {
    let answer = qemu.qmp.monitor(command).ok()?;
    let value = answer.rsplit("0x").next()?.trim();
    u32::from_str_radix(value, 16).ok()
}

/// How many blocks of code QEMU holds in translation.
fn translated_blocks(qemu: &mut Qemu, plan: &Plan) -> Option<u64> {
    if !plan.has_exception_log() {
        return None;
    }
    let text = qemu.qmp.monitor("info jit").ok()?;
    let line = text.lines().find(|line| line.starts_with("TB count"))?;
    let mut words = line["TB count".len()..].split_ascii_whitespace();
    words.next()?.parse().ok()
}
