//! What CPUs do and QEMU does not: the kernel, or what runs before it, is changed so that it happens.
//!
//! These tests need the kernel, so they run only when asked for:
//! `cargo test -p bootcheck --test hardware -- --ignored`. `KERNEL_IMAGE` names another kernel than
//! `target/kernel/Image`.

mod common;

use common::{Bench, kernel};

/// Bytes of the Image that are headers, not code.
const HEADERS: usize = 4096;

const EL1: &str = "virt";
const EL2: &str = "virt,virtualization=on";

/// Boots a kernel: it must pass, and its black box must be there to tell.
fn must_pass(bench: &Bench, machine: &str, options: &[&str]) {
    let elf = kernel().with_file_name("kernel.elf");
    let elf = elf.to_str().unwrap();
    let words = [&["--machine", machine, "--elf", elf][..], options].concat();
    let json = bench.expect("pass", &words);
    assert_eq!(json["stage"], "done", "{machine}: {json:#}");
}

/// The kernel with each instruction that `change` knows replaced.
fn changed(change: impl Fn(u32) -> Option<u32>) -> Bench {
    let mut image = std::fs::read(kernel()).unwrap();
    let mut count = 0;
    for word in image[HEADERS..].as_chunks_mut::<4>().0 {
        if let Some(new) = change(u32::from_le_bytes(*word)) {
            *word = new.to_le_bytes();
            count += 1;
        }
    }
    assert_ne!(count, 0, "the kernel has no such instruction");
    Bench::with_bytes(&image)
}

/// Arm ARM, "Watchpoint behavior for certain instruction classes": to a watchpoint DC IVAC is a store.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn invalidating_a_line_is_an_access_to_it() {
    const DC_IVAC_X0: u32 = 0xd508_7620;
    const LDRB_WZR_X0: u32 = 0x3940_001f;
    let kernel = changed(|word| (word == DC_IVAC_X0).then_some(LDRB_WZR_X0));
    must_pass(&kernel, EL1, &[]);
    must_pass(&kernel, EL2, &[]);
}

/// Firmware may have left CNTFRQ_EL0 as it is after a reset.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn the_counter_may_have_no_frequency() {
    const MRS_CNTFRQ: u32 = 0xd53b_e000;
    const MOV_XZR: u32 = 0xaa1f_03e0;
    let kernel = changed(|word| (word & !31 == MRS_CNTFRQ).then_some(MOV_XZR | word & 31));
    must_pass(&kernel, EL1, &[]);
}

/// A system register: op0, op1, CRn, CRm, op2.
type Register = [u32; 5];

const SCTLR_EL1: Register = [3, 0, 1, 0, 0];
const SCTLR_EL2: Register = [3, 4, 1, 0, 0];
const HCR_EL2: Register = [3, 4, 1, 1, 0];
const OSLAR_EL1: Register = [2, 0, 1, 0, 4];
const ID_AA64MMFR0_EL1: Register = [3, 0, 0, 7, 0];
const ID_AA64MMFR1_EL1: Register = [3, 0, 0, 7, 1];

/// SCTLR_ELx.M, SCTLR_ELx.EE; HCR_EL2.TGE and E2H.
const M: u64 = 1;
const EE: u64 = 1 << 25;
const TGE: u64 = 1 << 27;
const E2H: u64 = 1 << 34;

/// Of EL1, what no reset need set: TTBR0, TTBR1, TCR, MAIR, AMAIR, VBAR, CPACR, CONTEXTIDR, three thread
/// pointers, CNTKCTL, ESR, AFSR0, AFSR1, FAR, PAR, ELR, SPSR, SP_EL0, MDSCR; and both timers, which are on.
const OF_EL1: [Register; 23] = [
    [3, 0, 2, 0, 0],
    [3, 0, 2, 0, 1],
    [3, 0, 2, 0, 2],
    [3, 0, 10, 2, 0],
    [3, 0, 10, 3, 0],
    [3, 0, 12, 0, 0],
    [3, 0, 1, 0, 2],
    [3, 0, 13, 0, 1],
    [3, 0, 13, 0, 4],
    [3, 3, 13, 0, 2],
    [3, 3, 13, 0, 3],
    [3, 0, 14, 1, 0],
    [3, 0, 5, 2, 0],
    [3, 0, 5, 1, 0],
    [3, 0, 5, 1, 1],
    [3, 0, 6, 0, 0],
    [3, 0, 7, 4, 0],
    [3, 0, 4, 0, 1],
    [3, 0, 4, 0, 0],
    [3, 0, 4, 1, 0],
    [2, 0, 0, 2, 2],
    [3, 3, 14, 3, 1],
    [3, 3, 14, 2, 1],
];

/// The same of EL2: CPTR, HSTR, MDCR, VTTBR, VTCR, CNTHCTL, CNTVOFF, VPIDR, VMPIDR, TTBR0, TCR, MAIR, VBAR,
/// TPIDR, ESR, FAR, SPSR, ELR.
const OF_EL2: [Register; 18] = [
    [3, 4, 1, 1, 2],
    [3, 4, 1, 1, 3],
    [3, 4, 1, 1, 1],
    [3, 4, 2, 1, 0],
    [3, 4, 2, 1, 2],
    [3, 4, 14, 1, 0],
    [3, 4, 14, 0, 3],
    [3, 4, 0, 0, 0],
    [3, 4, 0, 0, 5],
    [3, 4, 2, 0, 0],
    [3, 4, 2, 0, 2],
    [3, 4, 10, 2, 0],
    [3, 4, 12, 0, 0],
    [3, 4, 13, 0, 2],
    [3, 4, 5, 2, 0],
    [3, 4, 6, 0, 0],
    [3, 4, 4, 0, 0],
    [3, 4, 4, 0, 1],
];

