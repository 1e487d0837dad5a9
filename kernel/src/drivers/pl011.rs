//! PL011 UART, output only (Arm DDI 0183, PrimeCell UART PL011 TRM).
//!
//! Not trusted: an address becomes a UART only after its PrimeCell ID said so,
//! which is read with faults caught; every poll is bounded.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use crate::arch::guarded;

register_bitfields! {u32,
    /// Flags.
    UARTFR [
        /// The transmitter still sends.
        BUSY OFFSET(3) NUMBITS(1) [],
        /// Transmit FIFO empty.
        TXFE OFFSET(7) NUMBITS(1) []
    ],
    /// Line control.
    UARTLCR_H [
        /// FIFOs on.
        FEN OFFSET(4) NUMBITS(1) [],
        /// Word length.
        WLEN OFFSET(5) NUMBITS(2) [EightBits = 0b11]
    ],
    /// Control.
    UARTCR [
        /// The UART itself.
        UARTEN OFFSET(0) NUMBITS(1) [],
        /// Transmitter.
        TXE OFFSET(8) NUMBITS(1) [],
        /// Receiver.
        RXE OFFSET(9) NUMBITS(1) []
    ]
}

register_structs! {
    Registers {
        (0x000 => uartdr: WriteOnly<u32>),
        (0x004 => _reserved0),
        (0x018 => uartfr: ReadOnly<u32, UARTFR::Register>),
        (0x01c => _reserved1),
        (0x02c => uartlcr_h: ReadWrite<u32, UARTLCR_H::Register>),
        (0x030 => uartcr: ReadWrite<u32, UARTCR::Register>),
        (0x034 => _reserved2),
        (0x038 => uartimsc: WriteOnly<u32>),
        (0x03c => _reserved3),
        (0x1000 => @END),
    }
}

/// What an empty transmit FIFO takes without another look, in bytes. Revisions
/// from r1p5 on have one of 32.
const FIFO_BYTES: usize = 16;

/// Polls of UARTFR before a UART counts as stuck: at 115200 baud it sends a full
/// FIFO in 1.4 ms, far fewer reads than this.
const MAX_POLLS: u32 = 1 << 20;

/// Size of its register block in bytes.
pub const SIZE_BYTES: u64 = 0x1000;

/// A PL011 that has been seen and set up.
#[derive(Clone, Copy, Debug)]
pub struct Pl011 {
    base: u64,
}

/// No PL011 answers at the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPl011;

/// The UART accepts no more characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck;

impl Pl011 {
    /// Looks for a PL011 at `base` and enables its transmitter. Baud rate and
    /// format stay as the firmware left them, if it enabled the UART: only it
    /// knows the clock.
    ///
    /// # Errors
    /// [`NotAPl011`]; nothing was written then.
    ///
    /// # Safety
    /// Reads of the page at `base` must be harmless, and if it is a PL011 it
    /// must stay there, mapped as device memory, while the value is used.
    pub unsafe fn probe(base: u64) -> Result<Self, NotAPl011> {
        if base == 0 || !base.is_multiple_of(SIZE_BYTES) {
            return Err(NotAPl011);
        }
        // UARTPeriphID0: part 0x11; UARTPCellID0..3.
        for &(offset, id) in &[
            (0xfe0, 0x11),
            (0xff0, 0x0d),
            (0xff4, 0xf0),
            (0xff8, 0x05),
            (0xffc, 0xb1),
        ] {
            // SAFETY: ID registers have no read side effect; if there is no
            // PL011 the caller vouches for the page, and aborts are caught.
            match unsafe { guarded::load32(base + offset) } {
                Ok(value) if value & 0xff == id => {}
                _ => return Err(NotAPl011),
            }
        }
        let uart = Self { base };
        uart.enable();
        Ok(uart)
    }

    /// A UART that was probed before, maybe at another address.
    ///
    /// # Safety
    /// `base` must map a page at which [`Pl011::probe`] succeeded.
    pub unsafe fn at(base: u64) -> Self {
        Self { base }
    }

    /// Where its registers are.
    pub fn base(self) -> u64 {
        self.base
    }

    fn registers(self) -> &'static Registers {
        // SAFETY: probe() saw a PL011 here and its caller keeps it mapped.
        unsafe { &*(self.base as *const Registers) }
    }

    /// Turns FIFOs and transmitter on, in the order of the TRM's section on
    /// UARTLCR_H: it may change only while the UART is off and sends nothing.
    fn enable(self) {
        let registers = self.registers();
        registers.uartimsc.set(0);
        let was_enabled = registers.uartcr.is_set(UARTCR::UARTEN);
        if !was_enabled {
            let format = UARTLCR_H::WLEN::EightBits + UARTLCR_H::FEN::SET;
            registers.uartlcr_h.write(format);
        } else if !registers.uartlcr_h.is_set(UARTLCR_H::FEN) {
            self.drain();
            registers.uartcr.modify(UARTCR::UARTEN::CLEAR);
            registers.uartlcr_h.modify(UARTLCR_H::FEN::SET);
        }
        registers
            .uartcr
            .modify(UARTCR::UARTEN::SET + UARTCR::TXE::SET + UARTCR::RXE::SET);
    }

    /// Sends `bytes`, one FIFO after the other: to ask before each byte would
    /// double the device accesses, which is what a console costs.
    ///
    /// # Errors
    /// [`Stuck`], if the FIFO does not empty.
    pub fn send(self, bytes: &[u8]) -> Result<(), Stuck> {
        let registers = self.registers();
        for piece in bytes.chunks(FIFO_BYTES) {
            if !self.poll(|| registers.uartfr.is_set(UARTFR::TXFE)) {
                return Err(Stuck);
            }
            for &byte in piece {
                registers.uartdr.set(byte.into());
            }
        }
        Ok(())
    }

    /// Waits until everything sent has left the UART, or it is stuck.
    pub fn drain(self) {
        let registers = self.registers();
        self.poll(|| !registers.uartfr.is_set(UARTFR::BUSY));
    }

    /// Looks until `done`, but not for ever; whether it came true.
    fn poll(self, done: impl Fn() -> bool) -> bool {
        (0..MAX_POLLS).any(|_| done())
    }
}
