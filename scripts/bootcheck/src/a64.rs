//! Just enough of the A64 instruction set to say which instructions change nothing but the
//! general registers, and what an exception class is called.

/// `wfi`
pub const WFI: u32 = 0xd503_207f;

/// Whether the instruction neither reads nor writes memory or a system register, lets no
/// interrupt in, and its result depends on nothing but general registers and PSTATE.
#[must_use]
pub fn is_pure(word: u32) -> bool {
    match (word >> 25) & 0xf {
        // Data processing with an immediate, and with registers.
        0b1000 | 0b1001 | 0b0101 | 0b1101 => true,
        0b1010 | 0b1011 => is_branch(word) || is_hint(word) || is_idle(word) || is_daif_set(word),
        // Loads and stores; floating point, whose registers are not compared; the rest.
        _ => false,
    }
}

/// Whether the instruction does nothing that shows in a register: NOP, YIELD, WFE, WFI, SEV, SEVL
/// and barriers.
#[must_use]
pub fn is_idle(word: u32) -> bool {
    let is_hint = word & 0xffff_ff1f == 0xd503_201f && (word >> 5) & 7 < 6;
    let is_barrier = word & 0xffff_f01f == 0xd503_301f;
    is_hint || is_barrier
}

/// YIELD and WFE: another CPU, or an event, may be waited for.
#[must_use]
pub fn is_wait(word: u32) -> bool {
    matches!(word, 0xd503_203f | 0xd503_205f)
}

/// `wfe; ldr xN, [...]; cbz xN, the wfe`: how a CPU of a spin table waits (Documentation/arch/arm64/
/// booting.rst, "spin-table").
#[must_use]
pub fn is_spin_table_wait(words: [u32; 3]) -> bool {
    let [wfe, ldr, cbz] = words;
    let is_load = ldr & 0xffc0_0000 == 0xf940_0000 || ldr & 0xffe0_0c00 == 0xf860_0800;
    wfe == 0xd503_205f && is_load && cbz == 0xb4ff_ffc0 | ldr & 0x1f
}

/// Any hint: some authenticate pointers, in general registers only.
fn is_hint(word: u32) -> bool {
    word & 0xffff_f01f == 0xd503_201f
}

/// Where `b` leads.
#[must_use]
pub fn jump(word: u32, pc: u64) -> Option<u64> {
    // 26 bits, sign-extended and in words.
    let distance = i64::from((word << 6).cast_signed() >> 4);
    (word >> 26 == 0b00_0101).then(|| pc.wrapping_add_signed(distance))
}

/// Whether it is a branch that leads on in the same way each time, given registers and flags.
#[must_use]
pub fn is_branch(word: u32) -> bool {
    word & 0x7c00_0000 == 0x1400_0000 // b, bl
        || word & 0xff00_0010 == 0x5400_0000 // b.cond
        || word & 0x7c00_0000 == 0x3400_0000 // cbz, cbnz, tbz, tbnz
        || matches!(word & 0xffff_fc1f, 0xd61f_0000 | 0xd63f_0000 | 0xd65f_0000) // br, blr, ret
}

/// `msr daifset, #imm`: masks more.
fn is_daif_set(word: u32) -> bool {
    word & 0xffff_f0ff == 0xd503_40df
}

/// What an exception with this syndrome is, in words.
#[must_use]
pub fn exception_name(esr: u64) -> &'static str {
    match exception_class(esr) {
        0x00 => "undefined instruction",
        0x01 => "trapped WFI or WFE",
        0x07 => "trapped floating point",
        0x0e => "illegal execution state",
        0x15 => "SVC",
        0x16 => "HVC",
        0x17 => "SMC",
        0x18 => "trapped system register",
        0x20 | 0x21 => "instruction abort",
        0x22 => "misaligned PC",
        0x24 | 0x25 => "data abort",
        0x26 => "misaligned SP",
        0x2c => "floating-point exception",
        0x2f => "SError",
        0x30 | 0x31 => "hardware breakpoint",
        0x32 | 0x33 => "single step",
        0x34 | 0x35 => "watchpoint",
        0x3c => "BRK",
        _ => "exception",
    }
}