/// Fine-grained traps: HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR, of EL2.
const FGT: [Register; 5] = [
    [3, 4, 1, 1, 4],
    [3, 4, 1, 1, 5],
    [3, 4, 1, 1, 6],
    [3, 4, 3, 1, 4],
    [3, 4, 3, 1, 5],
];
const HCRX_EL2: [Register; 1] = [[3, 4, 1, 2, 2]];

/// What a loader leaves behind, in instructions.
#[derive(Default)]
struct Leftovers(Vec<u32>);

impl Leftovers {
    fn mov(&mut self, to: u32, value: u64) {
        let piece = |index: u32| ((value >> (16 * index)) as u32 & 0xffff) << 5 | index << 21 | to;
        self.0.push(0xd280_0000 | piece(0)); // movz
        self.0
            .extend([1, 2, 3].map(|index| 0xf280_0000 | piece(index))); // movk
    }

    /// `msr register, x1`, or with the last bit `mrs x1, register`.
    fn access(&mut self, [op0, op1, crn, crm, op2]: Register, is_read: bool) {
        let register = (op0 - 2) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5;
        self.0
            .push(0xd510_0001 | register | u32::from(is_read) << 21);
    }

    fn set(&mut self, registers: &[Register], value: u64) {
        self.mov(1, value);
        for register in registers {
            self.access(*register, false);
        }
    }

    /// The same, if a four-bit field of an ID register says that they are there.
    fn set_if(&mut self, id: Register, field: u32, registers: &[Register], value: u64) {
        self.access(id, true);
        self.0.push(0xd340_0021 | field << 16 | (field + 3) << 10); // ubfx x1, x1, #field, #4
        self.0.push(0xb400_0001 | (registers.len() as u32 + 5) << 5); // cbz x1, behind the rest
        self.set(registers, value);
    }

    /// Everything a CPU can be told to stop at, over all of the image: six breakpoints, four watchpoints.
    fn set_traps(&mut self) {
        let of = |count, op2| -> Vec<Register> { (0..count).map(|n| [2, 0, 0, n, op2]).collect() };
        let values = [of(6, 4), of(4, 6)].concat();
        self.set(&values, KERNEL);
        self.set(&of(6, 5), 0x1e7);
        self.set(&of(4, 7), 24 << 24 | 0x1ff << 5 | 0b11 << 3 | 0b11 << 1 | 1);
        self.set(&[OSLAR_EL1], 1);
    }

    fn isb(&mut self) {
        self.0.push(0xd503_3fdf);
    }

    /// Enters the kernel as the boot protocol says, with all registers but x0 to x3 at random.
    fn enter(mut self) -> Vec<u8> {
        self.isb();
        for register in 4..31 {
            self.mov(register, 0x5555_0000_0000_5550 + u64::from(register));
        }
        self.mov(0, TREE);
        self.mov(1, KERNEL);
        self.0.push(0xd61f_0020); // br x1
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// Where QEMU puts Image and device tree, with 128 MiB of RAM; and where the leftovers are made.
const KERNEL: u64 = 0x4020_0000;
const TREE: u64 = 0x4400_0000;
const BEFORE: u64 = 0x4700_0000;

fn must_pass_after(leftovers: Leftovers, machine: &str, cpu: &str) {
    let bench = Bench::with_bytes(&std::fs::read(kernel()).unwrap());
    let code = bench.path("before.bin");
    std::fs::write(&code, leftovers.enter()).unwrap();
    let file = format!(
        "--qemu-arg=loader,file={},addr={BEFORE:#x},force-raw=on",
        code.display()
    );
    let start = format!("--qemu-arg=loader,addr={BEFORE:#x},cpu-num=0");
    let device = "--qemu-arg=-device";
    must_pass(
        &bench,
        machine,
        &["--cpu", cpu, device, &file, device, &start],
    );
}

/// The boot protocol says nothing of these registers, and the architecture of many that they are unknown.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn registers_may_hold_anything_at_el1() {
    for cpu in ["cortex-a53", "cortex-a72", "max"] {
        let mut leftovers = Leftovers::default();
        leftovers.set(&OF_EL1, !0);
        leftovers.set_traps();
        leftovers.set(&[SCTLR_EL1], u64::from(u32::MAX) & !M);
        must_pass_after(leftovers, EL1, cpu);
    }
}

#[test]
#[ignore = "needs the kernel: `make image`"]
fn registers_may_hold_anything_at_el2() {
    for cpu in ["cortex-a53", "cortex-a72", "max"] {
        for hcr in [!0, !E2H, !TGE, !(E2H | TGE)] {
            let mut leftovers = Leftovers::default();
            leftovers.set(&OF_EL1, !0);
            leftovers.set_traps();
            leftovers.set(&[SCTLR_EL1], u64::from(u32::MAX));
            leftovers.set_if(ID_AA64MMFR0_EL1, 56, &FGT, !0);
            leftovers.set_if(ID_AA64MMFR1_EL1, 40, &HCRX_EL2, !0);
            leftovers.set(&OF_EL2, !0);
            leftovers.set(&[HCR_EL2], hcr);
            leftovers.isb();
            leftovers.set(&[SCTLR_EL2], EE);
            must_pass_after(leftovers, EL2, cpu);
        }
    }
}
