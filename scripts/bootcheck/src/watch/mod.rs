//! One boot of a guest, watched until something is certain.

mod examine;
mod lines;

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use crate::clock::GuestClock;
use crate::console::Console;
use crate::interrupt::{self, Interrupted};
use crate::locate::Scene;
use crate::plan::{BlackBox, Plan};
use crate::qemu::{Exit, Qemu};
use crate::qmp;
use crate::signs::Stage;
use crate::standstill::{Progress, Standstill};
use crate::verdict::{Ending, Facts, Fatal};

/// How often clock and signals are looked at while nothing happens.
const TICK: Duration = Duration::from_millis(25);

/// Guest time that a kernel gets after the first sign of a failure, to report it and power off.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Time for which a guest must run on after an exception from which it did not return, with
/// nothing printed and no other one, until that is what it died of.
const UNRESUMED: Duration = Duration::from_millis(300);

/// Guest time of silence after which a line that was begun is a prompt.
const PROMPT: Duration = Duration::from_millis(500);

/// Guest time that a guest gets to return from an exception, before it is stopped within it.
const RETURN: Duration = Duration::from_millis(300);

/// Guest time of silence after `boot: PASS` that counts as parked, with `exit=halt`.
const PARKED: Duration = Duration::from_millis(200);

/// Guest time after which a Linux is looked at for the log in its memory; from then on after twice the time
/// each. Only if it has printed nothing in between.
const FIRST_PEEK: Duration = Duration::from_millis(500);

/// How long the last bytes of a QEMU that is gone may take to arrive.
const DRAIN: Duration = Duration::from_secs(10);

/// Wall time after which the host, not the guest, is blamed: far beyond any deadline.
fn wall_limit(timeout: Duration) -> Duration {
    timeout * 20 + Duration::from_secs(60)
}

/// What has been seen so far.
pub struct Watch<'a> {
    plan: &'a Plan,
    /// What the verdict will rest on.
    pub facts: Facts,
    /// The stages that were reached.
    pub stages: Vec<Stage>,
    /// What was printed.
    pub console: Console,
    /// From the guest's first instruction to the last byte printed.
    pub last_console: Option<Duration>,
    /// Registers and memory of a guest that failed.
    pub scene: Option<Scene>,
    /// Instructions that the guest executed, if it counts them and ended by itself.
    pub instructions: Option<u64>,
    /// Those that it had executed when it was stopped, which is a little later each time.
    pub instructions_when_stopped: Option<u64>,
    /// What our kernel had recorded on its console.
    pub recorded_console: Option<String>,
    /// Where its record is.
    pub record_at: Option<u64>,
    /// What it said that the boot before died of.
    pub previous_boot: Option<String>,
    started: Instant,
    /// The last panic waits for the line that says where.
    wants_location: bool,
    report_is_complete: bool,
    /// The kernel knows of no way to power off.
    said_parks: bool,
    standstill: Standstill,
    /// The guest's time at the last chance to look at a Linux's log.
    last_peek: Duration,
    /// The exception log and the console when they last changed, and how long CPUs had run then.
    last_sign: (u64, u64, Duration),
    /// How much had been printed when last something was, and the guest's time then.
    last_print: (u64, Duration),
    /// The exceptions of a guest that was to be stopped, and when that was: the later ones are none that it
    /// had time to return from.
    last_orders: Option<(u64, Duration)>,
}

/// Why the watch may end soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settling {
    /// A failure was announced; its report may still be coming.
    Failing,
    /// `boot: PASS`, and the guest was told to park, or can do nothing else.
    Parking,
}

