//! Power manager of the Raspberry Pi's SoCs (BCM2835 to BCM2711): the way to end
//! a boot where there is no PSCI.
//!
//! It has no "off": its watchdog resets the SoC, and the boot ROM's firmware then
//! reads from RSTS which partition to boot. 63 stands for none. Linux:
//! `drivers/watchdog/bcm2835_wdt.c`, `bcm2835_power_off`.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::ReadWrite;

register_structs! {
    Registers {
        (0x000 => _reserved0),
        (0x01c => rstc: ReadWrite<u32>),
        (0x020 => rsts: ReadWrite<u32>),
        (0x024 => wdog: ReadWrite<u32>),
        (0x028 => @END),
    }
}

/// Writes without it in their top byte are ignored.
const PASSWORD: u32 = 0x5a00_0000;
/// RSTC.WRCFG: what the watchdog does when it expires.
const RSTC_WRCFG: u32 = 0x30;
/// RSTC.WRCFG: it resets everything.
const RSTC_WRCFG_FULL_RESET: u32 = 0x20;
/// RSTS: the six bits of the partition number, each second one from 0 on.
const RSTS_PARTITION: u32 = 0x555;
/// Ticks of 1/65536 s until the reset: time for this write to get through.
const SOON: u32 = 10;

/// A power manager at this address: physical, or where its page is mapped.
#[derive(Clone, Copy, Debug)]
pub struct Bcm2835Pm {
    base: u64,
}

impl Bcm2835Pm {
    /// The power manager at `base`.
    ///
    /// # Safety
    /// There must be one, mapped as device memory, while the value is used.
    pub unsafe fn at(base: u64) -> Self {
        Self { base }
    }

    /// Halts the board. Returns before it happens.
    pub fn power_off(self) {
        let rsts = &self.registers().rsts;
        rsts.set(PASSWORD | rsts.get() | RSTS_PARTITION);
        self.expire_soon();
    }

    /// Starts over. Returns before it happens.
    pub fn reset(self) {
        let rsts = &self.registers().rsts;
        rsts.set(PASSWORD | rsts.get() & !RSTS_PARTITION);
        self.expire_soon();
    }

    fn expire_soon(self) {
        let Registers { wdog, rstc, .. } = self.registers();
        wdog.set(PASSWORD | SOON);
        rstc.set(PASSWORD | rstc.get() & !RSTC_WRCFG | RSTC_WRCFG_FULL_RESET);
    }

    fn registers(self) -> &'static Registers {
        // SAFETY: at()'s caller vouches for it.
        unsafe { &*(self.base as *const Registers) }
    }
}