/// ESR.EC
#[must_use]
pub fn exception_class(esr: u64) -> u8 {
    (esr >> 26 & 0x3f) as u8
}

/// Whether FAR tells an address for exceptions of this class.
#[must_use]
pub fn has_far(esr: u64) -> bool {
    matches!(
        exception_class(esr),
        0x20..=0x22 | 0x24 | 0x25 | 0x34 | 0x35
    )
}

/// Linux's BUG() and WARN(): `brk #0x800`. A WARN is resumed.
#[must_use]
pub fn is_linux_bug(esr: u64) -> bool {
    exception_class(esr) == 0x3c && esr & 0xffff == 0x800
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pure_instructions_are_told() {
        for word in [
            0x1400_0000, // b .
            0xd65f_03c0, // ret
            0xd61f_0200, // br x16
            0x54ff_ffe1, // b.ne
            0x3400_0040, // cbz w0
            0x3700_0040, // tbnz w0, #0
            0x9100_0400, // add x0, x0, #1
            0xaa01_03e0, // mov x0, x1
            0x9b01_7c00, // mul x0, x0, x1
            0xd280_0020, // mov x0, #1
            0xd503_201f, // nop
            0xd503_205f, // wfe
            WFI,
            0xd503_3fdf, // isb
            0xd503_3f9f, // dsb sy
            0xd503_4fdf, // msr daifset, #0xf
        ] {
            assert!(is_pure(word), "{word:#010x}");
        }
    }

    #[test]
    fn whatever_touches_more_is_not_pure() {
        for word in [
            0xf940_0020, // ldr x0, [x1]
            0xb900_0020, // str w0, [x1]
            0xa9bf_7bfd, // stp x29, x30, [sp, #-16]!
            0x5800_0040, // ldr x0, literal
            0xc85f_7c20, // ldxr x0, [x1]
            0xd53b_e040, // mrs x0, cntvct_el0
            0xd51c_0000, // msr
            0xd503_4fff, // msr daifclr, #0xf
            0xd69f_03e0, // eret
            0xd400_0002, // hvc
            0xd420_0000, // brk
            0x1e60_4020, // fmov d0, d1
            0xd50b_7420, // dc zva
            0x0000_0000, // udf
            0x5400_0011, // bc.ne, later than the CPUs here
        ] {
            assert!(!is_pure(word), "{word:#010x}");
        }
    }

    #[test]
    fn a_wait_at_a_spin_table_is_told() {
        // As QEMU's raspi3b has it, and with an offset in place of an index.
        assert!(is_spin_table_wait([0xd503_205f, 0xf866_78a4, 0xb4ff_ffc4]));
        assert!(is_spin_table_wait([0xd503_205f, 0xf940_04a4, 0xb4ff_ffc4]));
        for other in [
            [0xd503_205f, 0xf866_78a4, 0xb4ff_ffc5], // another register
            [0xd503_205f, 0xf866_78a4, 0xb4ff_ffe4], // back to the load only
            [0xd503_205f, 0xf826_78a4, 0xb4ff_ffc4], // a store
            [0xd503_207f, 0xf866_78a4, 0xb4ff_ffc4], // wfi
        ] {
            assert!(!is_spin_table_wait(other), "{other:#x?}");
        }
    }

    #[test]
    fn jumps_lead_both_ways() {
        assert_eq!(jump(0x1400_0000, 0x100), Some(0x100));
        assert_eq!(jump(0x17ff_ffff, 0x100), Some(0xfc));
        assert_eq!(jump(0x1400_0002, 0x100), Some(0x108));
        assert_eq!(jump(0x9400_0002, 0x100), None, "bl writes a register");
    }

    #[test]
    fn syndromes_have_names() {
        assert_eq!(exception_name(0x200_0000), "undefined instruction");
        assert_eq!(exception_name(0x9600_0005), "data abort");
        assert!(is_linux_bug(0xf200_0800) && !is_linux_bug(0xf200_0001));
        assert!(has_far(0x9600_0005) && !has_far(0xf200_0800));
    }
}