impl<'a> Watch<'a> {
    /// Nothing has been seen yet.
    #[must_use]
    pub fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            facts: Facts::default(),
            stages: Vec::new(),
            console: Console::default(),
            last_console: None,
            scene: None,
            instructions: None,
            instructions_when_stopped: None,
            recorded_console: None,
            record_at: None,
            previous_boot: None,
            started: Instant::now(),
            wants_location: false,
            report_is_complete: false,
            said_parks: false,
            standstill: Standstill::start(),
            last_peek: Duration::ZERO,
            last_sign: Default::default(),
            last_print: Default::default(),
            last_orders: None,
        }
    }

    /// Runs the guest to its end, and examines what is left. If it left QEMU behind, that stands
    /// still, and [`Facts::ending`] says how the guest ended.
    ///
    /// `marks` are numbers left in the guest's memory; `ready` tells whether that went well.
    ///
    /// # Errors
    /// [`Interrupted`]
    pub fn run(
        &mut self,
        qemu: &mut Qemu,
        ready: Result<(), qmp::Error>,
        marks: &[BlackBox],
        on_console: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Interrupted> {
        let before = self.count(qemu);
        self.started = Instant::now();
        match ready.and_then(|()| qemu.run()) {
            // Gone before it answered: a guest can be that quick.
            Ok(()) | Err(qmp::Error::Closed) => {}
            Err(qmp::Error::Interrupted) => return Err(Interrupted),
            Err(error) => {
                self.facts.infra = Some(error.to_string());
                return Ok(());
            }
        }
        self.facts.ending = self.wait(qemu, on_console)?;
        if self.facts.ending.is_some() {
            // Also what was printed and logged until now counts.
            let _ = qemu.stop();
            let after = self.count(qemu);
            let executed = after.zip(before).map(|(after, before)| after - before);
            match self.facts.ending {
                Some(Ending::PowerOff | Ending::Reset) => self.instructions = executed,
                _ => self.instructions_when_stopped = executed,
            }
            qemu.settle();
            while let Ok(bytes) = qemu.console.try_recv() {
                self.take(&bytes, on_console);
            }
            self.prompt();
            if self.has_matched() && matches!(self.facts.ending, Some(Ending::Hang(_))) {
                // It waits for an answer.
                self.facts.ending = Some(Ending::Decided);
            }
            self.examine(qemu, marks);
        }
        Ok(())
    }

    /// What QEMU has counted until now, boots before a reset included.
    fn count(&self, qemu: &mut Qemu) -> Option<u64> {
        self.plan.icount.then(|| qemu.instructions()).flatten()
    }

    /// Ends QEMU, and takes in everything that was printed.
    pub fn finish(&mut self, qemu: &mut Qemu, on_console: &mut dyn FnMut(&[u8])) {
        let exit = qemu.end();
        while let Ok(bytes) = qemu.console.recv_timeout(DRAIN) {
            self.take(&bytes, on_console);
        }
        if self.facts.ending.is_none() && self.facts.infra.is_none() {
            self.explain_exit(&exit);
        }
    }

    /// Watches until there is an ending; `None` if QEMU ended without one.
    fn wait(
        &mut self,
        qemu: &mut Qemu,
        on_console: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<Ending>, Interrupted> {
        let mut clock = GuestClock::start(qemu.cpu_thread);
        let mut console: Receiver<Vec<u8>> = qemu.console.clone();
        let mut settling: Option<(Settling, Duration)> = None;
        let mut next_reading = self.started;
        loop {
            interrupt::check()?;
            select! {
                recv(qemu.qmp.events) -> event => match event {
                    Ok(event) => if let Some(ending) = self.event(&event) {
                        return Ok(ending);
                    },
                    Err(_) => return Ok(None),
                },
                recv(console) -> bytes => match bytes {
                    Ok(bytes) => self.take(&bytes, on_console),
                    // The control channel will tell why.
                    Err(_) => console = never(),
                },
                default(TICK) => {}
            }
            if self.has_matched() || self.report_is_complete {
                return Ok(Some(Ending::Decided));
            }
            if qemu.exceptions(|log| log.is_storm) {
                return Ok(Some(Ending::Storm));
            }
            if Instant::now() < next_reading {
                continue;
            }
            next_reading = Instant::now() + TICK / 2;
            let now = clock.read();
            if self.last_print.0 != self.console.total() {
                self.last_print = (self.console.total(), now);
            } else if now - self.last_print.1 >= PROMPT {
                self.prompt();
            }
            settling = match (self.settling(), settling) {
                (Some(kind), Some((before, since))) if kind == before => Some((kind, since)),
                (kind, _) => kind.map(|kind| (kind, now)),
            };
            match settling {
                Some((Settling::Failing, since))
                    if now - since >= LAST_WORDS && self.may_stop(qemu, now) =>
                {
                    return Ok(Some(Ending::Decided));
                }
                Some((Settling::Parking, since)) if now - since >= PARKED => {
                    return Ok(Some(Ending::Parked));
                }
                _ => {}
            }
            if settling.is_none_or(|(kind, _)| kind == Settling::Failing)
                && let Some(ending) = self.look_closer(qemu, &clock, now)
            {
                return Ok(Some(ending));
            }
            if now >= self.plan.timeout && self.may_stop(qemu, now) {
                return Ok(self.deadline(qemu));
            }
            let wall = self.started.elapsed();
            if wall >= wall_limit(self.plan.timeout) {
                self.facts.infra = Some(format!(
                    "in {} s this host gave the guest only {:.1} s to run",
                    wall.as_secs(),
                    now.as_secs_f64()
                ));
                return Ok(None);
            }
        }
    }

    /// Whether it died or hangs without a word.
    fn look_closer(
        &mut self,
        qemu: &mut Qemu,
        clock: &GuestClock,
        now: Duration,
    ) -> Option<Ending> {
        let (count, kinds, unresumed) =
            qemu.exceptions(|log| (log.count, log.kinds(), log.unresumed().map(Fatal::logged)));
        let console = self.console.total();
        let (last_count, last_console, since) = self.last_sign;
        if (count, console) != (last_count, last_console) {
            self.last_sign = (count, console, clock.busy());
        } else if unresumed.is_some() && clock.busy().saturating_sub(since) >= UNRESUMED {
            self.facts.logged_exception = unresumed;
            return Some(Ending::Decided);
        }
        if now >= FIRST_PEEK.max(self.last_peek * 2) {
            let was_silent = self.last_print.1 <= self.last_peek;
            self.last_peek = now;
            if was_silent && self.has_panicked_silently(qemu) {
                return Some(Ending::Decided);
            }
        }
        let progress = Progress {
            console,
            kinds,
            stages: self.stages.len(),
            now,
            busy: clock.busy(),
        };
        let hang = self.standstill.look(qemu, self.plan, progress);
        hang.map(Ending::Hang)
    }

    /// Whether the guest is in no exception that it may yet return from: a healthy one, stopped while it
    /// handles one, would look as if that had killed it.
    fn may_stop(&mut self, qemu: &Qemu, now: Duration) -> bool {
        let (count, open) =
            qemu.exceptions(|log| (log.count, log.unresumed().map(|taken| taken.serial)));
        let (until, since) = *self.last_orders.get_or_insert((count, now));
        open.is_none_or(|serial| serial > until) || now - since >= RETURN
    }

    /// Stops the guest; it may have ended by itself at the last moment.
    fn deadline(&mut self, qemu: &mut Qemu) -> Option<Ending> {
        let _ = qemu.qmp.execute("stop", serde_json::json!({}));
        while let Ok(event) = qemu.qmp.events.try_recv() {
            if let Some(ending) = self.event(&event) {
                return ending;
            }
        }
        Some(Ending::Deadline)
    }

    /// Takes in one event. Of the outer option: whether the watch is over.
    fn event(&mut self, event: &qmp::Event) -> Option<Option<Ending>> {
        match event.name.as_str() {
            "GUEST_PANICKED" => Some(Some(Ending::GuestPanicked)),
            "SHUTDOWN" => Some(match event.data["reason"].as_str() {
                Some("guest-shutdown") => Some(Ending::PowerOff),
                Some("guest-reset" | "subsystem-reset") => Some(Ending::Reset),
                Some("guest-panic") => Some(Ending::GuestPanicked),
                reason => {
                    let reason = reason.unwrap_or("for no reason");
                    self.facts.infra = Some(format!("QEMU was shut down from outside: {reason}"));
                    None
                }
            }),
            _ => None,
        }
    }

    /// QEMU ended and no event says why: the guest left through semihosting, or QEMU failed.
    fn explain_exit(&mut self, exit: &Exit) {
        let code = exit.status.and_then(|status| status.code());
        // What the guest writes through semihosting comes out there too.
        let has_complained = exit
            .messages
            .lines()
            .any(|line| line.starts_with("qemu-system") && !line.contains("warning: "));
        match code {
            Some(code) if self.plan.exits_by_semihosting() && !has_complained => {
                self.facts.ending = Some(Ending::Semihosting(code as u8));
            }
            _ => {
                let status = exit
                    .status
                    .map_or("killed".to_owned(), |status| status.to_string());
                let said = &exit.messages;
                self.facts.infra = Some(format!("QEMU ended by itself ({status}): {said}"));
            }
        }
    }
}
