//! Tiny guests, assembled here: a raw arm64 `Image` of a few instructions.
//!
//! `bench` compares with a guest that only powers itself off, and the tests need guests that do
//! one thing each. None of them shares code with the kernel under test, and no assembler is
//! needed.

use crate::image::OUR_MARK;

/// Bytes before the first instruction.
const HEADER: usize = 64;
/// `nop`
const NOP: u32 = 0xd503_201f;
/// `wfi`
const WFI: u32 = 0xd503_207f;
/// `hvc #0`
const HVC: u32 = 0xd400_0002;
/// `hlt #0xf000`: a semihosting call.
const HLT_SEMIHOSTING: u32 = 0xd45e_0000;

const PSCI_SYSTEM_OFF: u32 = 0x8400_0008;
const PSCI_SYSTEM_RESET: u32 = 0x8400_0009;
/// The PL011 of QEMU's `virt` machine.
const UART: u32 = 0x0900_0000;

/// A guest under construction: what it will do, in order.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    code: Vec<u32>,
    is_ours: bool,
}

impl Guest {
    /// Carries the mark of this project's kernel, so that it is judged by `boot: PASS`.
    #[must_use]
    pub fn ours(mut self) -> Self {
        self.is_ours = true;
        self
    }

    /// Prints `text`.
    #[must_use]
    pub fn print(self, text: &str) -> Self {
        self.print_bytes(text.as_bytes())
    }

    /// Prints any bytes, in a loop: QEMU 10 translates anew around every device access, and takes
    /// seconds over a long run of stores.
    #[must_use]
    pub fn print_bytes(mut self, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return self;
        }
        let words = bytes.len().div_ceil(4) as u32;
        self.load(1, UART);
        self.code.push(0x1000_0102); // adr x2, . + 32: the text, behind this code
        self.load(3, bytes.len() as u32);
        self.code.extend([
            0x3840_1440,               // ldrb w0, [x2], #1
            0x3900_0020,               // strb w0, [x1]
            0x7100_0463,               // subs w3, w3, #1
            0x54ff_ffa1,               // b.ne . - 12
            0x1400_0000 | (words + 1), // b behind the text
        ]);
        self.code.extend(bytes.chunks(4).map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(word)
        }));
        self
    }

    /// Prints `text` over and over again.
    #[must_use]
    pub fn print_for_ever(mut self, text: &str) -> Self {
        let start = self.code.len();
        self = self.print(text);
        self.branch_to(start)
    }

    /// Powers the machine off by PSCI.
    #[must_use]
    pub fn power_off(mut self) -> Self {
        self.load(0, PSCI_SYSTEM_OFF);
        self.code.push(HVC);
        self
    }

    /// Resets the machine by PSCI.
    #[must_use]
    pub fn reset(mut self) -> Self {
        self.load(0, PSCI_SYSTEM_RESET);
        self.code.push(HVC);
        self
    }

    /// Leaves through semihosting (`SYS_EXIT_EXTENDED`) with a status.
    #[must_use]
    pub fn semihosting_exit(mut self, status: u16) -> Self {
        // The block {reason, status} is laid down right here and jumped over.
        self.code.push(0x1000_00a1); // adr x1, . + 20
        self.load(0, 0x20);
        self.code.push(HLT_SEMIHOSTING);
        self.code.push(0x1400_0005); // b . + 20
        self.code.extend([0x2_0026, 0, u32::from(status), 0]); // ADP_Stopped_ApplicationExit
        self
    }

    /// Computes for ever.
    #[must_use]
    pub fn spin(self) -> Self {
        let here = self.code.len();
        self.branch_to(here)
    }

    /// Reads the clock for ever, as if it waited for something.
    #[must_use]
    pub fn poll_for_ever(mut self) -> Self {
        let here = self.code.len();
        self.code.push(0xd53b_e040); // mrs x0, cntvct_el0
        self.branch_to(here)
    }

    /// Sleeps for ever.
    #[must_use]
    pub fn sleep(mut self) -> Self {
        let here = self.code.len();
        self.code.push(WFI);
        self.branch_to(here)
    }

    /// Executes these instructions.
    #[must_use]
    pub fn execute(mut self, words: &[u32]) -> Self {
        self.code.extend(words);
        self
    }

    /// Goes round a loop of two instructions this many times.
    #[must_use]
    pub fn count_down(mut self, rounds: u32) -> Self {
        self.load(0, rounds);
        self.code.extend([0x7100_0400, 0x54ff_ffe1]); // subs w0, w0, #1; b.ne . - 4
        self
    }

    /// Goes on at this offset in the image, with NOPs up to there.
    #[must_use]
    pub fn pad_to(mut self, offset: usize) -> Self {
        self.code.resize((offset - HEADER) / 4, NOP);
        self
    }

    /// The raw `Image`.
    #[must_use]
    pub fn image(self) -> Vec<u8> {
        // Whoever runs off the end stays there.
        let Self { code, is_ours } = self.spin();
        let size = 64 + 4 * code.len() as u64 + OUR_MARK.len() as u64;
        let mut image = Vec::new();
        image.extend(0x1400_0010_u32.to_le_bytes()); // b . + 64
        image.extend(0xd503_201f_u32.to_le_bytes()); // nop
        image.extend(0_u64.to_le_bytes()); // text_offset
        image.extend(size.to_le_bytes()); // image_size
        image.extend(0xa_u64.to_le_bytes()); // flags: 4 KiB granule, anywhere
        image.extend([0; 24]);
        image.extend(b"ARM\x64");
        image.extend([0; 4]);
        image.extend(code.iter().flat_map(|word| word.to_le_bytes()));
        if is_ours {
            image.extend(OUR_MARK.as_bytes());
        }
        image
    }

    /// `mov wN, #value`, in two halves.
    fn load(&mut self, register: u32, value: u32) {
        self.code.push(0x52a0_0000 | (value >> 16) << 5 | register); // movz, lsl #16
        self.code
            .push(0x7280_0000 | (value & 0xffff) << 5 | register); // movk
    }

    fn branch_to(mut self, target: usize) -> Self {
        let distance = (target as i64 - self.code.len() as i64) as u32;
        self.code.push(0x1400_0000 | (distance & 0x03ff_ffff));
        self
    }
}
